"""What of a record is read in one transaction."""

from collections.abc import Iterator
from itertools import groupby
from typing import NamedTuple

from recordstore import constants
from recordstore.repository import StoredArrayRow

GROUP_BYTES = 8 * 1024 * 1024
"""Bytes of arrays that are read in one transaction, if there are several."""

GROUP_ARRAYS = 500
"""Arrays that are read in one transaction at most."""

SPAN_CHUNKS = 16
"""Chunks of large arrays that a thread reads in one transaction: 15 MiB in some 6 ms."""


class Segment(NamedTuple):
    """Chunks ``first`` to ``last - 1`` of an array."""

    row: StoredArrayRow
    first: int
    last: int

    @property
    def is_part(self) -> bool:
        """Return whether other segments have the rest of the array."""
        return self.last - self.first < chunk_count(self.row)

    @property
    def ends(self) -> bool:
        """Return whether the last chunk of the array is among them."""
        return self.last == chunk_count(self.row)


def chunk_count(row: StoredArrayRow) -> int:
    """Return the number of chunks that the bytes of an array make."""
    return constants.chunk_count(row.blob_nbytes)


def spans(rows: list[StoredArrayRow]) -> Iterator[list[Segment]]:
    """Yield what is read in one transaction: several whole arrays, or a part of one that is larger than that."""
    together: list[Segment] = []
    for row in rows:
        count = chunk_count(row)
        if together and sum(segment.last for segment in together) + count > SPAN_CHUNKS:
            yield together
            together = []
        if count <= SPAN_CHUNKS:
            together.append(Segment(row, 0, count))
        else:
            for first in range(0, count, SPAN_CHUNKS):
                yield [Segment(row, first, min(count, first + SPAN_CHUNKS))]
    if together:
        yield together


def split(rows: list[StoredArrayRow]) -> tuple[list[StoredArrayRow], list[StoredArrayRow]]:
    """Return the arrays of one chunk, and those of several."""
    return [row for row in rows if not is_large([row])], [row for row in rows if is_large([row])]


def is_large(group: list[StoredArrayRow]) -> bool:
    """Return whether this is one array of several chunks."""
    return len(group) == 1 and group[0].blob_nbytes > constants.CHUNK_SIZE


def groups(rows: list[StoredArrayRow]) -> Iterator[list[StoredArrayRow]]:
    """Yield runs of arrays of one chunk together, and larger ones alone."""
    for small, run in groupby(rows, key=lambda row: row.blob_nbytes <= constants.CHUNK_SIZE):
        group: list[StoredArrayRow] = []
        size = 0
        for row in run:
            if group and (not small or size + row.blob_nbytes > GROUP_BYTES or len(group) == GROUP_ARRAYS):
                yield group
                group, size = [], 0
            group.append(row)
            size += row.blob_nbytes
        yield group
