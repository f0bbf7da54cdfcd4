"""The state of a strategy as JSON and named arrays; never pickled.

Plain values are written as :mod:`recordstore.tagged` says. What JSON has no room for is kept as an array of the
checkpoint, which the JSON names, and what has a type of its own becomes one of these tags::

    $array     an ndarray                $tensor        a torch.Tensor; $parameter: a torch.nn.Parameter
    $long      bytes of 1 KiB and more   $ArrayRecord   [[key, array], ...]
    $ConfigRecord, $MetricRecord         their items    $Parameters    [tensor_type, [array, ...]]
    $Random    state of random.Random    $Generator, $RandomState   state of those of numpy.random
    $torch.Generator    [device, state]

An array that is there twice is kept once, and is one array again. An attribute with ``state_dict()`` is written as
``$state_dict``, and loaded into the object that is there.
"""

import dataclasses
import enum
import functools
import random
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from flwr.app import ArrayRecord as FlowerArrayRecord
from flwr.app import ConfigRecord, MetricRecord
from flwr.common import Parameters

from recordstore.array import Array
from recordstore.arrayrecord import ArrayRecord
from recordstore.exceptions import CorruptRecordError, InvalidTypeError, RecordStoreError
from recordstore.flower.convert import to_flower
from recordstore.identity import content_digest
from recordstore.tagged import decode, encode
from recordstore.tensor import is_tensor, loaded_torch, require_torch

_PLAIN_RECORDS: dict[str, Any] = {"$ConfigRecord": ConfigRecord, "$MetricRecord": MetricRecord}


class Encoder:
    """Encodes values, and collects the arrays that they hold.

    Parameters
    ----------
    private
        Refuse generators of NumPy: what they were used for may be noise, and noise that is used twice is a leak.

    Attributes
    ----------
    arrays
        What was found, by the names that the JSON refers to: ndarrays and tensors as they are, without a copy.
    """

    def __init__(self, *, private: bool = False) -> None:
        self._private = private
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
        for tag, kind in _PLAIN_RECORDS.items():
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
    """Encodes values to compare them: digests stand for arrays, and names for what cannot be kept."""

    def keep(self, array: Any, label: str) -> str:  # noqa: ARG002
        """Return the digest of the bytes of an array."""
        return content_digest(array)

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


class Decoder:
    """Makes values of what an :class:`Encoder` wrote."""

    def __init__(self, arrays: Mapping[str, Array]) -> None:
        self._arrays = arrays
        self._made: dict[str, Any] = {}
        self._makers: dict[str, Callable[[Any], Any]] = {
            "$array": lambda name: self._once(name, lambda array: array.numpy()),
            "$long": lambda name: self._arrays[name].data,
            "$tensor": lambda content: self._tensor(*content),
            "$parameter": lambda content: self._parameter(*content),
            "$ArrayRecord": self._array_record,
            "$Parameters": self._parameters,
            "$Random": lambda content: _with_state(random.Random(), "setstate", self.decode(content)),  # noqa: S311
            "$Generator": self._generator,
            "$RandomState": lambda content: _with_state(np.random.RandomState(), "set_state", self.decode(content)),
            "$torch.Generator": self._torch_generator,
        }

    def decode(self, data: Any) -> Any:
        """Return a new value.

        Raises
        ------
        CorruptRecordError
            The data are not what was written, or were written by a newer version.
        """
        try:
            return decode(data, self._other)
        except RecordStoreError:
            raise
        except Exception as error:  # whatever the makers of values raise for what is none
            raise CorruptRecordError(f"the state in the checkpoint cannot be understood: {error!r:.200}") from error

    def _other(self, tag: str, content: Any) -> Any:
        if tag in _PLAIN_RECORDS:
            return _PLAIN_RECORDS[tag](self.decode(content))
        if tag not in self._makers:
            raise CorruptRecordError(f"the tag {tag!r} is unknown: written by a newer version of recordstore?")
        return self._makers[tag](content)

    def _once(self, name: str, make: Callable[[Array], Any]) -> Any:
        """Return what is made of an array, the same object whenever it is asked for."""
        if name not in self._made:
            self._made[name] = make(self._arrays[name])
        return self._made[name]

    def _tensor(self, name: str, requires_grad: bool) -> Any:  # noqa: FBT001 - as the tag has it
        return self._once(name, lambda array: _to_tensor(array).requires_grad_(requires_grad))

    def _parameter(self, name: str, requires_grad: bool) -> Any:  # noqa: FBT001 - as the tag has it
        torch = require_torch("checkpoints of tensors")
        return self._once(name, lambda array: torch.nn.Parameter(_to_tensor(array), requires_grad=requires_grad))

    def _array_record(self, content: list[tuple[str, str]]) -> FlowerArrayRecord:
        return to_flower(ArrayRecord({key: self._arrays[name] for key, name in content}))

    def _parameters(self, content: tuple[str, list[str]]) -> Parameters:
        tensor_type, names = content
        return Parameters(tensors=[self._arrays[name].data for name in names], tensor_type=tensor_type)

    def _generator(self, content: Any) -> np.random.Generator:
        state = self.decode(content)
        kind = getattr(np.random, state["bit_generator"], None)
        if not (isinstance(kind, type) and issubclass(kind, np.random.BitGenerator)):
            raise CorruptRecordError(f"NumPy has no bit generator {state['bit_generator']!r}")
        bits = kind()
        bits.state = state
        return np.random.Generator(bits)

    def _torch_generator(self, content: tuple[str, Any]) -> Any:
        device, state = content
        generator = require_torch("checkpoints of generators").Generator(device)
        return _with_state(generator, "set_state", self.decode(state))


def _to_tensor(array: Array) -> Any:
    return ArrayRecord({"": array}).to_torch_state_dict()[""]


def _with_state(generator: Any, method: str, state: Any) -> Any:
    getattr(generator, method)(state)
    return generator


def qualified_name(thing: Any) -> str:
    """Return where a class or function was defined, the class of anything else."""
    name = getattr(thing, "__qualname__", None)
    if not isinstance(name, str):
        return qualified_name(type(thing))
    return f"{getattr(thing, '__module__', None) or 'builtins'}.{name}"
