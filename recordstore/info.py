"""What a store tells about its records and runs without reading an array."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple


@dataclass(frozen=True)
class RecordInfo:
    """A record without its arrays.

    Attributes
    ----------
    id
        Number of the record, never used again for another one.
    run, round
        What it was saved under, or None.
    created_at
        When the save began, in UTC.
    metrics
        Names and values, as floats.
    metadata
        What was given to ``save``.
    tags
        Sorted names that lead to this record.
    names
        Names of the arrays, in their order.
    nbytes
        Sum of the serialized arrays in bytes; arrays that share their bytes count each.
    digest
        BLAKE3-256 of names, types, shapes and bytes, as 64 hexadecimal digits: equal for equal records.
    """

    id: int
    run: str | None
    round: int | None
    created_at: datetime
    metrics: dict[str, float] = field(hash=False)
    metadata: Any = field(hash=False)
    tags: tuple[str, ...]
    names: tuple[str, ...] = field(repr=False)
    nbytes: int
    digest: str


class RunInfo(NamedTuple):
    """A run: its name, how many records it has, and its highest round (None if its records have no rounds)."""

    run: str
    records: int
    last_round: int | None


class HistoryEntry(NamedTuple):
    """What one source reported of one round of a run.

    ``source`` is ``"server"`` for the evaluation of the global model at the server, ``"train"`` and ``"evaluate"`` for
    what the clients reported, aggregated. ``values`` are as they were given: ints of any size, floats, lists of them.
    """

    round: int
    source: str
    values: dict[str, Any]


class Swept(NamedTuple):
    """What ``gc`` removed: records and drafts, blobs (distinct array contents), and bytes of chunks."""

    records: int
    blobs: int
    nbytes: int


class Progress(NamedTuple):
    """How far a long call has come: bytes that it is done with, and bytes in all as far as is known by now."""

    done: int
    total: int


class Damage(NamedTuple):
    """Something that is not what was saved.

    ``record_id`` is None for what belongs to no record, such as the history of a run; ``array`` is None for what
    concerns a record as a whole.
    """

    record_id: int | None
    array: str | None
    message: str


class VerifyReport(NamedTuple):
    """What ``verify`` has read, and what it has found; true if all is as it was saved.

    Attributes
    ----------
    records
        Number of records that were checked.
    arrays
        Number of their arrays, those of checkpoints included.
    nbytes
        Bytes that were read; arrays that share their bytes are read once.
    damaged
        What is not as it was saved, by record.
    """

    records: int
    arrays: int
    nbytes: int
    damaged: tuple[Damage, ...] = ()

    def __bool__(self) -> bool:
        return not self.damaged
