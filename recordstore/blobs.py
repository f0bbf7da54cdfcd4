"""The queries on blobs and chunks; like all repositories, this one never commits."""

import sqlite3
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, bindparam, exists, func, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import aliased

from recordstore import constants
from recordstore.exceptions import CorruptRecordError
from recordstore.faults import driver
from recordstore.orm import DAMAGED, DEAD, READY, READY_INDEX, WRITING, ArrayRow, BlobRow, ChunkRow
from recordstore.rowchecks import in_order


def literal(value: str) -> Any:
    """Return a text as part of the SQL: SQLite uses a partial index only where the query spells its condition out."""
    return bindparam(None, value, literal_execute=True)


IN_PLACE_BYTES = 64 * 1024
"""Chunks from here on are written in place, which saves two copies of each: 0.6 of the time of an insert."""

_Itself = aliased(BlobRow)

# What each save needs, in Core and made once. An ORM insert of chunks would ask for their ids too, which holds a copy
# of each row.
_READY_WITH_DIGESTS = select(
    BlobRow.digest,
    BlobRow.id,
    BlobRow.nbytes,
    # an index knows; one that is damaged may lead to more of them than one can count
    select(func.count())
    .select_from(
        select(ChunkRow.seq)
        .where(ChunkRow.blob_id == BlobRow.id)
        .correlate(BlobRow)
        .limit(bindparam("most"))
        .subquery()
    )
    .scalar_subquery(),
    select(_Itself.digest).where(_Itself.id == BlobRow.id, _Itself.state == READY).scalar_subquery(),  # of the row
).where(BlobRow.digest.in_(bindparam("digests", expanding=True)), BlobRow.state == literal(READY))
_INSERT_BLOBS = insert(BlobRow.__table__).returning(  # type: ignore[arg-type]
    BlobRow.nbytes, BlobRow.head, BlobRow.digest, BlobRow.id
)
_PLACES = (
    select(
        ChunkRow.blob_id,
        ChunkRow.seq,
        ChunkRow.id,
        ChunkRow.digest,
        func.length(ChunkRow.data),
        func.typeof(ChunkRow.data),
    )
    .where(
        ChunkRow.blob_id.in_(bindparam("blobs", expanding=True)),
        ChunkRow.seq >= bindparam("first"),
        ChunkRow.seq < bindparam("last"),
    )
    .order_by(ChunkRow.blob_id, ChunkRow.seq)
)
_CHUNKS = (
    select(ChunkRow.blob_id, ChunkRow.seq, ChunkRow.digest, ChunkRow.data)
    .where(ChunkRow.blob_id.in_(bindparam("blobs", expanding=True)))
    .order_by(ChunkRow.blob_id, ChunkRow.seq)
)
_MAKE_READY = (
    update(BlobRow.__table__)  # type: ignore[arg-type]
    .where(BlobRow.id == bindparam("blob"))
    .values(state=READY, digest=bindparam("known"))
)
_INSERT_CHUNKS = insert(ChunkRow.__table__)  # type: ignore[arg-type]
_INSERT_ZEROS = _INSERT_CHUNKS.values(data=func.zeroblob(bindparam("zeros")))


class StoredChunk(NamedTuple):
    """One chunk as it lies in the database."""

    blob_id: int
    seq: int
    digest: bytes
    data: bytes


class ChunkPlace(NamedTuple):
    """What the database tells of a chunk without reading it."""

    id: int
    seq: int
    digest: bytes
    nbytes: int
    kind: str


class BlobRepository:
    """Blobs and their chunks, within the transaction of a connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def known_heads(self, heads: Collection[tuple[int, bytes]]) -> set[tuple[int, bytes]]:
        """Return those of the given lengths and first chunk digests that a readable blob has."""
        found = self._connection.execute(
            select(BlobRow.nbytes, BlobRow.head).where(
                BlobRow.nbytes.in_({nbytes for nbytes, _ in heads}),
                BlobRow.head.in_({head for _, head in heads}),
                BlobRow.state == literal(READY),
            )
        )
        return {(nbytes, head) for nbytes, head in found}

    def ready(self, wanted: Mapping[bytes, int]) -> dict[bytes, int]:
        """Return the ids of the readable blobs with these digests, which are given with their lengths.

        One with another length, or with chunks missing, is marked as damaged, so that its digest is free. An index that
        leads to rows which are not ready, or have other digests, is made anew: its entries would be in the way.
        """
        if not wanted:
            return {}
        ready = {}
        found = self._ready(wanted)
        if any(digest != its_digest for digest, *_, its_digest in found):
            self._make_index_anew()
            found = self._ready(wanted)
        for digest, id_, nbytes, chunks, _ in found:
            if nbytes == wanted.get(digest) and chunks == constants.chunk_count(nbytes):
                ready[digest] = id_
            elif digest in wanted:
                self.mark_damaged(id_)
        return ready

    def _ready(self, wanted: Mapping[bytes, int]) -> Sequence[Any]:
        most = constants.chunk_count(max(wanted.values())) + 1
        return self._connection.execute(_READY_WITH_DIGESTS, {"digests": [*wanted], "most": most}).all()

    def _make_index_anew(self) -> None:
        try:
            self._connection.exec_driver_sql(f"REINDEX {READY_INDEX}")
        except IntegrityError as error:
            raise CorruptRecordError(
                "two arrays have the digest of one: the table of their bytes is damaged; nothing was saved, the input "
                "is intact: load the records that are whole, and save them to a new store"
            ) from error

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
        for nbytes, head, digest, id_ in self._connection.execute(_INSERT_BLOBS, rows):
            ids.setdefault((nbytes, head, digest), []).append(id_)
        return [ids[blob].pop() for blob in blobs]

    def add_chunks(self, chunks: Sequence[tuple[int, int, bytes, memoryview]]) -> None:
        """Insert chunks given as blob id, sequence number, digest and bytes."""
        small = [
            {"blob_id": blob_id, "seq": seq, "nbytes": len(data), "digest": digest, "data": data}
            for blob_id, seq, digest, data in chunks
            if len(data) < IN_PLACE_BYTES
        ]
        if small:
            self._connection.execute(_INSERT_CHUNKS, small)
        large = [chunk for chunk in chunks if len(chunk[3]) >= IN_PLACE_BYTES]
        if large:
            self._write_in_place(large)

    def _write_in_place(self, chunks: Sequence[tuple[int, int, bytes, memoryview]]) -> None:
        """Insert chunks of zeros, and copy the bytes to where these lie in the page cache."""
        self._connection.execute(
            _INSERT_ZEROS,
            [
                {"blob_id": blob_id, "seq": seq, "nbytes": len(data), "digest": digest, "zeros": len(data)}
                for blob_id, seq, digest, data in chunks
            ],
        )
        with driver(self._connection) as raw:
            (last,) = raw.execute("SELECT last_insert_rowid()").fetchone()
            # ids of an AUTOINCREMENT table follow each other: nobody else can write meanwhile
            for id_, (_, _, _, data) in enumerate(chunks, last - len(chunks) + 1):
                with raw.blobopen(ChunkRow.__tablename__, "data", id_) as blob:
                    blob.write(data)

    def make_ready(self, blob_id: int, digest: bytes) -> None:
        """Let other arrays share a blob, all of whose chunks are there."""
        self._connection.execute(_MAKE_READY, {"blob": blob_id, "known": digest})

    def kill(self, blob_id: int) -> None:
        """Give up a blob that an equal one replaces; the sweep removes its chunks."""
        self._connection.execute(update(BlobRow).where(BlobRow.id == blob_id).values(state=DEAD, digest=None))

    def mark_damaged(self, blob_id: int) -> None:
        """Keep later saves from sharing a blob whose bytes are not those that were saved."""
        self._connection.execute(
            update(BlobRow).where(BlobRow.id == blob_id, BlobRow.state == literal(READY)).values(state=DAMAGED)
        )

    def kill_orphans(self, blob_ids: Collection[int]) -> int:
        """Mark those of the blobs as dead that no array points at any more, and return how many."""
        used = exists().where(ArrayRow.blob_id == BlobRow.id)
        dead = update(BlobRow).where(BlobRow.id.in_(blob_ids), ~used).values(state=DEAD)
        return self._connection.execute(dead).rowcount

    def orphans(self, limit: int) -> Sequence[int]:
        """Return ids of blobs that are not dead though no array points at them.

        A damaged index might miss arrays: what no index has makes SQLite look at the rows themselves.
        """
        used = select(ArrayRow.blob_id + 0 * ArrayRow.nbytes)
        query = select(BlobRow.id).where(BlobRow.state != literal(DEAD), BlobRow.id.not_in(used))
        return self._connection.scalars(query.limit(limit)).all()

    def size(self, blob_id: int, most: int) -> tuple[int, int]:
        """Return the number of chunks of a blob, and the bytes they really hold; of more than ``most``, only that.

        ``length`` of a blob column reads the head of the row, not the value.
        """
        lengths = select(func.length(ChunkRow.data)).where(ChunkRow.blob_id == blob_id).limit(most + 1).subquery()
        count, nbytes = self._connection.execute(select(func.count(), func.total(lengths.c[0]))).one()
        return count, int(nbytes)

    def nbytes(self) -> int:
        """Return how many bytes the arrays of the database have, those that are equal counted once."""
        return int(self._connection.scalar(select(func.total(BlobRow.nbytes))) or 0)  # no sum that overflows

    def digests(self, blob_id: int, most: int) -> Sequence[bytes]:
        """Return the digests of all chunks of a blob, in order, or one more than ``most``."""
        query = select(ChunkRow.digest).where(ChunkRow.blob_id == blob_id).order_by(ChunkRow.seq)
        return self._connection.scalars(query.limit(most + 1)).all()

    def places(self, blob_ids: Collection[int], first: int, last: int) -> dict[int, list[ChunkPlace]]:
        """Return where the chunks ``first`` to ``last - 1`` of blobs lie, in order; their bytes are not read."""
        found = self._connection.execute(_PLACES, {"blobs": blob_ids, "first": first, "last": last})
        places: dict[int, list[ChunkPlace]] = {}
        for blob_id, seq, id_, *fields in in_order(found, keys=2, what="chunks"):
            places.setdefault(blob_id, []).append(ChunkPlace(id_, seq, *fields))
        return places

    def read(self, places: Iterable[ChunkPlace]) -> Iterator[tuple[ChunkPlace, bytes | None]]:
        """Yield the bytes of chunks, None for one that is not there any more, no bytes for what cannot be one.

        A SELECT copies them once more, and that with the GIL: two threads then read 0.7 times as fast.
        """
        with driver(self._connection) as raw:
            for place in places:
                yield place, _read(raw, place)

    def chunks(self, blob_ids: Collection[int]) -> Iterator[StoredChunk]:
        """Yield the chunks of blobs, in order, one row in memory at a time.

        Many rows of a megabyte at once are three to four times slower: each needs fresh memory. Core, unlike the ORM,
        fetches no row before it is asked for.
        """
        found = self._connection.execute(_CHUNKS, {"blobs": blob_ids})
        for row in in_order(found, keys=2, what="chunks"):
            chunk = StoredChunk(*row)
            if not isinstance(chunk.data, bytes):
                raise CorruptRecordError(f"chunk {chunk.seq} holds no bytes")
            yield chunk


def _read(raw: sqlite3.Connection, place: ChunkPlace) -> bytes | None:
    if place.kind != "blob" or place.nbytes > constants.CHUNK_SIZE:
        return b""
    try:
        blob = raw.blobopen(ChunkRow.__tablename__, "data", place.id, readonly=True)
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_ERROR:  # which here says "no such rowid"
            raise
        return None
    with blob:
        return blob.read()
