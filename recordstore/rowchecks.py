"""Whether rows can be what was written: SQLite keeps any value in any column, and believes a damaged tree."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise, product
from operator import itemgetter
from typing import Any, TypeVar

from recordstore.exceptions import CorruptRecordError

_Row = TypeVar("_Row", bound=Sequence[Any])

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


def in_order(rows: Iterable[_Row], *, keys: int, what: str) -> Iterator[_Row]:
    """Yield rows whose first ``keys`` values are numbers, if each comes behind the one before.

    Raises
    ------
    CorruptRecordError
        One does not: a damaged tree may list rows without an end.
    """
    key, last = itemgetter(*range(keys)), None
    for row in rows:
        found = key(row)
        if last is not None and found <= last:
            raise CorruptRecordError(f"the list of {what} is out of order: its table or an index is damaged")
        last = found
        yield row


def once(rows: Iterable[_Row], *, keys: int, what: str) -> Iterator[_Row]:
    """Yield rows, if the first ``keys`` values of each are its own: as :func:`in_order`, for a few with texts.

    How texts follow each other depends on the encoding of the database.
    """
    seen = set()
    for row in rows:
        if row[:keys] in seen:
            raise CorruptRecordError(f"the list of {what} holds one twice: its table or an index is damaged")
        seen.add(row[:keys])
        yield row


def check_name(record_id: int, name: Any) -> str:
    """Return the name of an array or a metric, or a tag, if it is a text."""
    if not isinstance(name, str):
        raise CorruptRecordError(f"record {record_id}: a name is no text")
    return name


def names_of(rows: Iterable[Sequence[Any]]) -> dict[int, list[str]]:
    """Return names of arrays by record, of rows in the order of records and positions.

    There may be very many: the check is part of the loop, for :func:`in_order` takes four times as long.

    Raises
    ------
    CorruptRecordError
        They are in another order: as for :func:`in_order`.
    """
    names: dict[int, list[str]] = {}
    group: list[str] = []
    current = last = None
    for record_id, position, name in rows:
        if record_id != current:
            follows = record_id not in names
            group = names[record_id] = []
        else:
            follows = position > last
        if not follows:
            raise CorruptRecordError(f"record {record_id}: the list of its arrays is out of order: it is damaged")
        current, last = record_id, position
        group.append(check_name(record_id, name))
    return names


def labels_of(rows: Iterable[Sequence[Any]]) -> dict[int, list[str]]:
    """Return tags by record, of rows of a record, a run and a tag."""
    labels: dict[int, list[str]] = {}
    for record_id, _, name in rows:
        labels.setdefault(record_id, []).append(check_name(record_id, name))
    return labels


def check_run(run: Any, count: int, last: Any) -> tuple[str, int, int | None]:
    """Return the name of a run, how many records it has and its highest round, if they have these types."""
    if not isinstance(run, str) or not isinstance(last, _INT):
        raise CorruptRecordError("the list of runs is damaged: a column has a wrong type")
    return run, count, last
