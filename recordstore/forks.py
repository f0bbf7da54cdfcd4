"""Keep a forked child away from the connections of its parent.

A child that closes, rolls back or merely frees an inherited SQLite connection writes to the file behind the parent's
back (https://www.sqlite.org/howtocorrupt.html, section 2.6). Worse, SQLite keeps the locks that its process holds in a
table of its own: a child born in the middle of a transaction inherits the entry without the lock, and whatever it opens
anew reads without one, or waits for ever.

So a fork waits for the end of the transactions of other threads, and closes the idle connections first: the child
inherits none. What is left, a database in memory or a transaction that takes too long, is deaf in the child.
"""

import ctypes
import os
import sqlite3
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any, ClassVar, Protocol

from recordstore.exceptions import ForkError

FORK_WAIT_SECONDS = 10.0
"""How long a fork waits for transactions, each of which takes some 0.1 seconds at most unless others hold the lock."""

FORK_LASTS_SECONDS = 2 * FORK_WAIT_SECONDS
"""How long transactions wait for a fork."""


class Closable(Protocol):
    """A holder of connections."""

    def close_idle(self) -> None:
        """Close the connections that no transaction uses."""


class _Gate:
    """Lets many threads into transactions at a time, and a fork only while none is in one.

    Signal handlers and finalizers that use a store run on a thread that may be anywhere in here. They pass, for what
    they interrupt goes on only after them.
    """

    current: ClassVar["_Gate"]
    """That of this process."""

    def __init__(self) -> None:
        self.lock = threading.RLock()  # entered itself: Ctrl-C could come between the halves of Condition.__enter__
        self.changed = threading.Condition(self.lock)
        self.inside: dict[int, int] = {}
        self.forking: list[int] = []
        """The threads that fork: more than one where a hook, or a handler within a transaction, does so too."""

        self.inherited = False
        """Whether this process is a child, in which a thread that is not there may have left it locked."""

    @contextmanager
    def transaction(self) -> Iterator[None]:
        me = threading.get_ident()
        depth = self.inside.get(me, 0)
        try:
            with self.lock:
                self._wait_for_fork(me)
                self.inside[me] = depth + 1
            yield
        finally:
            if not self.inherited:
                with self.lock:
                    if depth:
                        self.inside[me] = depth
                    else:
                        self.inside.pop(me, None)
                    self.changed.notify_all()

    @contextmanager
    def pause(self) -> Iterator[None]:
        me = threading.get_ident()
        with self.lock:
            depth = self.inside.pop(me)
            self.changed.notify_all()
        try:
            yield
        finally:
            if not self.inherited:
                with self.lock:
                    self._wait_for_fork(me)
                    self.inside[me] = depth

    def before_fork(self) -> None:
        me = threading.get_ident()
        with self.lock:
            self._wait_for_fork(me)
            self.forking.append(me)
            self.changed.wait_for(lambda: not self.inside.keys() - {me}, FORK_WAIT_SECONDS)
            holders = list(_holders)
        for holder in holders:
            holder.close_idle()

    def _wait_for_fork(self, me: int) -> None:
        """Wait for the end of the forks of other threads; one that takes too long has left ``after_fork`` by Ctrl-C."""
        if me in self.inside:
            return
        if not self.changed.wait_for(lambda: set(self.forking) <= {me}, FORK_LASTS_SECONDS):
            self.forking.clear()
            self.changed.notify_all()

    def after_fork(self) -> None:
        with self.lock, suppress(ValueError):  # another thread was tired of waiting
            self.forking.remove(threading.get_ident())
            self.changed.notify_all()


_Gate.current = _Gate()

_connections: "weakref.WeakSet[ForkSafeConnection]" = weakref.WeakSet()
_holders: "weakref.WeakSet[Closable]" = weakref.WeakSet()
_actions: list[Callable[[], None]] = []


def transaction() -> AbstractContextManager[None]:
    """Return a context in which this process does not fork."""
    return _Gate.current.transaction()


def pause() -> AbstractContextManager[None]:
    """Return a context, within one of :func:`transaction`, in which this process may fork; no lock may be held then."""
    return _Gate.current.pause()


def after_fork_in_child(action: Callable[[], None]) -> None:
    """Have ``action`` called in each child right after a fork."""
    _actions.append(action)


def close_before_fork(holder: Closable) -> None:
    """Have the idle connections of ``holder`` closed whenever the process forks."""
    with _Gate.current.lock:
        _holders.add(holder)


class ForkSafeConnection(sqlite3.Connection):
    """A connection that works in the process that opened it and does nothing at all in a forked child.

    Attributes
    ----------
    descriptor
        A file descriptor of the database, once somebody has looked for it.
    is_database
        Whether it is all there is, a database in memory: then closing it rolls back and no more. A pool closes what an
        error of the disk, or Ctrl-C, has left in a state that it does not know.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        self._pid = os.getpid()
        self._cursors: weakref.WeakSet[sqlite3.Cursor] = weakref.WeakSet()
        self.descriptor: int | None = None
        self.is_database = False
        self._is_open = True
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
        cursor = super().cursor(*args, **options)
        self._cursors.add(cursor)
        return cursor

    def execute(self, *args: Any) -> Any:
        """Execute a statement; a :class:`ForkError` in a child. The base class would not ask for a cursor here."""
        return self.cursor().execute(*args)

    def commit(self) -> None:
        """Commit; nothing in a child."""
        if not self.inherited:
            super().commit()

    def rollback(self) -> None:
        """Roll back; nothing in a child, nor once it is closed, perhaps while it was lent.

        A statement that is not done would keep a lock beyond the transaction, for as long as the error that has come in
        between is kept, whose traceback holds its cursor.
        """
        if self._is_open and not self.inherited:
            self._close_cursors()
            super().rollback()

    def close(self) -> None:
        """Roll back and close; nothing in a child.

        A cursor that somebody still holds, the traceback of a ``KeyboardInterrupt`` perhaps, would keep the transaction
        and its locks alive: SQLite only marks a connection with open statements as closed.
        """
        if self.inherited:
            return
        with suppress(sqlite3.Error):
            self._close_cursors()
            super().rollback()
        if not self.is_database:
            self._is_open = False
            super().close()

    def _close_cursors(self) -> None:
        for cursor in list(self._cursors):
            cursor.close()


def _after_fork_in_child() -> None:
    """Begin anew, and give each inherited connection a reference that nobody drops, not even the interpreter's exit."""
    _Gate.current.inherited, _Gate.current = True, _Gate()
    for connection in _connections:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))
    for action in _actions:
        action()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=lambda: _Gate.current.before_fork(),  # noqa: PLW0108 - that of the moment
        after_in_parent=lambda: _Gate.current.after_fork(),  # noqa: PLW0108
        after_in_child=_after_fork_in_child,
    )
