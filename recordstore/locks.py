"""The lock that all stores of a process on one file share: one of them writes at a time."""

import os
import threading
import weakref

from recordstore import forks
from recordstore.target import Target

_locks: "weakref.WeakValueDictionary[str, threading.RLock]" = weakref.WeakValueDictionary()
_guard = threading.Lock()


def _forget_locks() -> None:
    """Drop the locks in a forked child: a thread that holds one may not exist there."""
    global _locks, _guard
    _locks, _guard = weakref.WeakValueDictionary(), threading.Lock()


forks.after_fork_in_child(_forget_locks)


def writer_lock(target: Target) -> "threading.RLock":
    """Return the lock that all stores of this process on this file share.

    It knows who holds it: whether Ctrl-C came before or after it was got could not be told from a plain one.
    """
    if target.path is None:
        return threading.RLock()
    with _guard:
        return _locks.setdefault(os.path.realpath(target.path), threading.RLock())


def is_mine(lock: "threading.RLock") -> bool:
    """Return whether the calling thread holds a lock; ``threading.Condition`` asks for it in the same way."""
    return bool(lock._is_owned())  # type: ignore[attr-defined]  # noqa: SLF001
