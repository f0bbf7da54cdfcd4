"""What SQLite itself, or a look at all rows, finds wrong with tables and indexes.

The chunks are left out: they are nearly all of a database, and their digests tell more.
"""

from collections.abc import Iterator

from sqlalchemy import Connection, select

from recordstore.orm import DELETING, READY, WRITING, Base, ChunkRow, RecordRow

CHECKED = [table.name for table in Base.metadata.sorted_tables if table is not ChunkRow.__table__]


def table_faults(connection: Connection, table: str) -> Iterator[str]:
    """Yield what is wrong with the tree of a table, its indexes, and the rows that its rows refer to.

    See https://www.sqlite.org/pragma.html#pragma_integrity_check and the one on foreign_key_check.
    """
    for (message,) in connection.exec_driver_sql(f"PRAGMA integrity_check({table})").all():
        if message != "ok":
            yield f"table {table}: {message}"
    missing = connection.exec_driver_sql(f"PRAGMA foreign_key_check({table})").all()
    for parent in sorted({parent for _, _, parent, _ in missing}):
        yield f"table {table}: rows refer to rows of {parent} that are not there"


def strange_states(connection: Connection) -> Iterator[tuple[int, str]]:
    """Yield the records that are neither published, unfinished nor deleted, which nobody sees, with their state."""
    query = select(RecordRow.id, RecordRow.state).where(RecordRow.state.not_in([READY, WRITING, DELETING]))
    for record_id, state in connection.execute(query):
        yield record_id, f"its state is {state!r}: nobody sees it"
