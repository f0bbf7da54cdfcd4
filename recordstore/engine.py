"""The engines of a target, and its transactions: which lock they take, and how long they wait for it."""

import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.orm import Session
from sqlalchemy.pool import QueuePool, StaticPool

from recordstore import constants, forks
from recordstore.connection import READER_CACHE_KIB, WRITER_CACHE_KIB, cache_setting, connect, poll, run
from recordstore.exceptions import (
    ForkError,
    SchemaError,
    SchemaOutdatedError,
    SchemaTooNewError,
    StoreBusyError,
    StoreClosedError,
)
from recordstore.faults import abandon, driver, drop_after_io_error, translated, unwrapped
from recordstore.locks import is_mine, writer_lock
from recordstore.logs import LOGGING_NAME
from recordstore.target import Target
from recordstore.writeback import early_writeback

_BEGIN = "recordstore_begin"
_WAIT = "recordstore_wait"
_BEGIN_WAIT = "recordstore_begin_wait"
_NBYTES = "recordstore_nbytes"


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
        self._pid = os.getpid()
        self._closed = False
        self._rested = 0.0
        self.schema_version: int | None = None
        """``user_version`` that every transaction expects; None as long as the schema was not checked."""
        self._lock = writer_lock(target)
        if target.path is None:
            with forks.transaction():
                self._memory = self._connect(write=True)
            self._readers = self._writers = self._engine(lambda: self._memory, poolclass=StaticPool)
        else:
            self._readers = self._engine(partial(self._connect, write=False), poolclass=QueuePool, max_overflow=-1)
            self._writers = self._engine(partial(self._connect, write=True), poolclass=QueuePool, pool_size=1)
            forks.close_before_fork(self)
        self._immediate = self._writers.execution_options(**{_BEGIN: "BEGIN IMMEDIATE"})

    def check_usable(self) -> None:
        """Raise for a database that was closed, or that a forked child has from its parent."""
        if os.getpid() != self._pid:
            raise ForkError(f"{self.target} was opened before a fork; open the file again in the child process")
        if self._closed:
            raise StoreClosedError(f"{self.target} was closed; open the file again")

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Give a consistent view of the database; short, since it holds up the commits of writers.

        Core: a session of the ORM, and objects of it, took a fifth of the time until a small array is there.
        """
        self.check_usable()
        with (
            translated(str(self.target)),
            forks.transaction(),
            self._memory_lock(),
            self._readers.connect() as connection,
            connection.begin(),
        ):
            yield connection

    @contextmanager
    def write(self, *, wait: float | None = None, nbytes: int = 0) -> Iterator[Session]:
        """Give a session that holds the write lock; what was done in it is committed durably at the end.

        ``wait`` overrides the seconds to wait for the lock; ``nbytes`` is how much will be written, if it is a lot.
        """
        self.check_usable()
        options: dict[str, float] = {_NBYTES: nbytes} if wait is None else {_NBYTES: nbytes, _WAIT: wait}
        with translated(str(self.target)), self._locked(wait) as left:
            self.check_usable()
            engine = self._immediate.execution_options(**options, **{_BEGIN_WAIT: left})
            with Session(engine, expire_on_commit=False) as session, session.begin():
                yield session

    @contextmanager
    def migration(self, *setup: str) -> Iterator[Connection]:
        """Give a connection in an immediate transaction with foreign keys off, for a change of the schema.

        Batch migrations rebuild a table by dropping it: with foreign keys on, that deletes the rows of all children.
        ``setup`` are statements to run before the transaction begins.
        """
        with translated(str(self.target), opening=True), self._locked(), self._immediate.connect() as connection:
            before = ("PRAGMA foreign_keys=OFF", "PRAGMA cache_spill=ON", *setup)
            after = ("PRAGMA foreign_keys=ON", "PRAGMA cache_spill=OFF", cache_setting(WRITER_CACHE_KIB))
            self._run(connection, *before)
            try:
                with connection.begin():
                    yield connection
            finally:
                if not connection.invalidated:
                    self._run(connection, *after)

    @contextmanager
    def inspection(self) -> Iterator[Connection]:
        """Give a connection for a first look: like :meth:`read`, before the pool of readers has opened the file."""
        engine = self._readers if self.read_only else self._writers
        with (
            translated(str(self.target), opening=True),
            forks.transaction(),
            engine.connect() as connection,
            connection.begin(),
        ):
            yield connection

    @contextmanager
    def source(self) -> Iterator[sqlite3.Connection]:
        """Give a connection in no transaction, for SQLite's own copying of the whole database.

        The errors of the driver are left to the caller, who knows whether they concern this database or the copy.
        """
        self.check_usable()
        with forks.transaction(), self._memory_lock(), self._readers.connect() as connection:
            self._check_version(self._run(connection, "PRAGMA user_version"))
            with driver(connection) as raw:
                yield raw

    @contextmanager
    def source_paused(self) -> Iterator[None]:
        """Let forks, and other calls on a database in memory, go on between two steps of :meth:`source`."""
        self.check_usable()
        with forks.pause():
            if self.target.path is None:
                self._lock.release()
            try:
                yield
            finally:
                if self.target.path is None and os.getpid() == self._pid:
                    self._lock.acquire()
        self.check_usable()

    def empty_wal(self) -> None:
        """Bring what a WAL file holds to the database, unless readers need it; nothing in other journal modes."""
        with translated(str(self.target)), self._locked(), self._writers.connect() as connection:
            self._run(connection, "PRAGMA wal_checkpoint(TRUNCATE)")

    def convert_journal(self, mode: str) -> None:
        """Switch the file to the journal mode ``"truncate"`` or ``"wal"``, once no other connection has it open."""
        with translated(str(self.target)), self._locked(), self._writers.connect() as connection:
            if self._run(connection, "PRAGMA journal_mode") != mode:
                self._run(connection, f"PRAGMA journal_mode={mode}")

    def rest(self) -> None:
        """Let other writers in, between two transactions of one call, unless the last rest was a moment ago."""
        if time.monotonic() - self._rested >= constants.PAUSE_EVERY_SECONDS:
            time.sleep(constants.PAUSE_SECONDS)
            self._rested = time.monotonic()

    def shrink(self) -> None:
        """Give the memory of the writer's page cache back."""
        with translated(str(self.target)), self._locked(), self._writers.connect() as connection:
            self._run(connection, "PRAGMA shrink_memory")

    def close(self) -> None:
        """Refuse new transactions, and close all connections: those in use when their transaction ends."""
        self._closed = True
        if self.target.path is None:
            self._memory.is_database = False
            with suppress(StoreBusyError), self._locked():  # else it is in use, and closes as others do
                self._memory.close()
        else:
            with forks.transaction():
                self._dispose()

    def close_idle(self) -> None:
        """Close the idle connections of a file; new ones open as needed."""
        if self.target.path is not None:
            self._dispose()

    def _dispose(self) -> None:
        self._readers.dispose()
        self._writers.dispose()

    @contextmanager
    def _locked(self, wait: float | None = None) -> Iterator[float]:
        """Hold the writer lock of the process, within a context in which it does not fork; give the seconds left."""
        seconds = self.timeout if wait is None else wait
        deadline = time.monotonic() + seconds
        with forks.transaction():
            if is_mine(self._lock):  # a finalizer, or the handler of a signal, in the middle of a transaction
                raise StoreBusyError(f"{self.target} is being written to by this thread; try again when that is done")
            try:
                if not self._lock.acquire(timeout=seconds):
                    raise StoreBusyError(
                        f"{self.target} is being written to by another thread for longer than {self.timeout} s; "
                        "try again, or open the store with a larger timeout="
                    )
                yield max(0.0, deadline - time.monotonic())
            finally:
                try:  # noqa: SIM105 - with no call before it, in which Ctrl-C could come once more
                    self._lock.release()
                except RuntimeError:  # it was not got
                    pass

    @contextmanager
    def _memory_lock(self) -> Iterator[None]:
        if self.target.path is not None:
            yield
            return
        with self._locked():  # the one connection of a database in memory serves one transaction at a time
            self.check_usable()  # it may have been closed meanwhile
            yield

    def _engine(self, creator: Callable[[], sqlite3.Connection], **pool: Any) -> Engine:
        engine = create_engine(
            "sqlite+pysqlite://",
            creator=creator,
            hide_parameters=True,
            logging_name=LOGGING_NAME,
            **pool,
        )
        event.listen(engine, "begin", self._begin)
        event.listen(engine, "commit", self._commit)
        event.listen(engine, "handle_error", drop_after_io_error)
        event.listen(engine, "checkin", self._close_if_closed)
        return engine

    def _connect(self, *, write: bool) -> forks.ForkSafeConnection:
        return connect(
            self.target,
            cache_kib=WRITER_CACHE_KIB if write else READER_CACHE_KIB,
            query_only=self.read_only or not write,
            timeout=self.timeout,
        )

    def _run(self, connection: Connection, *statements: str) -> Any:
        return run(unwrapped(connection), *statements, timeout=self.timeout)

    def _close_if_closed(self, connection: sqlite3.Connection | None, _record: object) -> None:
        """Close a connection that was in use when the database was closed."""
        if self._closed and connection is not None:
            connection.close()

    def _begin(self, connection: Connection) -> None:
        """Begin a transaction with its lock taken: a deferred one takes its own with the first read."""
        raw = unwrapped(connection)
        options = connection.get_execution_options()
        try:
            poll(lambda: raw.execute(options.get(_BEGIN, "BEGIN")), options.get(_BEGIN_WAIT, self.timeout))
            version = self._run(connection, "PRAGMA user_version")
            self._check_version(version)
        except BaseException as error:
            abandon(connection, error)
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
        raw, options = unwrapped(connection), connection.get_execution_options()
        try:
            with early_writeback(raw, self.target.path, options.get(_NBYTES, 0)):
                poll(raw.commit, options.get(_WAIT, self.timeout))
        except BaseException as error:
            abandon(connection, error)
            raise
