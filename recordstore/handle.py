"""An open store: what it is opened on, what it shares between its calls, and when it may be used."""

import logging
import os
import sqlite3
from types import TracebackType
from typing import Any, Literal, Self

from sqlalchemy import URL

from recordstore import schema
from recordstore.background import Background
from recordstore.engine import Database
from recordstore.exceptions import (
    ForkError,
    InvalidTypeError,
    InvalidValueError,
    ReadOnlyStoreError,
    RecordStoreError,
    StoreAccessError,
)
from recordstore.hashing import HashPool
from recordstore.listing import Proofs
from recordstore.snapshot import Staging
from recordstore.sweep import sweep
from recordstore.target import Target, parse_target
from recordstore.validation import check_bool, check_choice, check_seconds

_logger = logging.getLogger("recordstore")

DEFAULT_GRACE = 600.0
"""Seconds after which an unfinished save that shows no sign of life is swept."""

SHARE_STEPS = 4
"""Transactions of at most 32 MiB that opening, or a save that left something behind, spends on sweeping."""

MIN_SQLITE = (3, 35, 0)
"""The first version with ``RETURNING``."""

WAL_FIXES = ((3, 51, 3), (3, 50, 7), (3, 44, 6))
"""Versions that mend the loss of committed data when a WAL file is reset, https://www.sqlite.org/wal.html#walresetbug"""


class StoreHandle:
    """Opening, closing, and the checks that every call begins with."""

    def __init__(
        self,
        target: str | os.PathLike[str] | URL,
        *,
        upgrade: bool = False,
        read_only: bool = False,
        journal_mode: Literal["truncate", "wal"] | None = None,
        timeout: float = 30.0,
    ) -> None:
        self._closed = True  # until everything below has succeeded
        try:
            where = parse_target(target)
        finally:
            del target  # as there
        _check_options(where, upgrade=upgrade, read_only=read_only, journal_mode=journal_mode, timeout=timeout)
        where.ensure_file(read_only=read_only)
        schema.refuse_foreign(where)
        self._database = Database(where, read_only=read_only, timeout=timeout)
        self._pool = HashPool()
        self._background = Background()
        self._staging = Staging()
        self._proofs = Proofs()
        try:
            schema.prepare(self._database, upgrade=upgrade)
            if journal_mode is not None and where.path is not None:
                self._database.convert_journal(journal_mode)
            if not read_only:
                self._sweep_share(SHARE_STEPS)
        except BaseException:
            self._database.close()
            raise
        self._closed = False

    def close(self) -> None:
        """Close the store, once the pending save of ``save_async`` has ended; closing it again does nothing.

        Leaving the ``with`` block of the store does the same, and logs the error of a save at error level where an
        exception of the block is under way already.

        Raises
        ------
        ForkError
            The store was opened by another process.
        RecordStoreError
            What a save in the background has failed with, if nobody has seen it; the store is closed nevertheless.
            Of several errors the first is raised, the others are logged.
        """
        errors = self._shut()
        _log(errors[1:])
        if errors:
            raise errors[0]

    def wait(self, timeout: float | None = None) -> None:
        """Wait until the save that was last handed to ``save_async`` has ended.

        Parameters
        ----------
        timeout
            Seconds to wait; None for as long as it takes. Giving up, or Ctrl-C, leaves the save running.

        Raises
        ------
        TimeoutError
            The save is still running.
        RecordStoreError
            What a save in the background has failed with, if nobody has seen it: of several the oldest, and the next
            one in the next call.

        Examples
        --------
        >>> import numpy as np
        >>> from recordstore import RecordStore
        >>> with RecordStore(":memory:") as store:
        ...     handle = store.save_async({"weight": np.ones(2)})
        ...     store.wait()
        ...     handle.done(), len(store)
        (True, 1)
        """
        self._check_usable()
        self._background.settle(timeout)
        error = self._background.next_unseen()
        if error is not None:
            raise error

    def __enter__(self) -> Self:
        self._check_usable()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            errors = self._shut()
        except ForkError:  # a forked child that leaves the block has nothing to close
            return
        _log(errors[1:] if kind is None else errors)
        if errors and kind is None:
            raise errors[0]

    def __repr__(self) -> str:
        database = getattr(self, "_database", None)
        state = ", closed" if self._closed else ""
        return f"<{type(self).__name__} {str(database.target) if database else 'unopened'!r}{state}>"

    def __reduce__(self) -> Any:
        raise InvalidTypeError(
            "a RecordStore cannot be pickled or copied: hand its path to the other process and open it there"
        )

    def _shut(self) -> list[BaseException]:
        """Close the store, and return the errors of saves in the background that nobody has seen."""
        if self._closed:
            return []
        self._database.check_usable()
        self._background.close()
        self._closed = True
        self._database.close()
        self._pool.close()
        self._staging.clear()
        return list(iter(self._background.next_unseen, None))

    def _check_usable(self) -> None:
        self._database.check_usable()

    def _check_writable(self) -> None:
        self._check_usable()
        if self._database.read_only:
            raise ReadOnlyStoreError(f"{self!r} was opened with read_only=True; open it again without")

    def _sweep_share(self, steps: int) -> None:
        """Remove some leftovers, unless others are writing: they will do it."""
        try:
            sweep(self._database, grace=DEFAULT_GRACE, steps=steps, wait=0.0)
        except RecordStoreError:
            return


def _log(errors: list[BaseException]) -> None:
    for error in errors:
        _logger.error("a save in the background has failed: %s", error, exc_info=error)


def _check_options(
    target: Target, *, upgrade: object, read_only: object, journal_mode: object, timeout: object
) -> None:
    check_bool("upgrade", upgrade)
    check_bool("read_only", read_only)
    check_seconds("timeout", timeout)
    if target.path is None and read_only:
        raise InvalidValueError("read_only=True makes no sense for ':memory:', which is always created empty")
    if sqlite3.sqlite_version_info < MIN_SQLITE:
        raise StoreAccessError(f"SQLite {sqlite3.sqlite_version} is too old; recordstore needs 3.35 or newer")
    if journal_mode is not None:
        _check_journal_mode(target, journal_mode, read_only=bool(read_only))


def _check_journal_mode(target: Target, mode: object, *, read_only: bool) -> None:
    check_choice("journal_mode", mode, "truncate", "wal")
    if read_only or target.path is None:
        raise InvalidValueError("journal_mode converts a file: it needs one, opened without read_only=True")
    if mode == "wal" and not wal_is_safe(sqlite3.sqlite_version_info):
        raise InvalidValueError(
            f"SQLite {sqlite3.sqlite_version} can lose committed data in WAL mode (fixed in 3.51.3, 3.50.7 and "
            "3.44.6); leave journal_mode out, or use a Python with a newer SQLite"
        )


def wal_is_safe(version: tuple[int, ...]) -> bool:
    """Return whether a version of SQLite can reset a WAL file without losing data."""
    newest, *branches = WAL_FIXES
    return version >= newest or any(version[:2] == fix[:2] and version >= fix for fix in branches)
