"""What the tests of saves in the background share."""

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from recordstore import (
    RecordStore,
)

ONE = {"x": np.ones(3)}
MIB = 1024 * 1024
LONG = 60.0
"""Seconds after which something that must happen has not happened."""


@contextmanager
def locked(path: Path | str) -> Iterator[None]:
    """Keep all writers of the package waiting, with a connection that is not the store's."""
    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


@contextmanager
def little_room(store: RecordStore, pages: int) -> Iterator[None]:
    """Let the database grow by a few pages only, as the quota of SQLite does."""
    with store._database._writers.connect() as connection:
        count = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        limit = connection.exec_driver_sql("PRAGMA max_page_count").scalar_one()
        connection.exec_driver_sql(f"PRAGMA max_page_count={count + pages}")
    yield
    with store._database._writers.connect() as connection:
        connection.exec_driver_sql(f"PRAGMA max_page_count={limit}")


class Call:
    """A call in a thread of its own."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self.error: BaseException | None = None
        self.value: Any = None
        self._function = function
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.value = self._function()
        except BaseException as error:
            self.error = error

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    def end(self) -> Any:
        self._thread.join(LONG)
        assert not self.running
        if self.error is not None:
            raise self.error
        return self.value


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def is_queued(store: RecordStore, count: int) -> bool:
    """Return whether so many calls of save_async have their turn, or wait for it."""
    turn = store._background._turn
    return len(turn._waiting) + (turn._owner is not None) == count


def watch_background(store: RecordStore) -> list[int]:
    """Return a list to which each save in the background adds how many there are when it begins."""
    inside: set[int] = set()
    counts: list[int] = []
    write = store._write

    def counted(*arguments: Any) -> int:
        me = threading.get_ident()
        if not threading.current_thread().name.startswith("recordstore-save"):
            return write(*arguments)
        inside.add(me)
        counts.append(len(inside))
        try:
            return write(*arguments)
        finally:
            inside.remove(me)

    store._write = counted
    return counts
