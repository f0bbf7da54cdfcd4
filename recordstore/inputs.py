"""The kinds of input that ``save`` takes, as one sequence of entries, and how they are emptied after the commit."""

import gc
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, MutableMapping
from typing import Any, TypeGuard

import numpy as np

from recordstore import tensor
from recordstore.constants import GC_THRESHOLD
from recordstore.entries import Entry, check_value, make_entry
from recordstore.exceptions import InvalidTypeError, InvalidValueError
from recordstore.validation import check_text


class Input:
    """What a caller gave to ``save``.

    Attributes
    ----------
    keep
        Whether the input stays the caller's.
    lazy
        Whether the entries come from an iterator, which may make each array only when it is asked for it.
    """

    def __init__(self, record: object, *, keep: bool, part: str = "") -> None:
        self._record = record
        self.keep = keep
        self._part = part
        self._named = isinstance(record, list) and bool(record) and isinstance(record[0], tuple)
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
                check_value(name, value)

    def entries(self) -> Iterator[Entry]:
        """Yield the entries in order, each made when it is asked for."""
        for value, entry in self.made():
            del value
            yield entry
            del entry

    def made(self) -> Iterator[tuple[Any, Entry]]:
        """Yield what the caller gave, array by array, and the entry that was made of it."""
        seen: set[str] = set()
        for pair in self._pairs:
            name, value = _check_pair(pair) if self.lazy else pair
            if name in seen:
                raise InvalidValueError(f"the name {name!r} comes twice; names within a record are unique")
            if self._may_repeat:
                seen.add(name)
            check_value(name, value)
            entry = make_entry(name, value, self._part)
            if not self.keep:
                self._yielded.append((name, entry.source.nbytes))
            yield value, entry
            del pair, value, entry  # a lazy input makes the next array only now: do not hold two

    def release(self) -> None:
        """Empty the caller's container, entry by entry, collecting garbage as Flower does.

        Only entries that were yielded are removed: what came into it later was not saved.
        """
        if self.keep:
            return
        self._pairs = ()
        remove = self._remover()
        let_go([size for _, size in self._yielded], lambda index: remove(index, self._yielded[index][0]))
        if isinstance(self._record, list):
            self._record.clear()
        gc.collect()

    def surrender(self) -> None:
        """Empty the caller's container at once: somebody else holds the arrays now."""
        self._pairs = ()
        if isinstance(self._record, list):
            self._record.clear()
        elif isinstance(self._record, MutableMapping):
            for name, _ in self._yielded:
                self._record.pop(name, None)

    def rebuilt(self, pairs: list[tuple[str, Any]]) -> Any:
        """Return a container like the caller's with these entries; a list of pairs in place of an iterator."""
        if isinstance(self._record, list) and not self._named:
            return [value for _, value in pairs]
        if not isinstance(self._record, MutableMapping):
            return pairs
        try:
            made = type(self._record)()
            for name, value in pairs:
                made[name] = value
        except Exception:  # noqa: BLE001 - a class of the caller, which may need arguments
            return dict(pairs)
        if isinstance(made, OrderedDict):  # a state_dict keeps the versions of its modules in an attribute
            vars(made).update(vars(self._record))
        return made

    def _remover(self) -> Callable[[int, str], object]:
        record = self._record
        if isinstance(record, list):
            return lambda index, _: record.__setitem__(index, None)
        if isinstance(record, MutableMapping):
            return lambda _, name: record.pop(name, None)
        return lambda *_: None

    def _from_mapping(self, record: Any) -> list[tuple[str, Any]]:
        if not self.keep and not isinstance(record, MutableMapping):
            raise InvalidTypeError(f"keep_input=False has to empty its input, which a {type(record).__name__} forbids")
        return [_check_pair(pair) for pair in record.items()]


def let_go(sizes: Iterable[int], remove: Callable[[int], object]) -> None:
    """Call ``remove`` with the index of each of the sizes in bytes, collecting garbage in between as Flower does."""
    released = 0
    for index, size in enumerate(sizes):
        remove(index)
        released += size
        if released > GC_THRESHOLD:
            gc.collect()
            released = 0


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
