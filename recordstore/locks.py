"""Locks that all stores of a process share: one of those on a file writes at a time."""

import os
import threading
import weakref

from recordstore import forks
from recordstore.target import Target

_locks: "weakref.WeakValueDictionary[str, threading.RLock]" = weakref.WeakValueDictionary()
_guard = threading.RLock()  # the handler of a signal may open a store too


def _forget_locks() -> None:
    """Drop the locks in a forked child: a thread that holds one may not exist there."""
    global _locks, _guard
    _locks, _guard = weakref.WeakValueDictionary(), threading.RLock()


forks.after_fork_in_child(_forget_locks)


def writer_lock(target: Target) -> "threading.RLock":
    """Return the lock that all stores of this process on this file share.

    It knows who holds it: whether Ctrl-C came before or after it was got could not be told from a plain one.
    """
    return threading.RLock() if target.path is None else process_lock(os.path.realpath(target.path))


def process_lock(name: str) -> "threading.RLock":
    """Return the lock of this name, a new one in a forked child."""
    with _guard:
        return _locks.setdefault(name, threading.RLock())


def is_mine(lock: "threading.RLock") -> bool:
    """Return whether the calling thread holds a lock; ``threading.Condition`` asks for it in the same way."""
    return bool(lock._is_owned())  # type: ignore[attr-defined]  # noqa: SLF001
