"""Reading every byte of records, to find out which are not what was saved."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

from recordstore.blobs import BlobRepository
from recordstore.callbacks import Tell
from recordstore.engine import Database
from recordstore.exceptions import CorruptRecordError, RecordNotFoundError
from recordstore.history import HistoryRepository
from recordstore.info import Damage, Progress, VerifyReport
from recordstore.integrity import (
    CHECKED,
    blobs_of_arrays,
    blobs_of_record,
    file_faults,
    plausible_blobs,
    shareable_blobs,
    strange_states,
    table_faults,
)
from recordstore.listing import NOBODY, Listing, Proofs, open_checkpoint, open_record
from recordstore.reader import Reader, parse_shape
from recordstore.refs import ById
from recordstore.repository import RecordRepository, StoredArrayRow

ID_PAGE = 1000
"""Ids that one query reads."""


class Verifier:
    """Checks records, and notes what is wrong; bytes that several arrays share are read once."""

    def __init__(self, database: Database, reader: Reader, tell: Tell) -> None:
        self._database = database
        self._reader = reader
        self._tell = tell
        self._proofs = Proofs()
        self._sound: set[int] = set()
        self._broken: dict[int, str] = {}
        self._damaged: list[Damage] = []
        self._records = self._arrays = self._done = self._total = 0

    def report(self) -> VerifyReport:
        """Return what was found."""
        return VerifyReport(self._records, self._arrays, self._done, tuple(self._damaged))

    def check_all(self) -> None:
        """Check all records, the history of all runs, and the indexes that lead to them."""
        with self._noting(None), self._database.read() as connection:
            self._total = BlobRepository(connection).nbytes()
        after, ids = None, [0]
        while ids:
            ids, lost = [], set()
            with self._noting(None), self._database.read() as connection:
                records = RecordRepository(connection)
                ids = list(records.ids(after=after, limit=ID_PAGE))
                lost = set(ids) - records.findable(ids)
            for record_id in ids:
                if record_id in lost:
                    self._note(record_id, None, "it is listed and cannot be found: the table of records is damaged")
                else:
                    self.check(record_id)
            after = max(ids, default=after)
        self.mark_unseen()
        self._check_histories()
        self._check_tables()

    def check(self, record_id: int) -> None:
        """Check one record, unless it was deleted meanwhile."""
        before = len(self._damaged), self._arrays, self._done
        try:
            nbytes = None
            with self._noting(record_id):
                listing = open_record(self._database, self._proofs, ById(record_id), None)
                nbytes = sum(row.blob_nbytes for row in listing.arrays)
                self._check_listing(listing)
            with self._noting(record_id):
                checkpoint = open_checkpoint(self._database, ById(record_id))
                if checkpoint is not None:
                    self._check_listing(checkpoint[1])
            with self._noting(record_id), self._database.read() as connection:
                records = RecordRepository(connection)
                head = records.find(ById(record_id))
                records.infos([head])
                if nbytes not in (None, head.nbytes):
                    raise CorruptRecordError("its nbytes are not those of its arrays")
        except RecordNotFoundError:
            noted, self._arrays, self._done = before
            del self._damaged[noted:]
            return
        self._records += 1

    def _check_listing(self, listing: Listing) -> None:
        self._arrays += len(listing.arrays)
        for row in listing.arrays:
            with self._noting(listing.record_id, row.name):
                parse_shape(listing, row)
                if row.nbytes != row.blob_nbytes:  # which has no part in a digest
                    raise CorruptRecordError("its nbytes are not those of its bytes")
        fresh = {row.blob_id: row for row in listing.arrays if not self._is_known(row.blob_id)}
        self._total = max(self._total, self._done + sum(row.blob_nbytes for row in fresh.values()))
        for row, error in self._reader.check(listing, list(fresh.values())):
            if error is None:
                self._sound.add(row.blob_id)
            else:
                self._broken[row.blob_id] = error
            self._done += row.blob_nbytes
            self._tell(Progress(self._done, self._total))
        for row in listing.arrays:
            if row.blob_id in self._broken:
                self._note(listing.record_id, row.name, self._broken[row.blob_id])

    def mark_unseen(self, record_id: int | None = None) -> None:
        """Have damaged bytes marked that nothing above has read, but a save would share.

        They are those of records that no reader sees or finds, and of lists that are not what was saved; or of all the
        arrays of one record.
        """
        if self._database.read_only:
            return
        for ids in self._shareable() if record_id is None else self._blobs_of(record_id):
            if unknown := [blob_id for blob_id in ids if not self._is_known(blob_id)]:
                self._mark_damaged(unknown)

    def _shareable(self) -> Iterator[Sequence[int]]:
        """Yield ids of blobs; where their table cannot be read, the arrays tell of those that are left."""
        try:
            yield from self._pages(shareable_blobs)
        except CorruptRecordError:
            with suppress(CorruptRecordError):
                yield from self._pages(blobs_of_arrays)

    def _pages(self, scan: Callable[..., Sequence[int]]) -> Iterator[Sequence[int]]:
        """Yield ids, the newest first, for there may be more every moment."""
        before = None
        while True:
            with self._database.read() as connection:
                ids = scan(connection, before=before, limit=ID_PAGE)
            if not ids:
                return
            yield ids
            before = ids[-1]

    def _blobs_of(self, record_id: int) -> Iterator[Sequence[int]]:
        """Yield ids of the blobs of a record, as far as its arrays can be read."""
        found: dict[int, None] = {}
        with suppress(CorruptRecordError), self._database.read() as connection:
            found.update((blob_id, None) for blob_id in blobs_of_record(connection, record_id))
        ids = list(found)
        for start in range(0, len(ids), ID_PAGE):
            yield ids[start : start + ID_PAGE]

    def _mark_damaged(self, ids: Sequence[int]) -> None:
        try:
            with self._database.read() as connection:
                found = plausible_blobs(connection, ids)
            for blob_id in set(ids) - {blob_id for blob_id, _, _ in found}:
                self._reader.mark(blob_id)
            arrays = [
                StoredArrayRow(position, "", "", "[]", "", nbytes, blob_id, digest, nbytes, "")
                for position, (blob_id, nbytes, digest) in enumerate(found)
            ]
            deque(self._reader.check(Listing(NOBODY, []), arrays), maxlen=0)  # which marks them
        except CorruptRecordError:  # of a table
            half = len(ids) // 2
            if half:
                self._mark_damaged(ids[:half])
                self._mark_damaged(ids[half:])
            else:
                self._reader.mark(ids[0])

    def _is_known(self, blob_id: int) -> bool:
        return blob_id in self._sound or blob_id in self._broken

    def _check_histories(self) -> None:
        runs: list[str] = []
        with self._noting(None), self._database.read() as connection:
            runs = HistoryRepository(connection).runs()
        for run in runs:
            with self._noting(None), self._database.read() as connection:
                HistoryRepository(connection).of(run, None)

    def _check_tables(self) -> None:
        noted = len(self._damaged)
        for table in CHECKED:
            with self._noting(None), self._database.read() as connection:
                for message in table_faults(connection, table):
                    self._note(None, None, message)
        if len(self._damaged) == noted:
            with self._noting(None), self._database.read() as connection:
                for message in file_faults(connection):
                    self._note(None, None, message)
        with self._noting(None), self._database.read() as connection:
            for record_id, message in strange_states(connection):
                self._note(record_id, None, message)

    @contextmanager
    def _noting(self, record_id: int | None, array: str | None = None) -> Iterator[None]:
        try:
            yield
        except CorruptRecordError as error:
            self._note(record_id, array, str(error))

    def _note(self, record_id: int | None, array: str | None, message: str) -> None:
        self._damaged.append(Damage(record_id, array, message))
