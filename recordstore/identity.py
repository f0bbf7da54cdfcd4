"""The digests that something would be stored under, without storing it."""

from typing import Any

from recordstore.digest import array_digest, blob_digest, record_digest
from recordstore.entries import Entry
from recordstore.hashing import hash_chunks
from recordstore.inputs import Input


def content_digest(array: Any) -> str:
    """Return the digest of the serialized bytes of an Array, ndarray or tensor, as hexadecimal digits."""
    (entry,) = Input({"": array}, keep=True).entries()
    return _blob_digest(entry).hex()


def digest_of(record: Any) -> str:
    """Return the digest that ``RecordInfo.digest`` would show of a record, of any kind that ``save`` takes."""
    entries = enumerate(Input(record, keep=True).entries())
    return record_digest(b"".join(_array_digest(position, entry) for position, entry in entries)).hex()


def _array_digest(position: int, entry: Entry) -> bytes:
    return array_digest(position, (entry.name, entry.dtype, entry.shape, entry.stype), _blob_digest(entry))


def _blob_digest(entry: Entry) -> bytes:
    return blob_digest(entry.source.nbytes, hash_chunks(entry.source, 0, entry.source.nbytes))
