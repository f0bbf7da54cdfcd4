"""Where the bytes of one large array come together, each chunk once it is verified; threads add them in any order."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Generic, TypeVar

import numpy as np

from recordstore import constants
from recordstore.digest import blob_digest, chunk_digest
from recordstore.exceptions import CorruptRecordError
from recordstore.npy import NDArray
from recordstore.pages import Block
from recordstore.repository import StoredArrayRow
from recordstore.spans import chunk_count

T_co = TypeVar("T_co", covariant=True)


class Assembly(ABC, Generic[T_co]):
    """What chunks are added to.

    Attributes
    ----------
    room
        Bytes of memory that it takes once it is begun.
    """

    room = 0

    def __init__(self, row: StoredArrayRow) -> None:
        self._row = row
        self._digests = [b""] * chunk_count(row)

    def begin(self) -> None:
        """Take the memory that it needs."""

    def add(self, seq: int, data: bytes, digest: bytes) -> None:
        """Take a chunk, if it is what was stored with this digest."""
        found = chunk_digest(data)
        if found != digest:
            raise CorruptRecordError(f"chunk {seq} does not hold the bytes that were saved")
        self._digests[seq] = found
        self._put(seq * constants.CHUNK_SIZE, data)

    def finish(self) -> T_co:
        """Return what came of it, if the chunks are those of the array."""
        check_blob(self._row, self._digests)
        return self._finish()

    def close(self) -> None:
        """Let go of everything; no thread may be adding any more."""

    @abstractmethod
    def _put(self, start: int, data: bytes) -> None: ...

    @abstractmethod
    def _finish(self) -> T_co: ...


class BytesAssembly(Assembly[bytes]):
    """New ``bytes``."""

    def __init__(self, row: StoredArrayRow) -> None:
        super().__init__(row)
        self.room = row.blob_nbytes
        self._block: Block | None = None

    def begin(self) -> None:
        """Take the memory."""
        self._block = Block(self.room)

    def close(self) -> None:
        """Release the view: a buffer cannot go before it has gone."""
        if self._block is not None:
            self._block.view.release()

    def _put(self, start: int, data: bytes) -> None:
        if self._block is not None:
            _copy(np.frombuffer(self._block.view, np.uint8, len(data), start), data, 0)

    def _finish(self) -> bytes:
        return b"" if self._block is None else self._block.finish()


class Inspection(Assembly[None]):
    """Nothing: the chunks are looked at and dropped."""

    def _put(self, start: int, data: bytes) -> None:
        pass

    def _finish(self) -> None:
        pass


class Placement(Assembly[bool]):
    """The memory of a destination; what comes of it is whether the array lay as was expected.

    Parameters
    ----------
    row
        Which array.
    header
        What is expected before the bytes of the array, such as the header of a ``.npy`` file.
    memory
        Where those bytes go, if so.
    tell
        Called with the name of the array before anything is written to the memory.
    """

    def __init__(self, row: StoredArrayRow, header: bytes, memory: NDArray, tell: Callable[[str], object]) -> None:
        super().__init__(row)
        self._header = header
        self._memory = memory
        self._tell = tell
        self._expected = True

    def begin(self) -> None:
        """Say that the memory will be written to."""
        self._tell(self._row.name)

    def _put(self, start: int, data: bytes) -> None:
        head = self._header[start : start + len(data)]
        if not data.startswith(head):
            self._expected = False
        begin = start + len(head) - len(self._header)
        if len(head) < len(data):
            _copy(self._memory[begin : begin + len(data) - len(head)], data, len(head))

    def _finish(self) -> bool:
        return self._expected


def _copy(target: NDArray, data: bytes, skipped: int) -> None:
    """Copy a chunk but for its first bytes; NumPy does it without the GIL."""
    np.copyto(target, np.frombuffer(data, np.uint8, target.size, skipped))


def check_blob(row: StoredArrayRow, digests: list[bytes]) -> None:
    """Compare the digests of all chunks with that of the array."""
    if blob_digest(row.blob_nbytes, digests) != row.blob_digest:
        raise CorruptRecordError("its chunks are not those that were saved")
