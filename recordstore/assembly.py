"""The bytes of one large array while its chunks come in, verified by threads meanwhile."""

from abc import ABC, abstractmethod
from typing import Generic, TypeVar

import numpy as np

from recordstore.blobs import StoredChunk
from recordstore.digest import blob_digest, chunk_digest
from recordstore.exceptions import CorruptRecordError
from recordstore.hashing import HashPool, Pending, hash_and_release
from recordstore.npy import NDArray
from recordstore.pages import Block
from recordstore.repository import StoredArrayRow

T_co = TypeVar("T_co", covariant=True)

AHEAD = 8
"""Chunks that wait to be copied, at most."""


class Assembly(ABC, Generic[T_co]):
    """What chunks are added to.

    Attributes
    ----------
    stages
        Whether it holds the whole array in memory of its own.
    """

    stages = False

    def __init__(self, row: StoredArrayRow, pool: HashPool) -> None:
        self._row = row
        self._pool = pool
        self._hashes: list[Pending[bytes]] = []
        self._stored: list[bytes] = []
        self._position = 0

    @property
    def count(self) -> int:
        """Return the number of chunks that have come."""
        return len(self._stored)

    @property
    def complete(self) -> bool:
        """Return whether all bytes have come."""
        return self._position == self._row.blob_nbytes

    def add(self, chunk: StoredChunk) -> None:
        """Take the next chunk."""
        if len(chunk.data) > self._row.blob_nbytes - self._position:
            raise CorruptRecordError(f"chunk {chunk.seq} holds more bytes than were saved")
        self._hashes.append(self._take(chunk, self._position))
        self._position += len(chunk.data)
        self._stored.append(chunk.digest)

    def finish(self) -> T_co:
        """Return what came of it, once it is verified."""
        verify(self._row, [digest.result() for digest in self._hashes], self._stored)
        return self._finish()

    def close(self) -> None:
        """Wait for the threads, so that they hold no chunk any more, and let go of everything."""
        for digest in self._hashes:
            digest.result()

    @abstractmethod
    def _take(self, chunk: StoredChunk, start: int) -> Pending[bytes]: ...

    @abstractmethod
    def _finish(self) -> T_co: ...


class BytesAssembly(Assembly[bytes]):
    """New ``bytes``, filled in place and hashed there."""

    stages = True

    def __init__(self, row: StoredArrayRow, head: bytes, pool: HashPool) -> None:  # noqa: ARG002 - as for all
        super().__init__(row, pool)
        self._block = Block(row.blob_nbytes)

    def close(self) -> None:
        """Release the views: a buffer cannot go before they have gone."""
        super().close()
        self._block.view.release()

    def _take(self, chunk: StoredChunk, start: int) -> Pending[bytes]:
        target = self._block.view[start : start + len(chunk.data)]
        target[:] = chunk.data
        return self._pool.submit(len(target), hash_and_release, target)

    def _finish(self) -> bytes:
        self.close()
        return self._block.finish()


class Placement(Assembly[None]):
    """The memory of a destination; a chunk comes there once its digest is that which was stored.

    Parameters
    ----------
    row, pool
        Which array, and the threads.
    memory
        Where the bytes of the array go, without the header of a ``.npy`` file.
    offset
        How long that header is.
    """

    def __init__(self, row: StoredArrayRow, pool: HashPool, memory: NDArray, offset: int) -> None:
        super().__init__(row, pool)
        self._memory = memory
        self._offset = offset

    def _take(self, chunk: StoredChunk, start: int) -> Pending[bytes]:
        if len(self._hashes) >= AHEAD:
            self._hashes[-AHEAD].result()  # each that waits holds its chunk
        skipped = max(0, self._offset - start)
        begin = start + skipped - self._offset
        target = self._memory[begin : begin + len(chunk.data) - skipped]
        return self._pool.submit(len(chunk.data), check_and_copy, chunk, skipped, target)

    def _finish(self) -> None:
        return None


def check_and_copy(chunk: StoredChunk, skipped: int, target: NDArray) -> bytes:
    """Copy a chunk, but for the first bytes of it, if it is what was stored; return its digest."""
    digest = chunk_digest(chunk.data)
    if digest == chunk.digest:
        np.copyto(target, np.frombuffer(chunk.data, np.uint8, target.size, skipped))  # without the GIL
    return digest


def verify(row: StoredArrayRow, digests: list[bytes], stored: list[bytes]) -> None:
    """Compare the digests of chunks with those that are stored, and with that of the array."""
    for seq, (digest, expected) in enumerate(zip(digests, stored, strict=True)):
        if digest != expected:
            raise CorruptRecordError(f"chunk {seq} does not hold the bytes that were saved")
    if blob_digest(row.blob_nbytes, digests) != row.blob_digest:
        raise CorruptRecordError("its chunks are not those that were saved")
