"""The queries on the history of a run: what was reported of each round, whether or not a record of it is kept."""

from collections.abc import Iterable

from sqlalchemy import Connection, bindparam, delete, insert, select

from recordstore.exceptions import CorruptRecordError
from recordstore.info import HistoryEntry
from recordstore.orm import HistoryRow
from recordstore.tagged import loads

PRIVACY = "privacy"
"""The source that tells how much of a privacy budget is spent. A later run of the same name goes on from there."""

HistoryText = tuple[int, str, str]
"""Round, source, and the values as tagged JSON text."""


_KEY = ("run", "round", "source")
_DELETE = delete(HistoryRow.__table__).where(  # type: ignore[arg-type]
    *(getattr(HistoryRow, name) == bindparam(f"old_{name}") for name in _KEY)
)


class HistoryRepository:
    """What was reported of rounds, within the transaction of a connection, which it never commits."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def add(self, run: str, entries: Iterable[HistoryText]) -> None:
        """Write entries; one of the same round and source is replaced: the round was done again."""
        newest = {(round_, source): values for round_, source, values in entries}
        rows = [{"run": run, "round": key[0], "source": key[1], "values": values} for key, values in newest.items()]
        if not rows:
            return
        self._connection.execute(_DELETE, [{f"old_{name}": row[name] for name in _KEY} for row in rows])
        self._connection.execute(insert(HistoryRow.__table__), rows)  # type: ignore[arg-type]

    def runs(self) -> list[str]:
        """Return the runs that have a history."""
        return list(self._connection.scalars(select(HistoryRow.run).distinct()))

    def text(self, run: str, round_: int, source: str) -> str | None:
        """Return the text of one entry, None if there is none."""
        mine = (HistoryRow.run == run, HistoryRow.round == round_, HistoryRow.source == source)
        return self._connection.scalar(select(HistoryRow.values).where(*mine))

    def of(self, run: str, source: str | None) -> list[HistoryEntry]:
        """Return the entries of a run by round and source.

        Raises
        ------
        CorruptRecordError
            The text of one is not what was written.
        """
        query = select(HistoryRow.round, HistoryRow.source, HistoryRow.values).where(HistoryRow.run == run)
        if source is not None:
            query = query.where(HistoryRow.source == source)
        rows = self._connection.execute(query.order_by(HistoryRow.round, HistoryRow.source))
        return [_entry(run, *row) for row in rows]

    def forget(self, run: str, *, after: int) -> None:
        """Remove what is there of later rounds than ``after``, but for the privacy budget: that stays spent."""
        stale = delete(HistoryRow).where(HistoryRow.run == run, HistoryRow.round > after, HistoryRow.source != PRIVACY)
        self._connection.execute(stale)


def _entry(run: str, round_: object, source: object, text: str) -> HistoryEntry:
    try:
        values = loads(text)
    except (ValueError, TypeError, LookupError, RecursionError):
        values = None
    if not isinstance(values, dict) or not isinstance(round_, int) or not isinstance(source, str):
        raise CorruptRecordError(f"the history of run {run!r}, round {round_}, {source!r}, cannot be understood")
    return HistoryEntry(round_, source, values)
