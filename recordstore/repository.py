"""The queries on records, their arrays, metrics and tags. Repositories never commit: who began the transaction does."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection, Executable, Select, bindparam, func, select
from sqlalchemy.orm import aliased

from recordstore.exceptions import AmbiguousReferenceError, CorruptRecordError, RecordNotFoundError
from recordstore.info import RecordInfo, RunInfo
from recordstore.orm import READY, ArrayRow, BlobRow, MetricRow, RecordRow, TagRow
from recordstore.refs import ById, ByRound, ByTag, Latest, Ref
from recordstore.rowchecks import check_head, check_name, check_order, check_run, labels_of, names_of, once

# What each read needs, made once: the making of statements took a third of the time until a small array is there.
_READY = select(
    RecordRow.id,
    RecordRow.run,
    RecordRow.round,
    RecordRow.created_at,
    RecordRow.metadata_,
    RecordRow.array_count,
    RecordRow.nbytes,
    RecordRow.digest,
    RecordRow.checkpoint_digest,
).where(RecordRow.state == READY)
_BY_ID = _READY.where(RecordRow.id == bindparam("id"))
# An index that is damaged may lead to any record: it gives an id, and the row of that has to say the same.
_Key = aliased(RecordRow)
_BY_KEY = _READY.join(_Key, _Key.id == RecordRow.id).where(_Key.run == bindparam("run"))
_BY_ROUND = _BY_KEY.where(_Key.round == bindparam("round"))
_BY_TAG = _READY.join(TagRow, TagRow.record_id == RecordRow.id).where(
    TagRow.run == bindparam("run"), TagRow.name == bindparam("name")
)
_NEWEST = _READY.order_by(RecordRow.id.desc()).limit(1)
_LATEST = _BY_KEY.order_by(_Key.round.desc().nulls_last(), _Key.id.desc()).limit(1)
_ARRAYS = (
    select(
        ArrayRow.position,
        ArrayRow.name,
        ArrayRow.dtype,
        ArrayRow.shape,
        ArrayRow.stype,
        ArrayRow.nbytes,
        ArrayRow.blob_id,
        BlobRow.digest,
        BlobRow.nbytes,
        ArrayRow.part,
    )
    .join(BlobRow, BlobRow.id == ArrayRow.blob_id)
    .where(ArrayRow.record_id == bindparam("record"))
    .order_by(ArrayRow.position)
)
_OWN_ARRAYS, _PART_ARRAYS = _ARRAYS.where(ArrayRow.part == ""), _ARRAYS.where(ArrayRow.part != "")


def _of_records(*index: Any) -> Select[Any]:
    """Select in the order of an index: nothing is sorted, so that a list without an end is noticed."""
    return select(*index).where(index[0].in_(bindparam("records", expanding=True))).order_by(*index)


_NAMES = _of_records(ArrayRow.record_id, ArrayRow.position).add_columns(ArrayRow.name).where(ArrayRow.part == "")
_TAGS = _of_records(TagRow.record_id, TagRow.run, TagRow.name)
_METRICS = _of_records(MetricRow.record_id, MetricRow.name).add_columns(MetricRow.value)

ROWS_AT_ONCE = 1000
"""Rows that are fetched together: one by one they take twice as long."""


class RecordHead(NamedTuple):
    """A record, as the database tells of it."""

    id: int
    run: str | None
    round: int | None
    created_at: datetime
    metadata: Any
    array_count: int
    nbytes: int | None
    digest: bytes | None
    checkpoint_digest: bytes | None


class StoredArrayRow(NamedTuple):
    """An array of a record, with its blob, as the database tells of it."""

    position: int
    name: str
    dtype: str
    shape: str
    stype: str
    nbytes: int
    blob_id: int
    blob_digest: bytes
    blob_nbytes: int
    part: str


_TYPES = (int, str, str, str, str, int, int, bytes, int, str)
"""Types of the columns above: SQLite keeps any value in any column."""


def check_arrays(record_id: int, rows: list[tuple[Any, ...]]) -> list[StoredArrayRow]:
    """Return the arrays of a record, each of whose columns has the type that it should have.

    Raises
    ------
    CorruptRecordError
        One has another.
    """
    for row in rows:
        if tuple(map(type, row)) != _TYPES or row[0] < 0:
            raise CorruptRecordError(f"record {record_id}, array {row[0]}: a column has a wrong type")
    return list(map(StoredArrayRow._make, rows))


class RecordRepository:
    """Published records, within the transaction of a connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def find(self, ref: Ref) -> RecordHead:
        """Return the record that a reference leads to.

        Raises
        ------
        RecordNotFoundError
            There is none.
        AmbiguousReferenceError
            A bare tag leads to records of several runs.
        """
        row = self._search(ref)
        if row is None:
            raise RecordNotFoundError(_not_found(ref))
        return row

    def latest(self, run: str | None) -> RecordHead | None:
        """Return the newest record, or that of the highest round of a run."""
        if run is None:
            return self._head(_NEWEST)
        return _agreeing(self._head(_LATEST, run=run), run)

    def best(self, metric: str, *, maximum: bool, run: str | None) -> RecordHead | None:
        """Return the record with the highest or lowest value of a metric, the oldest of several; NaN is never it."""
        value = MetricRow.value.desc() if maximum else MetricRow.value.asc()
        query = _READY.join(MetricRow, MetricRow.record_id == RecordRow.id).where(
            MetricRow.name == metric, MetricRow.value.is_not(None)
        )
        if run is not None:
            query = query.where(RecordRow.run == run)
        return self._head(query.order_by(value, RecordRow.id).limit(1))

    def ids(self, *, after: int | None, limit: int) -> Sequence[int]:
        """Return the next ids."""
        query = select(RecordRow.id).where(RecordRow.state == READY)
        if after is not None:
            query = query.where(RecordRow.id > after)
        return check_order(self._connection.scalars(query.order_by(RecordRow.id).limit(limit)).all(), after=after)

    def findable(self, ids: Sequence[int]) -> set[int]:
        """Return those of the ids that a lookup finds: a damaged table may list others."""
        # backwards: a lookup of the id behind the last one found is none, SQLite takes the next row of the table
        query = select(RecordRow.id).where(RecordRow.id.in_(ids), RecordRow.state == READY)
        return set(self._connection.scalars(query.order_by(RecordRow.id.desc())))

    def page(self, run: str | None, *, after: int | None, newest_first: bool, limit: int) -> Sequence[RecordHead]:
        """Return the next records in the order of their ids, or the reverse."""
        query = _READY.order_by(RecordRow.id.desc() if newest_first else RecordRow.id).limit(limit)
        if run is not None:
            query = query.where(RecordRow.run == run)
        if after is not None:
            query = query.where(RecordRow.id < after if newest_first else RecordRow.id > after)
        heads = [RecordHead._make(row) for row in self._connection.execute(query)]
        check_order([head.id for head in heads], after=after, newest_first=newest_first)
        return heads

    def runs(self) -> list[RunInfo]:
        """Return the runs by name."""
        rows = self._connection.execute(
            select(RecordRow.run, func.count(), func.max(RecordRow.round))
            .where(RecordRow.run.is_not(None))  # which only a published record has: an index answers all
            .group_by(RecordRow.run)
            .order_by(RecordRow.run)
        )
        return [RunInfo(*check_run(*row)) for row in rows]

    def count(self) -> int:
        """Return the number of records."""
        return self._connection.scalar(select(func.count()).select_from(RecordRow).where(RecordRow.state == READY)) or 0

    def infos(self, rows: Sequence[RecordHead]) -> list[RecordInfo]:
        """Return what is known of records, with three queries however many they are."""
        for row in rows:
            check_head(row.id, row.run, row.round, row.array_count, row.nbytes, row.digest)
        ids = [row.id for row in rows]
        arrays = self._connection.execute(_NAMES, {"records": ids})
        tags = self._connection.execute(_TAGS, {"records": ids})
        metrics = self._connection.execute(_METRICS, {"records": ids})
        names, labels = names_of(arrays), labels_of(once(tags, keys=3, what="tags"))
        values: dict[int, dict[str, float]] = {}
        for record_id, name, value in once(metrics, keys=2, what="metrics"):
            values.setdefault(record_id, {})[check_name(record_id, name)] = value
        return [_info(row, values.get(row.id, {}), labels.get(row.id, ()), names.get(row.id, ())) for row in rows]

    def arrays(self, record_id: int, *, parts: bool = False) -> list[tuple[Any, ...]]:
        """Return the arrays of a record in their order, or with ``parts`` those that its checkpoint has besides.

        They are what :func:`check_arrays` takes.
        """
        query = _PART_ARRAYS if parts else _OWN_ARRAYS
        rows: list[tuple[Any, ...]] = []
        for some in self._connection.execute(query, {"record": record_id}).partitions(ROWS_AT_ONCE):
            rows += map(tuple, some)
            check_order([row[0] for row in rows[-len(some) - 1 :]], after=None, what="arrays")
        return rows

    def checkpoint(self, record_id: int) -> str | None:
        """Return the state that a checkpoint has besides its arrays, JSON text."""
        return self._connection.scalar(select(RecordRow.checkpoint).where(RecordRow.id == record_id))

    def is_ready(self, record_id: int) -> bool:
        """Return whether readers can see a record."""
        return self._head(_BY_ID, id=record_id) is not None

    def tagged(self, run: str, name: str) -> RecordHead | None:
        """Return the record of a run with a tag; ``run`` is ``''`` for the records without a run."""
        row = self._head(_BY_TAG, run=run, name=name)
        if row is not None and (row.run or "") != run:
            raise CorruptRecordError(f"the tag {name!r} leads to record {row.id}, which is of another run")
        return row

    def _search(self, ref: Ref) -> RecordHead | None:
        match ref:
            case ById(id_):
                return self._head(_BY_ID, id=id_)
            case Latest(run):
                return self.latest(run)
            case ByRound(run, round_):
                return _agreeing(self._head(_BY_ROUND, run=run, round=round_), run, round_)
            case ByTag(run, tag):
                return self.tagged(run or "", tag) or (None if run else self._search_bare_tag(tag))

    def _search_bare_tag(self, tag: str) -> RecordHead | None:
        runs = self._connection.scalars(select(TagRow.run).where(TagRow.name == tag).order_by(TagRow.run)).all()
        if len(runs) > 1:
            listed = ", ".join(repr(f"{run}@{tag}") for run in runs[:10])
            raise AmbiguousReferenceError(f"{len(runs)} runs have a tag {tag!r}; name one: {listed}")
        return self.tagged(runs[0], tag) if runs else None

    def _head(self, query: Executable, **values: object) -> RecordHead | None:
        row = self._connection.execute(query, values).first()
        return None if row is None else RecordHead._make(row)


def _agreeing(row: RecordHead | None, run: str, round_: int | None = None) -> RecordHead | None:
    """Return a record that an index has led to, if it is of this run and, unless that is None, this round."""
    if row is not None and (row.run != run or round_ not in {None, row.round}):
        raise CorruptRecordError(
            f"an index leads to record {row.id} for a run or round that it is not of: it is damaged"
        )
    return row


def _info(row: RecordHead, metrics: dict[str, float], tags: Sequence[str], names: Sequence[str]) -> RecordInfo:
    return RecordInfo(
        id=row.id,
        run=row.run,
        round=row.round,
        created_at=row.created_at,
        metrics=metrics,
        metadata=row.metadata,
        tags=tuple(tags),
        names=tuple(names),
        nbytes=row.nbytes or 0,
        digest=(row.digest or b"").hex(),
    )


def _not_found(ref: Ref) -> str:
    match ref:
        case ById(id_):
            return f"no record has the id {id_}; store.records() lists those that exist"
        case Latest(None):
            return "the store holds no record yet"
        case Latest(run):
            return f"run {run!r} has no record; store.runs() lists the runs"
        case ByRound(run, round_):
            return f"run {run!r} has no record of round {round_}; store.records(run=...) lists those it has"
        case ByTag(None, tag):
            return f"no record has the tag {tag!r}"
        case ByTag(run, tag):
            return f"run {run!r} has no record with the tag {tag!r}"
