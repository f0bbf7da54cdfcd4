"""The serialized bytes of an array, read piece by piece from where they lie."""

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np

from recordstore import npy, tensor
from recordstore.npy import NDArray

PART_BYTES = 8 * 1024 * 1024
"""Bytes of one part of a copy that several threads make: handing it to a thread costs as much as 0.2 MB of it."""


class Source(Protocol):
    """Serialized bytes of an array, of which any part can be had.

    Attributes
    ----------
    nbytes
        How many bytes there are.
    stable
        Whether the bytes can never change: what :meth:`view` returns then needs no copy.
    """

    nbytes: int
    stable: bool

    def view(self, start: int, stop: int) -> memoryview | None:
        """Return the memory in which a part of the bytes lies, None if it does not lie in one piece."""

    def copy(self, start: int, into: memoryview) -> None:
        """Fill ``into`` with the bytes from ``start`` on, as they are at this moment."""

    def parts(self, into: memoryview) -> Iterator[tuple[NDArray, NDArray]]:
        """Yield pairs of arrays; the second of each copied over the first, ``into`` holds all the bytes."""


class BytesSource:
    """A ``bytes`` object, or other memory that nobody writes to any more."""

    stable = True

    def __init__(self, data: bytes | memoryview) -> None:
        self._data = memoryview(data)
        self.nbytes = len(data)

    def view(self, start: int, stop: int) -> memoryview:
        """Return a part of the bytes, without a copy."""
        return self._data[start:stop]

    def copy(self, start: int, into: memoryview) -> None:
        """Copy a part of the bytes."""
        into[:] = self._data[start : start + len(into)]

    def parts(self, into: memoryview) -> Iterator[tuple[NDArray, NDArray]]:
        """Yield the bytes beside the memory for them."""
        yield np.frombuffer(into, np.uint8), np.frombuffer(self._data, np.uint8)


class BufferSource:
    """A header, and memory that others may write to at any time."""

    stable = False

    def __init__(self, header: bytes, body: NDArray) -> None:
        self._header = header
        self._body = body
        self.nbytes = len(header) + self._size()

    def view(self, start: int, stop: int) -> memoryview | None:
        """Return memory behind the header."""
        begin = start - len(self._header)
        return None if begin < 0 else self._body[begin : begin + stop - start].data

    def copy(self, start: int, into: memoryview) -> None:
        """Copy a part of the header and the memory."""
        head = self._header[start : start + len(into)]
        into[: len(head)] = head
        if len(head) < len(into):
            begin = max(0, start - len(self._header))
            self._copy_body(begin, np.frombuffer(into[len(head) :], np.uint8))

    def parts(self, into: memoryview) -> Iterator[tuple[NDArray, NDArray]]:
        """Write the header, and yield pieces of the memory beside those to fill."""
        into[: len(self._header)] = self._header
        if len(into) > len(self._header):
            yield from self._body_parts(np.frombuffer(into[len(self._header) :], np.uint8))

    def _size(self) -> int:
        return int(self._body.nbytes)

    def _body_parts(self, into: NDArray) -> Iterator[tuple[NDArray, NDArray]]:
        for start in range(0, into.nbytes, PART_BYTES):
            yield into[start : start + PART_BYTES], self._body[start : start + PART_BYTES]

    def _copy_body(self, begin: int, into: NDArray) -> None:
        np.copyto(into, self._body[begin : begin + into.nbytes])


class StridedSource(BufferSource):
    """A header, and an array that is not contiguous: its elements in C order, as ``numpy.save`` writes them."""

    def view(self, start: int, stop: int) -> None:
        """Return None: the bytes lie apart."""

    def _copy_body(self, begin: int, into: NDArray) -> None:
        size, end = self._body.itemsize, begin + into.nbytes
        first, last = begin // size, -(-end // size)
        elements = self._body.flat[first:last].view(np.uint8)
        np.copyto(into, elements[begin - first * size : end - first * size])

    def _body_parts(self, into: NDArray) -> Iterator[tuple[NDArray, NDArray]]:
        target = into.view(self._body.dtype).reshape(self._body.shape)
        rows = max(1, PART_BYTES * len(target) // into.nbytes)
        for start in range(0, len(target), rows):
            yield target[start : start + rows], self._body[start : start + rows]


def array_source(array: NDArray) -> Source:
    """Return the ``.npy`` serialization of an ndarray."""
    plain = array.view(np.ndarray)
    flat = npy.flat_view(plain)
    if flat is not None:
        return BufferSource(npy.header(array), flat)
    # A copy of structures leaves out what lies between their fields: whatever was in the memory before would be stored.
    size = plain.itemsize
    return StridedSource(npy.header(array), plain.view(f"u{size}" if size in {1, 2, 4, 8} else f"V{size}"))


def raw_tensor_source(value: Any) -> Source:
    """Return the bytes of a tensor whose dtype NumPy lacks."""
    return BufferSource(b"", tensor.raw_view(value))
