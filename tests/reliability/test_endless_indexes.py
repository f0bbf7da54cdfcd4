"""Trees whose inner pages all lead to the same page below: small files in which a walk finds rows without an end.

A read ends with an error all the same, in little memory. What SQLite itself counts or searches, such as a whole table for
``verify``, can take as long as the file says: docs/reliability.md names that.
"""

import resource
import signal
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from support import Child, rows, say

from recordstore import CorruptRecordError, RecordStore

PAGE = 32768
LEAF, INNER = 10, 2
"""Kinds of pages of an index, https://www.sqlite.org/fileformat2.html#b_tree_pages."""

SMALL = np.arange(4)


def page(cell: bytes, child: int | None) -> bytes:
    """Return a page that is full of one cell, each with the same page below it."""
    if child is not None:
        cell = child.to_bytes(4, "big") + cell
    head = 8 if child is None else 12
    count = (PAGE - head) // (len(cell) + 2)
    cells = [PAGE - len(cell) * (number + 1) for number in range(count)]
    kind = LEAF if child is None else INNER
    header = bytes([kind, 0, 0]) + count.to_bytes(2, "big") + cells[-1].to_bytes(2, "big") + b"\0"
    last = b"" if child is None else child.to_bytes(4, "big")
    pointers = b"".join(cell.to_bytes(2, "big") for cell in cells)
    return (header + last + pointers).ljust(PAGE - count * len(cell), b"\0") + cell * count


def make_endless(path: Path, name: str) -> None:
    """Have an index, or a table that is kept as one, hold its first row some ten thousand millions of times."""
    ((root,),) = rows(path, "SELECT rootpage FROM sqlite_schema WHERE name = ?", name)
    file = bytearray(path.read_bytes())
    start = (root - 1) * PAGE
    assert file[start] == LEAF
    first = start + int.from_bytes(file[start + 8 : start + 10], "big")
    cell = bytes(file[first : first + 1 + file[first]])  # its length comes first
    below = len(file) // PAGE + 1
    file += page(cell, None) + page(cell, below) + page(cell, below + 1)
    file[start : start + PAGE] = page(cell, below + 2)
    file[28:32] = (len(file) // PAGE).to_bytes(4, "big")
    path.write_bytes(file)


CALLS: dict[str, Callable[[RecordStore], object]] = {
    "load": lambda store: store.load(1),
    "stream": lambda store: list(store.stream(1)),
    "part": lambda store: store.open(1)["x"][:2],
    "verify": lambda store: store.verify(1).damaged[0].array,
    "save": lambda store: store.save({"x": SMALL}),
    "info": lambda store: store.info(1).nbytes,
    "records": lambda store: len(list(store.records())),
}
CHUNKS = "sqlite_autoindex_chunk_1"
DAMAGED = {
    "its only chunk": (CHUNKS, "SELECT 1"),
    "its only chunk, of no bytes": (CHUNKS, "UPDATE chunk SET data = x'' WHERE id = 1"),
    "one chunk of a large array": (CHUNKS, "UPDATE blob SET nbytes = 5000000 WHERE id = 1"),
    "one chunk of a huge array": (CHUNKS, "UPDATE blob SET nbytes = 5000000000 WHERE id = 1"),
    "one array of a record": ("array", "SELECT 1"),
    "one tag of a record": ("ix_tag_record_id", "SELECT 1"),
    "one metric of a record": ("metric", "SELECT 1"),
}


def call_all(path: str, calls: list[str]) -> None:
    signal.alarm(60)
    resource.setrlimit(resource.RLIMIT_AS, (2 * 1024**3, 2 * 1024**3))
    with RecordStore(path) as store:
        for call in calls:
            try:
                say([CALLS[call](store)])
            except CorruptRecordError as error:
                say(str(error))


@pytest.mark.parametrize("what", DAMAGED)
def test_a_list_of_rows_without_an_end_is_damage(path: Path, what: str) -> None:
    name, change = DAMAGED[what]
    with RecordStore(path) as store:
        store.save({"x": SMALL}, tags=["t"], metrics={"m": 1})
        store.save({"x": SMALL + 1})
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(change)
    make_endless(path, name)
    told = ["info", "records"]
    calls = [*CALLS] if name == CHUNKS else told if name != "array" else [call for call in CALLS if call != "verify"]
    with Child(call_all, str(path), calls) as process:
        said = dict(zip(calls, process.finish(), strict=True))
    if name == CHUNKS:
        assert said.pop("verify") == ["x"]
        assert [said.pop(call) for call in told] == [[160], [2]]
    for text in said.values():
        assert isinstance(text, str)
        assert "damaged" in text or "missing" in text
