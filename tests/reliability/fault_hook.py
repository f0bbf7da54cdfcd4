"""A fault at one chosen point of all that is asked of SQLite, by SQLAlchemy or past it.

Points are the opening of a connection, each statement, commit, step of a backup, and chunk that is written in place; for
errors, which reading may meet too, also each fetch of rows and each chunk that is read.
"""

import os
import signal
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, Self
from unittest import mock


class Faults:
    """What this process asks of SQLite while it is armed, and what strikes at one of these points."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.struck: str | None = None
        self._number: int | None = None
        self._reads = False
        self._strike: Callable[[], None] | None = None
        self._lock = threading.Lock()

    @contextmanager
    def armed(self, number: int | None, strike: Callable[[], None], *, reads: bool) -> Iterator[None]:
        """Strike at the point of this number in the block, None for never; ``reads`` counts what only reads too."""
        self.seen, self.struck = [], None
        self._number, self._strike, self._reads = number, strike, reads
        try:
            yield
        finally:
            self._strike = None

    def point(self, what: str, *, read: bool = False) -> None:
        """Strike, if it is the turn of this point."""
        strike = self._strike
        if strike is None or (read and not self._reads):
            return
        with self._lock:
            self.seen.append(what)
            mine = len(self.seen) - 1 == self._number
        if mine:
            self.struck = what
            strike()


FAULTS = Faults()


def failing(code: int) -> Callable[[], None]:
    """Return what raises an error of SQLite."""

    def strike() -> None:
        error = sqlite3.OperationalError("simulated")
        error.sqlite_errorcode = code
        raise error

    return strike


def killing() -> None:
    """Kill this process."""
    os.kill(os.getpid(), signal.SIGKILL)


@contextmanager
def hooked() -> Iterator[None]:
    """Have the connections that are opened in the block, whoever opens them, ask ``FAULTS`` first."""
    connect = sqlite3.connect

    def ask(*arguments: Any, factory: type[sqlite3.Connection] = sqlite3.Connection, **options: Any) -> Any:
        FAULTS.point("connect")
        return connect(*arguments, factory=_hooked_class(factory), **options)

    with mock.patch("sqlite3.connect", ask):
        yield


@cache
def _hooked_class(factory: type[sqlite3.Connection]) -> type[sqlite3.Connection]:
    return type(f"Hooked{factory.__name__}", (_Hooks, factory), {})


class _Cursor(sqlite3.Cursor):
    def execute(self, sql: str, *arguments: Any) -> Any:
        FAULTS.point(sql)
        return super().execute(sql, *arguments)

    def executemany(self, sql: str, *arguments: Any) -> Any:
        FAULTS.point(sql)
        return super().executemany(sql, *arguments)

    def fetchone(self) -> Any:
        self._ask("fetchone")
        return super().fetchone()

    def fetchmany(self, *arguments: Any, **options: Any) -> Any:
        self._ask("fetchmany")
        return super().fetchmany(*arguments, **options)

    def fetchall(self) -> Any:
        self._ask("fetchall")
        return super().fetchall()

    def _ask(self, what: str) -> None:
        try:
            FAULTS.point(what, read=True)
        except sqlite3.Error:
            self.close()  # the driver ends a statement that has failed
            raise


class _Hooks:
    """The calls of a connection that ask first; a base class before that of the connection."""

    def cursor(self, *_: Any, **__: Any) -> Any:
        return super().cursor(_Cursor)

    def execute(self, *arguments: Any) -> Any:
        return self.cursor().execute(*arguments)  # the base class would make a cursor of its own

    def commit(self) -> None:
        if self.in_transaction:
            FAULTS.point("COMMIT")
        super().commit()

    def blobopen(self, *arguments: Any, **options: Any) -> Any:
        FAULTS.point("blobopen", read=bool(options.get("readonly")))
        return _Blob(super().blobopen(*arguments, **options))

    def backup(self, target: sqlite3.Connection, *, progress: Any = None, **options: Any) -> None:
        def step(*state: int) -> None:
            FAULTS.point("step of a backup")
            if progress is not None:
                progress(*state)

        FAULTS.point("backup")
        super().backup(target, progress=step, **options)


class _Blob:
    """A chunk that is read or written in place."""

    def __init__(self, blob: sqlite3.Blob) -> None:
        self._blob = blob

    def read(self, *length: int) -> bytes:
        FAULTS.point("read of a blob", read=True)
        return self._blob.read(*length)

    def write(self, data: Any) -> None:
        FAULTS.point("write of a blob")
        self._blob.write(data)

    def __enter__(self) -> Self:
        self._blob.__enter__()
        return self

    def __exit__(self, *error: object) -> Any:
        return self._blob.__exit__(*error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._blob, name)
