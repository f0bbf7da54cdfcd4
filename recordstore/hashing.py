"""Threads that hash, and copy, while the thread of the caller talks to the database."""

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, ParamSpec, TypeVar

from recordstore import constants
from recordstore.digest import chunk_digest
from recordstore.exceptions import StoreClosedError
from recordstore.sources import Source
from recordstore.tasks import offer

_P = ParamSpec("_P")
_T = TypeVar("_T")

INLINE_BYTES = 128 * 1024
"""Work of fewer bytes is done at once: BLAKE3 needs 30 µs for it, handing it to a thread and waiting costs more."""


class Done(Generic[_T]):
    """The outcome of work that was done at once: a ``Future`` costs 20 times as much to make."""

    __slots__ = ("_value",)

    def __init__(self, value: _T) -> None:
        self._value = value

    def result(self) -> _T:
        """Return the outcome."""
        return self._value


Pending = Done[_T] | Future[_T]


class HashPool:
    """A few threads, started with the first large piece of work; BLAKE3 and large copies release the GIL."""

    def __init__(self) -> None:
        self._executor: ThreadPoolExecutor | None = None
        self._closed = False
        self._pid = os.getpid()
        self._lock = threading.Lock()

    def submit(self, nbytes: int, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> "Pending[_T]":
        """Call ``function``, which works on ``nbytes`` bytes, now or in a thread."""
        work = self.offer(function, *args, **kwargs) if nbytes >= INLINE_BYTES else None
        return Done(function(*args, **kwargs)) if work is None else work

    def offer(self, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> Future[_T] | None:
        """Have a thread call ``function``; None where none can be started: saves go on while the interpreter ends."""
        return offer(self._threads(), function, *args, **kwargs)

    def close(self) -> None:
        """Finish the work that was handed in and end the threads; nothing in a forked child, which has none of them."""
        if os.getpid() != self._pid:  # its copies of the locks may be held by threads that do not exist
            return
        with self._lock:
            executor, self._executor, self._closed = self._executor, None, True
        if executor is not None:
            executor.shutdown()

    def _threads(self) -> ThreadPoolExecutor:
        with self._lock:
            if self._closed:
                raise StoreClosedError("the store was closed; open the file again")
            if self._executor is None:
                workers = min(4, os.cpu_count() or 1)
                self._executor = ThreadPoolExecutor(workers, thread_name_prefix="recordstore-hash")
            return self._executor


def hash_views(views: Sequence[memoryview], known: bytes = b"") -> list[bytes]:
    """Return the digests of chunks; that of the first one may be known already."""
    return [known, *map(chunk_digest, views[1:])] if known else list(map(chunk_digest, views))


def copy_and_hash(source: Source, start: int, into: Sequence[memoryview]) -> list[bytes]:
    """Copy the chunks that begin at ``start``, and return the digests of the copies, whatever becomes of the source."""
    digests = []
    for memory in into:
        source.copy(start, memory)
        digests.append(chunk_digest(memory))
        start += len(memory)
    return digests


def hash_chunks(source: Source, first: int, last: int) -> list[bytes]:
    """Return the digests of the chunks ``first`` to ``last - 1`` of a source.

    Bytes that may change are hashed where they lie: each is read once, so the digest is that of what was read.
    """
    size = constants.CHUNK_SIZE
    digests = []
    for start in range(first * size, min(last * size, source.nbytes), size):
        stop = min(start + size, source.nbytes)
        view = source.view(start, stop)
        digests += copy_and_hash(source, start, [_memory(stop - start)]) if view is None else [chunk_digest(view)]
    return digests


def _memory(size: int) -> memoryview:
    return memoryview(bytearray(size))
