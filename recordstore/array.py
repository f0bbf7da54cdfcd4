"""One array in serialized form, with the interface of Flower's ``Array``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn, overload

import numpy as np

from recordstore import npy
from recordstore.constants import SType
from recordstore.tensor import from_raw, is_tensor, raw_dtype, raw_view, require_torch

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

    from recordstore.npy import NDArray
    from recordstore.tensor import Tensor


@dataclass
class Array:
    """An array in serialized form: its bytes and what is needed to read them.

    Made from four fields, from an ndarray or from a tensor; an argument that is ``None`` counts as not given. The bytes
    are not checked against ``dtype`` and ``shape`` here, but when the array is converted.

    Parameters
    ----------
    dtype : str
        The name of the dtype, such as ``"float32"``.
    shape : list of int
        The shape; a list is kept as it is, a tuple becomes a list.
    stype : str
        How ``data`` was serialized: ``"numpy.ndarray"`` (the bytes of a ``.npy`` file), ``"torch.Tensor"`` (the raw
        bytes of a dtype that NumPy lacks), or any other name for bytes that are only carried.
    data : bytes
        The serialized array.
    ndarray : numpy.ndarray
        Given instead of the four fields: see :meth:`from_numpy_ndarray`.
    torch_tensor : torch.Tensor
        Given instead of the four fields: see :meth:`from_torch_tensor`.

    Raises
    ------
    TypeError
        The arguments are not one of these three forms, complete and of these types. A tensor is only recognised in a
        program that has imported torch.

    Examples
    --------
    >>> import numpy as np
    >>> array = Array(np.array([[1.0, 2.0]], dtype=np.float32))
    >>> array.dtype, array.shape, array.stype, len(array.data)
    ('float32', [1, 2], 'numpy.ndarray', 136)
    >>> Array(dtype="float32", shape=[1, 2], stype="numpy.ndarray", data=array.data) == array
    True
    """

    dtype: str
    shape: list[int]
    stype: str
    data: bytes

    @overload
    def __init__(self, dtype: str, shape: Sequence[int], stype: str, data: bytes) -> None: ...

    @overload
    def __init__(self, ndarray: NDArray) -> None: ...

    @overload
    def __init__(self, torch_tensor: Tensor) -> None: ...

    def __init__(
        self,
        *args: Any,
        dtype: str | None = None,
        shape: Sequence[int] | None = None,
        stype: str | None = None,
        data: bytes | None = None,
        ndarray: NDArray | None = None,
        torch_tensor: Tensor | None = None,
    ) -> None:
        form, values = _sort_arguments(args, (dtype, shape, stype, data), ndarray, torch_tensor)
        if form in {None, "fields"} and _are_fields(values):
            given_shape = values[1]
            values[1] = list(given_shape) if isinstance(given_shape, tuple) else given_shape
            self.dtype, self.shape, self.stype, self.data = values
            return
        if len(values) != 1:
            _refuse_arguments()
        if form in {None, "ndarray"} and isinstance(values[0], np.ndarray):
            vars(self).update(vars(self.from_numpy_ndarray(values[0])))
        elif form in {None, "torch_tensor"} and is_tensor(values[0]):
            vars(self).update(vars(self.from_torch_tensor(values[0])))
        else:
            _refuse_arguments()

    @classmethod
    def from_numpy_ndarray(cls, ndarray: NDArray) -> Array:
        """Serialize an ndarray to the bytes that ``numpy.save`` writes, with one copy.

        Parameters
        ----------
        ndarray : numpy.ndarray
            Any array without Python objects; byte order and memory order are kept.

        Returns
        -------
        Array
            With stype ``"numpy.ndarray"``.

        Raises
        ------
        AssertionError
            The argument is not an ndarray.
        ValueError
            The dtype holds Python objects.

        Examples
        --------
        >>> import numpy as np
        >>> Array.from_numpy_ndarray(np.arange(6, dtype=">i4").reshape(2, 3)).dtype
        '>i4'
        """
        if not isinstance(ndarray, np.ndarray):
            raise AssertionError(f"Expected NumPy ndarray, got {type(ndarray)}")  # noqa: TRY004 - as Flower raises
        data = npy.dump(ndarray)
        return Array(dtype=str(ndarray.dtype), shape=list(ndarray.shape), stype=SType.NUMPY, data=data)

    @classmethod
    def from_torch_tensor(cls, tensor: Tensor) -> Array:
        r"""Serialize a tensor, detached and on the CPU, with one copy.

        Parameters
        ----------
        tensor : torch.Tensor
            Any dense tensor. Where NumPy lacks the dtype (bfloat16, float8), the raw bytes are kept.

        Returns
        -------
        Array
            With stype ``"numpy.ndarray"``, or ``"torch.Tensor"`` for a dtype that NumPy lacks.

        Raises
        ------
        RuntimeError
            The program has not imported torch, or the tensor is a conjugate view.
        AssertionError
            The argument is not a tensor.
        TypeError
            The tensor is sparse, quantized or of a dtype that neither form can hold.

        Examples
        --------
        >>> import torch
        >>> array = Array.from_torch_tensor(torch.ones(2, dtype=torch.bfloat16))
        >>> array.dtype, array.shape, array.stype, array.data
        ('bfloat16', [2], 'torch.Tensor', b'\x80?\x80?')
        """
        require_torch("from_torch_tensor")
        if not is_tensor(tensor):
            raise AssertionError(f"Expected PyTorch Tensor, got {type(tensor)}")
        return convert_tensor(tensor, cls)

    def numpy(self) -> NDArray:
        """Return a new, writable ndarray.

        Returns
        -------
        numpy.ndarray
            Equal to ``numpy.load`` of the bytes: dtype, byte order, memory order and values.

        Raises
        ------
        TypeError
            The stype is not ``"numpy.ndarray"``.
        ValueError
            The bytes are not a complete ``.npy`` file without Python objects; also an ``EOFError`` if there are none.

        Examples
        --------
        >>> import numpy as np
        >>> Array(np.array([1, 2])).numpy()
        array([1, 2])
        """
        if self.stype != SType.NUMPY:
            raise TypeError(f"Unsupported serialization type for numpy conversion: '{self.stype}'")
        return npy.load(self.data)


def convert_tensor(tensor: Tensor, array_class: type[Array] = Array) -> Array:
    """Serialize a tensor, or a stand-in that has only ``detach().cpu().numpy()``."""
    host = tensor.detach().cpu()
    try:
        ndarray = host.numpy()
    except TypeError:
        name = raw_dtype(host)
        if name is None:
            raise
        return Array(dtype=name, shape=list(host.shape), stype=SType.TORCH, data=raw_view(host).tobytes())
    return array_class.from_numpy_ndarray(ndarray)


def restore_tensor(torch: ModuleType, array: Array) -> Tensor:
    """Return a new tensor from an :class:`Array`, or from a stand-in that has only ``numpy()``."""
    try:
        ndarray = array.numpy()
    except TypeError:
        if getattr(array, "stype", None) != SType.TORCH:
            raise
        return from_raw(array.dtype, array.shape, array.data)
    return torch.from_numpy(ndarray)


def _refuse_arguments() -> NoReturn:
    raise TypeError(
        "Invalid arguments for Array. Give all of dtype, shape, stype and data, or one NumPy ndarray, "
        "or one PyTorch tensor (with torch imported)."
    )


def _sort_arguments(
    args: tuple[Any, ...], fields: tuple[Any, ...], ndarray: object, tensor: object
) -> tuple[str | None, list[Any]]:
    """Return the form that the keywords name, if any, and the given values in the order of the slots."""
    forms = {"fields": any(field is not None for field in fields)}
    forms |= {"ndarray": ndarray is not None, "torch_tensor": tensor is not None}
    named = [form for form, given in forms.items() if given]
    if len(args) > len(fields) or len(named) > 1:
        _refuse_arguments()
    first = next((value for value in (fields[0], ndarray, tensor) if value is not None), None)
    positional = args + (None,) * (len(fields) - len(args))
    slots = list(zip(positional, (first, *fields[1:]), strict=True))
    if any(by_position is not None and by_name is not None for by_position, by_name in slots):
        _refuse_arguments()
    return (named[0] if named else None), [value for slot in slots for value in slot if value is not None]


def _are_fields(values: list[Any]) -> bool:
    if len(values) != 4:
        return False
    dtype, shape, stype, data = values
    return (
        isinstance(dtype, str)
        and isinstance(shape, list | tuple)
        and all(isinstance(length, int) for length in shape)
        and isinstance(stype, str)
        and isinstance(data, bytes)
    )
