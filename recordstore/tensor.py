"""PyTorch tensors as bytes, for programs that have imported torch; this module never imports it.

NumPy lacks bfloat16 and the float8 dtypes. Tensors of these are kept as their raw contiguous little-endian bytes
(:attr:`recordstore.constants.SType.TORCH`), all others as ``.npy`` data.
"""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from recordstore.copying import copy_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

    from recordstore.npy import NDArray

Tensor: TypeAlias = Any  # a torch.Tensor; type checking must not need torch either


def loaded_torch() -> ModuleType | None:
    """Return the torch module if the program has imported it, else ``None``."""
    return sys.modules.get("torch")


def require_torch(caller: str) -> ModuleType:
    """Return the torch module.

    Parameters
    ----------
    caller : str
        The name of the method that needs torch, for the message.

    Raises
    ------
    RuntimeError
        The program has not imported torch.
    """
    torch = loaded_torch()
    if torch is None:
        raise RuntimeError(f"PyTorch is required to use {caller}; import torch first.")
    return torch


def is_tensor(obj: object) -> bool:
    """Return whether an object is a tensor; without torch nothing is."""
    torch = loaded_torch()
    return torch is not None and isinstance(obj, torch.Tensor)


def raw_dtype(tensor: Tensor) -> str | None:
    """Return the name of the dtype, without ``torch.``, if NumPy lacks it, else ``None``."""
    name = str(getattr(tensor, "dtype", None)).removeprefix("torch.")
    return name if _is_raw(name) else None


def to_numpy(tensor: Tensor) -> NDArray:
    """Return the tensor as an array, sharing memory where torch can share it.

    Raises
    ------
    TypeError, RuntimeError
        torch cannot: NumPy lacks the dtype, or the tensor is sparse, quantized or a conjugate view.
    """
    array: NDArray = tensor.detach().cpu().numpy()
    return array


def raw_view(tensor: Tensor) -> NDArray:
    """Return the contiguous little-endian bytes of a tensor, sharing its memory where they lie so.

    Parameters
    ----------
    tensor : torch.Tensor
        A dense tensor of any dtype.

    Returns
    -------
    numpy.ndarray
        One-dimensional, of dtype uint8.

    Raises
    ------
    TypeError, RuntimeError
        The tensor is sparse, quantized, or a conjugate or negative view: what ``Tensor.numpy()`` raises for it.
    """
    torch = require_torch(raw_view.__name__)
    host = tensor.detach().cpu()
    if str(host.layout) != "torch.strided" or host.is_quantized or host.is_conj() or host.is_neg():
        host.numpy()
        raise TypeError(f"A tensor of dtype {host.dtype} and layout {host.layout} has no plain bytes.")
    flat = host.contiguous().reshape(-1)
    raw: NDArray = flat.view(getattr(torch, "uint8", None)).numpy()
    return _swap_on_big_endian(raw, host.element_size())


def from_raw(dtype: str, shape: Sequence[int], data: bytes) -> Tensor:
    """Rebuild a tensor from its raw little-endian bytes, bit for bit.

    Parameters
    ----------
    dtype : str
        A name that :func:`raw_dtype` returns, such as ``"bfloat16"``.
    shape : sequence of int
        The shape of the tensor.
    data : bytes
        As many bytes as the shape takes.

    Returns
    -------
    torch.Tensor
        A writable tensor on the CPU with memory of its own.

    Raises
    ------
    RuntimeError
        The program has not imported torch.
    TypeError
        The dtype is not kept as raw bytes, or this version of torch lacks it.
    ValueError
        The number of bytes is not that of the shape.
    """
    torch = require_torch(from_raw.__name__)
    torch_dtype = getattr(torch, dtype, None) if _is_raw(dtype) else None
    if torch_dtype is None:
        raise TypeError(f"Unsupported dtype for torch conversion: '{dtype}'")
    positive = math.prod(length for length in shape if length)  # must fit, even if the tensor is empty
    if (
        min(shape, default=0) < 0
        or math.prod(shape) * torch_dtype.itemsize != len(data)
        or positive > sys.maxsize // 16
    ):
        raise ValueError(f"{len(data)} bytes are not a {dtype} tensor of that shape.")
    if not data:
        return torch.empty(tuple(shape), dtype=torch_dtype)
    raw = np.empty(len(data), np.uint8)
    copy_bytes(raw, np.frombuffer(data, np.uint8))
    swapped = _swap_on_big_endian(raw, torch_dtype.itemsize)
    return torch.from_numpy(swapped).view(torch_dtype).reshape(tuple(shape))


def _is_raw(name: str) -> bool:
    return name == "bfloat16" or name.startswith("float8_")


def _swap_on_big_endian(raw: NDArray, itemsize: int) -> NDArray:
    """Convert between the byte order of this machine and little-endian."""
    if sys.byteorder == "little":
        return raw
    return raw.view(f"u{itemsize}").byteswap().view(np.uint8)
