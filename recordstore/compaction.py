"""Giving the space of deleted records back to the file system, in bounded transactions."""

from sqlalchemy import Connection

from recordstore.callbacks import Tell
from recordstore.engine import Database
from recordstore.faults import driver
from recordstore.info import Progress

STEP_BYTES = 8 * 1024 * 1024
"""What one transaction gives back: it moves as many pages from the end of the file, and journals them."""


def compact(database: Database, tell: Tell) -> int:
    """Cut free pages off, and return by how many bytes the database is shorter."""
    with database.read() as connection:
        page_size, free = _pragma(connection, "page_size"), _pragma(connection, "freelist_count")
    given = 0
    while given < free:
        with database.write() as session:
            cut = _cut(session.connection(), min(free - given, STEP_BYTES // page_size))
        if not cut:  # a writer has taken the rest
            break
        given += cut
        tell(Progress(min(given, free) * page_size, free * page_size))
        database.rest()
    database.empty_wal()
    return given * page_size


def _cut(connection: Connection, pages: int) -> int:
    before = _pragma(connection, "page_count")
    with driver(connection) as raw:
        for _ in range(pages):  # with a larger number the driver would stop after the first page all the same
            raw.execute("PRAGMA incremental_vacuum(1)")
    return before - _pragma(connection, "page_count")


def _pragma(connection: Connection, name: str) -> int:
    return int(connection.exec_driver_sql(f"PRAGMA {name}").scalar_one())
