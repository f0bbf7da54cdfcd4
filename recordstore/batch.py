"""What is on its way into the database: arrays, their chunks, and what one transaction takes of them."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from recordstore import constants
from recordstore.digest import EMPTY_DIGEST, array_digest, blob_digest
from recordstore.entries import Entry
from recordstore.hashing import Pending

ARRAY_ROWS = 2
"""An array and its blob; each chunk is one more."""


@dataclass(slots=True, eq=False)
class Upload:
    """One array on its way: its entry, its place in the record, and what is known of its bytes so far.

    ``first_digest`` is that of the first chunk of several, as it was when stored blobs were looked up.
    ``maybe_stored`` is set while a stored blob has the same length and first chunk: the bytes are then hashed whole
    before any is written. ``owned`` is set once the blob ``blob_id`` is one that this save creates.
    """

    entry: Entry
    position: int
    first_digest: bytes = b""
    maybe_stored: bool = False
    submitted: int = 0
    digests: list[bytes] = field(default_factory=list)
    spans: list[Pending[list[bytes]]] = field(default_factory=list)
    digest: bytes | None = None
    blob_id: int | None = None
    owned: bool = False

    @property
    def nbytes(self) -> int:
        """Return the length of the serialized bytes."""
        return self.entry.source.nbytes

    @property
    def chunk_count(self) -> int:
        """Return the number of chunks that the bytes make."""
        return constants.chunk_count(self.nbytes)

    @property
    def head(self) -> bytes:
        """Return the digest of the first chunk, once it was hashed."""
        return self.digests[0] if self.digests else EMPTY_DIGEST

    def add_digests(self, digests: list[bytes]) -> None:
        """Take the digests of the next chunks; with the last one the digest of the blob is known."""
        self.digests += digests
        if len(self.digests) == self.chunk_count:
            self.digest = blob_digest(self.nbytes, self.digests)

    def array_digest(self, blob: bytes) -> bytes:
        """Return the digest of the array, given that of its blob."""
        entry = self.entry
        texts = (entry.name, entry.dtype, entry.shape, entry.stype)
        return array_digest(self.position, texts, blob, entry.part)


@dataclass(slots=True, eq=False)
class Piece:
    """Chunks of one array that follow each other: where their bytes lie, and their digests, which a thread computes."""

    upload: Upload
    first: int
    data: list[memoryview]
    digests: Pending[list[bytes]]
    nbytes: int

    @property
    def chunks(self) -> Iterator[tuple[int, bytes, memoryview]]:
        """Yield sequence number, digest and bytes of each chunk."""
        for seq, (digest, data) in enumerate(zip(self.digests.result(), self.data, strict=True), self.first):
            yield seq, digest, data


@dataclass(slots=True)
class Batch:
    """What one write transaction takes: chunks, and arrays that bring none (empty, or perhaps stored already)."""

    pieces: list[Piece] = field(default_factory=list)
    whole: list[Upload] = field(default_factory=list)
    nbytes: int = 0
    rows: int = 0

    def add(self, work: Piece | Upload) -> bool:
        """Take one more thing, unless the transaction would become too large."""
        chunks = work.data if isinstance(work, Piece) else []
        size, rows = sum(map(len, chunks)), ARRAY_ROWS + len(chunks)
        if self.rows and (self.nbytes + size > constants.BATCH_BYTES or self.rows + rows > constants.BATCH_ROWS):
            return False
        self.nbytes, self.rows = self.nbytes + size, self.rows + rows
        if isinstance(work, Piece):
            self.pieces.append(work)
        else:
            self.whole.append(work)
        return True

    @property
    def doubtful(self) -> bool:
        """Return whether arrays may turn out not to be stored already, and have to be written in a later batch."""
        return any(upload.maybe_stored for upload in self.whole)

    def wait(self) -> None:
        """Wait for the threads, until the digests of all that is in the batch are known."""
        for piece in self.pieces:
            piece.upload.add_digests(piece.digests.result())
        for upload in self.whole:
            upload.add_digests([digest for span in upload.spans for digest in span.result()])

    def uploads(self) -> list[Upload]:
        """Return the arrays of which something is in the batch, each once."""
        return list(dict.fromkeys([*(piece.upload for piece in self.pieces), *self.whole]))
