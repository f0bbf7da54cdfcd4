"""Removal of what no reader can reach any more, in bounded transactions.

A hidden record loses its arrays, a blob that no array points at is marked dead in the transaction that finds it, and
the chunks of dead blobs follow. Each step leaves a consistent database: a killed sweep is continued by the next one.
"""

import time
from datetime import UTC, datetime, timedelta
from itertools import accumulate
from operator import add

from sqlalchemy import ColumnElement, Connection, Delete, and_, delete, exists, func, or_, select, update

from recordstore import constants
from recordstore.blobs import BlobRepository, literal
from recordstore.engine import Database
from recordstore.exceptions import CorruptRecordError
from recordstore.info import Swept
from recordstore.orm import DEAD, DELETING, READY, WRITING, ArrayRow, BlobRow, ChunkRow, MetricRow, RecordRow, TagRow


def sweep(database: Database, *, grace: float, steps: int | None = None, wait: float | None = None) -> Swept:
    """Remove hidden records, drafts that were not touched for ``grace`` seconds, and what belonged to them.

    Parameters
    ----------
    database
        Where.
    grace
        Seconds that a live writer may pause.
    steps
        Transactions to make at most; None to go on until nothing is left.
    wait
        Seconds to wait for the write lock at most; None for the timeout of the database.
    """
    total = Swept(0, 0, 0)
    done = 0
    while (steps is None or done < steps) and _needed(database, grace):
        with database.write(wait=wait) as session:
            swept = _sweep_record(session.connection(), grace) or _sweep_blobs(session.connection())
        if swept is None:  # another one was faster
            break
        total = Swept(*map(add, total, swept))
        done += 1
        time.sleep(constants.PAUSE_SECONDS)
    return total


def kill_orphans(database: Database) -> None:
    """Mark blobs as dead that no array points at, wherever they come from: a look at every blob."""
    while True:
        with database.write() as session:
            blobs = BlobRepository(session.connection())
            orphans = blobs.orphans(constants.BATCH_ROWS)
            if orphans and not blobs.kill_orphans(orphans):
                raise CorruptRecordError("an index says that bytes are in use which are not: it is damaged")
        if len(orphans) < constants.BATCH_ROWS:
            return


def _needed(database: Database, grace: float) -> bool:
    """Return whether anything is left over; costs two look-ups in indexes that are empty if not."""
    with database.read() as connection:
        hidden = connection.scalar(select(exists().where(_unfinished(grace))))
        return bool(hidden or connection.scalar(select(exists().where(BlobRow.state == literal(DEAD)))))


def _unfinished(grace: float) -> ColumnElement[bool]:
    """Return the condition that selects hidden records and abandoned drafts."""
    stale = datetime.now(UTC) - timedelta(seconds=grace)
    abandoned = and_(RecordRow.state == WRITING, RecordRow.touched_at <= stale)
    return and_(RecordRow.state != literal(READY), or_(RecordRow.state == DELETING, abandoned))


def _sweep_record(connection: Connection, grace: float) -> Swept | None:
    """Remove up to a batch of arrays of one record, and the record with the last of them; None if there is none."""
    record_id = connection.scalar(select(RecordRow.id).where(_unfinished(grace)).limit(1))
    if record_id is None:
        return None
    hidden = update(RecordRow).where(RecordRow.id == record_id, RecordRow.state != READY)
    if not connection.execute(hidden.values(state=DELETING)).rowcount:
        raise CorruptRecordError(f"an index lists record {record_id} as left over, which it is not: it is damaged")
    mine = ArrayRow.record_id == record_id
    rows = connection.execute(
        select(ArrayRow.position, ArrayRow.blob_id).where(mine).order_by(ArrayRow.position).limit(constants.BATCH_ROWS)
    ).all()
    if rows:
        _remove(connection, delete(ArrayRow).where(mine, ArrayRow.position <= rows[-1].position), len(rows))
        BlobRepository(connection).kill_orphans({row.blob_id for row in rows})
    if len(rows) == constants.BATCH_ROWS:
        return Swept(0, 0, 0)
    for child in (MetricRow, TagRow):
        connection.execute(delete(child).where(child.record_id == record_id))
    _remove(connection, delete(RecordRow).where(RecordRow.id == record_id), 1)
    return Swept(1, 0, 0)


def _sweep_blobs(connection: Connection) -> Swept | None:
    """Remove up to a batch of chunks of dead blobs, and the blobs that have none left; None if there are none."""
    dead = connection.scalars(
        select(BlobRow.id).where(BlobRow.state == literal(DEAD)).order_by(BlobRow.id).limit(constants.BATCH_ROWS)
    ).all()
    if not dead:
        return None
    chunks = connection.execute(
        select(ChunkRow.id, ChunkRow.blob_id, ChunkRow.nbytes)
        .where(ChunkRow.blob_id.in_(dead))
        .limit(constants.BATCH_ROWS)
    ).all()
    sizes = list(accumulate(chunk.nbytes for chunk in chunks))
    count = max(1, sum(size <= constants.BATCH_BYTES for size in sizes))
    _check_dead(connection, {chunk.blob_id for chunk in chunks[:count]} or set(dead))
    ids = [chunk.id for chunk in chunks[:count]]
    _remove(connection, delete(ChunkRow).where(ChunkRow.id.in_(ids)), len(ids))
    empty = ~exists().where(ChunkRow.blob_id == BlobRow.id)
    gone = _remove(connection, delete(BlobRow).where(BlobRow.id.in_(dead), empty), 0 if chunks else 1)
    return Swept(0, gone, sizes[count - 1] if sizes else 0)


def _remove(connection: Connection, statement: Delete, expected: int) -> int:
    """Remove rows, and return how many: a damaged table or index may list some that are never gone."""
    gone = connection.execute(statement).rowcount
    if gone < expected:
        raise CorruptRecordError("rows that are left over cannot be removed: a table or an index is damaged")
    return gone


def _check_dead(connection: Connection, blob_ids: set[int]) -> None:
    """Raise unless blobs are dead and no array needs them: the index that has led to them may be damaged."""
    used = exists().where(ArrayRow.blob_id == BlobRow.id)
    query = select(func.count()).where(BlobRow.id.in_(blob_ids), BlobRow.state == DEAD, ~used)
    if connection.scalar(query) != len(blob_ids):
        raise CorruptRecordError("an index or a state says that bytes are left over, which are in use or not there")
