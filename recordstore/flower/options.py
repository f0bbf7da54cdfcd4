"""What a checkpointer was told, and which of Flower's interfaces it works with."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from recordstore.arrayrecord import ArrayRecord
from recordstore.store import RecordStore


@dataclass(frozen=True)
class Options:
    """What a checkpointer was told; see :class:`recordstore.flower.Checkpointer`."""

    store: RecordStore
    run: str
    every: int
    extra_state: Mapping[str, Any]
    ignore: Collection[str]
    strict: bool
    sort_replies: bool
    random_state: bool
    store_unnoised_state: bool
    on_error: str


@dataclass(frozen=True)
class Api:
    """One of Flower's two programming interfaces: its name, and how its model becomes a record and back."""

    name: str
    to_record: Callable[[Any], Any]
    from_record: Callable[[ArrayRecord], Any]
