"""Let the disk begin while SQLite still hands the pages of a large commit to the system.

SQLite writes all pages, and only then asks for them to be on the disk, which idles until then. Told to begin every few
milliseconds, it has most of them when SQLite asks: a save of 498 MB on ext4 takes 0.78 of the time. PostgreSQL does the
same (``checkpoint_flush_after``). It is a hint: durable is what SQLite's own ``fsync`` has waited for, as before.
"""

import ctypes
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from recordstore.forks import ForkSafeConnection

MIN_BYTES = 8 * 1024 * 1024
"""Commits of less are left alone: the thread costs 0.1 ms."""

PERIOD_SECONDS = 0.002
"""Time between two hints, in which SQLite hands over about 5 MB."""

NOTHING_SECONDS = 50e-6
"""A hint that comes back sooner found nothing to do, as on a file system in memory, and is the last."""

WRITE = 2
"""``SYNC_FILE_RANGE_WRITE``: begin, and wait for nothing. It takes no error away from a later ``fsync`` either."""

_DESCRIPTORS = Path("/proc/self/fd")


@contextmanager
def early_writeback(connection: sqlite3.Connection, path: str | None, nbytes: int) -> Iterator[None]:
    """Hand pages of the file to the disk as they come in, while the block commits ``nbytes`` bytes."""
    begin = _sync_file_range()
    descriptor = None
    if begin is not None and path is not None and nbytes >= MIN_BYTES:
        descriptor = _descriptor(connection, path)
    if begin is None or descriptor is None:
        yield
        return
    ended = threading.Event()
    thread = threading.Thread(
        target=_write_back, args=(begin, descriptor, ended), name="recordstore-writeback", daemon=True
    )
    try:
        with suppress(RuntimeError):  # while the interpreter ends, no thread can be started
            thread.start()
        yield
    finally:
        ended.set()
        if thread.ident is not None:
            thread.join()


def _write_back(begin: Callable[[int, int, int, int], int], descriptor: int, ended: threading.Event) -> None:
    seconds = NOTHING_SECONDS
    while seconds >= NOTHING_SECONDS and not ended.wait(PERIOD_SECONDS):
        called = time.perf_counter()
        begin(descriptor, 0, 0, WRITE)
        seconds = time.perf_counter() - called


def _descriptor(connection: sqlite3.Connection, path: str) -> int | None:
    """Return a descriptor that SQLite has open on the file.

    Opening one of our own is no way: closing it would drop SQLite's locks. A number that has come to mean another file
    does no harm, but is looked for anew.
    """
    try:
        file = Path(path).stat()
        known = connection.descriptor if isinstance(connection, ForkSafeConnection) else None
        if known is not None and _is(known, file):
            return known
        numbers = (int(entry.name) for entry in _DESCRIPTORS.iterdir())
        found = next((number for number in numbers if _is(number, file)), None)
    except OSError:
        return None
    if isinstance(connection, ForkSafeConnection):
        connection.descriptor = found
    return found


def _is(number: int, file: os.stat_result) -> bool:
    with suppress(OSError):
        return os.path.samestat(os.fstat(number), file)
    return False


@cache
def _sync_file_range() -> Callable[[int, int, int, int], int] | None:
    """Return the function of Linux, whose values need no check: a file that cannot do it is written all the same."""
    with suppress(OSError, AttributeError):
        function = ctypes.CDLL(None).sync_file_range
        function.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]
        return function
    return None
