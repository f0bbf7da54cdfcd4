"""Copies of large memory, made by several threads.

One thread copies 498 MB into memory that nobody has touched in 90 ms and two in 52: most of that time the system takes
to make such memory, and it does that for several threads at once.
"""

import os
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from recordstore.tasks import offer

PARALLEL_BYTES = 2 * 1024 * 1024
"""Copies of less are made by one thread: 0.4 ms, ten times what handing a part of it to another one costs."""

MAX_THREADS = 4

_Bytes = np.ndarray[Any, np.dtype[np.uint8]]


class _Helpers:
    """The threads that copy besides that of the caller, started with the first large copy."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget the threads: a forked child has none of them."""
        self._executor: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()
        self.count = min(MAX_THREADS, os.cpu_count() or 1) - 1

    def start(self, target: _Bytes, source: _Bytes) -> Future[None] | None:
        """Have a thread copy; None where no thread can be started."""
        return offer(self._threads(), np.copyto, target, source)

    def _threads(self) -> ThreadPoolExecutor:
        with self._lock:
            if self._executor is None:
                self._executor = ThreadPoolExecutor(self.count, thread_name_prefix="recordstore-copy")
            return self._executor


_helpers = _Helpers()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_helpers.reset)


def copy_bytes(target: _Bytes, source: _Bytes) -> None:
    """Copy bytes, one-dimensional and contiguous, over as many others."""
    if target.nbytes < PARALLEL_BYTES or not _helpers.count:
        np.copyto(target, source)
        return
    step = -(-target.nbytes // (_helpers.count + 1))
    parts = [(target[start : start + step], source[start : start + step]) for start in range(0, target.nbytes, step)]
    work = [(_helpers.start(*part), part) for part in parts[1:]]
    np.copyto(*parts[0])
    for copied, part in work:
        if copied is None:
            np.copyto(*part)
        else:
            copied.result()
