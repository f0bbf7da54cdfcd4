"""The arrays of a record, as the database tells of them, proven to be those that were saved; no chunk is read."""

from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy.orm import Session

from recordstore import constants
from recordstore.blobs import BlobRepository
from recordstore.digest import array_digest, checkpoint_digest, record_digest
from recordstore.engine import Database
from recordstore.exceptions import ArrayNotFoundError, CorruptRecordError
from recordstore.refs import Ref
from recordstore.repository import RecordRepository, StoredArrayRow


@dataclass(frozen=True)
class Listing:
    """The arrays of a record, proven to be those that were saved."""

    record_id: int
    arrays: list[StoredArrayRow]
    sizes: dict[int, tuple[int, int]]
    """How many chunks the large blobs have, and how many bytes these really hold."""


def open_record(database: Database, ref: Ref, names: Collection[str] | None) -> Listing:
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
    with database.read() as session:
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


def open_checkpoint(database: Database, ref: Ref) -> tuple[str, Listing] | None:
    """Return the state of a checkpoint, JSON text, and the arrays it has besides those of the record.

    None for a record that is no checkpoint. Raises what :func:`open_record` raises.
    """
    with database.read() as session:
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


def _sizes(session: Session, arrays: list[StoredArrayRow]) -> dict[int, tuple[int, int]]:
    return BlobRepository(session).sizes([row.blob_id for row in arrays if row.blob_nbytes > constants.CHUNK_SIZE])


def _array_digests(rows: list[StoredArrayRow]) -> bytes:
    return b"".join(
        array_digest(row.position, (row.name, row.dtype, row.shape, row.stype), row.blob_digest, row.part)
        for row in rows
    )
