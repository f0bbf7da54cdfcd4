"""Values of what :mod:`recordstore.flower.codec` wrote."""

import random
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from flwr.app import ArrayRecord as FlowerArrayRecord
from flwr.common import Parameters

from recordstore.array import Array
from recordstore.arrayrecord import ArrayRecord
from recordstore.exceptions import CorruptRecordError, RecordStoreError
from recordstore.flower.codec import PLAIN_RECORDS
from recordstore.flower.convert import to_flower
from recordstore.flower.originals import Originals
from recordstore.tagged import decode
from recordstore.tensor import require_torch


class Decoder:
    """Makes values of what an :class:`Encoder` wrote.

    Parameters
    ----------
    arrays
        Those of the checkpoint.
    originals
        The objects that are there now, to be restored in place.
    """

    def __init__(self, arrays: Mapping[str, Array], originals: Originals | None = None) -> None:
        self._arrays = arrays
        self._originals = originals or Originals()
        self._made: dict[str, Any] = {}
        self._makers: dict[str, Callable[[Any], Any]] = {
            "$array": lambda name: self._once(name, lambda array: array.numpy()),
            "$long": lambda name: self._arrays[name].data,
            "$tensor": lambda content: self._tensor(*content),
            "$parameter": lambda content: self._parameter(*content),
            "$ArrayRecord": self._array_record,
            "$Parameters": self._parameters,
            # a generator of the strategy's, given back its state: no secret depends on it
            "$Random": lambda content: _with_state(random.Random(), "setstate", self.decode(content)),  # noqa: S311  # nosec B311
            "$Generator": self._generator,
            "$RandomState": lambda content: _with_state(np.random.RandomState(), "set_state", self.decode(content)),
            "$torch.Generator": self._torch_generator,
            "$same": lambda content: self._in_place(*content, is_state=False),
            "$state": lambda content: self._in_place(*content, is_state=True),
        }

    def decode(self, data: Any) -> Any:
        """Return a new value.

        Raises
        ------
        CorruptRecordError
            The data are not what was written, or were written by a newer version.
        ResumeError
            An object that is there now does not take its state.
        """
        try:
            return decode(data, self._other)
        except RecordStoreError:
            raise
        except Exception as error:  # whatever the makers of values raise for what is none
            raise CorruptRecordError(f"the state in the checkpoint cannot be understood: {error!r:.200}") from error

    def _other(self, tag: str, content: Any) -> Any:
        if tag in PLAIN_RECORDS:
            return PLAIN_RECORDS[tag](self.decode(content))
        if tag not in self._makers:
            raise CorruptRecordError(f"the tag {tag!r} is unknown: written by a newer version of recordstore?")
        return self._makers[tag](content)

    def _in_place(self, path: str, data: Any, *, is_state: bool) -> Any:
        return self._originals.put_back(path, self.decode(data), is_state=is_state)

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
