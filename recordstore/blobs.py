"""The queries on blobs and chunks; like all repositories, this one never commits."""

from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple

from sqlalchemy import bindparam, exists, func, insert, select, update
from sqlalchemy.orm import Session

from recordstore.exceptions import CorruptRecordError
from recordstore.orm import DAMAGED, DEAD, READY, WRITING, ArrayRow, BlobRow, ChunkRow


def literal(value: str) -> Any:
    """Return a text as part of the SQL: SQLite uses a partial index only where the query spells its condition out."""
    return bindparam(None, value, literal_execute=True)


NO_SYNC = {"synchronize_session": False}
"""Execution options of bulk statements in sessions that hold no object they could concern."""

_IN_LIST = 1000

# What each save needs, in Core and made once. An ORM insert of chunks would ask for their ids too, which holds a copy
# of each row.
_READY_WITH_DIGESTS = select(BlobRow.digest, BlobRow.id).where(
    BlobRow.digest.in_(bindparam("digests", expanding=True)), BlobRow.state == literal(READY)
)
_INSERT_BLOBS = insert(BlobRow.__table__).returning(  # type: ignore[arg-type]
    BlobRow.nbytes, BlobRow.head, BlobRow.digest, BlobRow.id
)
_INSERT_CHUNKS = insert(ChunkRow.__table__)  # type: ignore[arg-type]


class StoredChunk(NamedTuple):
    """One chunk as it lies in the database."""

    blob_id: int
    seq: int
    digest: bytes
    data: bytes


class BlobRepository:
    """Blobs and their chunks, within the transaction of a session."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def known_heads(self, heads: Collection[tuple[int, bytes]]) -> set[tuple[int, bytes]]:
        """Return those of the given lengths and first chunk digests that a readable blob has."""
        found = self._session.execute(
            select(BlobRow.nbytes, BlobRow.head).where(
                BlobRow.nbytes.in_({nbytes for nbytes, _ in heads}),
                BlobRow.head.in_({head for _, head in heads}),
                BlobRow.state == literal(READY),
            )
        )
        return {(nbytes, head) for nbytes, head in found}

    def ready(self, digests: Collection[bytes]) -> dict[bytes, int]:
        """Return the ids of the readable blobs with these digests."""
        if not digests:
            return {}
        found = self._session.connection().execute(_READY_WITH_DIGESTS, {"digests": digests})
        return {digest: id_ for digest, id_ in found if digest is not None}

    def add(self, blobs: Sequence[tuple[int, bytes, bytes | None]]) -> Sequence[int]:
        """Insert blobs of a length, head and digest, and return their ids in order.

        One whose digest is not known yet is ``writing``; the others are ``ready``: their chunks come with them.
        """
        if not blobs:
            return []
        rows = [
            {"state": READY if digest else WRITING, "nbytes": nbytes, "head": head, "digest": digest}
            for nbytes, head, digest in blobs
        ]
        # The order of the returned ids says nothing, but rows that are equal may be taken for each other.
        ids: dict[tuple[int, bytes, bytes | None], list[int]] = {}
        for nbytes, head, digest, id_ in self._session.connection().execute(_INSERT_BLOBS, rows):
            ids.setdefault((nbytes, head, digest), []).append(id_)
        return [ids[blob].pop() for blob in blobs]

    def add_chunks(self, chunks: Sequence[tuple[int, int, bytes, memoryview]]) -> None:
        """Insert chunks given as blob id, sequence number, digest and bytes."""
        rows = [
            {"blob_id": blob_id, "seq": seq, "nbytes": len(data), "digest": digest, "data": data}
            for blob_id, seq, digest, data in chunks
        ]
        if not rows:
            return
        self._session.connection().execute(_INSERT_CHUNKS, rows)

    def make_ready(self, blob_id: int, digest: bytes) -> None:
        """Let other arrays share a blob, all of whose chunks are there."""
        self._session.execute(update(BlobRow).where(BlobRow.id == blob_id).values(state=READY, digest=digest))

    def kill(self, blob_id: int) -> None:
        """Give up a blob that an equal one replaces; the sweep removes its chunks."""
        self._session.execute(update(BlobRow).where(BlobRow.id == blob_id).values(state=DEAD, digest=None))

    def mark_damaged(self, blob_id: int) -> None:
        """Keep later saves from sharing a blob whose bytes are not those that were saved."""
        self._session.execute(
            update(BlobRow).where(BlobRow.id == blob_id, BlobRow.state == literal(READY)).values(state=DAMAGED)
        )

    def kill_orphans(self, blob_ids: Collection[int]) -> None:
        """Mark those of the blobs as dead that no array points at any more."""
        used = exists().where(ArrayRow.blob_id == BlobRow.id)
        self._session.execute(
            update(BlobRow).where(BlobRow.id.in_(blob_ids), ~used).values(state=DEAD), execution_options=NO_SYNC
        )

    def orphans(self, limit: int) -> Sequence[int]:
        """Return ids of blobs that are not dead though no array points at them."""
        used = exists().where(ArrayRow.blob_id == BlobRow.id)
        return self._session.scalars(select(BlobRow.id).where(BlobRow.state != literal(DEAD), ~used).limit(limit)).all()

    def sizes(self, blob_ids: Sequence[int]) -> dict[int, tuple[int, int]]:
        """Return the number of chunks of blobs, and the bytes they really hold.

        ``length`` of a blob column reads the head of the row, not the value.
        """
        query = select(ChunkRow.blob_id, func.count(), func.sum(func.length(ChunkRow.data))).group_by(ChunkRow.blob_id)
        sizes = {}
        for start in range(0, len(blob_ids), _IN_LIST):
            ids = blob_ids[start : start + _IN_LIST]
            for blob_id, count, nbytes in self._session.execute(query.where(ChunkRow.blob_id.in_(ids))):
                sizes[blob_id] = (count, nbytes)
        return sizes

    def digests(self, blob_id: int) -> list[bytes]:
        """Return the digests of the chunks of a blob, in order; SQLite reads the heads of the rows only."""
        rows = self._session.execute(select(ChunkRow.digest).where(ChunkRow.blob_id == blob_id).order_by(ChunkRow.seq))
        return [digest for (digest,) in rows]

    def chunks(self, blob_ids: Collection[int], first: int, last: int) -> Iterator[StoredChunk]:
        """Yield the chunks ``first`` to ``last - 1`` of blobs, in order, one row in memory at a time.

        Many rows of a megabyte at once are three to four times slower: each needs fresh memory. Core, unlike the ORM,
        fetches no row before it is asked for.
        """
        rows = self._session.connection().execute(
            select(ChunkRow.blob_id, ChunkRow.seq, ChunkRow.digest, ChunkRow.data)
            .where(ChunkRow.blob_id.in_(blob_ids), ChunkRow.seq >= first, ChunkRow.seq < last)
            .order_by(ChunkRow.blob_id, ChunkRow.seq)
        )
        for row in rows:
            chunk = StoredChunk(*row)
            if not isinstance(chunk.data, bytes):
                raise CorruptRecordError(f"chunk {chunk.seq} holds no bytes")
            yield chunk
