"""All that a store shows, as a value that can be compared."""

import hashlib
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from support import rows

from recordstore import CorruptRecordError, RecordStore, SchemaOutdatedError


def path_of(store: RecordStore) -> Path:
    return Path(store._database.target.path)


def copy_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.copy")


def look(store: RecordStore) -> dict[str, Any]:
    """Return all that a store shows, ids and times left out, and what its backup shows, if there is one."""
    path = path_of(store)
    marked = rows(path, "SELECT count(*) FROM blob WHERE state = 'damaged'")
    records = sorted(repr(_record(store, info)) for info in store.records())
    history = [repr(entry) for run in ("c", "r") for entry in store.history(run)]
    found = {"records": records, "history": history, "marked as damaged": marked}
    if copy_of(path).exists():
        with RecordStore(copy_of(path), read_only=True) as copy:
            found["copy"] = look(copy)
    return found


def _record(store: RecordStore, info: Any) -> list[Any]:
    try:
        content: Any = _digests(store.load(info))
    except CorruptRecordError:
        content = "damaged"
    checkpoint = store.load_checkpoint(info)
    state = checkpoint and (checkpoint.state, _digests(checkpoint.arrays))
    return [info.run, info.round, info.tags, info.metrics, info.metadata, info.digest, content, state]


def _digests(arrays: Any) -> list[tuple[Any, ...]]:
    return [(name, array.dtype, array.shape, hashlib.sha256(array.data).hexdigest()) for name, array in arrays.items()]


def look_at(path: Path) -> dict[str, Any]:
    """Open a file, and return what it shows; all its rows if its schema is an older one."""
    try:
        with RecordStore(path) as store:
            return look(store)
    except SchemaOutdatedError:
        with closing(sqlite3.connect(path)) as connection:
            return {"rows": list(connection.iterdump())}
