"""Named arrays in order, with the interface of Flower's ``ArrayRecord``."""

from __future__ import annotations

import gc
import logging
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, overload

import numpy as np

from recordstore.array import Array, convert_tensor, restore_tensor
from recordstore.constants import GC_THRESHOLD
from recordstore.tensor import is_tensor, loaded_torch, require_torch
from recordstore.typeddict import TypedDict

if TYPE_CHECKING:
    from recordstore.npy import NDArray
    from recordstore.tensor import Tensor


class ArrayRecord(TypedDict[str, Array]):
    """A dictionary of named :class:`Array` objects in insertion order, such as the weights of a model.

    Parameters
    ----------
    array_dict, numpy_ndarrays, torch_state_dict : optional
        At most one input, by position or by keyword: see :meth:`from_array_dict`, :meth:`from_numpy_ndarrays` and
        :meth:`from_torch_state_dict`. Tensors are only recognised in a program that has imported torch.
    keep_input : bool, default True
        With ``False`` the input is emptied while it is converted, so that both never fill the memory at once. A
        conversion that fails half-way has then used up what it had converted.

    Raises
    ------
    TypeError
        There is more than one input, or one of another type.

    Examples
    --------
    >>> import numpy as np
    >>> record = ArrayRecord([np.zeros((2, 3)), np.ones(4)])
    >>> list(record), record["1"].shape
    (['0', '1'], [4])
    >>> record["bias"] = Array(np.ones(3))
    >>> len(record)
    3
    """

    @overload
    def __init__(self) -> None: ...

    @overload
    def __init__(self, array_dict: dict[str, Array], *, keep_input: bool = True) -> None: ...

    @overload
    def __init__(self, numpy_ndarrays: list[NDArray], *, keep_input: bool = True) -> None: ...

    @overload
    def __init__(self, torch_state_dict: dict[str, Tensor], *, keep_input: bool = True) -> None: ...

    def __init__(
        self,
        *args: Any,
        array_dict: dict[str, Array] | None = None,
        numpy_ndarrays: list[NDArray] | None = None,
        torch_state_dict: dict[str, Tensor] | None = None,
        keep_input: bool = True,
    ) -> None:
        super().__init__(_check_key, _check_value)
        keywords = {"array_dict": array_dict, "numpy_ndarrays": numpy_ndarrays, "torch_state_dict": torch_state_dict}
        inputs: list[tuple[str | None, Any]] = [(None, value) for value in args if value is not None]
        inputs += [(form, value) for form, value in keywords.items() if value is not None]
        if len(args) > 1 or len(inputs) > 1:
            _refuse_arguments()
        for form, value in inputs:
            convert = getattr(self, _find_converter(form, value))
            vars(self).update(vars(convert(value, keep_input=keep_input)))

    @classmethod
    def from_array_dict(cls, array_dict: dict[str, Array], *, keep_input: bool = True) -> ArrayRecord:
        """Make a record of new ``Array`` objects around the bytes of existing ones, without a copy.

        Parameters
        ----------
        array_dict : dict of str to Array
            Or anything with ``items()`` whose values have ``dtype``, ``shape``, ``stype`` and ``data``, such as an
            ``ArrayRecord`` of Flower.
        keep_input : bool, default True
            With ``False`` the input is cleared at the end.

        Raises
        ------
        TypeError
            A key is not a string, or a field has the wrong type.

        Examples
        --------
        >>> import numpy as np
        >>> weight = Array(np.zeros(2))
        >>> ArrayRecord.from_array_dict({"weight": weight})["weight"].data is weight.data
        True
        """
        record = ArrayRecord()
        for key, value in array_dict.items():
            record[key] = Array(dtype=value.dtype, shape=list(value.shape), stype=value.stype, data=value.data)
        if not keep_input:
            array_dict.clear()
        return record

    @classmethod
    def from_numpy_ndarrays(cls, ndarrays: list[NDArray], *, keep_input: bool = True) -> ArrayRecord:
        """Make a record of ndarrays, named ``"0"``, ``"1"`` and so on, with one copy of each.

        Parameters
        ----------
        ndarrays : list of numpy.ndarray
            The arrays in order.
        keep_input : bool, default True
            With ``False`` each slot is set to ``None`` once it is converted, and the list is cleared at the end;
            garbage is collected whenever more than ``GC_THRESHOLD`` bytes were converted, and at the end.

        Raises
        ------
        AssertionError
            An element is not an ndarray.
        ValueError
            A dtype holds Python objects.

        Examples
        --------
        >>> import numpy as np
        >>> ArrayRecord.from_numpy_ndarrays([np.zeros(2), np.ones(3)]).keys()
        dict_keys(['0', '1'])
        """
        record = ArrayRecord()
        released = 0
        for index in range(len(ndarrays)):
            array = Array.from_numpy_ndarray(ndarrays[index])
            record[str(index)] = array
            if not keep_input:
                ndarrays[index] = None  # type: ignore[call-overload]
                released = _collect_garbage(released + len(array.data))
        if not keep_input:
            ndarrays.clear()
            gc.collect()
        return record

    @classmethod
    def from_torch_state_dict(cls, state_dict: dict[str, Tensor], *, keep_input: bool = True) -> ArrayRecord:
        """Make a record of the tensors of a state_dict, in its order, with one copy of each.

        Parameters
        ----------
        state_dict : dict of str to torch.Tensor
            Tensors of bfloat16 and float8, which NumPy lacks, are kept as raw bytes.
        keep_input : bool, default True
            With ``False`` each entry is removed as it is converted.

        Raises
        ------
        RuntimeError
            The program has not imported torch, or a tensor is a conjugate view.
        TypeError
            A key is not a string, or a tensor is sparse or quantized.

        Examples
        --------
        >>> import torch
        >>> record = ArrayRecord.from_torch_state_dict(torch.nn.Linear(3, 2).state_dict())
        >>> {name: array.shape for name, array in record.items()}
        {'weight': [2, 3], 'bias': [2]}
        """
        require_torch("from_torch_state_dict")
        record = ArrayRecord()
        for key in list(state_dict.keys()):
            record[key] = convert_tensor(state_dict[key] if keep_input else state_dict.pop(key))
        return record

    def to_numpy_ndarrays(self, *, keep_input: bool = True) -> list[NDArray]:
        """Return the arrays, in order, as new, writable ndarrays.

        Parameters
        ----------
        keep_input : bool, default True
            With ``False`` each entry leaves the record as it is converted; garbage is collected whenever more than
            ``GC_THRESHOLD`` bytes were converted, and at the end.

        Raises
        ------
        TypeError, ValueError
            An array cannot be converted: see :meth:`Array.numpy`.

        Examples
        --------
        >>> import numpy as np
        >>> ArrayRecord([np.arange(3)]).to_numpy_ndarrays()
        [array([0, 1, 2])]
        """
        if keep_input:
            return [array.numpy() for array in self.values()]
        ndarrays = []
        released = 0
        for key in list(self.keys()):
            array = self.pop(key)
            ndarrays.append(array.numpy())
            nbytes = len(array.data)
            del array  # or the collection would not free it
            released = _collect_garbage(released + nbytes)
        gc.collect()
        return ndarrays

    def to_torch_state_dict(self, *, keep_input: bool = True) -> OrderedDict[str, Tensor]:
        """Return the arrays, in order, as new tensors on the CPU.

        Parameters
        ----------
        keep_input : bool, default True
            With ``False`` each entry leaves the record as it is converted.

        Raises
        ------
        RuntimeError
            The program has not imported torch.
        TypeError, ValueError
            An array cannot be converted, or torch lacks its dtype: see :meth:`Array.numpy`.

        Examples
        --------
        >>> import numpy as np, torch
        >>> ArrayRecord([np.arange(3)]).to_torch_state_dict()["0"]
        tensor([0, 1, 2])
        """
        torch = require_torch("to_torch_state_dict")
        state_dict: OrderedDict[str, Tensor] = OrderedDict()
        for key in list(self.keys()):
            state_dict[key] = restore_tensor(torch, self[key] if keep_input else self.pop(key))
        return state_dict

    def count_bytes(self) -> int:
        """Return the serialized size: the bytes of all arrays and one for each character of their names.

        Examples
        --------
        >>> ArrayRecord({"bias": Array("float32", [1], "raw", b"abcd")}).count_bytes()
        8
        """
        return sum(len(array.data) + len(key) for key, array in self.items())


class ParametersRecord(ArrayRecord):
    """The deprecated name of :class:`ArrayRecord`; the first use in a process logs a warning.

    Examples
    --------
    >>> len(ParametersRecord())
    0
    """

    _warning_logged: ClassVar[bool] = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if not ParametersRecord._warning_logged:
            ParametersRecord._warning_logged = True
            logging.getLogger("flwr").warning("`ParametersRecord` is deprecated: use `ArrayRecord`, its new name.")
        super().__init__(*args, **kwargs)


def _check_key(key: object) -> None:
    if not isinstance(key, str):
        raise TypeError(f"Key must be of type `str` but `{type(key)}` was passed.")


def _check_value(value: object) -> None:
    if not isinstance(value, Array):
        raise TypeError(f"Value must be of type `{Array}` but `{type(value)}` was passed.")


def _refuse_arguments() -> NoReturn:
    raise TypeError(
        "Invalid arguments for ArrayRecord. Give one dict of Array, one list of NumPy ndarrays or one PyTorch "
        "state_dict (with torch imported), or nothing; keep_input goes by keyword."
    )


def _find_converter(form: str | None, value: object) -> str:
    """Return the name of the class method for an input; ``form`` is the keyword it came by, if any."""
    if isinstance(value, list) and all(isinstance(item, np.ndarray) for item in value):
        if form in {None, "numpy_ndarrays"}:
            return "from_numpy_ndarrays"
    elif isinstance(value, dict) and all(isinstance(key, str) for key in value):
        if form in {None, "array_dict"} and all(isinstance(item, Array) for item in value.values()):
            return "from_array_dict"
        if form in {None, "torch_state_dict"} and loaded_torch() and all(map(is_tensor, value.values())):
            return "from_torch_state_dict"
    _refuse_arguments()


def _collect_garbage(released: int) -> int:
    """Collect garbage once enough bytes were released; return the bytes released since the last time."""
    if released > GC_THRESHOLD:
        gc.collect()
        return 0
    return released
