"""From entries to batches of chunks: looked up, copied and hashed before the transaction that writes them begins.

Only :meth:`Feed.refill` is called inside a write transaction: it hands work to threads and waits for nothing.
"""

from collections import deque
from collections.abc import Callable, Iterator

from recordstore import constants
from recordstore.batch import ROWS_PER_ARRAY, Batch, Piece, Upload
from recordstore.digest import chunk_digest
from recordstore.entries import Entry
from recordstore.hashing import INLINE_BYTES, HashPool, Pending, copy_and_hash, hash_chunks

Heads = set[tuple[int, bytes]]
"""Lengths in bytes and first chunk digests of blobs."""

HASH_SPAN = 32
"""Chunks that one task hashes where nothing is to be written."""

PLAN_ARRAYS = 200
"""Arrays that are asked for before the next of them is hashed, at most."""

OVERHEAD = 2048
"""Bytes that an array on its way takes besides its copy, about: what counts for a record of many small ones."""


class Ring:
    """A bounded amount of memory for copies of bytes that may change.

    Full chunks are used again: memory that the process has touched before is about ten times faster to fill.
    """

    def __init__(self) -> None:
        self._free: list[memoryview] = []
        self._used = 0

    def take(self, size: int) -> memoryview | None:
        """Return ``size`` bytes of memory, None if too much is in use."""
        if self._used and self._used + size + OVERHEAD > constants.RING_CHUNKS * (constants.CHUNK_SIZE + OVERHEAD):
            return None
        self._used += size + OVERHEAD
        return self._free.pop() if size == constants.CHUNK_SIZE and self._free else memoryview(bytearray(size))

    def give_back(self, memory: memoryview) -> None:
        """Take memory back for the next :meth:`take`."""
        self._used -= len(memory) + OVERHEAD
        if len(memory) == constants.CHUNK_SIZE:
            self._free.append(memory)


class Feed:
    """The batches of one save, in order.

    Parameters
    ----------
    entries
        What to save.
    lazy
        Whether an entry is made only when it is asked for: few are then held at any one time.
    lookup
        Returns those of the given lengths and first chunk digests that stored blobs have.
    pool
        The threads.
    """

    def __init__(
        self, entries: Iterator[Entry], *, lazy: bool, lookup: Callable[[Heads], Heads], pool: HashPool
    ) -> None:
        self._entries = entries
        self._lazy = lazy
        self._lookup = lookup
        self._pool = pool
        self._ring = Ring()
        self._seen: Heads = set()
        self._planned: deque[Upload] = deque()
        self._ahead: deque[Piece | Upload] = deque()
        self._ahead_bytes = 0
        self._held = 0
        self._exhausted = False
        self.count = 0

    @property
    def finished(self) -> bool:
        """Whether every entry was handed out whole."""
        return self._exhausted and not self._planned and not self._ahead

    def next_batch(self) -> Batch:
        """Return the next batch, hashed; an empty one at the end."""
        batch = Batch()
        self._fill()
        while self._ahead and batch.add(self._ahead[0]):
            self._ahead_bytes -= _size(self._ahead.popleft())
            self._fill()
        batch.wait()
        return batch

    def refill(self, written: list[Piece]) -> None:
        """Take back the memory of chunks that are in the database, and have the next ones hashed meanwhile."""
        for piece in written:
            if not piece.upload.entry.source.stable:
                self._ring.give_back(piece.data)
        while self._planned and self._planned[0].nbytes >= INLINE_BYTES and self._submit():
            pass

    def settle(self, batch: Batch) -> None:
        """Note that a batch is committed; what it held of a lazy input may be freed."""
        self._held -= sum(upload.nbytes for upload in batch.uploads() if upload.digest is not None)

    def write_after_all(self, upload: Upload) -> None:
        """Plan the writing of an array whose bytes turned out not to be stored."""
        self._held += upload.nbytes
        self._planned.appendleft(Upload(upload.entry, upload.position))

    def _fill(self) -> None:
        """Hand work to the threads until they are a batch ahead, or the memory for copies is in use."""
        while (self._planned or self._plan()) and self._submit():
            pass

    def _plan(self) -> bool:
        """Ask for the next entries, about a batch of them, and find out which may be stored already."""
        group: list[Upload] = []
        room = constants.RING_CHUNKS * constants.CHUNK_SIZE - self._held if self._lazy else constants.BATCH_BYTES
        while room > 0 and len(group) < PLAN_ARRAYS and not self._exhausted:
            entry = next(self._entries, None)
            if entry is None:
                self._exhausted = True
                break
            group.append(Upload(entry, self.count))
            self.count += 1
            room -= entry.source.nbytes
        self._held += sum(upload.nbytes for upload in group)
        self._mark_stored([upload for upload in group if upload.chunk_count > 1])
        self._planned.extend(group)
        return bool(group)

    def _mark_stored(self, uploads: list[Upload]) -> None:
        """Mark the arrays of several chunks that a blob, or an earlier array of this record, may equal."""
        heads = [self._pool.submit(constants.CHUNK_SIZE, hash_chunks, upload.entry.source, 0, 1) for upload in uploads]
        keys = [(upload.nbytes, head.result()[0]) for upload, head in zip(uploads, heads, strict=True)]
        known = self._lookup(set(keys)) if keys else set()
        for upload, key in zip(uploads, keys, strict=True):
            upload.maybe_stored = key in known or key in self._seen
            self._seen.add(key)

    def _submit(self) -> bool:
        """Hand the next piece of work to the threads; False if there is no room for it."""
        if self._ahead_bytes >= constants.BATCH_BYTES or len(self._ahead) * ROWS_PER_ARRAY >= constants.BATCH_ROWS:
            return False
        upload = self._planned[0]
        work = upload if upload.maybe_stored or not upload.nbytes else self._piece(upload)
        if work is None:
            return False
        if work is upload and upload.maybe_stored:
            upload.spans = self._spans(upload)
        if work is upload or upload.submitted == upload.chunk_count:
            self._planned.popleft()
        self._ahead.append(work)
        self._ahead_bytes += _size(work)
        return True

    def _piece(self, upload: Upload) -> Piece | None:
        source, start = upload.entry.source, upload.submitted * constants.CHUNK_SIZE
        size = min(constants.CHUNK_SIZE, source.nbytes - start)
        if source.stable:
            data = source.view(start, start + size)
            digest = self._pool.submit(size, chunk_digest, data)
        else:
            memory = self._ring.take(size)
            if memory is None:
                return None
            data, digest = memory, self._pool.submit(size, copy_and_hash, source, start, memory)
        piece = Piece(upload, upload.submitted, data, digest)
        upload.submitted += 1
        return piece

    def _spans(self, upload: Upload) -> list[Pending[list[bytes]]]:
        source = upload.entry.source
        return [
            self._pool.submit(source.nbytes, hash_chunks, source, first, first + HASH_SPAN)
            for first in range(0, upload.chunk_count, HASH_SPAN)
        ]


def _size(work: Piece | Upload) -> int:
    return len(work.data) if isinstance(work, Piece) else work.nbytes
