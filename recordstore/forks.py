"""Keep a forked child away from the connections of its parent.

A child that closes, rolls back or merely frees an inherited SQLite connection writes to the file behind the parent's
back (https://www.sqlite.org/howtocorrupt.html, section 2.6). So each connection knows the process it belongs to, is
deaf in any other one, and is kept from being freed there.
"""

import ctypes
import os
import sqlite3
import weakref
from collections.abc import Callable
from typing import Any

from recordstore.exceptions import ForkError

_connections: "weakref.WeakSet[ForkSafeConnection]" = weakref.WeakSet()


class ForkSafeConnection(sqlite3.Connection):
    """A connection that works in the process that opened it and does nothing at all in a forked child."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self._pid = os.getpid()
        super().__init__(*args, **options)
        _connections.add(self)

    @property
    def inherited(self) -> bool:
        """Whether this process is not the one that opened the connection."""
        return os.getpid() != self._pid

    def cursor(self, *args: Any, **options: Any) -> Any:
        """Return a cursor; a :class:`ForkError` in a child."""
        if self.inherited:
            raise ForkError("the store was opened before a fork: open it again in the child process")
        return super().cursor(*args, **options)

    def commit(self) -> None:
        """Commit; nothing in a child."""
        if not self.inherited:
            super().commit()

    def rollback(self) -> None:
        """Roll back; nothing in a child."""
        if not self.inherited:
            super().rollback()

    def close(self) -> None:
        """Close; nothing in a child."""
        if not self.inherited:
            super().close()


def after_fork_in_child(action: Callable[[], None]) -> None:
    """Run ``action`` in each child right after a fork; does nothing on systems without ``fork``."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=action)


def _keep_alive() -> None:
    """Give each inherited connection a reference that nobody drops, not even the interpreter's exit."""
    for connection in _connections:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))


after_fork_in_child(_keep_alive)
