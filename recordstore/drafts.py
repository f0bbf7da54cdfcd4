"""The queries that write records: drafts, which no reader sees, and how they are published, hidden and tagged."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import bindparam, delete, insert, select, update
from sqlalchemy.orm import Session, aliased

from recordstore.exceptions import CorruptRecordError, RecordExistsError, SaveSweptError
from recordstore.history import HistoryRepository, HistoryText
from recordstore.orm import DELETING, READY, WRITING, ArrayRow, BlobRow, MetricRow, RecordRow, TagRow

# What each save needs, in Core and made once: the ORM and the making of statements took a fifth of a small save.
_Key = aliased(RecordRow)
_NAMESAKE = (
    select(RecordRow.id, RecordRow.run, RecordRow.round)
    .join(_Key, _Key.id == RecordRow.id)
    .where(_Key.run == bindparam("run"), _Key.round == bindparam("round"))
)
_INSERT_RECORD, _INSERT_ARRAYS, _INSERT_METRICS = (
    insert(row.__table__)  # type: ignore[arg-type]
    for row in (RecordRow, ArrayRow, MetricRow)
)
_UPDATE_DRAFT = update(RecordRow.__table__).where(  # type: ignore[arg-type]
    RecordRow.id == bindparam("draft"), RecordRow.writer == bindparam("owner"), RecordRow.state == WRITING
)


@dataclass(frozen=True)
class Draft:
    """What a record is saved under, checked."""

    run: str | None = None
    round: int | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    metadata: Any = None
    tags: tuple[str, ...] = ()
    overwrite: bool = False
    checkpoint: str | None = None
    history: tuple[HistoryText, ...] = ()
    forget_after: int | None = None


class DraftRepository:
    """Records on their way in and out, within the transaction of a session, which it never commits."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def namesake(self, draft: Draft) -> int | None:
        """Return the id of the record that has the run and the round of a draft.

        Raises
        ------
        RecordExistsError
            There is one, and the draft may not overwrite it.
        """
        if draft.round is None:
            return None
        row = self._session.connection().execute(_NAMESAKE, {"run": draft.run, "round": draft.round}).first()
        if row is not None and (row.run, row.round) != (draft.run, draft.round):
            raise CorruptRecordError(
                f"an index takes record {row.id} for round {draft.round} of run {draft.run!r}: it is damaged"
            )
        found = None if row is None else row.id
        if found is not None and not draft.overwrite:
            raise RecordExistsError(
                f"run {draft.run!r} has a record of round {draft.round} already (id {found}); "
                "pass overwrite=True to replace it"
            )
        return found

    def begin(self, draft: Draft, writer: str) -> int:
        """Insert a record that nobody sees yet, and return its id.

        Raises
        ------
        RecordExistsError
            There is a record of its run and round, which it may not overwrite.
        """
        self.namesake(draft)
        return self._insert(draft, writer, state=WRITING)

    def add(self, draft: Draft, writer: str, content: dict[str, Any]) -> int:
        """Insert a record that is visible with its arrays, which follow in this transaction, and return its id.

        ``content`` and errors are as for :meth:`publish`.
        """
        replaced = self._hide_namesake(draft)
        record_id = self._insert(draft, writer, state=READY, run=draft.run, round=draft.round, **content)
        self._attach(record_id, draft, replaced)
        return record_id

    def touch(self, record_id: int, writer: str) -> None:
        """Show that the writer of a draft lives.

        Raises
        ------
        SaveSweptError
            The draft is gone.
        """
        self._update_draft(record_id, writer, touched_at=datetime.now(UTC))

    def add_arrays(self, rows: Sequence[dict[str, Any]]) -> None:
        """Insert rows of the table ``array``."""
        if rows:
            self._session.connection().execute(_INSERT_ARRAYS, rows)

    def repoint(self, record_id: int, position: int, blob_id: int) -> None:
        """Let an array share an equal blob in place of its own."""
        self._session.execute(
            update(ArrayRow)
            .where(ArrayRow.record_id == record_id, ArrayRow.position == position)
            .values(blob_id=blob_id)
        )

    def blob_digests(self, record_id: int) -> Iterator[bytes]:
        """Yield the digests of the readable blobs of a record, in the order of its arrays."""
        rows = self._session.connection().execute(
            select(BlobRow.digest)
            .join(ArrayRow, ArrayRow.blob_id == BlobRow.id)
            .where(ArrayRow.record_id == record_id, BlobRow.state == READY)
            .order_by(ArrayRow.position)
        )
        return (digest or b"" for (digest,) in rows)

    def publish(self, record_id: int, writer: str, draft: Draft, content: dict[str, Any]) -> None:
        """Make a draft visible.

        Parameters
        ----------
        record_id, writer, draft
            Which one, and what it is saved under.
        content
            Its ``array_count``, ``nbytes`` and digests.

        Raises
        ------
        RecordExistsError
            There is a record of its run and round, which it may not overwrite.
        SaveSweptError
            The draft is gone.
        """
        replaced = self._hide_namesake(draft)
        now = datetime.now(UTC)
        self._update_draft(record_id, writer, state=READY, touched_at=now, run=draft.run, round=draft.round, **content)
        self._attach(record_id, draft, replaced)

    def hide(self, record_id: int) -> None:
        """Take a record from all readers; the sweep removes it."""
        self._session.execute(delete(TagRow).where(TagRow.record_id == record_id))
        self._hide(record_id)

    def abandon(self, record_id: int, writer: str) -> None:
        """Leave a draft, if it still is one, to the sweep."""
        self._session.execute(
            update(RecordRow)
            .where(RecordRow.id == record_id, RecordRow.writer == writer, RecordRow.state == WRITING)
            .values(state=DELETING)
        )

    def set_tag(self, record_id: int, run: str | None, tag: str) -> None:
        """Give a tag of a run to a record; another record loses it."""
        self._session.merge(TagRow(run=run or "", name=tag, record_id=record_id))
        self._session.flush()

    def remove_tag(self, record_id: int, run: str | None, tag: str) -> bool:
        """Take a tag from a record, and return whether it had it."""
        found = self._session.scalar(
            select(TagRow).where(TagRow.run == (run or ""), TagRow.name == tag, TagRow.record_id == record_id)
        )
        if found is not None:
            self._session.delete(found)
        return found is not None

    def _insert(self, draft: Draft, writer: str, **values: Any) -> int:
        now = datetime.now(UTC)
        row = {"created_at": now, "touched_at": now, "writer": writer, "metadata": draft.metadata, **values}
        row["checkpoint"] = draft.checkpoint
        key: Any = self._session.connection().execute(_INSERT_RECORD, row).inserted_primary_key
        return int(key.id)

    def _hide_namesake(self, draft: Draft) -> int | None:
        """Free the run and the round of a draft, and return the id of the record that had them."""
        found = self.namesake(draft)
        if found is not None:
            self._hide(found)
        return found

    def _hide(self, record_id: int) -> None:
        self._session.execute(
            update(RecordRow).where(RecordRow.id == record_id).values(state=DELETING, run=None, round=None)
        )

    def _attach(self, record_id: int, draft: Draft, replaced: int | None) -> None:
        """Add the metrics, the tags, also those of the record that this one replaces, and the history."""
        if replaced is not None:
            self._session.execute(update(TagRow).where(TagRow.record_id == replaced).values(record_id=record_id))
        if draft.metrics:
            rows = [{"record_id": record_id, "name": name, "value": value} for name, value in draft.metrics.items()]
            self._session.connection().execute(_INSERT_METRICS, rows)
        for tag in draft.tags:
            self.set_tag(record_id, draft.run, tag)
        if draft.run is not None:
            history = HistoryRepository(self._session.connection())
            if draft.forget_after is not None:
                history.forget(draft.run, after=draft.forget_after)
            history.add(draft.run, draft.history)

    def _update_draft(self, record_id: int, writer: str, **values: Any) -> None:
        # Core: an UPDATE of the ORM takes 0.5 ms more, a twelfth of a small save, and here is no object to keep in step
        touched = self._session.connection().execute(
            _UPDATE_DRAFT.values(**values), {"draft": record_id, "owner": writer}
        )
        if not touched.rowcount:
            raise SaveSweptError(
                f"the unfinished record {record_id} was swept by gc() as left over; nothing was saved and the input is "
                "intact: save it again, and call gc() with a grace longer than a save can pause"
            )
