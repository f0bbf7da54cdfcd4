"""The ``.npy`` format: written with one copy of the data, read without trusting the header.

``numpy.save`` and ``numpy.load`` work through a Python file object, which costs two to three copies of the data, and
``numpy.load`` allocates what the header claims before it looks at what is there. The functions here leave the header to
NumPy, so every byte stays NumPy's own, and handle the data themselves. The format is specified in
https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html.
"""

from __future__ import annotations

import ast
import math
import struct
import sys
from contextlib import suppress
from functools import lru_cache
from io import BytesIO
from typing import Any, NamedTuple, NoReturn, TypeAlias, cast

import numpy as np
from numpy.lib import format as npy_format

from recordstore.copying import copy_bytes
from recordstore.pages import HUGE_BYTES, Block

NDArray: TypeAlias = np.ndarray[Any, np.dtype[Any]]

MAX_HEADER_CHARS = 10_000
"""Characters of the longest header that is parsed, the limit of ``numpy.load``."""

_MAX_UTF8_BYTES = 4  # per character
_KEYS = {"descr", "fortran_order", "shape"}
_LENGTH_FIELDS = {(1, 0): struct.Struct("<H"), (2, 0): struct.Struct("<I"), (3, 0): struct.Struct("<I")}


class EmptyDataError(ValueError, EOFError):
    """There are no bytes to read an array from; ``numpy.load`` raises ``EOFError`` here."""


class _HeaderWritten(Exception):  # noqa: N818 - a signal, not an error
    """Ends ``write_array`` once the header is known."""


class _HeaderSink:
    """A file that takes the first write, which is the whole header, and ends the writing there."""

    def __init__(self) -> None:
        self.header = b""

    def write(self, data: bytes) -> NoReturn:
        self.header = data
        raise _HeaderWritten


def header(array: NDArray) -> bytes:
    r"""Return what ``numpy.save(..., allow_pickle=False)`` writes before the data of an array.

    Parameters
    ----------
    array : numpy.ndarray
        Any array without Python objects.

    Returns
    -------
    bytes
        Magic string, version, length and text of the header, padded to a multiple of 64 bytes.

    Raises
    ------
    ValueError
        The dtype holds Python objects.

    Examples
    --------
    >>> header(np.zeros(2, np.float32))[:9]
    b'\x93NUMPY\x01\x00v'
    """
    if array.dtype.hasobject:
        raise ValueError(f"An array of dtype {array.dtype} holds Python objects, which cannot be stored as bytes.")
    if array.dtype.isbuiltin == 1:
        return _plain_header(array.dtype.str, array.shape, array.flags.fnc)
    # NumPy offers no function that returns the header in whichever version (1.0, 2.0, 3.0) the dtype needs.
    sink = _HeaderSink()
    with suppress(_HeaderWritten):
        npy_format.write_array(cast("Any", sink), array, allow_pickle=False)
    return sink.header


@lru_cache(maxsize=4096)
def _plain_header(descr: str, shape: tuple[int, ...], fortran_order: bool) -> bytes:  # noqa: FBT001
    """Return the header for one of NumPy's own dtypes; the arrays of a model come again with every round."""
    stream = BytesIO()
    npy_format.write_array_header_1_0(stream, {"descr": descr, "fortran_order": fortran_order, "shape": shape})
    return stream.getvalue()


def flat_view(array: NDArray) -> NDArray | None:
    """Return the data part of an array as bytes in the order of ``numpy.save``, without a copy.

    Parameters
    ----------
    array : numpy.ndarray
        Any array without Python objects, of any subclass.

    Returns
    -------
    numpy.ndarray or None
        A one-dimensional uint8 view of the array's memory; ``None`` if the array is neither C nor Fortran contiguous,
        so that no such view exists.

    Examples
    --------
    >>> flat_view(np.array([[1, 2], [3, 4]], np.uint8, order="F"))
    array([1, 3, 2, 4], dtype=uint8)
    >>> flat_view(np.zeros((4, 4))[::2]) is None
    True
    """
    plain = array.view(np.ndarray)
    if plain.dtype.itemsize == 0:
        return np.empty(0, np.uint8)
    if plain.flags.c_contiguous:
        return plain.reshape(-1).view(np.uint8)
    if plain.flags.f_contiguous:
        return plain.T.reshape(-1).view(np.uint8)
    return None


def dump(array: NDArray) -> bytes:
    """Return exactly the bytes that ``numpy.save(..., allow_pickle=False)`` writes.

    Parameters
    ----------
    array : numpy.ndarray
        Any array without Python objects.

    Returns
    -------
    bytes
        Header and data; the data is copied once (twice if the array is not contiguous).

    Raises
    ------
    ValueError
        The dtype holds Python objects.

    Examples
    --------
    >>> load(dump(np.array([1.5, 2.5])))
    array([1.5, 2.5])
    """
    head, plain, flat = header(array), array.view(np.ndarray), flat_view(array)
    if plain.nbytes < HUGE_BYTES:
        return b"".join((head, plain.tobytes() if flat is None else flat.data))
    block = Block(len(head) + plain.nbytes)  # huge pages: twice as fast as a join
    block.view[: len(head)] = head
    body = np.frombuffer(block.view, np.uint8)[len(head) :]
    if flat is None:
        np.copyto(body.view(plain.dtype).reshape(plain.shape), plain)
    else:
        copy_bytes(body, flat)
    del body
    return block.finish()


def load(data: bytes) -> NDArray:
    """Read an array as ``numpy.load(..., allow_pickle=False)`` does, at no more cost than its bytes.

    Parameters
    ----------
    data : bytes
        A ``.npy`` file; bytes after the array are ignored. An ``.npz`` archive is refused.

    Returns
    -------
    numpy.ndarray
        A new, writable array with the dtype, byte order and memory order of the one that was written.

    Raises
    ------
    EmptyDataError
        There are no bytes; it is both a ``ValueError`` and an ``EOFError``.
    ValueError
        The bytes are no ``.npy`` file, the header is malformed or longer than ``MAX_HEADER_CHARS``, the dtype holds
        Python objects, or there are fewer bytes than the header claims.

    Examples
    --------
    >>> load(dump(np.arange(3, dtype=">i2")))
    array([0, 1, 2], dtype='>i2')
    """
    layout = read_layout(data, len(data))
    raw = np.empty(layout.nbytes, np.uint8)
    copy_bytes(raw, np.frombuffer(data, np.uint8, layout.nbytes, layout.offset))
    return layout.shaped(raw)


def view(data: bytes) -> NDArray:
    """Return the array in a ``.npy`` file as :func:`load` does, but in the memory of ``data``, and read-only."""
    layout = read_layout(data, len(data))
    return layout.shaped(np.frombuffer(data, np.uint8, layout.nbytes, layout.offset))


class Layout(NamedTuple):
    """What the header of a ``.npy`` file says.

    Attributes
    ----------
    shape, fortran_order, dtype
        Of the array.
    offset
        Where its bytes begin.
    """

    shape: tuple[int, ...]
    fortran_order: bool
    dtype: np.dtype[Any]
    offset: int

    @property
    def nbytes(self) -> int:
        """Return how many bytes the array has."""
        return math.prod(self.shape) * self.dtype.itemsize

    def shaped(self, raw: NDArray) -> NDArray:
        """Return the array whose bytes are ``raw``, one-dimensional and of dtype uint8, without a copy."""
        flat = raw.view(self.dtype) if raw.size else np.ndarray(math.prod(self.shape), self.dtype)
        return flat.reshape(self.shape, order="F" if self.fortran_order else "C")


def read_layout(head: bytes, nbytes: int) -> Layout:
    """Read the header of a ``.npy`` file, and check it as :func:`load` does.

    Parameters
    ----------
    head
        The first bytes of the file, at least those of the header.
    nbytes
        How many bytes the file has.

    Raises
    ------
    EmptyDataError, ValueError
        As for :func:`load`.
    """
    layout = Layout(*_read_header(head))
    shape, _, dtype, offset = layout
    if dtype.hasobject or dtype.subdtype is not None:
        raise ValueError(f"An array of dtype {dtype} cannot be read from bytes.")
    if not all(type(length) is int and 0 <= length <= sys.maxsize for length in shape):
        raise ValueError("The .npy header has a shape that no array can have.")
    if layout.nbytes > nbytes - offset or math.prod(shape) > sys.maxsize:
        raise ValueError(f"The .npy header claims more than the {nbytes - offset} bytes that follow it.")
    return layout


def _read_header(data: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """Return shape, Fortran order, dtype and the offset of the data, having looked at the header only."""
    if not data:
        raise EmptyDataError("There are no bytes to read an array from.")
    stream = BytesIO(data[: 64 + MAX_HEADER_CHARS * _MAX_UTF8_BYTES])
    version = npy_format.read_magic(stream)
    field = _LENGTH_FIELDS.get(version)
    if field is None:
        raise ValueError(f"Version {version} of the .npy format is not known.")
    packed = stream.read(field.size)
    if len(packed) < field.size:
        raise ValueError("The .npy header is truncated.")
    (size,) = field.unpack(packed)
    text = stream.read(size)
    if len(text) < size:
        raise ValueError("The .npy header is truncated or too long to be parsed safely.")
    return (*_parse_header(text, version), stream.tell())


def _parse_header(text: bytes, version: tuple[int, int]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Return shape, Fortran order and dtype; whatever goes wrong is a ``ValueError``."""
    characters = text.decode("utf-8" if version == (3, 0) else "latin-1")
    if len(characters) > MAX_HEADER_CHARS:
        raise ValueError(f"A .npy header of {len(characters)} characters is too long to be parsed safely.")
    try:
        if version == (3, 0):  # NumPy's public parsers end at version 2.0
            return _parse_literal(characters)
        stream = BytesIO(struct.pack("<I", len(text)) + text)
        return npy_format.read_array_header_2_0(stream, max_header_size=MAX_HEADER_CHARS)
    except ValueError:
        raise
    except Exception as error:  # Python's own parser also raises MemoryError, RecursionError, TokenError, TypeError
        raise ValueError("The .npy header cannot be parsed.") from error


def _parse_literal(text: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    said = ast.literal_eval(text)
    if not isinstance(said, dict) or said.keys() != _KEYS:
        raise ValueError("The .npy header is no dictionary of descr, fortran_order and shape.")
    shape, order = said["shape"], said["fortran_order"]
    if not isinstance(shape, tuple) or type(order) is not bool:
        raise ValueError("The .npy header has a shape that is no tuple, or an order that is no bool.")
    return shape, order, npy_format.descr_to_dtype(said["descr"])
