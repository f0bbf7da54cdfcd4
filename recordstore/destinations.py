"""Memory that arrays are loaded into: tensors, and ndarrays."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np

from recordstore import npy, tensor
from recordstore.array import Array, restore_tensor
from recordstore.constants import SType
from recordstore.exceptions import InvalidTypeError, InvalidValueError
from recordstore.npy import NDArray

T = TypeVar("T")


class Destination(Protocol):
    """A place for one array."""

    @property
    def dtype(self) -> str:
        """Return the name of the dtype, as a record tells of it."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the lengths of the dimensions."""

    def bounds(self) -> tuple[int, int]:
        """Return the addresses between which the memory of the place lies; equal ones if no thread writes to it."""

    def file(self, stype: str) -> tuple[bytes, NDArray] | None:
        """Return the header and the bytes of the serialized array that lies as the place does.

        The bytes are one-dimensional, of dtype uint8, and those of the place. None where no array lies so: it has to be
        read whole and then assigned.
        """

    def assign(self, array: Array) -> None:
        """Copy an array that was read whole."""


@dataclass(frozen=True)
class ArrayDestination:
    """An ndarray."""

    array: NDArray

    @property
    def dtype(self) -> str:
        """Return the name of the dtype."""
        return str(self.array.dtype)

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the lengths of the dimensions."""
        return tuple(self.array.shape)

    def bounds(self) -> tuple[int, int]:
        """Return the addresses between which the elements of the array lie."""
        start = self.array.ctypes.data
        if not self.array.size:
            return start, start
        reach = [(length - 1) * stride for length, stride in zip(self.array.shape, self.array.strides, strict=True)]
        return (
            start + sum(step for step in reach if step < 0),
            start + sum(step for step in reach if step > 0) + self.array.itemsize,
        )

    def file(self, stype: str) -> tuple[bytes, NDArray] | None:
        """Return header and bytes of the array, if it is contiguous."""
        flat = npy.flat_view(self.array) if stype == SType.NUMPY else None
        return None if flat is None else (npy.header(self.array), flat)

    def assign(self, array: Array) -> None:
        """Copy an array that was read whole, in whatever order it lies."""
        found = npy.view(array.data)
        if found.dtype != self.array.dtype or found.shape != self.array.shape:
            raise InvalidValueError(f"its bytes are {found.dtype}{list(found.shape)}, which its fields do not say")
        np.copyto(self.array, found)


@dataclass(frozen=True)
class TensorDestination:
    """A tensor, on any device."""

    tensor: Any

    @property
    def dtype(self) -> str:
        """Return the name of the dtype, without ``torch.``."""
        return str(self.tensor.dtype).removeprefix("torch.")

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the lengths of the dimensions."""
        return tuple(self.tensor.shape)

    def bounds(self) -> tuple[int, int]:
        """Return the addresses between which the elements of the tensor lie, if it is in the memory of the host."""
        if not self._on_host or not self.tensor.numel():
            return 0, 0
        start = self.tensor.data_ptr()
        reach = sum((n - 1) * step for n, step in zip(self.tensor.shape, self.tensor.stride(), strict=True))
        return start, start + (reach + 1) * self.tensor.element_size()

    def file(self, stype: str) -> tuple[bytes, NDArray] | None:
        """Return header and bytes of the tensor, if it is contiguous and in the memory of the host."""
        if not self._on_host or not self.tensor.is_contiguous() or sys.byteorder != "little":
            return None
        if tensor.raw_dtype(self.tensor) is None:
            return ArrayDestination(tensor.to_numpy(self.tensor)).file(stype)
        return (b"", tensor.raw_view(self.tensor)) if stype == SType.TORCH else None

    def assign(self, array: Array) -> None:
        """Copy an array that was read whole to where the tensor lies."""
        if self._on_host and array.stype == SType.NUMPY and tensor.raw_dtype(self.tensor) is None:
            ArrayDestination(tensor.to_numpy(self.tensor)).assign(array)
            return
        found = restore_tensor(tensor.require_torch("load_into"), array)
        if found.dtype != self.tensor.dtype or found.shape != self.tensor.shape:
            raise InvalidValueError(f"its bytes are {found.dtype}{list(found.shape)}, which its fields do not say")
        self.tensor.copy_(found)

    @property
    def _on_host(self) -> bool:
        return str(self.tensor.device) == "cpu"


def apart(places: list[tuple[T, tuple[int, int]]]) -> tuple[list[T], list[T]]:
    """Split what has places in memory into those that may be written to at once, and those that share memory with one.

    The latter come last, in their order: of weights that are tied, the last one wins, as with ``load_state_dict``.
    """
    shared: set[int] = set()
    last, end = 0, 0
    for (start, stop), index in sorted((bounds, index) for index, (_, bounds) in enumerate(places)):
        if start < end and start < stop:
            shared |= {last, index}
        if stop > end:
            last, end = index, stop
    return (
        [place for index, (place, _) in enumerate(places) if index not in shared],
        [place for index, (place, _) in enumerate(places) if index in shared],
    )


def destinations(target: Any) -> dict[str, Destination]:
    """Return the places in a ``torch.nn.Module``, a ``state_dict`` or a mapping of ndarrays, by their names.

    Raises
    ------
    InvalidTypeError, InvalidValueError
        It is something else, or holds something that cannot be written to.
    """
    state = target.state_dict() if hasattr(target, "state_dict") else target
    if not isinstance(state, Mapping):
        raise InvalidTypeError(
            "load_into needs a torch.nn.Module, a state_dict, or a mapping of names to ndarrays, not a "
            f"{type(target).__name__}"
        )
    return {_check_name(name): _destination(name, value) for name, value in state.items()}


def _check_name(name: object) -> str:
    if not isinstance(name, str):
        raise InvalidTypeError(f"the names in the target must be str, and one is a {type(name).__name__}")
    return name


def _destination(name: str, value: Any) -> Destination:
    if isinstance(value, np.ndarray):
        if not value.flags.writeable or value.dtype.hasobject:
            raise InvalidValueError(f"the ndarray {name!r} is read-only, or holds Python objects: give one to write to")
        return ArrayDestination(value.view(np.ndarray))
    if tensor.is_tensor(value):
        if value.is_meta or str(value.layout) != "torch.strided" or value.is_quantized:
            raise InvalidValueError(f"the tensor {name!r} has no plain memory (meta, sparse or quantized)")
        return TensorDestination(value.detach())
    raise InvalidTypeError(f"{name!r} in the target must be a tensor or an ndarray, not {type(value).__name__}")
