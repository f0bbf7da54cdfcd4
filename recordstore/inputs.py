"""The kinds of input that ``save`` takes, as one sequence of entries, and how they are emptied after the commit."""

import gc
from collections.abc import Callable, Iterable, Iterator, MutableMapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeGuard

import numpy as np

from recordstore import tensor
from recordstore.constants import GC_THRESHOLD, SType
from recordstore.digest import shape_json
from recordstore.exceptions import InvalidTypeError, InvalidValueError
from recordstore.sources import BytesSource, Source, array_source, raw_tensor_source
from recordstore.validation import MAX_TYPE_BYTES, check_text, show

_ARRAY_FIELDS = ("dtype", "shape", "stype", "data")


@dataclass(frozen=True, slots=True)
class Entry:
    """One array on its way into the store; ``shape`` is JSON text, ``part`` what of a checkpoint it belongs to."""

    name: str
    dtype: str
    shape: str
    stype: str
    source: Source
    part: str = ""


class Input:
    """What a caller gave to ``save``.

    Attributes
    ----------
    lazy
        Whether the entries come from an iterator, which may make each array only when it is asked for it.
    """

    def __init__(self, record: object, *, keep: bool, part: str = "") -> None:
        self._record = record
        self._keep = keep
        self._part = part
        self._may_repeat = not callable(getattr(record, "items", None))
        self._yielded: list[tuple[str, int]] = []
        self._pairs: Iterable[tuple[str, Any]]
        self.lazy = False
        if isinstance(record, list):
            self._pairs = _from_list(record)
        elif callable(getattr(record, "items", None)) and not isinstance(record, type):
            self._pairs = self._from_mapping(record)
        elif _may_yield_pairs(record):
            self._pairs, self.lazy = record, True
        else:
            raise _wrong_record(record)
        if not self.lazy:
            for name, value in self._pairs:
                _check_value(name, value)

    def entries(self) -> Iterator[Entry]:
        """Yield the entries in order, each made when it is asked for."""
        seen: set[str] = set()
        for pair in self._pairs:
            name, value = _check_pair(pair) if self.lazy else pair
            if name in seen:
                raise InvalidValueError(f"the name {name!r} comes twice; names within a record are unique")
            if self._may_repeat:
                seen.add(name)
            _check_value(name, value)
            entry = _entry(name, value, self._part)
            if not self._keep:
                self._yielded.append((name, entry.source.nbytes))
            yield entry
            del pair, value, entry  # a lazy input makes the next array only now: do not hold two

    def release(self) -> None:
        """Empty the caller's container, entry by entry, collecting garbage as Flower does.

        Only entries that were yielded are removed: what came into it later was not saved.
        """
        if self._keep:
            return
        self._pairs = ()
        remove = self._remover()
        released = 0
        for index, (name, size) in enumerate(self._yielded):
            remove(index, name)
            released += size
            if released > GC_THRESHOLD:
                gc.collect()
                released = 0
        if isinstance(self._record, list):
            self._record.clear()
        gc.collect()

    def _remover(self) -> Callable[[int, str], object]:
        record = self._record
        if isinstance(record, list):
            return lambda index, _: record.__setitem__(index, None)
        if isinstance(record, MutableMapping):
            return lambda _, name: record.pop(name, None)
        return lambda *_: None

    def _from_mapping(self, record: Any) -> list[tuple[str, Any]]:
        if not self._keep and not isinstance(record, MutableMapping):
            raise InvalidTypeError(f"keep_input=False has to empty its input, which a {type(record).__name__} forbids")
        return [_check_pair(pair) for pair in record.items()]


def _from_list(record: list[Any]) -> list[tuple[str, Any]]:
    if record and isinstance(record[0], tuple):
        return [_check_pair(pair) for pair in record]
    return [(str(index), _require_ndarray(index, value)) for index, value in enumerate(record)]


def _may_yield_pairs(record: object) -> TypeGuard[Iterable[Any]]:
    return (
        isinstance(record, Iterable)
        and not isinstance(record, (str, bytes, np.ndarray))
        and not tensor.is_tensor(record)
        and not _is_model(record)
    )


def _is_model(record: object) -> bool:
    return hasattr(record, "state_dict")


def _wrong_record(record: object) -> InvalidTypeError:
    if _is_model(record):
        return InvalidTypeError(f"save takes no {type(record).__name__}; save its state_dict() instead")
    return InvalidTypeError(
        "record must be an ArrayRecord, a mapping of arrays or tensors, a list of ndarrays or an iterable of "
        f"(name, array) pairs, not {type(record).__name__}"
    )


def _require_ndarray(index: int, value: object) -> object:
    if not isinstance(value, np.ndarray):
        raise InvalidTypeError(f"element {index} of the list must be a numpy.ndarray, not {type(value).__name__}")
    return value


def _check_pair(pair: object) -> tuple[str, Any]:
    if not isinstance(pair, tuple) or len(pair) != 2:
        raise InvalidTypeError(f"an iterable of (name, array) pairs is needed; it yielded {type(pair).__name__}")
    return _check_name(pair[0]), pair[1]


def _check_name(name: object) -> str:
    return check_text("the name of an array", name)


def _check_value(name: str, value: Any) -> None:
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
        shape_json(value.shape)
    except ValueError as error:
        raise InvalidValueError(f"the shape of array {name!r} cannot be written down: {error}") from None


def _entry(name: str, value: Any, part: str) -> Entry:
    if isinstance(value, np.ndarray):
        plain = value.dtype.isbuiltin == 1
        dtype, shape = _plain_texts(value.dtype, value.shape) if plain else _texts(value.dtype, value.shape)
        return Entry(name, dtype, shape, SType.NUMPY, array_source(value), part)
    if tensor.is_tensor(value):
        return _tensor_entry(name, value, part)
    dtype, stype = str.__str__(value.dtype), str.__str__(value.stype)
    return Entry(name, dtype, shape_json(value.shape), stype, BytesSource(value.data), part)


def _texts(dtype: np.dtype[Any], shape: tuple[int, ...]) -> tuple[str, str]:
    return str(dtype), shape_json(shape)


_plain_texts = lru_cache(maxsize=4096)(_texts)
"""The same for NumPy's own dtypes, equal ones of which have equal texts: a model's arrays come again every round."""


def _tensor_entry(name: str, value: Any, part: str) -> Entry:
    dtype = tensor.raw_dtype(value)
    try:
        if dtype is None:
            return _entry(name, tensor.to_numpy(value), part)
        return Entry(name, dtype, shape_json(value.shape), SType.TORCH, raw_tensor_source(value), part)
    except (TypeError, RuntimeError) as error:
        raise InvalidTypeError(f"tensor {name!r} cannot be stored: {error}") from error
