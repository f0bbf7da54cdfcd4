"""The write protocol: batches of a draft, each in a short transaction of its own, and a last one that publishes it.

Every batch and the publication update the draft on the condition that it still belongs to this writer: a draft that
``gc`` took for a dead one is lost, and known to be, before anybody sees a part of it.
"""

import contextlib
import secrets
from collections.abc import Iterator, Sequence
from itertools import count
from typing import Any

from recordstore.batch import Batch, Piece, Upload
from recordstore.blobs import BlobRepository
from recordstore.digest import DIGEST_SIZE, checkpoint_digest, record_digest
from recordstore.drafts import Draft, DraftRepository
from recordstore.engine import Database
from recordstore.entries import Entry
from recordstore.exceptions import CorruptRecordError, RecordStoreError
from recordstore.feed import Feed, Heads
from recordstore.hashing import HashPool

GROUP_BYTES = 4 * 1024 * 1024
"""Bytes of chunks in one insert; the memory of their copies is free for the next chunks after it."""


class _Digests:
    """One digest for each position, 32 bytes each: a record may have a million arrays."""

    def __init__(self) -> None:
        self.joined = bytearray()

    def equal(self, digests: Iterator[bytes]) -> bool:
        """Return whether these are the digests, in order and in number."""
        starts = count(0, DIGEST_SIZE)
        end = 0
        for start, digest in zip(starts, digests, strict=False):
            end = start + DIGEST_SIZE
            if self.joined[start:end] != digest:
                return False
        return end == len(self.joined)

    def __setitem__(self, position: int, digest: bytes) -> None:
        start = position * DIGEST_SIZE
        if start > len(self.joined):
            self.joined.extend(bytes(start - len(self.joined)))
        self.joined[start : start + DIGEST_SIZE] = digest


class Writer:
    """Saves one record."""

    def __init__(self, database: Database, pool: HashPool, draft: Draft) -> None:
        self._database = database
        self._pool = pool
        self._draft = draft
        self._token = secrets.token_hex(16)
        self._id = 0
        self._batches = 0
        self._count = 0
        self._nbytes = 0
        self._blobs = _Digests()
        self._arrays = _Digests()
        self._shares = False
        self.left_over = False
        """Whether chunks were written that the sweep has to remove."""

    def save(self, entries: Iterator[Entry], *, lazy: bool) -> int:
        """Save the entries as one record, and return its id.

        Parameters
        ----------
        entries
            The arrays; asked for one after the other, never inside a transaction.
        lazy
            Whether an entry is made only when it is asked for.
        """
        feed = Feed(entries, lazy=lazy, lookup=self._known_heads, pool=self._pool)
        try:
            self._write(feed)
        except BaseException:
            self._abandon()
            raise
        return self._id

    def _write(self, feed: Feed) -> None:
        batch = feed.next_batch()
        if feed.finished and not batch.doubtful:
            self._write_whole(feed, batch)
            return
        while not self._write_batch(feed, batch):
            feed.settle(batch)
            del batch  # and with it the arrays of a lazy input, before it makes the next one
            self._database.rest()
            batch = feed.next_batch()
        if self._batches > 1:
            with contextlib.suppress(RecordStoreError):  # the record is there, whatever becomes of the memory
                self._database.shrink()

    def _write_whole(self, feed: Feed, batch: Batch) -> None:
        """Write a record that is one batch, all of whose digests are known before the transaction begins."""
        uploads = batch.uploads()
        for upload in uploads:
            self._note(upload)
        content = self._content()
        with self._database.write(nbytes=batch.nbytes) as session:
            drafts = DraftRepository(session)
            self._id = drafts.add(self._draft, self._token, content)
            self._store(drafts, BlobRepository(session.connection()), feed, batch, uploads)
            self._check_shared(drafts)

    def _write_batch(self, feed: Feed, batch: Batch) -> bool:
        """Write one batch, and return whether the record was published with it."""
        uploads = batch.uploads()
        with self._database.write(nbytes=batch.nbytes) as session:
            drafts = DraftRepository(session)
            if self._batches:
                drafts.touch(self._id, self._token)
            else:
                self._id = drafts.begin(self._draft, self._token)
            self._store(drafts, BlobRepository(session.connection()), feed, batch, uploads)
            for upload in uploads:
                if upload.blob_id is not None:
                    self._note(upload)
            published = feed.finished and not (self._batches and batch.rows)
            if published:
                self._publish(drafts)
        self._batches += 1
        return published

    def _store(
        self, drafts: DraftRepository, blobs: BlobRepository, feed: Feed, batch: Batch, uploads: Sequence[Upload]
    ) -> None:
        """Insert what is new of a batch, and let its arrays share what is stored already."""
        ready = blobs.ready({upload.digest: upload.nbytes for upload in uploads if upload.digest is not None})
        for upload in uploads:
            if upload.owned and upload.digest is not None:
                self._finish(drafts, blobs, ready, upload)
        fresh = [upload for upload in uploads if upload.blob_id is None]
        self._place(blobs, ready, fresh)
        self._shares |= any(not upload.owned and upload.blob_id is not None for upload in fresh)
        drafts.add_arrays([self._array_row(upload) for upload in fresh if upload.blob_id is not None])
        for upload in fresh:
            if upload.blob_id is None:
                feed.write_after_all(upload)
        self._insert(blobs, feed, batch.pieces)

    def _finish(self, drafts: DraftRepository, blobs: BlobRepository, ready: dict[bytes, int], upload: Upload) -> None:
        """Make a blob ready whose last chunk is in this batch, or give it up for an equal one that was faster."""
        digest, blob_id = upload.digest, upload.blob_id
        if digest is None or blob_id is None:
            return
        if digest in ready:
            drafts.repoint(self._id, upload.position, ready[digest])
            blobs.kill(blob_id)
            upload.owned, self.left_over = False, True
        else:
            blobs.make_ready(blob_id, digest)
            ready[digest] = blob_id

    @staticmethod
    def _place(blobs: BlobRepository, ready: dict[bytes, int], uploads: Sequence[Upload]) -> None:
        """Give each array a stored blob with its bytes, or a new one; none if its bytes are not stored as expected."""
        for upload in uploads:
            upload.owned = not upload.maybe_stored and upload.digest not in ready
            if upload.owned and upload.digest is not None:
                ready[upload.digest] = 0  # a second array with these bytes shares the blob of this one
        own = [upload for upload in uploads if upload.owned]
        for upload, blob_id in zip(own, blobs.add([(u.nbytes, u.head, u.digest) for u in own]), strict=True):
            upload.blob_id = blob_id
            if upload.digest is not None:
                ready[upload.digest] = blob_id
        for upload in uploads:
            if not upload.owned and upload.digest is not None:
                upload.blob_id = ready.get(upload.digest)

    def _array_row(self, upload: Upload) -> dict[str, Any]:
        entry = upload.entry
        return {
            "record_id": self._id,
            "position": upload.position,
            "name": entry.name,
            "dtype": entry.dtype,
            "shape": entry.shape,
            "stype": entry.stype,
            "nbytes": upload.nbytes,
            "blob_id": upload.blob_id,
            "part": entry.part,
        }

    @staticmethod
    def _insert(blobs: BlobRepository, feed: Feed, pieces: Sequence[Piece]) -> None:
        """Insert the chunks of own blobs; the memory of each group of them is free for the next chunks at once."""
        group: list[Piece] = []
        size = 0
        for piece in pieces:
            group.append(piece)
            size += piece.nbytes
            if size >= GROUP_BYTES or piece is pieces[-1]:
                own = [member for member in group if member.upload.owned]
                blobs.add_chunks([(member.upload.blob_id or 0, *chunk) for member in own for chunk in member.chunks])
                feed.refill(group)
                group, size = [], 0

    def _note(self, upload: Upload) -> None:
        """Take an array into the digest of the record, once its own is known."""
        digest = upload.digest
        if digest is None:
            return
        if not upload.entry.part:
            self._count += 1
            self._nbytes += upload.nbytes
        self._blobs[upload.position] = digest
        self._arrays[upload.position] = upload.array_digest(digest)

    def _content(self) -> dict[str, Any]:
        """Return what the row of the record tells of its arrays."""
        end = self._count * DIGEST_SIZE  # the arrays of the record come first, those of its checkpoint behind
        digests = memoryview(self._arrays.joined)
        arrays, parts = digests[:end], digests[end:]
        digest = record_digest(arrays)
        content: dict[str, Any] = {"array_count": self._count, "nbytes": self._nbytes, "digest": digest}
        if self._draft.checkpoint is not None:
            content["checkpoint_digest"] = checkpoint_digest(digest, self._draft.checkpoint, parts)
        return content

    def _publish(self, drafts: DraftRepository) -> None:
        """Make the record visible, once what the database holds of it is what was written."""
        self._check_shared(drafts)
        drafts.publish(self._id, self._token, self._draft, self._content())

    def _check_shared(self, drafts: DraftRepository) -> None:
        """Raise if stored bytes, which an index has led to or which have been found damaged since, are others."""
        if (self._batches or self._shares) and not self._blobs.equal(drafts.blob_digests(self._id)):
            raise CorruptRecordError(
                f"an array that the unfinished record {self._id} shares was found damaged; nothing was saved and the "
                "input is intact: save it again"
            )

    def _known_heads(self, heads: Heads) -> Heads:
        with self._database.read() as connection:
            return BlobRepository(connection).known_heads(heads)

    def _abandon(self) -> None:
        """Leave what was written of a failed save to the sweep: at once, or after its grace if others are writing."""
        if not self._batches:
            return
        self.left_over = True
        with contextlib.suppress(RecordStoreError), self._database.write(wait=0.0) as session:
            DraftRepository(session).abandon(self._id, self._token)
