"""One array on its way into the store: what it is made of, and what of it cannot be stored."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from recordstore import tensor
from recordstore.constants import SType
from recordstore.digest import shape_json
from recordstore.exceptions import InvalidTypeError, InvalidValueError
from recordstore.sources import BytesSource, Source, array_source, raw_tensor_source
from recordstore.validation import MAX_TYPE_BYTES, check_text, show

_ARRAY_FIELDS = ("dtype", "shape", "stype", "data")


@dataclass(frozen=True, slots=True)
class Entry:
    """One array on its way into the store.

    Attributes
    ----------
    name, dtype, shape, stype
        As they are stored; ``shape`` is JSON text.
    source
        The bytes.
    part
        What of a checkpoint it belongs to.
    copied
        Whether the bytes are a copy that only the entry holds, such as one from the memory of a GPU.
    """

    name: str
    dtype: str
    shape: str
    stype: str
    source: Source
    part: str = ""
    copied: bool = False


def check_value(name: str, value: Any) -> None:
    """Raise for a value that cannot be stored, before anything is written."""
    if isinstance(value, np.ndarray):
        if value.dtype.hasobject:
            raise InvalidValueError(f"array {name!r} holds Python objects, which cannot be stored as bytes")
    elif tensor.is_tensor(value):
        _check_tensor(name, value)
    elif all(hasattr(value, field) for field in _ARRAY_FIELDS):
        _check_array(name, value)
    else:
        raise InvalidTypeError(f"{name!r} must be an Array, ndarray or tensor, not {type(value).__name__}")


def _check_tensor(name: str, value: Any) -> None:
    flaws = {
        "a sparse layout (use to_dense())": str(value.layout) != "torch.strided",
        "quantized values (use dequantize())": value.is_quantized,
        "no data (it is on the meta device)": value.is_meta,
        "a lazy conjugate (use resolve_conj())": value.is_conj(),
        "a lazy negation (use resolve_neg())": value.is_neg(),
        "a dtype that cannot be stored": str(value.dtype) == "torch.complex32",
    }
    for flaw, present in flaws.items():
        if present:
            raise InvalidTypeError(f"tensor {name!r} has {flaw}")


def _check_array(name: str, value: Any) -> None:
    if not isinstance(value.data, bytes):
        raise InvalidTypeError(f"the data of array {name!r} must be bytes, not {type(value.data).__name__}")
    check_text(f"the dtype of array {name!r}", value.dtype, limit=MAX_TYPE_BYTES)
    check_text(f"the stype of array {name!r}", value.stype, limit=MAX_TYPE_BYTES)
    if not isinstance(value.shape, (list, tuple)) or not all(isinstance(length, int) for length in value.shape):
        raise InvalidTypeError(f"the shape of array {name!r} must be a list of int, not {show(value.shape)}")
    try:
        _shape_text(value.shape)
    except ValueError as error:
        raise InvalidValueError(f"the shape of array {name!r} cannot be written down: {error}") from None


def make_entry(name: str, value: Any, part: str) -> Entry:
    """Return what is stored of a value that :func:`check_value` lets pass."""
    if isinstance(value, np.ndarray):
        plain = value.dtype.isbuiltin == 1
        dtype, shape = _plain_texts(value.dtype, value.shape) if plain else _texts(value.dtype, value.shape)
        return Entry(name, dtype, shape, SType.NUMPY, array_source(value), part)
    if tensor.is_tensor(value):
        return _tensor_entry(name, value, part)
    dtype, stype = str.__str__(value.dtype), str.__str__(value.stype)
    return Entry(name, dtype, _shape_text(value.shape), stype, BytesSource(value.data), part)


def _texts(dtype: np.dtype[Any], shape: tuple[int, ...]) -> tuple[str, str]:
    return str(dtype), shape_json(shape)


_plain_texts = lru_cache(maxsize=4096)(_texts)
"""The same for NumPy's own dtypes, equal ones of which have equal texts: a model's arrays come again every round."""


def _shape_text(shape: Iterable[int]) -> str:
    """Return the text of a shape, made once: those of 148 arrays were half of what handing them to a thread costs."""
    lengths = tuple(shape)
    plain = len(lengths) <= 64 and set(map(type, lengths)) <= {int}  # True equals 1, and its text is another
    return _plain_shape(lengths) if plain else shape_json(lengths)


_plain_shape = lru_cache(maxsize=4096)(shape_json)


def _tensor_entry(name: str, value: Any, part: str) -> Entry:
    dtype = tensor.raw_dtype(value)
    on_host = value.device.type == "cpu"
    try:
        if dtype is None:
            entry = make_entry(name, tensor.to_numpy(value), part)
            return entry if on_host else replace(entry, copied=True)
        copied = not (on_host and value.is_contiguous())
        return Entry(name, dtype, shape_json(value.shape), SType.TORCH, raw_tensor_source(value), part, copied)
    except (TypeError, RuntimeError) as error:
        raise InvalidTypeError(f"tensor {name!r} cannot be stored: {error}") from error
