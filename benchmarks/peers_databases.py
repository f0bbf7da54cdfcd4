"""Peers that keep all saves in one database: LMDB, plain SQLite, and the object store of Flower."""

import io
import json
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peer import ArrayPeer, Peer
from torch import nn
from workloads import State


class LmdbPeer(ArrayPeer):
    """Two keys for each array, what it is and its bytes; one transaction for each save."""

    name = "lmdb"
    needs = ("lmdb",)
    note = "the environment stays open"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.module: Any = import_module("lmdb")
        self.opened: Any = None

    def close(self) -> None:
        """Close the environment."""
        if self.opened is not None:
            self.opened.close()
            self.opened = None

    def environment(self) -> Any:
        """Return the environment."""
        if self.opened is None:
            self.opened = self.module.open(str(self.folder), map_size=16 << 30)
        return self.opened

    def save(self, packed: Any, step: int) -> None:
        """Commit one transaction."""
        with self.environment().begin(write=True) as transaction:
            for name, array in packed.items():
                about = json.dumps([array.dtype.str, array.shape])
                transaction.put(f"{step}/about/{name}".encode(), about.encode())
                transaction.put(f"{step}/bytes/{name}".encode(), memoryview(array.reshape(-1)).cast("B"))

    def load(self, step: int) -> Mapping[str, Any]:
        """Copy all arrays out of the map."""
        prefix = f"{step}/about/".encode()
        with self.environment().begin(buffers=True) as transaction:
            cursor = transaction.cursor()
            cursor.set_range(prefix)
            names = []
            for key in cursor.iternext(values=False):
                if bytes(key[: len(prefix)]) != prefix:
                    break
                names.append(bytes(key[len(prefix) :]).decode())
            return {name: read(transaction, step, name) for name in names}

    def load_one(self, step: int, name: str) -> Any:
        """Copy one array out of the map."""
        with self.environment().begin(buffers=True) as transaction:
            return read(transaction, step, name)


def read(transaction: Any, step: int, name: str) -> Any:
    dtype, shape = json.loads(bytes(transaction.get(f"{step}/about/{name}".encode())))
    return np.frombuffer(transaction.get(f"{step}/bytes/{name}".encode()), dtype).reshape(shape).copy()


class NaiveSqlitePeer(ArrayPeer):
    """What one writes first: a row for each array, a ``.npy`` file in a column, SQLite as it comes."""

    name = "sqlite3, a row per array"
    note = "default settings: a rollback journal, pages of 4 KiB"

    def connect(self) -> closing[sqlite3.Connection]:
        """Open the file."""
        return closing(sqlite3.connect(self.folder / "naive.db"))

    def prepare(self) -> None:
        """Make the table."""
        super().prepare()
        with self.connect() as connection, connection:
            connection.execute("CREATE TABLE array (step INTEGER, name TEXT, data BLOB, PRIMARY KEY (step, name))")

    def save(self, packed: Any, step: int) -> None:
        """Commit one transaction."""
        with self.connect() as connection, connection:
            for name, array in packed.items():
                file = io.BytesIO()
                np.save(file, array)
                connection.execute("INSERT INTO array VALUES (?, ?, ?)", (step, name, file.getbuffer()))

    def load(self, step: int) -> Mapping[str, Any]:
        """Read all rows of a step."""
        with self.connect() as connection:
            rows = connection.execute("SELECT name, data FROM array WHERE step = ?", (step,))
            return {name: np.load(io.BytesIO(data)) for name, data in rows}

    def load_one(self, step: int, name: str) -> Any:
        """Read one row."""
        with self.connect() as connection:
            (data,) = connection.execute("SELECT data FROM array WHERE step = ? AND name = ?", (step, name)).fetchone()
            return np.load(io.BytesIO(data))


class FlowerPeer(Peer):
    """Flower's own record, in memory."""

    name = "Flower's ArrayRecord"
    needs = ("flwr",)
    offers = frozenset({"convert", "restore"})

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.record: Any = import_module("flwr.app").ArrayRecord

    def convert(self, state: State) -> Any:
        """Return a record."""
        return self.record(state)

    def restore(self, record: Any) -> Any:
        """Return the tensors of a record."""
        return record.to_torch_state_dict()


class ObjectStorePeer(FlowerPeer):
    """The database through which Flower's server passes messages, with a record and its parts as the objects."""

    name = "Flower's SQL object store"
    modules = (
        "flwr.supercore.inflatable.inflatable_object",
        "flwr.supercore.inflatable.inflatable_utils",
        "flwr.supercore.object_store.object_store_factory",
    )
    note = "takes and returns Flower's ArrayRecord; a row per array, addressed by content"
    offers = frozenset({"save", "load", "into"})
    incremental = True

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.objects: Any
        self.objects, inflating, stores = map(import_module, self.modules)
        self.inflate: Callable[..., Any] = inflating.inflate_object_from_contents
        self.factory: Callable[[str], Any] = stores.ObjectStoreFactory
        self.opened: Any = None

    def prepare(self) -> None:
        """Make the file."""
        super().prepare()
        self.store()

    def close(self) -> None:
        """Close the file."""
        self.opened = None

    def store(self) -> Any:
        """Return the store."""
        if self.opened is None:
            self.opened = self.factory(str(self.folder / "objects.db")).store()
        return self.opened

    def pack(self, state: State) -> Any:
        """Return a record."""
        return self.record(state)

    def save(self, packed: Any, step: int) -> None:
        """Register the objects, then put those that are new."""
        objects = self.objects.get_all_nested_objects(packed)
        tree = self.objects.get_object_tree(packed)
        for object_id in self.store().preregister(1, tree):
            self.store().put(object_id, objects[object_id].deflate())
        (self.folder / f"{step}.id").write_text(tree.object_id, encoding="ascii")

    def load(self, step: int) -> Any:
        """Get all objects of a record."""
        object_id = (self.folder / f"{step}.id").read_text(encoding="ascii")
        tree = self.store().get_object_tree(object_id)
        ids = [found.object_id for found in self.objects.iterate_object_tree(tree)]
        return self.inflate(object_id, {found: self.store().get(found) for found in ids})

    def load_into(self, step: int, model: nn.Module) -> None:
        """Get all objects, convert, and copy."""
        tensors: dict[str, torch.Tensor] = self.load(step).to_torch_state_dict()
        model.load_state_dict(tensors)
