"""Journal modes: TRUNCATE unless the file is in WAL mode, and a conversion only where one is asked for."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import text

from recordstore import InvalidValueError, RecordStore, StoreBusyError
from recordstore.handle import wal_is_safe

Query = Callable[..., list[tuple[Any, ...]]]


@pytest.fixture
def safe_wal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every SQLite pass for one in which the WAL mode loses nothing."""
    monkeypatch.setattr("recordstore.handle.wal_is_safe", lambda version: True)


@pytest.fixture
def wal_path(path: Path, query: Query) -> Path:
    """A store with a record, in a file that somebody has converted to WAL mode."""
    with RecordStore(path) as store:
        store.save({"x": np.ones(3)})
    assert query("PRAGMA journal_mode=WAL") == [("wal",)]
    return path


def modes(store: RecordStore) -> set[str]:
    found = set()
    database = store._database
    for transaction in (database.read,) if database.read_only else (database.read, database.write):
        with transaction() as session:
            found.add(session.execute(text("PRAGMA journal_mode")).scalar_one())
    return found


VERSIONS = [
    ((3, 40, 1), False),
    ((3, 44, 5), False),
    ((3, 44, 6), True),
    ((3, 45, 9), False),
    ((3, 50, 6), False),
    ((3, 50, 7), True),
    ((3, 51, 2), False),
    ((3, 51, 3), True),
    ((3, 52, 0), True),
    ((4, 0, 0), True),
]


@pytest.mark.parametrize(("version", "safe"), VERSIONS)
def test_wal_is_safe_from_the_versions_on_that_mend_its_reset(version: tuple[int, ...], safe: bool) -> None:
    assert wal_is_safe(version) == safe


def test_wal_is_refused_where_sqlite_can_lose_committed_data(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recordstore.handle.wal_is_safe", lambda version: False)
    with pytest.raises(InvalidValueError, match=r"can lose committed data in WAL mode \(fixed in 3.51.3"):
        RecordStore(path, journal_mode="wal")
    assert not path.exists()


def test_a_new_store_uses_truncate_and_leaves_one_file(path: Path, query: Query) -> None:
    with RecordStore(path) as store:
        store.save({"x": np.ones(3)})
        assert modes(store) == {"truncate"}
        journal = path.with_name(f"{path.name}-journal")
        assert journal.stat().st_size == 0, "truncated by the commit, not deleted"
    assert query("PRAGMA journal_mode") == [("delete",)], "which mode of roll-back is not remembered by the file"


def test_a_wal_file_stays_one_and_works(wal_path: Path, query: Query) -> None:
    with RecordStore(wal_path) as store:
        assert modes(store) == {"wal"}
        store.save({"y": np.zeros(3)}, run="r", round=1)
        store.save({"y": np.ones(3)}, run="r", round=1, overwrite=True, tags=["t"])
        with store._database.read() as connection:
            connection.exec_driver_sql("SELECT * FROM record").fetchall()
            store.save({"z": np.ones(3)})  # a reader blocks no commit in this mode
        store.delete(1)
        store.gc(grace=0)
    assert query("PRAGMA journal_mode") == [("wal",)]
    with RecordStore(wal_path, read_only=True) as store:
        assert modes(store) == {"wal"}
        assert store.load("r@t")["y"].numpy().tolist() == [1, 1, 1]
        assert len(store) == 2


@pytest.mark.usefixtures("safe_wal")
def test_wal_on_request_converts_the_file_for_good(path: Path, query: Query) -> None:
    with RecordStore(path, journal_mode="wal") as store:
        assert modes(store) == {"wal"}
        store.save({"x": np.ones(3)})
    assert query("PRAGMA journal_mode") == [("wal",)]
    with RecordStore(path) as store:
        assert modes(store) == {"wal"}
        assert len(store.load(1)) == 1


def test_truncate_on_request_converts_a_wal_file(wal_path: Path, query: Query) -> None:
    with RecordStore(wal_path, journal_mode="truncate") as store:
        assert modes(store) == {"truncate"}
        assert len(store.load(1)) == 1
    assert query("PRAGMA journal_mode") == [("delete",)]
    assert not [entry for entry in wal_path.parent.iterdir() if entry.name.endswith(("-wal", "-shm"))]


def test_a_file_that_others_have_open_is_not_converted(wal_path: Path, query: Query) -> None:
    with closing(sqlite3.connect(wal_path)) as other:
        other.execute("SELECT * FROM record").fetchall()
        with pytest.raises(StoreBusyError):
            RecordStore(wal_path, journal_mode="truncate", timeout=0.05)
    assert query("PRAGMA journal_mode") == [("wal",)]
    with RecordStore(wal_path) as store:
        assert len(store.load(1)) == 1


@pytest.mark.usefixtures("safe_wal")
def test_a_store_in_truncate_mode_that_others_have_open_is_not_converted(path: Path, query: Query) -> None:
    with RecordStore(path) as store:
        store.save({"x": np.ones(3)})
        with store._database.read() as connection:
            connection.exec_driver_sql("SELECT * FROM record").fetchall()
            with pytest.raises(StoreBusyError):
                RecordStore(path, journal_mode="wal", timeout=0.05)
        assert modes(store) == {"truncate"}
    assert query("PRAGMA journal_mode") == [("delete",)]
