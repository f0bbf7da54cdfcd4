"""How a connection is set up: SQLite's settings, and what each is good for."""

import sqlite3
import sys
import time
from collections.abc import Callable
from typing import Any, TypeVar

from recordstore.faults import BUSY, result_code
from recordstore.forks import ForkSafeConnection
from recordstore.target import Target

POLL_SECONDS = 0.001
"""Pause between two tries to get a lock.

SQLite's own back-off sleeps up to 100 ms, in which a second writer starved and readers stalled up to 2.6 s.
"""

WRITER_CACHE_KIB = 26 * 1024
"""Room for a batch: what does not fit would be written under an early exclusive lock, were spilling not off."""

READER_CACHE_KIB = 2048
"""A reader touches each page once: a cache that fits into the processor's own reads 1.4 times faster than 40 MiB."""

SETTINGS = (
    "synchronous=EXTRA",  # in a power failure FULL loses commits whose journal is deleted, NORMAL all others too
    "foreign_keys=ON",
    "secure_delete=FAST",  # ON, the default of Debian's build, writes every deleted byte twice
    "trusted_schema=OFF",  # a crafted schema runs no function with side effects
    "cell_size_check=ON",
    "mmap_size=0",  # an I/O error in mapped memory would kill the process
    "cache_spill=OFF",
)

_T = TypeVar("_T")


def connect(target: Target, *, cache_kib: int, query_only: bool, timeout: float) -> ForkSafeConnection:
    """Open a connection on a file that exists, or a new database in memory."""
    # isolation_level=None: Python's own transaction control covers neither DDL nor SELECT.
    connection = sqlite3.connect(
        ":memory:" if target.path is None else target.uri("mode=rw"),
        uri=target.path is not None,
        timeout=0,
        isolation_level=None,
        check_same_thread=False,
        factory=ForkSafeConnection,
    )
    try:
        _set_up(connection, cache_kib=cache_kib, query_only=query_only, timeout=timeout)
    except BaseException:
        connection.close()
        raise
    connection.is_database = target.path is None
    return connection


def run(connection: sqlite3.Connection, *statements: str, timeout: float) -> Any:
    """Execute statements, waiting for locks, and return the first value of the last one."""
    row = None
    for statement in statements:
        row = poll(lambda: connection.execute(statement).fetchone(), timeout)  # noqa: B023 - called at once
    return None if row is None else row[0]


def poll(action: Callable[[], _T], timeout: float) -> _T:
    """Call ``action`` until it finds the database unlocked, for at most ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            return action()
        except sqlite3.OperationalError as error:
            if result_code(error) != BUSY or time.monotonic() >= deadline:
                raise
        time.sleep(POLL_SECONDS)


def cache_setting(cache_kib: int) -> str:
    """Return the statement that bounds the page cache.

    SQLite turns KiB into pages by the page size that it knows of, which is 4 KiB until it has read the file: set any
    sooner, the cache of a file with pages of 32 KiB would be eight times too large.
    """
    return f"PRAGMA cache_size=-{cache_kib}"


def _set_up(connection: sqlite3.Connection, *, cache_kib: int, query_only: bool, timeout: float) -> None:
    pragmas = list(SETTINGS)
    if sys.platform == "darwin":
        pragmas.append("fullfsync=1")  # fsync alone leaves the data in the cache of the drive there
    if query_only:
        pragmas.append("query_only=ON")
    run(connection, *(f"PRAGMA {pragma}" for pragma in pragmas), timeout=timeout)
    # A file does not remember TRUNCATE, and does remember WAL, which stays.
    if run(connection, "PRAGMA journal_mode", timeout=timeout) not in {"truncate", "wal", "memory"}:
        run(connection, "PRAGMA journal_mode=TRUNCATE", timeout=timeout)
    run(connection, "SELECT count(*) FROM sqlite_schema", cache_setting(cache_kib), timeout=timeout)
