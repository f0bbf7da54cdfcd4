"""The lock that all stores of a process on one file share: one of them writes at a time."""

import os
import threading
import weakref

from recordstore import forks
from recordstore.target import Target

_locks: weakref.WeakValueDictionary[str, threading.Lock] = weakref.WeakValueDictionary()
_guard = threading.Lock()


def _forget_locks() -> None:
    """Drop the locks in a forked child: a thread that holds one may not exist there."""
    global _locks, _guard
    _locks, _guard = weakref.WeakValueDictionary(), threading.Lock()


forks.after_fork_in_child(_forget_locks)


def writer_lock(target: Target) -> threading.Lock:
    """Return the lock that all stores of this process on this file share."""
    if target.path is None:
        return threading.Lock()
    with _guard:
        return _locks.setdefault(os.path.realpath(target.path), threading.Lock())
