"""The serialized bytes of an array, read piece by piece from where they lie."""

from typing import Any, Protocol

import numpy as np

from recordstore import npy, tensor
from recordstore.npy import NDArray


class Source(Protocol):
    """Serialized bytes of an array, of which any part can be had.

    Attributes
    ----------
    nbytes
        How many bytes there are.
    stable
        Whether the bytes can never change: :meth:`view` then needs no copy.
    """

    nbytes: int
    stable: bool

    def view(self, start: int, stop: int) -> memoryview:
        """Return a part of stable bytes."""

    def copy(self, start: int, into: memoryview) -> None:
        """Fill ``into`` with the bytes from ``start`` on, as they are at this moment."""


class BytesSource:
    """A ``bytes`` object."""

    stable = True

    def __init__(self, data: bytes) -> None:
        self._data = memoryview(data)
        self.nbytes = len(data)

    def view(self, start: int, stop: int) -> memoryview:
        """Return a part of the bytes, without a copy."""
        return self._data[start:stop]

    def copy(self, start: int, into: memoryview) -> None:
        """Copy a part of the bytes."""
        into[:] = self._data[start : start + len(into)]


class BufferSource:
    """A header, and memory that others may write to at any time."""

    stable = False

    def __init__(self, header: bytes, body: NDArray) -> None:
        self._header = header
        self._body = body
        self.nbytes = len(header) + self._size()

    def view(self, start: int, stop: int) -> memoryview:
        """Refuse: the bytes may change."""
        raise NotImplementedError

    def copy(self, start: int, into: memoryview) -> None:
        """Copy a part of the header and the memory."""
        head = self._header[start : start + len(into)]
        into[: len(head)] = head
        if len(head) < len(into):
            begin = max(0, start - len(self._header))
            self._copy_body(begin, np.frombuffer(into[len(head) :], np.uint8))

    def _size(self) -> int:
        return int(self._body.nbytes)

    def _copy_body(self, begin: int, into: NDArray) -> None:
        np.copyto(into, self._body[begin : begin + into.nbytes])


class StridedSource(BufferSource):
    """A header, and an array that is not contiguous: its elements in C order, as ``numpy.save`` writes them."""

    def _copy_body(self, begin: int, into: NDArray) -> None:
        size, end = self._body.itemsize, begin + into.nbytes
        first, last = begin // size, -(-end // size)
        elements = self._body.flat[first:last].view(np.uint8)
        np.copyto(into, elements[begin - first * size : end - first * size])


def array_source(array: NDArray) -> Source:
    """Return the ``.npy`` serialization of an ndarray."""
    plain = array.view(np.ndarray)
    flat = npy.flat_view(plain)
    return StridedSource(npy.header(array), plain) if flat is None else BufferSource(npy.header(array), flat)


def raw_tensor_source(value: Any) -> Source:
    """Return the bytes of a tensor whose dtype NumPy lacks."""
    return BufferSource(b"", tensor.raw_view(value))
