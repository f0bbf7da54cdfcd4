"""The read protocol: short transactions, every byte checked against digests that were read at the start.

No lock is held while the caller looks at an array. That is correct because published records never change: between two
transactions a record can only be deleted, and ids are never used again, so a missing chunk is noticed.
"""

import contextlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from itertools import chain, islice
from typing import NoReturn

import numpy as np

from recordstore import constants
from recordstore.array import Array
from recordstore.assembly import Assembly, BytesAssembly, Inspection, Placement, T_co, check_blob
from recordstore.blobs import BlobRepository, StoredChunk
from recordstore.copying import copy_bytes
from recordstore.destinations import Destination, apart
from recordstore.digest import blob_digest, chunk_digest
from recordstore.engine import Database
from recordstore.exceptions import CorruptRecordError, InvalidValueError, RecordStoreError, StoreBusyError
from recordstore.hashing import HashPool
from recordstore.listing import Listing, explain_missing
from recordstore.npy import NDArray
from recordstore.pipeline import DamageError, Pipeline
from recordstore.repository import StoredArrayRow
from recordstore.spans import chunk_count, groups, is_large, split


class Reader:
    """Reads the arrays of records."""

    def __init__(self, database: Database, pool: HashPool) -> None:
        self._database = database
        self._pool = pool
        self._patience: float | None = None
        """Seconds to wait for the write lock, None for the timeout of the store."""

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
        with self._marking(listing, row), self._database.read() as connection:
            blobs = BlobRepository(connection)
            digests = blobs.digests(row.blob_id, chunk_count(row))
            if len(digests) != chunk_count(row) or blob_digest(row.blob_nbytes, digests) != row.blob_digest:
                explain_missing(connection, listing)
            places = blobs.places([row.blob_id], first, last).get(row.blob_id, [])
            if [place.seq for place in places] != list(range(first, last)):
                explain_missing(connection, listing)
            for place, chunk in blobs.read(places):
                if chunk is None or chunk_digest(chunk) != digests[place.seq]:
                    raise CorruptRecordError(f"chunk {place.seq} does not hold the bytes that were saved")
                data += chunk
        del data[stop - first * size :]
        del data[: start - first * size]
        return data

    def load(self, listing: Listing) -> dict[str, Array]:
        """Return all arrays at once."""
        small, large = split(listing.arrays)
        found = {row.name: _array(listing, row, data) for row, data in self._small(listing, small)}
        all_ = self._large(listing, large, BytesAssembly, staged=sys.maxsize)  # the caller wants them all
        found |= {row.name: _array(listing, row, data) for row, data in all_}
        return {row.name: found[row.name] for row in listing.arrays}

    def place(self, listing: Listing, places: Mapping[str, Destination], begun: list[str]) -> None:
        """Read arrays into memory that is there; ``begun`` takes the name of each before its place is written to."""

        def begin(row: StoredArrayRow) -> Assembly[bool | bytes]:
            file = _file(row, places[row.name])
            if file is None:
                return BytesAssembly(row)
            return Placement(row, *file, begun.append)

        small, large = split(listing.arrays)
        large, others = apart([(row, places[row.name].bounds()) for row in large])
        begun_large = self._large(listing, large, begin)
        # the small ones come while threads read the large ones that follow the first
        for row, data in chain(islice(begun_large, 1), self._small(listing, small), begun_large):
            if isinstance(data, bytes):
                begun.append(row.name)
                _put(listing, row, data, places[row.name])
            elif not data:
                others.append(row)
            del data  # before the next array is made
        for row, data in self._large(listing, others, BytesAssembly):
            begun.append(row.name)
            _put(listing, row, data, places[row.name])
            del data

    def check(self, listing: Listing, rows: list[StoredArrayRow]) -> Iterator[tuple[StoredArrayRow, str | None]]:
        """Read arrays, keep nothing of them, and yield each with what is wrong with it; damaged ones are marked."""
        small, large = split(rows)
        for group in groups(small):
            yield from self._check_small(listing, group)
        left = {row.position: row for row in large}
        while left:
            try:
                for row, _ in Pipeline(self._database, self._pool, listing, Inspection).read(list(left.values())):
                    yield left.pop(row.position), None
            except DamageError as damage:
                self.mark(damage.row.blob_id)
                yield left.pop(damage.row.position), str(damage.__cause__ or damage)

    def mark(self, blob_id: int) -> None:
        """Keep later saves from sharing the bytes of a damaged array, if the store can be written to.

        There may be many, and somebody who holds the lock for long: it is waited for once.
        """
        if self._database.read_only:
            return
        try:
            with self._database.write(wait=self._patience) as session:
                BlobRepository(session.connection()).mark_damaged(blob_id)
        except StoreBusyError:
            self._patience = 0.0
        except RecordStoreError:
            pass

    def _check_small(
        self, listing: Listing, group: list[StoredArrayRow]
    ) -> Iterator[tuple[StoredArrayRow, str | None]]:
        try:
            self._read_small(listing, group)
        except CorruptRecordError as error:
            if len(group) == 1:
                self.mark(group[0].blob_id)
                yield group[0], str(error)
            else:  # one by one, to find out which array it is
                for row in group:
                    yield from self._check_small(listing, [row])
        else:
            yield from ((row, None) for row in group)

    def _small(self, listing: Listing, rows: list[StoredArrayRow]) -> Iterator[tuple[StoredArrayRow, bytes]]:
        for group in groups(rows):
            data = self._read(listing, group)
            for row in group:
                yield row, data.pop(row.position)

    def _large(
        self,
        listing: Listing,
        rows: list[StoredArrayRow],
        begin: Callable[[StoredArrayRow], Assembly[T_co]],
        staged: int | None = None,
    ) -> Iterator[tuple[StoredArrayRow, T_co]]:
        try:
            yield from Pipeline(self._database, self._pool, listing, begin, staged=staged).read(rows)
        except DamageError as damage:
            self._give_up(listing, damage.row, damage.__cause__ or damage)

    def _read(self, listing: Listing, group: list[StoredArrayRow]) -> dict[int, bytes]:
        """Return the checked bytes of a group by position."""
        if is_large(group):
            return {row.position: data for row, data in self._large(listing, group, BytesAssembly)}
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
        with self._database.read() as connection:
            for chunk in BlobRepository(connection).chunks(expected):
                if chunk.blob_id not in parts:
                    raise CorruptRecordError("an index leads to chunks of other arrays: it is damaged")
                parts[chunk.blob_id].append(chunk)
                expected[chunk.blob_id] -= len(chunk.data)
                if expected[chunk.blob_id] < 0:
                    raise CorruptRecordError(f"chunk {chunk.seq} holds more bytes than were saved")
            if any(expected.values()):
                explain_missing(connection, listing)
        return {row.position: _join(row, parts[row.blob_id]) for row in group}

    @contextlib.contextmanager
    def _marking(self, listing: Listing, row: StoredArrayRow) -> Iterator[None]:
        try:
            yield
        except CorruptRecordError as error:
            self._give_up(listing, row, error)

    def _give_up(self, listing: Listing, row: StoredArrayRow, error: BaseException) -> NoReturn:
        """Say which array is damaged, and keep later saves from sharing its bytes."""
        self.mark(row.blob_id)
        raise CorruptRecordError(f"record {listing.record_id}, array {row.name!r}: {error}") from error


def _join(row: StoredArrayRow, chunks: list[StoredChunk]) -> bytes:
    digests = [chunk_digest(chunk.data) for chunk in chunks]
    for chunk, digest in zip(chunks, digests, strict=True):
        if digest != chunk.digest:
            raise CorruptRecordError(f"chunk {chunk.seq} does not hold the bytes that were saved")
    check_blob(row, digests)
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


def _file(row: StoredArrayRow, place: Destination) -> tuple[bytes, NDArray] | None:
    """Return header and bytes of the serialized array that lies as its place does, if what is stored is as long."""
    file = place.file(row.stype)
    return file if file is not None and len(file[0]) + file[1].size == row.blob_nbytes else None


def _put(listing: Listing, row: StoredArrayRow, data: bytes, place: Destination) -> None:
    """Copy an array that was read whole."""
    file = _file(row, place)
    if file is not None and data.startswith(file[0]):
        copy_bytes(file[1], np.frombuffer(data, np.uint8, file[1].size, len(file[0])))
        return
    try:
        place.assign(_array(listing, row, data))
    except (ValueError, TypeError) as error:
        raise InvalidValueError(f"record {listing.record_id}, array {row.name!r}: {error}") from error
