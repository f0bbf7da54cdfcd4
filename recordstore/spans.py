"""What of a record is read in one transaction."""

from collections.abc import Iterator
from itertools import groupby
from typing import NamedTuple

from recordstore import constants
from recordstore.listing import Listing
from recordstore.repository import StoredArrayRow

GROUP_BYTES = 8 * 1024 * 1024
"""Bytes of arrays that are read in one transaction, if there are several."""

GROUP_ARRAYS = 500
"""Arrays that are read in one transaction at most."""

SPAN_CHUNKS = 32
"""Chunks of large arrays that are read in one transaction."""


class Segment(NamedTuple):
    """Chunks of an array that are read by one statement."""

    row: StoredArrayRow
    first: int
    last: int


def spans(listing: Listing, rows: list[StoredArrayRow]) -> Iterator[list[Segment]]:
    """Yield what is read in one transaction: segments of arrays, one behind the other."""
    span: list[Segment] = []
    room = SPAN_CHUNKS
    for row in rows:
        count, first = listing.sizes.get(row.blob_id, (1, 0))[0], 0
        while first < count:
            last = min(count, first + room)
            span.append(Segment(row, first, last))
            first, room = last, room - (last - first)
            if not room:
                yield span
                span, room = [], SPAN_CHUNKS
    if span:
        yield span


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
