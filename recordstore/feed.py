"""From entries to batches of chunks: looked up, copied and hashed before the transaction that writes them begins.

Only :meth:`Feed.refill` is called inside a write transaction: it hands work to threads and waits for nothing.
"""

from collections import deque
from collections.abc import Callable, Iterator
from itertools import pairwise

from recordstore import constants
from recordstore.batch import ARRAY_ROWS, Batch, Piece, Upload
from recordstore.entries import Entry
from recordstore.hashing import INLINE_BYTES, HashPool, Pending, copy_and_hash, hash_chunks, hash_views
from recordstore.sources import Source

Heads = set[tuple[int, bytes]]
"""Lengths in bytes and first chunk digests of blobs."""

HASH_SPAN = 32
"""Chunks that one task hashes where nothing is to be written."""

PLAN_ARRAYS = 200
"""Arrays that are asked for before the next of them is hashed, at most."""

REFILL_SMALL = 16
"""Arrays of few bytes that threads are given inside a write transaction: each costs as much as an insert of one."""

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
        if size == constants.CHUNK_SIZE and self._free:
            self._used += size + OVERHEAD
            return self._free.pop()
        limit = constants.RING_CHUNKS * (constants.CHUNK_SIZE + OVERHEAD)
        while self._free and self._used + len(self._free) * constants.CHUNK_SIZE + size + OVERHEAD > limit:
            self._free.pop()  # memory that lies idle counts too
        if self._used and self._used + size + OVERHEAD > limit:
            return None
        self._used += size + OVERHEAD
        return memoryview(bytearray(size))

    def give_back(self, memories: list[memoryview]) -> None:
        """Take memory back for the next :meth:`take`."""
        for memory in memories:
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
            self._ahead_bytes -= self._ahead.popleft().nbytes
            self._fill()
        batch.wait()
        return batch

    def refill(self, written: list[Piece]) -> None:
        """Take back the memory of chunks that are in the database, and have the next ones hashed meanwhile."""
        for piece in written:
            if not piece.upload.entry.source.stable:
                self._ring.give_back(piece.data)
                piece.data = []
        small = REFILL_SMALL
        while self._planned and small and self._submit(at_once=False):
            small -= self._ahead[-1].nbytes < INLINE_BYTES

    def settle(self, batch: Batch) -> None:
        """Note that a batch is committed; what it held of a lazy input may be freed."""
        self._held -= sum(self._weight(upload) for upload in batch.uploads() if upload.digest is not None)

    def write_after_all(self, upload: Upload) -> None:
        """Plan the writing of an array whose bytes turned out not to be stored."""
        self._held += self._weight(upload)
        self._planned.appendleft(Upload(upload.entry, upload.position))

    def _fill(self) -> None:
        """Hand work to the threads until they are a batch ahead, or the memory for copies is in use."""
        while (self._planned or self._plan()) and self._submit():
            pass

    def _plan(self) -> bool:
        """Ask for the next entries, and find out which may be stored already.

        As many as can be: each group costs a look-up, and waits for the digests of its first chunks.
        """
        group: list[Upload] = []
        room = constants.RING_CHUNKS * constants.CHUNK_SIZE - self._held
        while room > 0 and len(group) < PLAN_ARRAYS and not self._exhausted:
            entry = next(self._entries, None)
            if entry is None:
                self._exhausted = True
                break
            group.append(Upload(entry, self.count))
            self.count += 1
            room -= self._weight(group[-1])
        self._held += sum(map(self._weight, group))
        self._mark_stored([upload for upload in group if upload.chunk_count > 1])
        self._planned.extend(group)
        return bool(group)

    def _mark_stored(self, uploads: list[Upload]) -> None:
        """Mark the arrays of several chunks that a blob, or an earlier array of this record, may equal."""
        heads = [self._pool.submit(constants.CHUNK_SIZE, hash_chunks, upload.entry.source, 0, 1) for upload in uploads]
        for upload, head in zip(uploads, heads, strict=True):
            (upload.first_digest,) = head.result()
        keys = [(upload.nbytes, upload.first_digest) for upload in uploads]
        known = self._lookup(set(keys)) if keys else set()
        for upload, key in zip(uploads, keys, strict=True):
            upload.maybe_stored = key in known or key in self._seen
            self._seen.add(key)

    def _submit(self, *, at_once: bool = True) -> bool:
        """Hand the next piece of work to the threads; False if there is no room for it.

        ``at_once`` allows to do it here and now where it is little.
        """
        if self._ahead_bytes >= constants.BATCH_BYTES or len(self._ahead) * (ARRAY_ROWS + 1) >= constants.BATCH_ROWS:
            return False
        upload = self._planned[0]
        work = upload if upload.maybe_stored or not upload.nbytes else self._piece(upload, at_once=at_once)
        if work is None:
            return False
        if work is upload and upload.maybe_stored:
            upload.spans = self._spans(upload)
        if work is upload or upload.submitted >= upload.chunk_count:
            self._planned.popleft()
        self._ahead.append(work)
        self._ahead_bytes += work.nbytes
        return True

    def _piece(self, upload: Upload, *, at_once: bool) -> Piece | None:
        """Return the next chunks of an array, about an eighth of a batch; fewer if the ring has no room for them."""
        source, size, first = upload.entry.source, constants.CHUNK_SIZE, upload.submitted
        last = min(upload.chunk_count, first + max(1, constants.BATCH_BYTES // size // 8))
        cuts = list(pairwise([*range(first * size, last * size, size), min(last * size, source.nbytes)]))
        data = list(self._memory(source, cuts))
        nbytes = sum(map(len, data))
        weight = nbytes if at_once else max(nbytes, INLINE_BYTES)
        if not data:
            return None
        if source.stable:
            digests = self._pool.submit(weight, hash_views, data, upload.first_digest if not first else b"")
        else:
            digests = self._pool.submit(weight, copy_and_hash, source, first * size, data)
        upload.submitted += len(data)
        return Piece(upload, first, data, digests, nbytes)

    def _memory(self, source: Source, cuts: list[tuple[int, int]]) -> Iterator[memoryview]:
        """Yield where the chunks lie, or memory for their copies as long as there is some."""
        for start, stop in cuts:
            memory = source.view(start, stop) if source.stable else self._ring.take(stop - start)
            if memory is None:
                return
            yield memory

    def _weight(self, upload: Upload) -> int:
        """Return the bytes of memory that are free once an array is written."""
        return upload.nbytes if self._lazy or upload.entry.copied else 0

    def _spans(self, upload: Upload) -> list[Pending[list[bytes]]]:
        source = upload.entry.source
        return [
            self._pool.submit(source.nbytes, hash_chunks, source, first, first + HASH_SPAN)
            for first in range(0, upload.chunk_count, HASH_SPAN)
        ]
