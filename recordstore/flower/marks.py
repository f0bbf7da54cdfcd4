"""How a change of something is noticed, whether or not it can be kept: by a text that is another one afterwards."""

import functools
import io
import os
import re
from collections import deque
from collections.abc import Iterator, Mapping
from itertools import count
from logging import Logger
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any, NamedTuple

from recordstore.exceptions import InvalidTypeError
from recordstore.flower.codec import Fingerprint, qualified_name
from recordstore.flower.hooks import own_attributes
from recordstore.flower.originals import is_strategy
from recordstore.tagged import to_text

MARKED_PARTS = 2000
"""How many parts of objects that cannot be kept are watched, in all."""

_TOOLS = (type, FunctionType, BuiltinFunctionType, MethodType, ModuleType, Logger)
"""What remembers nothing of a training, whatever it caches."""

_untold = count()


class Mark(NamedTuple):
    """What tells a value from what it was before; and whether that was found by the bytes of arrays."""

    text: str
    has_arrays: bool


def mark(value: Any) -> Mark:
    """Return a text that is another one after a change: of a value, of a state, of what any other object holds."""
    marker = _Marker()
    return Mark(to_text(marker.mark(value)), marker.has_arrays)


class _Marker(Fingerprint):
    """Looks into objects that cannot be kept, as far as they let it."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: dict[int, object] = {}
        self._inside = False

    def mark(self, value: Any) -> Any:
        try:
            return self.encode(value, "")
        except InvalidTypeError:
            return self._look_into(value)

    def _stateful(self, value: Any, path: str | None, label: str) -> Any:
        if not is_strategy(value):
            return {"$state": self.mark(value.state_dict())}
        if self._inside:  # not one of the strategies whose attributes are watched by themselves
            raise InvalidTypeError("a strategy in an object")
        return super()._stateful(value, path, label)

    def _look_into(self, value: Any) -> Any:
        name = qualified_name(value if callable(value) else type(value))
        if isinstance(value, _TOOLS) or len(self._seen) >= MARKED_PARTS or id(value) in self._seen:
            return {"$object": name}
        self._seen[id(value)] = value  # which keeps it, and so its id
        if isinstance(value, Iterator) and not isinstance(value, io.IOBase):
            return {"$object": name, "next": next(_untold)}  # it does not tell how far it has come
        before, self._inside = self._inside, self._inside or not isinstance(value, (list, tuple, dict))
        text = _described(value)  # before its parts: some remember what they have said
        marks = [self.mark(part) for part in _parts(value)]
        self._inside = before
        return {"$object": name, "parts": marks, "text": text}


def _parts(value: Any) -> list[Any]:
    if isinstance(value, Mapping):
        return [part for pair in value.items() for part in pair]
    if isinstance(value, (list, tuple, set, frozenset, deque)):
        return list(value)
    if isinstance(value, os.PathLike):
        return []  # its text tells all, and its slots are a cache
    if isinstance(value, functools.partial):
        return [value.func, *value.args, *value.keywords.values()]
    return [part for pair in own_attributes(value).items() for part in pair]


def _described(value: Any) -> str:
    """Return what an object says of itself, but for its address in memory; of one that says nothing, nothing."""
    if getattr(type(value), "__repr__", None) == object.__repr__:
        return ""
    try:
        return re.sub(r"0x[0-9A-Fa-f]+", "", f"{value!r:.10000}")
    except Exception:  # noqa: BLE001 - the code of others, which is asked for a hint only
        return ""
