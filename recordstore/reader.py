"""The read protocol: short transactions, every byte checked against digests that were read at the start.

No lock is held while the caller looks at an array. That is correct because published records never change: between two
transactions a record can only be deleted, and ids are never used again, so a missing chunk is noticed.
"""

import contextlib
import json
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import chain
from typing import NoReturn

import numpy as np
from sqlalchemy.orm import Session

from recordstore import constants, npy
from recordstore.array import Array
from recordstore.assembly import Assembly, BytesAssembly, Placement, T_co, verify
from recordstore.blobs import BlobRepository, StoredChunk
from recordstore.constants import SType
from recordstore.destinations import Destination
from recordstore.digest import blob_digest, chunk_digest
from recordstore.engine import Database
from recordstore.exceptions import CorruptRecordError, InvalidValueError, RecordNotFoundError, RecordStoreError
from recordstore.hashing import HashPool
from recordstore.listing import Listing
from recordstore.npy import NDArray
from recordstore.repository import RecordRepository, StoredArrayRow
from recordstore.spans import Segment, groups, is_large, spans, split
from recordstore.validation import MAX_INT


class Reader:
    """Reads the arrays of records."""

    def __init__(self, database: Database, pool: HashPool) -> None:
        self._database = database
        self._pool = pool

    def arrays(self, listing: Listing) -> Iterator[tuple[str, Array]]:
        """Yield names and arrays in their order; no transaction is open meanwhile."""
        for group in groups(listing.arrays):
            data = self._read(listing, group)
            for row in group:
                yield row.name, _array(listing, row, data.pop(row.position))

    def read_one(self, listing: Listing, row: StoredArrayRow) -> bytes:
        """Return the serialized bytes of one array."""
        return self._read(listing, [row])[row.position]

    def read_part(self, listing: Listing, row: StoredArrayRow, start: int, stop: int) -> bytearray:
        """Return a part of the serialized bytes of an array, of whose chunks no others are read."""
        size = constants.CHUNK_SIZE
        first, last = start // size, -(-stop // size)
        data = bytearray()
        with self._marking(listing, row), self._database.read() as session:
            blobs = BlobRepository(session)
            digests = blobs.digests(row.blob_id)
            if blob_digest(row.blob_nbytes, digests) != row.blob_digest:
                _explain_missing(session, listing)
            for chunk in blobs.chunks([row.blob_id], first, last):
                if len(chunk.data) > size or chunk_digest(chunk.data) != digests[chunk.seq]:
                    raise CorruptRecordError(f"chunk {chunk.seq} does not hold the bytes that were saved")
                data += chunk.data
        del data[stop - first * size :]
        del data[: start - first * size]
        return data

    def load(self, listing: Listing) -> dict[str, Array]:
        """Return all arrays at once."""
        small, large = split(listing.arrays)
        found = {row.name: _array(listing, row, data) for row, data in self._small(listing, small)}
        begin = partial(BytesAssembly, pool=self._pool)
        found |= {row.name: _array(listing, row, data) for row, data in self._large(listing, large, begin)}
        return {row.name: found[row.name] for row in listing.arrays}

    def place(self, listing: Listing, places: Mapping[str, Destination], begun: list[str]) -> None:
        """Read arrays into memory that is there; ``begun`` takes the name of each before its place is written to."""

        def begin(row: StoredArrayRow, head: bytes) -> Assembly[bytes | None]:
            memory, offset = _memory(row, head, places[row.name])
            if memory is None:
                return BytesAssembly(row, head, self._pool)
            begun.append(row.name)
            return Placement(row, self._pool, memory, offset)

        small, large = split(listing.arrays)
        for row, data in chain(self._small(listing, small), self._large(listing, large, begin)):
            if data is not None:
                begun.append(row.name)
                _put(listing, row, data, places[row.name])
                del data  # before the next array is made

    def _small(self, listing: Listing, rows: list[StoredArrayRow]) -> Iterator[tuple[StoredArrayRow, bytes]]:
        for group in groups(rows):
            data = self._read(listing, group)
            for row in group:
                yield row, data.pop(row.position)

    def _large(
        self, listing: Listing, rows: list[StoredArrayRow], begin: Callable[[StoredArrayRow, bytes], Assembly[T_co]]
    ) -> Iterator[tuple[StoredArrayRow, T_co]]:
        """Read arrays of many bytes into what ``begin`` makes for the first chunk of each.

        While threads still verify one, the next is read: waiting for each cost a fifth of a ``load_into``. Several
        share a transaction, which costs as much as reading half a chunk.
        """
        open_: deque[tuple[StoredArrayRow, Assembly[T_co]]] = deque()
        reading = None
        try:
            for span in spans(listing, rows):
                with self._database.read() as session:
                    for segment in span:
                        reading = segment.row
                        self._read_segment(session, listing, segment, begin, open_)
                while len(open_) > 1 or (open_ and open_[0][1].stages and open_[0][1].complete):
                    reading = open_[0][0]
                    result = _finish_first(open_)
                    yield reading, result
                    del result  # before the next array is made
            while open_:
                reading = open_[0][0]
                yield reading, _finish_first(open_)
        except CorruptRecordError as error:
            self._give_up(listing, reading or rows[0], error)
        finally:
            for _, assembly in open_:
                assembly.close()

    @staticmethod
    def _read_segment(
        session: Session,
        listing: Listing,
        segment: Segment,
        begin: Callable[[StoredArrayRow, bytes], Assembly[T_co]],
        open_: deque[tuple[StoredArrayRow, Assembly[T_co]]],
    ) -> None:
        row, first, last = segment
        if listing.sizes.get(row.blob_id, (0, 0))[1] != row.blob_nbytes:  # nothing is allocated on the word of a number
            raise CorruptRecordError("chunks are missing, or hold more bytes than were saved")
        for chunk in BlobRepository(session).chunks([row.blob_id], first, last):
            if not first and (not open_ or open_[-1][0] is not row):
                open_.append((row, begin(row, chunk.data)))
            open_[-1][1].add(chunk)
        if not open_ or open_[-1][0] is not row or open_[-1][1].count < last:
            _explain_missing(session, listing)

    def _read(self, listing: Listing, group: list[StoredArrayRow]) -> dict[int, bytes]:
        """Return the checked bytes of a group by position."""
        if is_large(group):
            begin = partial(BytesAssembly, pool=self._pool)
            return {row.position: data for row, data in self._large(listing, group, begin)}
        with contextlib.suppress(CorruptRecordError):
            return self._read_small(listing, group)
        data: dict[int, bytes] = {}  # one by one, to find out which array it is
        for row in group:
            with self._marking(listing, row):
                data |= self._read_small(listing, [row])
        return data

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

    @contextlib.contextmanager
    def _marking(self, listing: Listing, row: StoredArrayRow) -> Iterator[None]:
        try:
            yield
        except CorruptRecordError as error:
            self._give_up(listing, row, error)

    def _give_up(self, listing: Listing, row: StoredArrayRow, error: CorruptRecordError) -> NoReturn:
        """Say which array is damaged, and keep later saves from sharing its bytes, if the store can be written to."""
        if not self._database.read_only:
            with contextlib.suppress(RecordStoreError), self._database.write() as session:
                BlobRepository(session).mark_damaged(row.blob_id)
        raise CorruptRecordError(f"record {listing.record_id}, array {row.name!r}: {error}") from error


def _finish_first(open_: deque[tuple[StoredArrayRow, Assembly[T_co]]]) -> T_co:
    with contextlib.closing(open_.popleft()[1]) as assembly:
        return assembly.finish()


def _explain_missing(session: Session, listing: Listing) -> NoReturn:
    """Raise for chunks that are not there: in the same view of the database, the record is deleted or damaged."""
    if not RecordRepository(session).is_ready(listing.record_id):
        raise RecordNotFoundError(f"record {listing.record_id} was deleted while it was being read")
    raise CorruptRecordError("chunks are missing")


def _join(row: StoredArrayRow, chunks: list[StoredChunk]) -> bytes:
    verify(row, [chunk_digest(chunk.data) for chunk in chunks], [chunk.digest for chunk in chunks])
    return chunks[0].data if len(chunks) == 1 else b"".join(chunk.data for chunk in chunks)


def _array(listing: Listing, row: StoredArrayRow, data: bytes) -> Array:
    return Array(row.dtype, list(parse_shape(listing, row)), row.stype, data)


def parse_shape(listing: Listing, row: StoredArrayRow) -> tuple[int, ...]:
    """Return the shape that was saved with an array.

    Raises
    ------
    CorruptRecordError
        It is none.
    """
    try:
        shape = json.loads(row.shape)
    except (ValueError, RecursionError):
        shape = None
    if not isinstance(shape, list) or not all(isinstance(length, int) for length in shape):
        raise CorruptRecordError(f"record {listing.record_id}, array {row.name!r}: its shape is no list of int")
    return tuple(shape)


def _memory(row: StoredArrayRow, head: bytes, place: Destination) -> tuple[NDArray | None, int]:
    """Return the memory that the bytes of an array go to, if they lie alike there, and the length of their header."""
    if row.stype == SType.TORCH:
        memory = place.memory(None)
        return (memory if memory is not None and memory.size == row.blob_nbytes else None), 0
    try:
        layout = npy.read_layout(head, row.blob_nbytes)
    except ValueError:
        return None, 0
    return place.memory(layout), layout.offset


def _put(listing: Listing, row: StoredArrayRow, data: bytes, place: Destination) -> None:
    """Copy an array that was read whole."""
    memory, offset = _memory(row, data, place)
    if memory is not None:
        np.copyto(memory, np.frombuffer(data, np.uint8, memory.size, offset))
        return
    try:
        place.assign(_array(listing, row, data))
    except (ValueError, TypeError) as error:
        raise InvalidValueError(f"record {listing.record_id}, array {row.name!r}: {error}") from error
