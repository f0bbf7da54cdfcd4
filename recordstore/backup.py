"""A consistent copy of a database in use, by SQLite's backup API (https://www.sqlite.org/backup.html)."""

import os
import secrets
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

from recordstore.engine import Database
from recordstore.exceptions import InvalidValueError, StoreAccessError, StoreBusyError
from recordstore.faults import translated
from recordstore.forks import ForkSafeConnection
from recordstore.info import Progress
from recordstore.target import Target

STEP_BYTES = 32 * 1024 * 1024
"""What is copied under one read lock; writers commit between two steps."""

RESTARTS = 3
"""How often a copy begins anew because a writer of another connection has committed, before it is made in one step."""

_BUSY_SLEEP = 0.001


class _Overtaken(Exception):  # noqa: N818 - a signal, not an error
    """Writers have changed the database too often."""


class _Stopped(Exception):  # noqa: N818
    """The caller's function has raised an error, which is not to be taken for one of the database."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error


def back_up(database: Database, path: Path, progress: Callable[[Progress], object]) -> None:
    """Copy a database into a new file, which has its name only once it is whole and on the disk.

    Raises
    ------
    InvalidValueError
        There is a file of this name.
    StoreAccessError, StorageFullError
        It cannot be written.
    StoreBusyError
        A writer kept the database locked for longer than the timeout.
    """
    if os.path.lexists(path):
        raise _taken(path)
    pid = os.getpid()
    partial = path.with_name(f"{path.name}.partial-{secrets.token_hex(8)}")
    try:
        Target(str(partial)).ensure_file(read_only=False)
        with translated(f"{database.target}, copied to {path}"):
            _copy(database, partial, progress)
        _publish(partial, path)
    except _Stopped as stopped:
        raise stopped.error from None
    finally:
        if os.getpid() == pid:  # a child that ``progress`` has forked leaves the file of its parent alone
            with suppress(FileNotFoundError):
                partial.unlink()


def _copy(database: Database, partial: Path, progress: Callable[[Progress], object]) -> None:
    connection = sqlite3.connect(partial, isolation_level=None, factory=ForkSafeConnection)
    with closing(connection) as copy, database.source() as source:
        # nobody reads the copy before it is whole: no journal, and one fsync at the end
        copy.execute("PRAGMA journal_mode=OFF").fetchall()
        copy.execute("PRAGMA synchronous=OFF")
        (page_size,) = source.execute("PRAGMA page_size").fetchone()
        try:
            watch = _Watch(page_size, database.timeout, progress, RESTARTS)
            source.backup(copy, pages=STEP_BYTES // page_size, progress=watch, sleep=_BUSY_SLEEP)
        except _Overtaken:
            watch = _Watch(page_size, database.timeout, progress, None)
            source.backup(copy, pages=-1, progress=watch, sleep=_BUSY_SLEEP)


class _Watch:
    """What SQLite calls after each step: tells the progress, and knows when to give up."""

    def __init__(
        self, page_size: int, timeout: float, progress: Callable[[Progress], object], restarts: int | None
    ) -> None:
        self._page_size = page_size
        self._timeout = timeout
        self._progress = progress
        self._restarts = restarts
        self._left: int | None = None
        self._deadline = time.monotonic() + timeout

    def __call__(self, status: int, remaining: int, total: int) -> None:
        if status in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
            if time.monotonic() >= self._deadline:
                raise StoreBusyError(
                    f"the store was locked by a writer for longer than {self._timeout} s; nothing was written: "
                    "try again, or open the store with a larger timeout="
                )
            return
        if self._restarts is not None and self._left is not None and remaining >= self._left:
            self._restarts -= 1
            if self._restarts < 0:
                raise _Overtaken
        self._left = remaining
        self._deadline = time.monotonic() + self._timeout
        try:
            self._progress(Progress((total - remaining) * self._page_size, total * self._page_size))
        except Exception as error:
            raise _Stopped(error) from error


def _publish(partial: Path, path: Path) -> None:
    """Bring the copy to the disk, then give it its name; a file that has got the name meanwhile is not replaced."""
    try:
        _fsync(partial)
        _name(partial, path)
        _fsync(path.parent)
    except OSError as error:
        raise StoreAccessError(f"{path} cannot be written: {error.strerror}") from error


def _name(partial: Path, path: Path) -> None:
    try:
        os.link(partial, path)
    except FileExistsError:
        raise _taken(path) from None
    except OSError:  # a file system without hard links
        if os.path.lexists(path):
            raise _taken(path) from None
        partial.rename(path)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _taken(path: Path) -> InvalidValueError:
    return InvalidValueError(
        f"{path} exists, and a backup replaces nothing; choose another path, or move it away first"
    )
