"""Large arrays, read by several threads at a time, each in short transactions on a connection of its own.

A chunk is read, hashed and copied by one thread while it lies in the cache of its processor. Two threads read and
verify 498 MB in 97 ms where one needs 164, and one that reads while another hashes 220 (2 cores, warm file).
"""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import partial
from itertools import groupby, islice
from typing import Generic

from sqlalchemy import Connection

from recordstore.assembly import Assembly, T_co
from recordstore.blobs import BlobRepository, ChunkPlace
from recordstore.engine import Database
from recordstore.exceptions import CorruptRecordError
from recordstore.hashing import HashPool
from recordstore.listing import Listing, explain_missing
from recordstore.repository import StoredArrayRow
from recordstore.spans import Segment, chunk_count, spans
from recordstore.traffic import Abandoned, Traffic
from recordstore.validation import MAX_INT

LOOKED_UP = 32
"""Spans whose chunks are looked up at once: a look-up for each took a twelfth of the time."""

AHEAD = 5
"""Spans that threads have been given at any one time: each of four has work, and one waits."""

STAGED_BYTES = 24 * 1024 * 1024
"""Bytes that arrays which are not read to where they belong take on the way, unless one alone takes more."""


class DamageError(Exception):
    """An array is not what was saved; the cause tells how."""

    def __init__(self, row: StoredArrayRow) -> None:
        super().__init__(row)
        self.row = row


class Pipeline(Generic[T_co]):
    """Reads arrays of several chunks into what ``begin`` makes for each.

    Parameters
    ----------
    database, pool, listing
        Where from, by whom, and what the database tells of the record.
    begin
        Called by the threads, in no transaction.
    staged
        Bytes that arrays may take before they are yielded, more than one at a time; ``STAGED_BYTES`` if None.
    """

    def __init__(
        self,
        database: Database,
        pool: HashPool,
        listing: Listing,
        begin: Callable[[StoredArrayRow], Assembly[T_co]],
        *,
        staged: int | None = None,
    ) -> None:
        self._database = database
        self._pool = pool
        self._listing = listing
        self._make = begin
        self._traffic = Traffic(STAGED_BYTES if staged is None else staged)
        self._begun: dict[int, Future[Assembly[T_co]]] = {}

    def read(self, rows: list[StoredArrayRow]) -> Iterator[tuple[StoredArrayRow, T_co]]:
        """Yield arrays in their order.

        Raises
        ------
        DamageError
            One is not what was saved.
        RecordNotFoundError
            The record was deleted meanwhile.
        """
        pending: deque[tuple[Future[None] | None, list[Segment]]] = deque()
        turn = 0
        try:
            for span, places in self._looked_up(rows):
                self._begun |= {segment.row.position: Future() for segment in span if not segment.first}
                begun = [self._begun[segment.row.position] for segment in span]
                task = partial(self._read_span, span, places, begun, turn)
                turn += not span[0].first
                work = self._pool.offer(task)
                if work is None:  # what this span waits for has to be done before
                    yield from self._finished(pending, keep=0)
                    task()
                pending.append((work, span))
                del work, task, begun  # whose errors would keep this frame, and it the memory of all arrays
                yield from self._finished(pending, keep=AHEAD)
            yield from self._finished(pending, keep=0)
        finally:
            self._stop()

    def _looked_up(self, rows: list[StoredArrayRow]) -> Iterator[tuple[list[Segment], list[list[ChunkPlace]]]]:
        """Yield spans, and where the chunks of each segment lie."""
        for _, group in groupby(spans(rows), key=lambda span: span[0].row.position if span[0].is_part else None):
            for some in iter(lambda: list(islice(group, LOOKED_UP)), []):  # noqa: B023 - called at once
                found = self._look_up([segment for span in some for segment in span])
                for span in some:
                    yield span, [_between(found.get(row.blob_id, []), first, last) for row, first, last in span]

    def _look_up(self, segments: list[Segment]) -> dict[int, list[ChunkPlace]]:
        """Return where chunks of whole arrays lie, or of parts of one.

        The chunks must have the bytes of the array: nothing is allocated on the word of a number.
        """
        rows = {segment.row.blob_id: segment.row for segment in segments}
        try:
            with self._database.read() as connection:
                if segments[0].is_part:
                    return self._look_up_part(connection, segments[0], segments[-1].last)
                found = BlobRepository(connection).places(rows, 0, MAX_INT)
                for row in rows.values():
                    places = found.get(row.blob_id, [])
                    self._check_size(connection, row, (len(places), sum(place.nbytes for place in places)))
                return found
        except CorruptRecordError as error:
            if len(rows) > 1:  # one by one, to find out which array it is
                return {
                    row.blob_id: self._look_up([Segment(row, 0, chunk_count(row))])[row.blob_id]
                    for row in rows.values()
                }
            raise DamageError(segments[0].row) from error

    def _look_up_part(self, connection: Connection, start: Segment, last: int) -> dict[int, list[ChunkPlace]]:
        blobs = BlobRepository(connection)
        if not start.first:
            self._check_size(connection, start.row, blobs.size(start.row.blob_id, chunk_count(start.row)))
        return blobs.places([start.row.blob_id], start.first, last)

    def _check_size(self, connection: Connection, row: StoredArrayRow, size: tuple[int, int]) -> None:
        if size != (chunk_count(row), row.blob_nbytes):
            explain_missing(connection, self._listing)

    def _finished(
        self, pending: deque[tuple[Future[None] | None, list[Segment]]], *, keep: int
    ) -> Iterator[tuple[StoredArrayRow, T_co]]:
        """Wait for the first spans, and yield the arrays that end with them."""
        while len(pending) > keep:
            work, span = pending.popleft()
            try:
                if work is not None:
                    work.result()
            finally:
                del work  # as above
            for segment in span:
                if segment.ends:
                    assembly = self._begun.pop(segment.row.position).result()
                    yield segment.row, self._finish(segment.row, assembly)
                    self._traffic.give(assembly.room)

    @staticmethod
    def _finish(row: StoredArrayRow, assembly: Assembly[T_co]) -> T_co:
        try:
            return assembly.finish()
        except CorruptRecordError as error:
            raise DamageError(row) from error
        finally:
            assembly.close()

    def _stop(self) -> None:
        """Wait for the threads, which then touch no memory any more, and let go of what they have begun."""
        self._traffic.end()
        for begun in self._begun.values():
            if begun.done() and begun.exception() is None:
                begun.result().close()

    def _read_span(
        self, span: list[Segment], places: list[list[ChunkPlace]], begun: list[Future[Assembly[T_co]]], turn: int
    ) -> None:
        try:
            with self._traffic.entered():
                if not span[0].first:
                    self._begin(span, begun, turn)
                # those that other threads have begun were handed to them before: this wait ends
                assemblies = [future.result() for future in begun]
                self._read_segments(span, places, assemblies)
        except BaseException:
            for segment, future in zip(span, begun, strict=True):
                if not segment.first and not future.done():
                    future.set_exception(Abandoned())
            raise
        finally:
            del begun  # as above

    def _begin(self, span: list[Segment], begun: list[Future[Assembly[T_co]]], turn: int) -> None:
        """Make the places for the arrays of a span, all of which begin with it."""
        made = [self._make(segment.row) for segment in span]
        self._traffic.take(turn, sum(assembly.room for assembly in made))
        for future, assembly in zip(begun, made, strict=True):
            assembly.begin()
            future.set_result(assembly)

    def _read_segments(
        self, span: list[Segment], places: list[list[ChunkPlace]], assemblies: list[Assembly[T_co]]
    ) -> None:
        row = span[0].row
        try:
            with self._database.read() as connection:
                for segment, found, assembly in zip(span, places, assemblies, strict=True):
                    row = segment.row
                    self._read_segment(connection, segment, found, assembly)
        except CorruptRecordError as error:
            raise DamageError(row) from error

    def _read_segment(
        self, connection: Connection, segment: Segment, places: list[ChunkPlace], assembly: Assembly[T_co]
    ) -> None:
        if [place.seq for place in places] != list(range(segment.first, segment.last)):
            explain_missing(connection, self._listing)
        for place, data in BlobRepository(connection).read(places):
            if data is None:
                explain_missing(connection, self._listing)
            assembly.add(place.seq, data, place.digest)


def _between(places: list[ChunkPlace], first: int, last: int) -> list[ChunkPlace]:
    return [place for place in places if first <= place.seq < last]
