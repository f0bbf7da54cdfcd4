"""Engines for a path or URL: how connections are set up, and when transactions take which lock."""

import os
import sqlite3
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, cast
from urllib.parse import quote

from sqlalchemy import Connection, Engine, ExceptionContext, create_engine, event
from sqlalchemy.orm import Session
from sqlalchemy.pool import QueuePool, StaticPool

from recordstore.exceptions import SchemaError, SchemaOutdatedError, SchemaTooNewError, StoreBusyError
from recordstore.faults import BUSY, LOST_FILE, result_code, translated
from recordstore.forks import ForkSafeConnection, after_fork_in_child
from recordstore.target import Target

POLL_SECONDS = 0.001
"""Pause between two tries to get a lock.

SQLite's own back-off sleeps up to 100 ms, in which a second writer starved and readers stalled up to 2.6 s.
"""

WRITER_CACHE_KIB = 40960
READER_CACHE_KIB = 2048
"""A reader touches each page once: a cache that fits into the processor's own reads 1.4 times faster than 40 MiB."""

_BEGIN = "recordstore_begin"
_WAIT = "recordstore_wait"
_T = TypeVar("_T")
_writer_locks: weakref.WeakValueDictionary[str, threading.Lock] = weakref.WeakValueDictionary()
_writer_locks_guard = threading.Lock()


def _forget_locks() -> None:
    """Drop the locks in a forked child: the threads that may hold them do not exist there."""
    global _writer_locks, _writer_locks_guard
    _writer_locks, _writer_locks_guard = weakref.WeakValueDictionary(), threading.Lock()


after_fork_in_child(_forget_locks)


def _writer_lock(target: Target) -> threading.Lock:
    """Return the lock that all stores of this process on this file share."""
    if target.path is None:
        return threading.Lock()
    with _writer_locks_guard:
        return _writer_locks.setdefault(os.path.realpath(target.path), threading.Lock())


class Database:
    """The engines of one target and their two kinds of transaction, :meth:`read` and :meth:`write`.

    Parameters
    ----------
    target
        What to open. The file has to exist, if only as an empty one.
    read_only
        Refuse writes. The file is still opened for writing where that is allowed: a hot journal, which a killed writer
        leaves behind, cannot be rolled back otherwise.
    timeout
        Seconds to wait for a lock.
    """

    def __init__(self, target: Target, *, read_only: bool, timeout: float) -> None:
        self.target = target
        self.read_only = read_only
        self.timeout = timeout
        self.schema_version: int | None = None
        """``user_version`` that every transaction expects; None as long as the schema was not checked."""
        self._lock = _writer_lock(target)
        if target.path is None:
            self._readers = self._engine(poolclass=StaticPool, creator=lambda: self._connect(WRITER_CACHE_KIB))
            self._writers = self._readers
        else:
            self._readers = self._engine(
                poolclass=QueuePool, max_overflow=-1, creator=lambda: self._connect(READER_CACHE_KIB)
            )
            self._writers = self._engine(
                poolclass=QueuePool, pool_size=1, creator=lambda: self._connect(WRITER_CACHE_KIB)
            )
        self._immediate = self._writers.execution_options(**{_BEGIN: "BEGIN IMMEDIATE"})

    @contextmanager
    def read(self) -> Iterator[Session]:
        """Give a session with a consistent view of the database; short, since it holds up the commits of writers."""
        with (
            translated(str(self.target)),
            self._memory_lock(),
            Session(self._readers, expire_on_commit=False) as session,
            session.begin(),
        ):
            yield session

    @contextmanager
    def write(self, *, wait: float | None = None) -> Iterator[Session]:
        """Give a session that holds the write lock; what was done in it is committed durably at the end.

        ``wait`` overrides the seconds to wait for the lock.
        """
        engine = self._immediate if wait is None else self._immediate.execution_options(**{_WAIT: wait})
        with (
            translated(str(self.target)),
            self._locked(wait),
            Session(engine, expire_on_commit=False) as session,
            session.begin(),
        ):
            yield session

    @contextmanager
    def migration(self, *setup: str) -> Iterator[Connection]:
        """Give a connection in an immediate transaction with foreign keys off, for a change of the schema.

        Batch migrations rebuild a table by dropping it: with foreign keys on, that deletes the rows of all children.
        ``setup`` are statements to run before the transaction begins.
        """
        with translated(str(self.target), opening=True), self._locked(), self._immediate.connect() as connection:
            before = ("PRAGMA foreign_keys=OFF", "PRAGMA cache_spill=ON", *setup)
            after = ("PRAGMA foreign_keys=ON", "PRAGMA cache_spill=OFF")
            self._run(_raw(connection), *before)
            try:
                with connection.begin():
                    yield connection
            finally:
                if not connection.invalidated:
                    self._run(_raw(connection), *after)

    @contextmanager
    def inspection(self) -> Iterator[Connection]:
        """Give a connection for a first look: like :meth:`read`, before the pool of readers has opened the file."""
        engine = self._readers if self.read_only else self._writers
        with translated(str(self.target), opening=True), engine.connect() as connection, connection.begin():
            yield connection

    def convert_journal(self, mode: str) -> None:
        """Switch the file to the journal mode ``"truncate"`` or ``"wal"``, once no other connection has it open."""
        with translated(str(self.target)), self._locked(), self._writers.connect() as connection:
            if self._run(_raw(connection), "PRAGMA journal_mode") != mode:
                self._run(_raw(connection), f"PRAGMA journal_mode={mode}")

    def shrink(self) -> None:
        """Give the memory of the writer's page cache back."""
        with self._locked(), self._writers.connect() as connection:
            self._run(_raw(connection), "PRAGMA shrink_memory")

    def close(self) -> None:
        """Close all connections that no transaction uses; the others close when theirs ends."""
        self._readers.dispose()
        self._writers.dispose()

    @contextmanager
    def _locked(self, wait: float | None = None) -> Iterator[None]:
        if not self._lock.acquire(timeout=self.timeout if wait is None else wait):
            raise StoreBusyError(
                f"{self.target} is being written to by another thread for longer than {self.timeout} s; "
                "try again, or open the store with a larger timeout="
            )
        try:
            yield
        finally:
            self._lock.release()

    @contextmanager
    def _memory_lock(self) -> Iterator[None]:
        if self.target.path is not None:
            yield
            return
        with self._locked():  # the one connection of a database in memory serves one transaction at a time
            yield

    def _engine(self, **options: Any) -> Engine:
        engine = create_engine("sqlite+pysqlite://", hide_parameters=True, **options)
        event.listen(engine, "begin", self._begin)
        event.listen(engine, "commit", self._commit)
        event.listen(engine, "handle_error", _drop_after_io_error)
        return engine

    def _connect(self, cache_kib: int) -> ForkSafeConnection:
        path = self.target.path
        # isolation_level=None: Python's own transaction control covers neither DDL nor SELECT.
        connection = sqlite3.connect(
            ":memory:" if path is None else f"file:{quote(path)}?mode=rw",
            uri=path is not None,
            timeout=0,
            isolation_level=None,
            check_same_thread=False,
            factory=ForkSafeConnection,
        )
        try:
            self._set_up(connection, cache_kib)
        except BaseException:
            connection.close()
            raise
        return connection

    def _set_up(self, connection: sqlite3.Connection, cache_kib: int) -> None:
        """Apply the settings; the README says what each is for."""
        pragmas = [
            "synchronous=EXTRA",
            "foreign_keys=ON",
            "secure_delete=FAST",
            "trusted_schema=OFF",
            "cell_size_check=ON",
            "mmap_size=0",
            f"cache_size=-{cache_kib}",
            "cache_spill=OFF",
        ]
        if sys.platform == "darwin":
            pragmas.append("fullfsync=1")  # fsync alone leaves the data in the drive's cache there
        if self.read_only or (self.target.path is not None and cache_kib == READER_CACHE_KIB):
            pragmas.append("query_only=ON")
        self._run(connection, *(f"PRAGMA {pragma}" for pragma in pragmas))
        self._set_journal_mode(connection)

    def _set_journal_mode(self, connection: sqlite3.Connection) -> None:
        """Set TRUNCATE, which a file does not remember, and leave WAL, which it does."""
        if self._run(connection, "PRAGMA journal_mode") not in {"truncate", "wal", "memory"}:
            self._run(connection, "PRAGMA journal_mode=TRUNCATE")

    def _run(self, connection: sqlite3.Connection, *statements: str) -> Any:
        """Execute the statements, waiting for locks, and return the first value of the last one."""
        row = None
        for statement in statements:
            row = poll(lambda: connection.execute(statement).fetchone(), self.timeout)  # noqa: B023
        return None if row is None else row[0]

    def _begin(self, connection: Connection) -> None:
        """Begin a transaction with its lock taken: a deferred one takes its own with the first read."""
        raw = _raw(connection)
        options = connection.get_execution_options()
        try:
            poll(lambda: raw.execute(options.get(_BEGIN, "BEGIN")), options.get(_WAIT, self.timeout))
            version = self._run(raw, "PRAGMA user_version")
            self._check_version(version)
        except BaseException as error:
            _abandon(connection, error)
            raise

    def _check_version(self, version: int) -> None:
        if self.schema_version is None or version == self.schema_version:
            return
        kind: type[SchemaError] = SchemaTooNewError if version > self.schema_version else SchemaOutdatedError
        raise kind(
            f"{self.target} has schema {version:04}, and had {self.schema_version:04} when it was opened here; "
            "close it and open it again with the recordstore that changed it"
        )

    def _commit(self, connection: Connection) -> None:
        """Commit, waiting for readers to finish; SQLite lets no new ones in meanwhile."""
        raw = _raw(connection)
        try:
            poll(raw.commit, self.timeout)
        except BaseException as error:
            _abandon(connection, error)
            raise


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


def _drop_after_io_error(context: ExceptionContext) -> None:
    """Have SQLAlchemy drop the connection, whose view of the file is not to be trusted any more."""
    if result_code(context.original_exception) in LOST_FILE:
        context.is_disconnect = True


def _abandon(connection: Connection, error: BaseException) -> None:
    if result_code(error) in LOST_FILE:
        connection.invalidate(error)
    else:
        _raw(connection).rollback()


def _raw(connection: Connection) -> sqlite3.Connection:
    return cast("sqlite3.Connection", connection.connection.dbapi_connection)
