"""A consistent copy of a database in use, by SQLite's backup API (https://www.sqlite.org/backup.html)."""

import errno
import os
import secrets
import sqlite3
import time
from contextlib import closing, suppress
from pathlib import Path

from recordstore.callbacks import Tell
from recordstore.engine import Database
from recordstore.exceptions import InvalidValueError, StorageFullError, StoreAccessError, StoreBusyError
from recordstore.faults import translated
from recordstore.forks import ForkSafeConnection
from recordstore.info import Progress
from recordstore.target import COMPANIONS, Target

STEP_BYTES = 32 * 1024 * 1024
"""What is copied under one read lock; writers commit between two steps."""

RESTARTS = 3
"""How often a copy begins anew because a writer of another connection has committed, before it is made in one step."""

_BUSY_SLEEP = 0.001


class _Overtaken(Exception):  # noqa: N818 - a signal, not an error
    """Writers have changed the database too often."""


def back_up(database: Database, path: Path, tell: Tell) -> None:
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
    _check_free(path)
    pid = os.getpid()
    # the whole name and the end of this one could be longer than a file system allows
    partial = path.with_name(f"{os.fsdecode(os.fsencode(path.name)[:200])}.partial-{secrets.token_hex(8)}")
    try:
        Target(str(partial)).ensure_file(read_only=False)
        with translated(f"{database.target}, copied to {path}"):
            _copy(database, partial, tell)
        _publish(partial, path)
    finally:
        if os.getpid() == pid:  # a child that ``tell`` has forked leaves the file of its parent alone
            with suppress(OSError):  # it may never have been there
                partial.unlink()


def _copy(database: Database, partial: Path, tell: Tell) -> None:
    with database.source() as source:
        (page_size,) = source.execute("PRAGMA page_size").fetchone()
        for pages, restarts in ((STEP_BYTES // page_size, RESTARTS), (-1, None)):
            os.truncate(partial, 0)  # without a journal, a copy that was given up is no database
            with closing(_connect(partial)) as copy:
                watch = _Watch(database, page_size, tell, restarts)
                try:
                    source.backup(copy, pages=pages, progress=watch, sleep=_BUSY_SLEEP)
                except _Overtaken:
                    continue
            return


def _connect(partial: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(partial, isolation_level=None, factory=ForkSafeConnection)
    # nobody reads the copy before it is whole: no journal, and one fsync at the end
    connection.execute("PRAGMA journal_mode=OFF").fetchall()
    connection.execute("PRAGMA synchronous=OFF")
    return connection


class _Watch:
    """What SQLite calls after each step: tells the progress, and knows when to give up."""

    def __init__(self, database: Database, page_size: int, tell: Tell, restarts: int | None) -> None:
        self._database = database
        self._page_size = page_size
        self._timeout = database.timeout
        self._tell = tell
        self._restarts = restarts
        self._left: int | None = None
        self._deadline = time.monotonic() + self._timeout

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
        with self._database.source_paused():
            self._tell(Progress((total - remaining) * self._page_size, total * self._page_size))


def _publish(partial: Path, path: Path) -> None:
    """Bring the copy to the disk, then give it its name; a file that has got the name meanwhile is not replaced."""
    try:
        _fsync(partial)
        _name(partial, path)
        try:
            _fsync(path.parent)
        except OSError:
            path.unlink()  # a name that may be gone tomorrow
            raise
    except OSError as error:
        kind = StorageFullError if error.errno in {errno.ENOSPC, errno.EDQUOT} else StoreAccessError
        raise kind(f"{path} cannot be written: {error.strerror}") from error


def _check_free(path: Path) -> None:
    """Raise for a name that is taken, or beside which there is what SQLite would take for a part of the copy."""
    for suffix in ("", *COMPANIONS):
        beside = Path(f"{path}{suffix}")
        try:
            beside.lstat()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise StoreAccessError(f"{beside} cannot be made: {error.strerror}") from error
        raise _taken(beside)


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
