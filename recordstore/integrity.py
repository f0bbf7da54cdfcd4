"""What SQLite itself, or a look at all rows, finds wrong with tables and indexes."""

from collections.abc import Iterator

from sqlalchemy import Connection, select

from recordstore.orm import DELETING, READY, WRITING, Base, ChunkRow, RecordRow

CHECKED = [table.name for table in Base.metadata.sorted_tables if table is not ChunkRow.__table__]
"""Tables that are checked one by one; the chunks are nearly all of a database."""

WHOLE_BYTES = 4 * 1024**3
"""A larger database is not checked as a whole: that holds a read lock for as long as it takes to read all pages."""


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
