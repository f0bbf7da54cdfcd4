"""Whether rows can be what was written: SQLite keeps any value in any column, and believes a damaged tree."""

from collections.abc import Sequence
from itertools import pairwise, product
from typing import Any

from recordstore.exceptions import CorruptRecordError

_TEXT, _INT = (str, type(None)), (int, type(None))
_HEAD_TYPES = frozenset(product([int], _TEXT, _INT, [int], [int], [bytes]))


def check_head(*values: Any) -> None:
    """Check id, run, round, array count, length and digest of a record.

    Raises
    ------
    CorruptRecordError
        One has a wrong type.
    """
    if tuple(map(type, values)) not in _HEAD_TYPES:
        raise CorruptRecordError(f"record {values[0]}: a column has a wrong type")


def check_order(
    ids: Sequence[int], *, after: int | None, newest_first: bool = False, what: str = "records"
) -> Sequence[int]:
    """Return ids, if they come one behind the other and behind those before: a list that does not may have no end.

    Raises
    ------
    CorruptRecordError
        They do not.
    """
    numbers = ids if after is None else [after, *ids]
    if any(one <= other if newest_first else one >= other for one, other in pairwise(numbers)):
        raise CorruptRecordError(f"the list of {what} is out of order: its table is damaged")
    return ids


def check_name(record_id: int, name: Any) -> str:
    """Return the name of an array or a metric, or a tag, if it is a text."""
    if not isinstance(name, str):
        raise CorruptRecordError(f"record {record_id}: a name is no text")
    return name


def check_run(run: Any, count: int, last: Any) -> tuple[str, int, int | None]:
    """Return the name of a run, how many records it has and its highest round, if they have these types."""
    if not isinstance(run, str) or not isinstance(last, _INT):
        raise CorruptRecordError("the list of runs is damaged: a column has a wrong type")
    return run, count, last
