"""Operations of a store that may run out of room: how each is done, and how one sees that it was."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from support import ASSETS, content, npy, rows

from recordstore import Checkpoint, RecordStore, RecordStoreError

KEPT = {1: 1, 2: 2, 4: 3}
"""The records that the store has before, and what their arrays are made of."""

LONG_TAG = "t" * 1000
"""So long that it takes a page of its own, which has 4096 bytes."""


def arrays(seed: int) -> dict[str, np.ndarray]:
    """Return the arrays of a record: with small sizes, five batches."""
    noise = np.random.default_rng(seed)
    return {
        f"{seed} {n}": noise.integers(0, 256, size, np.uint8) for n, size in enumerate([90, 120_000, 3_000, 150_000])
    }


def saved(seed: int) -> dict[str, bytes]:
    return {name: npy(array) for name, array in arrays(seed).items()}


def make_stores(path: Path, holes: Path) -> None:
    """Make a store with three records, and one that has free pages before the bytes of the last one besides."""
    with RecordStore(holes) as store:
        store.save(arrays(1), run="r", round=1, tags=["kept"])
        store.save(arrays(2), run="r", round=2)
        wide = store.save({str(n): np.full(40_000, n, np.uint8) for n in range(4)})
        store.save_checkpoint(arrays(3), Checkpoint({"step": 3}, arrays(33)), run="r", round=3)
        store.delete(wide)
    holes.with_name(f"{holes.name}-journal").unlink(missing_ok=True)
    shutil.copyfile(holes, path)
    rows(path, "VACUUM")


# The operations: each raises or is done, and leaves its input whole if it raises.


def save(store: RecordStore, path: Path) -> None:
    given = arrays(7)
    before = dict(given)
    try:
        store.save(given, run="r", round=7, keep_input=False)
    except RecordStoreError:
        assert_same(given, before)
        raise
    assert given == {}


def save_async(store: RecordStore, path: Path) -> None:
    given = arrays(7)
    before = dict(given)
    handle = store.save_async(given, run="r", round=7, keep_input=False)
    assert given == {}
    try:
        handle.result()
    except RecordStoreError:
        assert_same(handle.record, before)
        raise
    assert handle.record is None


def save_checkpoint(store: RecordStore, path: Path) -> None:
    given, parts = arrays(7), arrays(8)
    try:
        store.save_checkpoint(given, Checkpoint({"step": 7}, parts), run="r", round=7)
    finally:
        assert_same(given, arrays(7))
        assert_same(parts, arrays(8))


def overwrite(store: RecordStore, path: Path) -> None:
    given = arrays(7)
    try:
        store.save(given, run="r", round=1, overwrite=True)
    finally:
        assert_same(given, arrays(7))


def tag(store: RecordStore, path: Path) -> None:
    store.tag(2, LONG_TAG)


def delete(store: RecordStore, path: Path) -> None:
    store.delete(2)


def backup(store: RecordStore, path: Path) -> None:
    try:
        store.backup(path.with_name("copy.db"))
    except RecordStoreError:
        assert [file.name for file in path.parent.iterdir() if "copy" in file.name] == []
        raise


def compact(store: RecordStore, path: Path) -> None:
    store.compact()


def upgrade(store: None, path: Path) -> None:
    RecordStore(path, upgrade=True).close()


def create(store: None, path: Path) -> None:
    RecordStore(path).close()


def assert_same(found: Any, expected: dict[str, np.ndarray]) -> None:
    assert list(found) == list(expected)
    assert all(np.array_equal(found[name], array) for name, array in expected.items())


# What has to be there once they are done


def is_saved(store: RecordStore, path: Path) -> bool:
    return content(store, "r@7") == saved(7)


def is_checkpoint(store: RecordStore, path: Path) -> bool:
    checkpoint = store.load_checkpoint("r@7")
    parts = {name: array.data for name, array in checkpoint.arrays.items()}
    return content(store, "r@7") == saved(7) and (checkpoint.state, parts) == ({"step": 7}, saved(8))


def is_overwritten(store: RecordStore, path: Path) -> bool:
    return content(store, "r@1") == saved(7) == content(store, "r@kept") and 1 not in store


def is_tagged(store: RecordStore, path: Path) -> bool:
    return store.info(2).tags == (LONG_TAG,)


def is_deleted(store: RecordStore, path: Path) -> bool:
    return 2 not in store


def is_copied(store: RecordStore, path: Path) -> bool:
    with RecordStore(path.with_name("copy.db")) as copy:
        return bool(copy.verify()) and list(copy) == list(store) and copy.info("r@3") == store.info("r@3")


def is_compact(store: RecordStore, path: Path) -> bool:
    return rows(path, "PRAGMA freelist_count") == [(0,)]


def is_upgraded(store: RecordStore, path: Path) -> bool:
    expected = json.loads((ASSETS / "schema-0001.json").read_text())
    return [(info.id, info.digest) for info in store.records()] == [(item["id"], item["digest"]) for item in expected]


def is_empty(store: RecordStore, path: Path) -> bool:
    return list(store) == []


class Operation(NamedTuple):
    """An operation, on what it is tried, and which record may be gone although it has failed."""

    do: Callable[[Any, Path], None]
    is_done: Callable[[RecordStore, Path], bool]
    on: str = "store"
    removes: int | None = None


OPERATIONS = {
    "save": Operation(save, is_saved),
    "save_async": Operation(save_async, is_saved),
    "save_checkpoint": Operation(save_checkpoint, is_checkpoint),
    "overwrite": Operation(overwrite, is_overwritten, removes=1),
    "tag": Operation(tag, is_tagged),
    "delete": Operation(delete, is_deleted, removes=2),
    "backup": Operation(backup, is_copied),
    "compact": Operation(compact, is_compact, on="holes"),
    "upgrade": Operation(upgrade, is_upgraded, on="schema 0001"),
    "create": Operation(create, is_empty, on="nothing"),
}
