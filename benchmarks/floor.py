"""The floors: what the same bytes cost without any library in between.

``sqlite3`` alone, with the settings of a record store and rows of the size of its chunks; a plain file; and one copy in
memory. None of them knows names or verifies anything.
"""

import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from peer import Peer, fsync, raw
from torch import nn
from workloads import State

ROW = 960 * 1024
BATCH = 32 * 1024 * 1024
"""Bytes of a transaction: what fits into the cache is written once."""

WRITER = (
    "page_size = 32768",
    "auto_vacuum = incremental",
    "journal_mode = truncate",
    "synchronous = extra",
    "cache_size = -40960",
    "cache_spill = off",
    "secure_delete = fast",
)
READER = (*WRITER, "cache_size = -2048")  # stays in the cache of the processor

STEP = 1 << 32
"""The distance between the keys of two saves."""

PIECE = 1024 * 1024
"""Bytes of one call that writes to a plain file."""


def pieces(state: State, size: int) -> Iterator[memoryview]:
    """Cut the bytes of each tensor."""
    for view in map(raw, state.values()):
        for start in range(0, len(view), size):
            yield view[start : start + size]


class InsertFloor(Peer):
    """Rows that are inserted one by one, a transaction for each batch."""

    name = "floor: sqlite3, insert"
    note = "the settings of recordstore, nothing verified"
    offers = frozenset({"save", "into"})

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.connections: dict[tuple[str, ...], sqlite3.Connection] = {}

    def prepare(self) -> None:
        """Make the table, and open both connections."""
        super().prepare()
        self.connection(WRITER).execute("CREATE TABLE row (id INTEGER PRIMARY KEY, data BLOB)")
        self.connection(READER).execute("SELECT * FROM row").fetchall()

    def connection(self, settings: tuple[str, ...]) -> sqlite3.Connection:
        """Return the connection with these settings."""
        if settings not in self.connections:
            self.connections[settings] = sqlite3.connect(self.folder / "floor.db", isolation_level=None)
            for setting in settings:
                self.connections[settings].execute(f"PRAGMA {setting}").fetchall()
        return self.connections[settings]

    def close(self) -> None:
        """Close the file."""
        while self.connections:
            self.connections.popitem()[1].close()

    def save(self, packed: State, step: int) -> None:
        """Write all rows, durably."""
        connection, pending = self.connection(WRITER), 0
        connection.execute("BEGIN IMMEDIATE")
        for key, piece in enumerate(pieces(packed, ROW), step * STEP):
            if pending + len(piece) > BATCH:
                connection.execute("COMMIT")
                connection.execute("BEGIN IMMEDIATE")
                pending = 0
            self.insert(connection, key, piece)
            pending += len(piece)
        connection.execute("COMMIT")

    def insert(self, connection: sqlite3.Connection, key: int, piece: memoryview) -> None:
        """Write a row."""
        connection.execute("INSERT INTO row VALUES (?, ?)", (key, piece))

    def load_into(self, step: int, model: nn.Module) -> None:
        """Read all rows into the memory of a model."""
        rows = self.connection(READER).execute("SELECT data FROM row WHERE id >= ? ORDER BY id", (step * STEP,))
        for view in map(raw, model.state_dict().values()):
            at = 0
            while at < len(view):
                (data,) = next(rows)
                view[at : at + len(data)] = data
                at += len(data)
                del data  # before the next one is made
        rows.close()


class BlobFloor(InsertFloor):
    """Rows that are made of zeros, and then written in place."""

    name = "floor: sqlite3, zeroblob"
    offers = frozenset({"save"})

    def insert(self, connection: sqlite3.Connection, key: int, piece: memoryview) -> None:
        """Write a row."""
        connection.execute("INSERT INTO row VALUES (?, zeroblob(?))", (key, len(piece)))
        with connection.blobopen("row", "data", key) as blob:
            blob.write(piece)


class PlainFileFloor(Peer):
    """One file after the other, written in pieces of 1 MiB."""

    name = "floor: a plain file"
    note = "write, fsync; readinto"
    offers = frozenset({"save", "into"})

    def path(self, step: int) -> Path:
        """Return where a state is saved."""
        return self.folder / f"{step}.bin"

    def save(self, packed: State, step: int) -> None:
        """Write a file and its name to the disk."""
        with self.path(step).open("xb", buffering=0) as file:
            for piece in pieces(packed, PIECE):
                file.write(piece)
            os.fsync(file.fileno())
        fsync(self.folder)

    def load_into(self, step: int, model: nn.Module) -> None:
        """Read a file into the memory of a model."""
        with self.path(step).open("rb", buffering=0) as file:
            for view in map(raw, model.state_dict().values()):
                file.readinto(view)


class CopyFloor(Peer):
    """One copy in memory: new memory for each tensor, or that of a model."""

    name = "floor: a copy in memory"
    note = "blocked: clones; into: copies; nothing is written"
    offers = frozenset({"blocked", "load", "into"})

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.states: dict[int, State] = {}

    def close(self) -> None:
        """Forget everything."""
        self.states.clear()

    def save(self, packed: State, step: int) -> None:
        """Remember which state to copy from."""
        self.states[step] = packed

    def save_async(self, packed: State, step: int) -> Callable[[], object]:
        """Copy."""
        self.save(packed, step)
        copies = [tensor.clone() for tensor in packed.values()]
        return copies.clear

    def load(self, step: int) -> Mapping[str, torch.Tensor]:
        """Copy."""
        return {name: tensor.clone() for name, tensor in self.states[step].items()}

    def load_into(self, step: int, model: nn.Module) -> None:
        """Copy into a model."""
        model.load_state_dict(self.states[step])

    def load_one(self, step: int, name: str) -> Any:
        """Copy one tensor."""
        return self.states[step][name].clone()
