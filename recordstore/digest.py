"""The digests of chunks, blobs, arrays and records: BLAKE3-256, specified byte by byte in ``docs/format.md``.

BLAKE3's key-derivation mode gives each level a domain of its own, so that no blob can pass for a record or the other
way round (https://github.com/BLAKE3-team/BLAKE3-specs, section 2.3). Every variable part follows its length, which
makes each encoding injective.
"""

import json
from collections.abc import Iterable, Sequence
from functools import lru_cache

from blake3 import blake3

DIGEST_SIZE = 32
_BLOB = "recordstore schema 1 blob"
_ARRAY = "recordstore schema 1 array"
_RECORD = "recordstore schema 1 record"
_PART = "recordstore schema 2 array"
_CHECKPOINT = "recordstore schema 2 checkpoint"


def _u64(number: int) -> bytes:
    return number.to_bytes(8, "little")


def _text(text: str) -> bytes:
    encoded = text.encode()
    return _u64(len(encoded)) + encoded


_cached_text = lru_cache(maxsize=1024)(_text)
_CACHED_CHARS = 256


def _type_text(text: str) -> bytes:
    """Do the same for dtypes, shapes and stypes, of which a model has few: half of the time of a digest."""
    return _cached_text(text) if len(text) <= _CACHED_CHARS else _text(text)


def shape_json(shape: Sequence[int]) -> str:
    """Return the canonical text of a shape, as stored and as hashed: ``[2,3]``."""
    return json.dumps(list(shape), separators=(",", ":"))


def chunk_digest(data: bytes | memoryview) -> bytes:
    """Return the digest of a chunk: plain BLAKE3 of its bytes."""
    return blake3(data).digest()


EMPTY_DIGEST = chunk_digest(b"")
"""``head`` of a blob without chunks."""


def blob_digest(nbytes: int, chunks: Iterable[bytes]) -> bytes:
    """Return the digest of a blob from its length in bytes and the digests of its chunks, in order."""
    return blake3(_u64(nbytes) + b"".join(chunks), derive_key_context=_BLOB).digest()


def array_digest(position: int, texts: tuple[str, str, str, str], blob: bytes, part: str = "") -> bytes:
    """Return the digest of one array of a record.

    ``texts`` are its name, dtype, shape (as :func:`shape_json` writes it) and stype; ``blob`` is that of its bytes. An
    array of a part other than ``''`` has that as a fifth text, and a domain of its own.
    """
    name, *types = texts
    head = _text(part) if part else b""
    joined = b"".join([_u64(position), head, _text(name), *map(_type_text, types), blob])
    return blake3(joined, derive_key_context=_PART if part else _ARRAY).digest()


def record_digest(arrays: bytes | memoryview) -> bytes:
    """Return the digest of a record from the digests of its arrays, one behind the other in their order."""
    return blake3(_u64(len(arrays) // DIGEST_SIZE), derive_key_context=_RECORD).update(arrays).digest()


def checkpoint_digest(record: bytes, state: str, arrays: bytes | memoryview) -> bytes:
    """Return the digest of a checkpoint: of its record's, its JSON text and those of the arrays of its parts."""
    head = record + _text(state) + _u64(len(arrays) // DIGEST_SIZE)
    return blake3(head, derive_key_context=_CHECKPOINT).update(arrays).digest()
