"""The state of a strategy as JSON and named arrays; never pickled.

Plain values are written as :mod:`recordstore.tagged` says. What JSON has no room for is kept as an array of the
checkpoint, which the JSON names, and what has a type of its own becomes one of these tags::

    $array     an ndarray                $tensor        a torch.Tensor; $parameter: a torch.nn.Parameter
    $long      bytes of 1 KiB and more   $ArrayRecord   [[key, array], ...]
    $ConfigRecord, $MetricRecord         their items    $Parameters    [tensor_type, [array, ...]]
    $Random    state of random.Random    $Generator, $RandomState   state of those of numpy.random
    $torch.Generator    [device, state]

An array that is there twice is kept once, and is one array again. What is still the object that it was when the
checkpointer was attached, and may be held on to by others, is wrapped by its path, and restored in place::

    $same      [path, one of the above]         $state     [path, what its state_dict() says]; null for a strategy
"""

import dataclasses
import enum
import functools
import random
from collections.abc import Iterable
from typing import Any

import numpy as np
from flwr.app import ArrayRecord as FlowerArrayRecord
from flwr.app import ConfigRecord, MetricRecord
from flwr.common import Parameters

from recordstore.array import Array
from recordstore.arrayrecord import ArrayRecord
from recordstore.exceptions import InvalidTypeError
from recordstore.flower.originals import Originals, has_state_dict, is_strategy
from recordstore.identity import content_digest
from recordstore.tagged import encode
from recordstore.tensor import is_tensor, loaded_torch, require_torch

PLAIN_RECORDS: dict[str, Any] = {"$ConfigRecord": ConfigRecord, "$MetricRecord": MetricRecord}
"""Flower's records that are their items, by their tags."""


class Encoder:
    """Encodes values, and collects the arrays that they hold.

    Parameters
    ----------
    private
        Refuse generators of NumPy: what they were used for may be noise, and noise that is used twice is a leak.
    originals
        The objects that were there when the checkpointer was attached.

    Attributes
    ----------
    arrays
        What was found, by the names that the JSON refers to: ndarrays and tensors as they are, without a copy.
    """

    def __init__(self, *, private: bool = False, originals: Originals | None = None) -> None:
        self._private = private
        self._originals = originals or Originals()
        self._names: dict[int, str] = {}
        self.arrays: dict[str, Any] = {}

    def encode(self, value: Any, label: str) -> Any:
        """Return data for JSON; the names of the arrays begin with ``label``.

        Raises
        ------
        InvalidTypeError
            A part of the value is of a type that cannot be kept.
        """
        before = len(self.arrays)
        try:
            return encode(value, lambda part: self._other(part, label))
        except (InvalidTypeError, RecursionError) as error:
            self.drop_after(before)  # nothing of a value that is not kept whole
            raise InvalidTypeError(f"{label} cannot be kept: {error}") from error

    def drop_after(self, count: int) -> None:
        """Let go of the arrays that came after the first ``count``."""
        for name in list(self.arrays)[count:]:
            del self.arrays[name]

    def keep(self, array: Any, label: str) -> str:
        """Take an array, and return the name that stands for it: the same one for the same array."""
        known = self._names.get(id(array), "")
        if self.arrays.get(known) is array:
            return known
        name = f"{label}.{len(self.arrays)}"
        self.arrays[name] = array
        self._names[id(array)] = name
        return name

    def _other(self, value: Any, label: str) -> Any:
        path = self._originals.path(value)
        if is_strategy(value) or has_state_dict(value):
            return self._stateful(value, path, label)
        data = self._plain(value, label)
        return data if path is None else {"$same": [path, data]}

    def _stateful(self, value: Any, path: str | None, label: str) -> Any:
        if path is None:
            raise InvalidTypeError(f"a {qualified_name(type(value))} that came after the checkpointer was attached")
        return {"$state": [path, None if is_strategy(value) else self.encode(value.state_dict(), label)]}

    def _plain(self, value: Any, label: str) -> Any:
        kind: type = type(value)
        if kind is np.ndarray and not value.dtype.hasobject:
            return {"$array": self.keep(value, label)}
        if kind is bytes:
            return {"$long": self.keep(Array("uint8", [len(value)], "bytes", value), label)}
        if is_tensor(value):
            return self._tensor(value, label)
        if isinstance(value, (ArrayRecord, FlowerArrayRecord)):
            return {"$ArrayRecord": [[key, self.keep(array, label)] for key, array in value.items()]}
        if isinstance(value, Parameters):
            tensors = [Array("uint8", [len(data)], value.tensor_type or "bytes", data) for data in value.tensors]
            return {"$Parameters": [value.tensor_type, [self.keep(tensor, label) for tensor in tensors]]}
        return self._other_type(value, label)

    def _other_type(self, value: Any, label: str) -> Any:
        for tag, kind in PLAIN_RECORDS.items():
            if type(value) is kind:
                return {tag: self.encode(dict(value), label)}
        if type(value) is random.Random:
            return {"$Random": self.encode(value.getstate(), label)}
        if type(value) is np.random.Generator and not self._private:
            return {"$Generator": self.encode(value.bit_generator.state, label)}
        if type(value) is np.random.RandomState and not self._private:
            return {"$RandomState": self.encode(value.get_state(legacy=False), label)}
        torch = loaded_torch()
        if torch is not None and type(value) is torch.Generator and not self._private:
            return {"$torch.Generator": [str(value.device), self.encode(value.get_state(), label)]}
        raise InvalidTypeError(f"a {type(value).__module__}.{type(value).__qualname__}")

    def _tensor(self, value: Any, label: str) -> Any:
        torch = require_torch("checkpoints of tensors")
        kinds = {torch.Tensor: "$tensor", torch.nn.Parameter: "$parameter"}
        if type(value) not in kinds:
            raise InvalidTypeError(f"a {type(value).__module__}.{type(value).__qualname__}")
        return {kinds[type(value)]: [self.keep(value, label), value.requires_grad]}


class Fingerprint(Encoder):
    """Encodes values to compare them: digests stand for arrays, and names for what cannot be kept.

    Attributes
    ----------
    has_arrays
        Whether there were any.
    """

    has_arrays = False

    def keep(self, array: Any, label: str) -> str:  # noqa: ARG002
        """Return the digest of the bytes of an array."""
        self.has_arrays = True
        return content_digest(array)

    def _stateful(self, value: Any, path: str | None, label: str) -> Any:  # noqa: ARG002
        return {"$object": qualified_name(type(value))}

    def encode_whole(self, value: Any, label: str) -> Any:
        """Encode any value: what cannot be kept by its type and its parts, a function by its qualified name."""
        try:
            return self.encode(value, label)
        except InvalidTypeError:
            name = {"$object": qualified_name(value if callable(value) else type(value))}
        try:
            parts = [self.encode_whole(part, label) for part in _parts(value)]
        except RecursionError:
            parts = []
        return {**name, "parts": parts} if parts else name


def _parts(value: Any) -> Iterable[Any]:
    """Return what makes an object what it is, of the kinds that hold settings."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [(field.name, getattr(value, field.name, None)) for field in dataclasses.fields(value)]
    if isinstance(value, enum.Enum):
        return [value.name]
    if isinstance(value, functools.partial):
        return [value.func, *value.args, *value.keywords.items()]
    return value if isinstance(value, tuple) else ()


def qualified_name(thing: Any) -> str:
    """Return where a class or function was defined, the class of anything else."""
    name = getattr(thing, "__qualname__", None)
    if not isinstance(name, str):
        return qualified_name(type(thing))
    return f"{getattr(thing, '__module__', None) or 'builtins'}.{name}"
