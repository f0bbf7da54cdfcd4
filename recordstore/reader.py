"""The read protocol: short transactions, every byte checked against digests that were read at the start.

No lock is held while the caller looks at an array. That is correct because published records never change: between two
transactions a record can only be deleted, and ids are never used again, so a missing chunk is noticed.
"""

import contextlib
import io
import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import NoReturn

from sqlalchemy.orm import Session

from recordstore import constants
from recordstore.array import Array
from recordstore.blobs import BlobRepository, StoredChunk
from recordstore.digest import array_digest, blob_digest, checkpoint_digest, chunk_digest, record_digest
from recordstore.engine import Database
from recordstore.exceptions import ArrayNotFoundError, CorruptRecordError, RecordNotFoundError, RecordStoreError
from recordstore.hashing import HashPool, Pending, hash_and_release
from recordstore.refs import Ref
from recordstore.repository import RecordRepository, StoredArrayRow
from recordstore.validation import MAX_INT

GROUP_BYTES = 8 * 1024 * 1024
"""Bytes of arrays that are read in one transaction, if there are several."""

GROUP_ARRAYS = 500
"""Arrays that are read in one transaction at most."""

SPAN_CHUNKS = 32
"""Chunks of a large array that are read in one transaction."""


@dataclass(frozen=True)
class Listing:
    """The arrays of a record, proven to be those that were saved."""

    record_id: int
    arrays: list[StoredArrayRow]
    sizes: dict[int, tuple[int, int]]
    """How many chunks the large blobs have, and how many bytes these really hold."""


class _Assembly:
    """The bytes of a large array while they come in: one buffer, filled in place and hashed there by threads.

    The ``bytes`` in the buffer has no other owner, so ``getbuffer`` copies nothing; neither does ``getvalue``, provided
    that every view was released before.
    """

    def __init__(self, nbytes: int, pool: HashPool) -> None:
        self._pool = pool
        self._buffer = io.BytesIO(bytes(nbytes))
        self._view = self._buffer.getbuffer()
        self._position = 0
        self._hashes: list[Pending[bytes]] = []
        self._stored: list[bytes] = []

    @property
    def count(self) -> int:
        """Return the number of chunks that have come."""
        return len(self._stored)

    def add(self, chunk: StoredChunk) -> None:
        """Copy the next chunk to where it belongs, and have it hashed there."""
        size = len(chunk.data)
        if size > len(self._view) - self._position:
            raise CorruptRecordError(f"chunk {chunk.seq} holds more bytes than were saved")
        target = self._view[self._position : self._position + size]
        target[:] = chunk.data
        self._position += size
        self._hashes.append(self._pool.submit(size, hash_and_release, target))
        self._stored.append(chunk.digest)

    def finish(self, row: StoredArrayRow) -> bytes:
        """Return the bytes, once they are verified."""
        _verify(row, [digest.result() for digest in self._hashes], self._stored)
        self.close()
        return self._buffer.getvalue()

    def close(self) -> None:
        """Release the views, also those that threads still hash: a buffer cannot go before they have gone."""
        for digest in self._hashes:
            digest.result()
        self._view.release()


class Reader:
    """Reads the arrays of records."""

    def __init__(self, database: Database, pool: HashPool) -> None:
        self._database = database
        self._pool = pool

    def open(self, ref: Ref, names: Collection[str] | None) -> Listing:
        """Find a record, check what the database tells of its arrays, and select those of these names.

        Raises
        ------
        RecordNotFoundError
            There is no such record.
        ArrayNotFoundError
            It has no array of one of the names.
        CorruptRecordError
            Names, types, shapes or the list of arrays are not those that were saved.
        """
        with self._database.read() as session:
            records = RecordRepository(session)
            record = records.find(ref)
            arrays = list(records.arrays(record.id))
            chosen = [array for array in arrays if names is None or array.name in names]
            sizes = _sizes(session, chosen)
        if len(arrays) != record.array_count or record_digest(_array_digests(arrays)) != record.digest:
            raise CorruptRecordError(f"the list of arrays of record {record.id} is not the one that was saved")
        if missing := set(names or ()) - {array.name for array in chosen}:
            raise ArrayNotFoundError(
                f"record {record.id} has no array {min(missing)!r}; info({record.id}).names lists those it has"
            )
        return Listing(record.id, chosen, sizes)

    def open_checkpoint(self, ref: Ref) -> tuple[str, Listing] | None:
        """Return the state of a checkpoint, JSON text, and the arrays it has besides those of the record.

        None for a record that is no checkpoint. Raises what :meth:`open` raises.
        """
        with self._database.read() as session:
            records = RecordRepository(session)
            record = records.find(ref)
            text, arrays = record.checkpoint, list(records.arrays(record.id, parts=True))
            sizes = _sizes(session, arrays)
        if text is None and record.checkpoint_digest is None and not arrays:
            return None
        if (
            not isinstance(text, str)
            or not isinstance(record.digest, bytes)
            or checkpoint_digest(record.digest, text, _array_digests(arrays)) != record.checkpoint_digest
        ):
            raise CorruptRecordError(f"the checkpoint of record {record.id} is not the one that was saved")
        return text, Listing(record.id, arrays, sizes)

    def arrays(self, listing: Listing) -> Iterator[tuple[str, Array]]:
        """Yield names and arrays in their order; no transaction is open meanwhile."""
        for group in _groups(listing.arrays):
            data = self._read(listing, group)
            for row in group:
                yield row.name, _array(listing, row, data.pop(row.position))

    def _read(self, listing: Listing, group: list[StoredArrayRow]) -> dict[int, bytes]:
        """Return the checked bytes of a group by position."""
        try:
            if len(group) == 1 and group[0].blob_nbytes > constants.CHUNK_SIZE:
                return {group[0].position: self._read_large(listing, group[0])}
            return self._read_small(listing, group)
        except CorruptRecordError as error:
            if len(group) > 1:  # one by one, to find out which array it is
                return {row.position: self._read(listing, [row])[row.position] for row in group}
            self._mark_damaged(group[0])
            raise CorruptRecordError(f"record {listing.record_id}, array {group[0].name!r}: {error}") from error

    def _read_small(self, listing: Listing, group: list[StoredArrayRow]) -> dict[int, bytes]:
        """Read arrays that are small together with one query."""
        expected = {row.blob_id: row.blob_nbytes for row in group}
        parts: dict[int, list[StoredChunk]] = {blob_id: [] for blob_id in expected}
        with self._database.read() as session:
            for chunk in BlobRepository(session).chunks(expected, 0, MAX_INT):
                parts[chunk.blob_id].append(chunk)
                expected[chunk.blob_id] -= len(chunk.data)
                if expected[chunk.blob_id] < 0:
                    raise CorruptRecordError(f"chunk {chunk.seq} holds more bytes than were saved")
            if any(expected.values()):
                _explain_missing(session, listing)
        return {row.position: _join(row, parts[row.blob_id]) for row in group}

    def _read_large(self, listing: Listing, row: StoredArrayRow) -> bytes:
        """Read one array of many bytes, in several transactions."""
        count, nbytes = listing.sizes.get(row.blob_id, (0, 0))
        if nbytes != row.blob_nbytes:  # nothing is allocated on the word of a number
            raise CorruptRecordError("chunks are missing, or hold more bytes than were saved")
        with contextlib.closing(_Assembly(nbytes, self._pool)) as assembly:
            for first in range(0, count, SPAN_CHUNKS):
                last = min(first + SPAN_CHUNKS, count)
                with self._database.read() as session:
                    for chunk in BlobRepository(session).chunks([row.blob_id], first, last):
                        assembly.add(chunk)
                    if assembly.count < last:
                        _explain_missing(session, listing)
            return assembly.finish(row)

    def _mark_damaged(self, row: StoredArrayRow) -> None:
        """Keep later saves from sharing the bytes, if the store can be written to right now."""
        if not self._database.read_only:
            with contextlib.suppress(RecordStoreError), self._database.write() as session:
                BlobRepository(session).mark_damaged(row.blob_id)


def _explain_missing(session: Session, listing: Listing) -> NoReturn:
    """Raise for chunks that are not there: in the same view of the database, the record is deleted or damaged."""
    if not RecordRepository(session).is_ready(listing.record_id):
        raise RecordNotFoundError(f"record {listing.record_id} was deleted while it was being read")
    raise CorruptRecordError("chunks are missing")


def _join(row: StoredArrayRow, chunks: list[StoredChunk]) -> bytes:
    _verify(row, [chunk_digest(chunk.data) for chunk in chunks], [chunk.digest for chunk in chunks])
    return chunks[0].data if len(chunks) == 1 else b"".join(chunk.data for chunk in chunks)


def _verify(row: StoredArrayRow, digests: list[bytes], stored: list[bytes]) -> None:
    for seq, (digest, expected) in enumerate(zip(digests, stored, strict=True)):
        if digest != expected:
            raise CorruptRecordError(f"chunk {seq} does not hold the bytes that were saved")
    if blob_digest(row.blob_nbytes, digests) != row.blob_digest:
        raise CorruptRecordError("its chunks are not those that were saved")


def _sizes(session: Session, arrays: list[StoredArrayRow]) -> dict[int, tuple[int, int]]:
    return BlobRepository(session).sizes([row.blob_id for row in arrays if row.blob_nbytes > constants.CHUNK_SIZE])


def _array_digests(rows: list[StoredArrayRow]) -> bytes:
    return b"".join(
        array_digest(row.position, (row.name, row.dtype, row.shape, row.stype), row.blob_digest, row.part)
        for row in rows
    )


def _array(listing: Listing, row: StoredArrayRow, data: bytes) -> Array:
    try:
        shape = json.loads(row.shape)
    except (ValueError, RecursionError):
        shape = None
    if not isinstance(shape, list) or not all(isinstance(length, int) for length in shape):
        raise CorruptRecordError(f"record {listing.record_id}, array {row.name!r}: its shape is no list of int")
    return Array(row.dtype, shape, row.stype, data)


def _groups(rows: list[StoredArrayRow]) -> Iterator[list[StoredArrayRow]]:
    """Yield runs of arrays of one chunk together, and larger ones alone."""
    for small, run in groupby(rows, key=lambda row: row.blob_nbytes <= constants.CHUNK_SIZE):
        group: list[StoredArrayRow] = []
        size = 0
        for row in run:
            if group and (not small or size + row.blob_nbytes > GROUP_BYTES or len(group) == GROUP_ARRAYS):
                yield group
                group, size = [], 0
            group.append(row)
            size += row.blob_nbytes
        yield group
