"""Records of this package as those of Flower and back; the bytes of the arrays are shared, not copied."""

from collections.abc import Callable
from typing import Any

from flwr.app import Array as FlowerArray
from flwr.app import ArrayRecord as FlowerArrayRecord
from flwr.common import Parameters

from recordstore.array import Array
from recordstore.arrayrecord import ArrayRecord


def to_flower(record: ArrayRecord) -> FlowerArrayRecord:
    """Return a record as Flower's ``ArrayRecord``, whose containers refuse all others.

    Parameters
    ----------
    record
        The record; its arrays may have any stype.

    Returns
    -------
    flwr.app.ArrayRecord
        New ``Array`` objects around the same bytes.

    Examples
    --------
    >>> import numpy as np
    >>> from recordstore import ArrayRecord
    >>> from recordstore.flower import to_flower
    >>> record = ArrayRecord([np.ones(2)])
    >>> to_flower(record)["0"].data is record["0"].data
    True
    """
    converted = FlowerArrayRecord()
    for name, array in record.items():
        shape = tuple(array.shape)
        converted[name] = FlowerArray(dtype=array.dtype, shape=shape, stype=array.stype, data=array.data)
    return converted


def from_flower(record: FlowerArrayRecord) -> ArrayRecord:
    """Return Flower's ``ArrayRecord`` as one of this package.

    Parameters
    ----------
    record
        The record of Flower. ``RecordStore.save`` takes it without this conversion.

    Returns
    -------
    recordstore.ArrayRecord
        New ``Array`` objects around the same bytes.

    Examples
    --------
    >>> import numpy as np
    >>> from flwr.app import ArrayRecord as FlowerArrayRecord
    >>> from recordstore.flower import from_flower
    >>> from_flower(FlowerArrayRecord([np.ones(2)]))["0"].numpy()
    array([1., 1.])
    """
    return ArrayRecord.from_array_dict(record)  # type: ignore[arg-type]


class StoredModel(FlowerArrayRecord):
    """A record that is read when something of it is asked for; from then on it is an ``ArrayRecord`` like any other.

    Parameters
    ----------
    load
        Reads it; what it raises comes out of whatever asked.
    """

    def __init__(self, load: Callable[[], FlowerArrayRecord]) -> None:
        object.__setattr__(self, "_load", load)

    def __getattribute__(self, name: str) -> Any:
        if name != "__class__":  # which isinstance asks for
            contents = vars(object.__getattribute__(self, "_load")())
            object.__setattr__(self, "__class__", FlowerArrayRecord)
            own = object.__getattribute__(self, "__dict__")
            own.clear()
            own.update(contents)
        return object.__getattribute__(self, name)


def from_parameters(parameters: Parameters) -> ArrayRecord:
    """Return the ``Parameters`` of the legacy API as a record with the names ``"0"``, ``"1"``, ...

    They carry neither names nor shapes: dtype and shape are ``""`` and ``[]``, as in Flower's own conversion.
    """
    tensors = enumerate(parameters.tensors)
    return ArrayRecord({str(index): Array("", [], parameters.tensor_type, data) for index, data in tensors})


def to_parameters(record: ArrayRecord) -> Parameters:
    """Return a record that was made of ``Parameters`` as such."""
    types = {array.stype for array in record.values()} or {"numpy.ndarray"}
    return Parameters(tensors=[array.data for array in record.values()], tensor_type=types.pop())
