"""The mapping that :class:`~recordstore.ArrayRecord` is built on."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import TYPE_CHECKING, Generic, Self, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, ItemsView, Iterator, KeysView, ValuesView

K = TypeVar("K")
V = TypeVar("V")


class TypedDict(MutableMapping[K, V], Generic[K, V]):
    """A dictionary that checks every key and value on the way in and keeps insertion order.

    It equals any other ``TypedDict`` or ``dict`` with the same items, in any order. ``popitem`` takes the first key,
    not the last. The views are those of a ``dict``.

    Parameters
    ----------
    check_key_fn : callable
        Called with each key; raises if it is not acceptable.
    check_value_fn : callable
        Called with each value; raises if it is not acceptable.

    Examples
    --------
    >>> def check_int(value: object) -> None:
    ...     if not isinstance(value, int):
    ...         raise TypeError("not an int")
    >>> squares = TypedDict(check_int, check_int)
    >>> squares.update({3: 9, 1: 1})
    >>> squares
    {3: 9, 1: 1}
    >>> squares[2] = "four"
    Traceback (most recent call last):
        ...
    TypeError: not an int
    """

    def __init__(self, check_key_fn: Callable[[K], None], check_value_fn: Callable[[V], None]) -> None:
        self._check_key_fn = check_key_fn
        self._check_value_fn = check_value_fn
        self._data: dict[K, V] = {}

    def __setitem__(self, key: K, value: V) -> None:
        self._check_key_fn(key)
        self._check_value_fn(value)
        self._data[key] = value

    def __getitem__(self, key: K) -> V:
        return self._data[key]

    def __delitem__(self, key: K) -> None:
        del self._data[key]

    def __iter__(self) -> Iterator[K]:
        return iter(self._data)

    def __len__(self) -> int:
        return len(self._data)

    def __contains__(self, key: object) -> bool:
        return key in self._data

    def __eq__(self, other: object) -> bool:
        if isinstance(other, TypedDict):
            return self._data == other._data
        if isinstance(other, dict):
            return self._data == other
        return NotImplemented

    __hash__ = None  # type: ignore[assignment] # its contents change

    def __repr__(self) -> str:
        return repr(self._data)

    def keys(self) -> KeysView[K]:
        """Return the keys as the live view of a ``dict``.

        Examples
        --------
        >>> mapping = TypedDict(lambda key: None, lambda value: None)
        >>> mapping["a"] = 1
        >>> mapping.keys()
        dict_keys(['a'])
        """
        return self._data.keys()

    def values(self) -> ValuesView[V]:
        """Return the values as the live view of a ``dict``.

        Examples
        --------
        >>> mapping = TypedDict(lambda key: None, lambda value: None)
        >>> mapping["a"] = 1
        >>> mapping.values()
        dict_values([1])
        """
        return self._data.values()

    def items(self) -> ItemsView[K, V]:
        """Return the items as the live view of a ``dict``.

        Examples
        --------
        >>> mapping = TypedDict(lambda key: None, lambda value: None)
        >>> mapping["a"] = 1
        >>> mapping.items()
        dict_items([('a', 1)])
        """
        return self._data.items()

    def copy(self) -> Self:
        """Return a shallow copy: a mapping of its own, of the same class, with the same values.

        Examples
        --------
        >>> mapping = TypedDict(lambda key: None, lambda value: None)
        >>> other = mapping.copy()
        >>> other["a"] = 1
        >>> mapping, other
        ({}, {'a': 1})
        """
        duplicate = type(self).__new__(type(self))
        vars(duplicate).update(vars(self), _data=self._data.copy())
        return duplicate
