"""What SQLite itself, or a look at all rows, finds wrong with tables and indexes."""

from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import Connection, Select, func, select

from recordstore.digest import DIGEST_SIZE
from recordstore.orm import DELETING, READY, WRITING, ArrayRow, Base, BlobRow, ChunkRow, RecordRow
from recordstore.rowchecks import check_order, once

CHECKED = [table.name for table in Base.metadata.sorted_tables if table is not ChunkRow.__table__]
"""Tables that are checked one by one; the chunks are nearly all of a database."""

WHOLE_BYTES = 4 * 1024**3
"""A larger database is not checked as a whole: that holds a read lock for as long as it takes to read all pages."""

_IS_ID = func.typeof(ArrayRow.blob_id) == "integer"


def table_faults(connection: Connection, table: str) -> Iterator[str]:
    """Yield what is wrong with the tree of a table, its indexes, and the rows that its rows refer to.

    See https://www.sqlite.org/pragma.html#pragma_integrity_check and the one on foreign_key_check.
    """
    yield from _faults(connection, f"integrity_check({table})", f"table {table}")
    yield from _lost_parents(connection, table)


def file_faults(connection: Connection) -> Iterator[str]:
    """Yield what is wrong with the database as a whole, unless it is large: with its chunks, and with what is free.

    Digests prove what the chunks hold, not where the next one may be written.
    """
    pages, page_size = (
        connection.exec_driver_sql(f"PRAGMA {name}").scalar_one() for name in ("page_count", "page_size")
    )
    if pages * page_size <= WHOLE_BYTES:
        yield from _faults(connection, "integrity_check", "the file")
        yield from _lost_parents(connection, ChunkRow.__tablename__)


def _faults(connection: Connection, check: str, what: str) -> Iterator[str]:
    for (message,) in connection.exec_driver_sql(f"PRAGMA {check}").all():
        if message != "ok":
            yield f"{what}: {message}"


def _lost_parents(connection: Connection, table: str) -> Iterator[str]:
    missing = connection.exec_driver_sql(f"PRAGMA foreign_key_check({table})").all()
    for parent in sorted({parent for _, _, parent, _ in missing}):
        yield f"table {table}: rows refer to rows of {parent} that are not there"


def strange_states(connection: Connection) -> Iterator[tuple[int, str]]:
    """Yield the records that are neither published, unfinished nor deleted, which nobody sees, with their state."""
    query = select(RecordRow.id, RecordRow.state).where(RecordRow.state.not_in([READY, WRITING, DELETING]))
    for record_id, state in connection.execute(query):
        yield record_id, f"its state is {state!r}: nobody sees it"


def shareable_blobs(connection: Connection, *, before: int | None, limit: int) -> Sequence[int]:
    """Return ids of blobs that a save would share, the newest first."""
    query = select(BlobRow.id).where(BlobRow.state == READY)
    return _descending(connection, query, BlobRow.id, before, limit)


def blobs_of_arrays(connection: Connection, *, before: int | None, limit: int) -> Sequence[int]:
    """Return ids of blobs, whatever their state, as the arrays tell of them, the newest first."""
    query = select(ArrayRow.blob_id).distinct().where(_IS_ID)
    return _descending(connection, query, ArrayRow.blob_id, before, limit)


def blobs_of_record(connection: Connection, record_id: int) -> Iterator[int]:
    """Yield ids of blobs, whatever their state, as the arrays of a record tell of them."""
    query = select(ArrayRow.position, ArrayRow.blob_id).where(ArrayRow.record_id == record_id, _IS_ID)
    rows = connection.execute(query.order_by(ArrayRow.position))
    for _, blob_id in once(rows, keys=1, what="arrays"):  # even those at a position that is no number
        yield blob_id


def _descending(
    connection: Connection, query: Select[Any], column: Any, before: int | None, limit: int
) -> Sequence[int]:
    if before is not None:
        query = query.where(column < before)
    ids = connection.scalars(query.order_by(column.desc()).limit(limit)).all()
    return check_order(ids, after=before, newest_first=True, what="blobs")


def plausible_blobs(connection: Connection, ids: Sequence[int]) -> Sequence[tuple[Any, ...]]:
    """Return id, length and digest of those of the blobs whose length and digest can be those of an array."""
    query = select(BlobRow.id, BlobRow.nbytes, BlobRow.digest).where(
        BlobRow.id.in_(ids),
        func.typeof(BlobRow.nbytes) == "integer",
        BlobRow.nbytes >= 0,
        func.typeof(BlobRow.digest) == "blob",
        func.length(BlobRow.digest) == DIGEST_SIZE,
    )
    return [tuple(row) for row in connection.execute(query)]
