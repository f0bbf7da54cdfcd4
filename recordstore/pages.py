"""Memory for large arrays, in huge pages where the system has them.

Memory that a process has not touched yet is handed out page by page: 4 KiB each, which makes filling it two to three
times slower than copying. NumPy asks for pages of 2 MiB for its own arrays; ``bytes`` of Python get none unless asked.
https://docs.kernel.org/admin-guide/mm/transhuge.html
"""

import contextlib
import ctypes
import io
import mmap
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

HUGE_BYTES = 2 * 1024 * 1024
"""Size of a huge page on x86-64; smaller memory cannot lie in one."""


_new_bytes = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_ssize_t)(
    ("PyBytes_FromStringAndSize", ctypes.pythonapi)
)
"""Makes ``bytes`` of any content, to be filled: ``bytes(n)`` fills memory that was used before with zeros first.

https://docs.python.org/3/c-api/bytes.html#c.PyBytes_FromStringAndSize
"""


class Block:
    """A ``bytes`` object that is filled before anybody else sees it.

    The ``bytes`` in the buffer has no other owner, so ``getbuffer`` copies nothing; neither does ``getvalue``, provided
    that every view was released before.

    Parameters
    ----------
    nbytes
        How many bytes.
    """

    def __init__(self, nbytes: int) -> None:
        self._buffer = io.BytesIO(_new_bytes(None, nbytes))
        self.view = self._buffer.getbuffer()
        if nbytes >= HUGE_BYTES:
            ask_for_huge_pages(np.frombuffer(self.view, np.uint8))

    def finish(self) -> bytes:
        """Return the bytes; no view may be left."""
        self.view.release()
        return self._buffer.getvalue()


def ask_for_huge_pages(memory: np.ndarray[Any, np.dtype[Any]]) -> None:
    """Tell the system that memory which was not touched yet will be filled; a hint, which may come to nothing."""
    advise = _madvise()
    if advise is None:
        return
    start = -(-memory.ctypes.data // mmap.PAGESIZE) * mmap.PAGESIZE
    end = (memory.ctypes.data + memory.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
    if end > start:
        advise(start, end - start, mmap.MADV_HUGEPAGE)


@cache
def _madvise() -> Callable[[int, int, int], int] | None:
    if not hasattr(mmap, "MADV_HUGEPAGE"):
        return None
    with contextlib.suppress(OSError, AttributeError):
        function = ctypes.CDLL(None).madvise
        function.argtypes, function.restype = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int], ctypes.c_int
        return function
    return None
