"""The arrays of a record, as the database tells of them, proven to be those that were saved; no chunk is read."""

from collections import deque
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, NoReturn

from sqlalchemy import Connection

from recordstore.digest import array_digest, checkpoint_digest, record_digest
from recordstore.engine import Database
from recordstore.exceptions import ArrayNotFoundError, CorruptRecordError, RecordNotFoundError
from recordstore.refs import Ref
from recordstore.repository import RecordHead, RecordRepository, StoredArrayRow, check_arrays

PROOFS = 4
"""Lists of arrays that are remembered."""

PROOF_ARRAYS = 2000
"""Arrays of a list that is remembered, at most: a megabyte."""


NOBODY = 0
"""The id of no record, for bytes that are looked at whosever they are."""


@dataclass(frozen=True)
class Listing:
    """The arrays of a record, proven to be those that were saved."""

    record_id: int
    arrays: list[StoredArrayRow]


class Proofs:
    """The lists of arrays that were proven last: rows that have not changed since need no checks again.

    These are half of the time until a small array of an open store is there.
    """

    def __init__(self) -> None:
        self._proven: deque[tuple[bytes, list[StoredArrayRow]]] = deque(maxlen=PROOFS)

    def check(self, record: RecordHead, rows: list[tuple[Any, ...]]) -> list[StoredArrayRow]:
        """Return the arrays, if they are those that were saved.

        Raises
        ------
        CorruptRecordError
            They are not.
        """
        for digest, proven in list(self._proven):
            if digest == record.digest and proven == rows and len(rows) == record.array_count:
                return proven
        arrays = check_arrays(record.id, rows)
        if len(arrays) != record.array_count or record_digest(_array_digests(arrays)) != record.digest:
            raise CorruptRecordError(f"the list of arrays of record {record.id} is not the one that was saved")
        if len(arrays) <= PROOF_ARRAYS:
            self._proven.append((record.digest, arrays))
        return arrays


def open_record(database: Database, proofs: Proofs, ref: Ref, names: Collection[str] | None) -> Listing:
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
    with database.read() as connection:
        records = RecordRepository(connection)
        record = records.find(ref)
        rows = records.arrays(record.id)
    arrays = proofs.check(record, rows)
    if names is None:
        return Listing(record.id, arrays)
    chosen = [array for array in arrays if array.name in names]
    if missing := set(names) - {array.name for array in chosen}:
        raise ArrayNotFoundError(
            f"record {record.id} has no array {min(missing)!r}; info({record.id}).names lists those it has"
        )
    return Listing(record.id, chosen)


def open_checkpoint(database: Database, ref: Ref) -> tuple[str, Listing] | None:
    """Return the state of a checkpoint, JSON text, and the arrays it has besides those of the record.

    None for a record that is no checkpoint. Raises what :func:`open_record` raises.
    """
    with database.read() as connection:
        records = RecordRepository(connection)
        record = records.find(ref)
        text, rows = records.checkpoint(record.id), records.arrays(record.id, parts=True)
    arrays = check_arrays(record.id, rows)
    if text is None and record.checkpoint_digest is None and not arrays:
        return None
    if (
        not isinstance(text, str)
        or not isinstance(record.digest, bytes)
        or checkpoint_digest(record.digest, text, _array_digests(arrays)) != record.checkpoint_digest
    ):
        raise CorruptRecordError(f"the checkpoint of record {record.id} is not the one that was saved")
    return text, Listing(record.id, arrays)


def explain_missing(connection: Connection, listing: Listing) -> NoReturn:
    """Raise for chunks that are not there: in the same view of the database, the record is deleted or damaged."""
    if listing.record_id != NOBODY and not RecordRepository(connection).is_ready(listing.record_id):
        raise RecordNotFoundError(f"record {listing.record_id} was deleted while it was being read")
    raise CorruptRecordError("chunks are missing, or hold more bytes than were saved")


def _array_digests(rows: list[StoredArrayRow]) -> bytes:
    return b"".join(
        array_digest(row.position, (row.name, row.dtype, row.shape, row.stype), row.blob_digest, row.part)
        for row in rows
    )
