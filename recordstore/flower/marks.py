"""How a change of something is noticed, whether or not it can be kept: by a text that is another one afterwards."""

import re
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

from recordstore.flower.codec import Fingerprint
from recordstore.tagged import to_text

MARKED_LEVELS, MARKED_PARTS = 2, 100
"""How deep, and how far, an object is watched that cannot be kept."""


def has_state_dict(thing: object) -> bool:
    """Return whether an object tells its state and takes it back, as those of PyTorch do."""
    methods = (getattr(thing, name, None) for name in ("state_dict", "load_state_dict"))
    return not isinstance(thing, type) and all(map(callable, methods))


def mark(value: Any) -> str:
    """Return a text that is another one after a change: of a value, of a state, of what any other object holds."""
    return to_text(_marks(value.state_dict() if has_state_dict(value) else value, MARKED_LEVELS))


def _marks(value: Any, levels: int) -> Any:
    whole = Fingerprint().encode_whole(value, "value")
    if not (isinstance(whole, dict) and "$object" in whole) or levels == 0:
        return whole
    if isinstance(value, Mapping):
        parts: Iterable[Any] = value.items()
    elif isinstance(value, (list, tuple, set, frozenset, deque)):
        parts = value
    else:
        parts = getattr(value, "__dict__", {}).items()
    marks = [_marks(part, levels - 1) for part in list(parts)[:MARKED_PARTS]]
    return {**whole, "parts": marks, "text": _described(value)}


def _described(value: Any) -> str:
    """Return what an object says of itself, but for its address in memory; of one that says nothing, nothing."""
    if getattr(type(value), "__repr__", None) == object.__repr__:
        return ""
    try:
        return re.sub(r"0x[0-9A-Fa-f]+", "", f"{value!r:.10000}")
    except Exception:  # noqa: BLE001 - the code of others, which is asked for a hint only
        return ""
