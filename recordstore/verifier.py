"""Reading every byte of records, to find out which are not what was saved."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from recordstore.blobs import BlobRepository
from recordstore.callbacks import Tell
from recordstore.engine import Database
from recordstore.exceptions import CorruptRecordError, RecordNotFoundError
from recordstore.history import HistoryRepository
from recordstore.info import Damage, Progress, VerifyReport
from recordstore.integrity import CHECKED, file_faults, hidden_records, strange_states, table_faults
from recordstore.listing import Listing, Proofs, open_checkpoint, open_record
from recordstore.reader import Reader, parse_shape
from recordstore.refs import ById
from recordstore.repository import RecordRepository, StoredArrayRow, check_arrays

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
        after = 0
        ids: list[int] = [0]
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
        self._mark_hidden()
        self._check_histories()
        self._check_tables()

    def check(self, record_id: int) -> None:
        """Check one record, unless it was deleted meanwhile."""
        before = len(self._damaged), self._arrays, self._done
        try:
            nbytes = None
            with self._noting(record_id), self._marking(record_id):
                listing = open_record(self._database, self._proofs, ById(record_id), None)
                nbytes = sum(row.blob_nbytes for row in listing.arrays)
                self._check_listing(listing)
            with self._noting(record_id), self._marking(record_id, parts=True):
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
        fresh = {row.blob_id: row for row in listing.arrays if not self._is_known(row)}
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

    @contextmanager
    def _marking(self, record_id: int, *, parts: bool = False) -> Iterator[None]:
        try:
            yield
        except CorruptRecordError:
            self._mark_arrays(record_id, parts=parts)
            raise

    def _mark_hidden(self) -> None:
        """Have the damaged arrays marked that no reader sees, but a save would share, as long as they are not swept."""
        hidden: Sequence[int] = ()
        with self._noting(None), self._database.read() as connection:
            hidden = hidden_records(connection)
        for record_id in hidden:
            for parts in (False, True):
                self._mark_arrays(record_id, parts=parts)

    def _mark_arrays(self, record_id: int, *, parts: bool = False) -> None:
        """Have the damaged ones of its arrays marked, whether or not their list is the one that was saved."""
        rows: list[tuple[Any, ...]] = []
        if self._database.read_only:
            return
        with suppress(CorruptRecordError), self._database.read() as connection:
            rows = RecordRepository(connection).arrays(record_id, parts=parts)
        arrays: dict[int, StoredArrayRow] = {}
        for row in rows:
            array: Any = StoredArrayRow._make(row)
            if array.blob_digest is None or self._is_known(array):  # still being written, or looked at
                continue
            try:
                arrays |= {found.blob_id: found for found in check_arrays(record_id, [row])}
            except CorruptRecordError:
                self._reader.mark(array.blob_id)
        self._mark_damaged(Listing(record_id, list(arrays.values())))

    def _mark_damaged(self, listing: Listing) -> None:
        arrays = [row for row in listing.arrays if not self._is_known(row)]
        try:
            for row, error in self._reader.check(listing, arrays):
                if error is None:
                    self._sound.add(row.blob_id)
                else:
                    self._broken[row.blob_id] = error
        except RecordNotFoundError:  # the chunks of one are not those that it had, or they are being swept
            half = len(arrays) // 2
            if half:
                for some in (arrays[:half], arrays[half:]):
                    self._mark_damaged(Listing(listing.record_id, some))
            else:
                self._reader.mark(arrays[0].blob_id)

    def _is_known(self, row: StoredArrayRow) -> bool:
        return row.blob_id in self._sound or row.blob_id in self._broken

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
