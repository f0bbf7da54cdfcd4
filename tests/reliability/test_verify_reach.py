"""How far ``verify`` reaches in a damaged file, and what that costs."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import event

from recordstore import RecordStore
from recordstore.engine import Database
from recordstore.verifier import Verifier

Query = Callable[..., list[tuple[Any, ...]]]

MODEL = {"w": np.arange(50.0), "v": np.arange(20.0)}


@pytest.mark.parametrize("number", [0, -5])
def test_a_record_whose_id_is_one_that_nobody_gets_is_read_too(path: Path, query: Query, number: int) -> None:
    with RecordStore(path) as store:
        store.save(MODEL, run="r", round=1)
        store.save({"x": np.ones(3)}, run="r", round=2)
        for table, column in (("record", "id"), ("array", "record_id")):
            query(f"UPDATE {table} SET {column} = {number} WHERE {column} = 1")
        assert list(store) == [info.id for info in store.records()] == [number, 2]
        assert store.verify().records == 2
        query("UPDATE chunk SET data = zeroblob(length(data)) WHERE blob_id = 2")
        assert [(damage.record_id, damage.array) for damage in store.verify().damaged] == [(number, "v")]


@pytest.mark.parametrize("wrong", ["position = 'x'", "position = -1", "position = 7.5"])
def test_an_array_at_a_strange_position_is_marked(path: Path, query: Query, wrong: str) -> None:
    with RecordStore(path) as store:
        record_id = store.save(MODEL)
        query(f"UPDATE array SET {wrong} WHERE name = 'v'")
        query("UPDATE chunk SET data = zeroblob(length(data))")
        assert not store.verify(record_id)
        assert query("SELECT count(*) FROM blob WHERE state = 'damaged'") == [(2,)]


@pytest.mark.parametrize("count", [2000, 8000])
def test_each_array_of_a_record_is_looked_up_once(path: Path, count: int) -> None:
    """Counts steps of SQLite, a thousand at a time."""
    with RecordStore(path) as store:
        record_id = store.save((str(number), np.array(number)) for number in range(count))
        verifier = Verifier(store._database, store._reader(), lambda _: None)
        verifier.check(record_id)
        steps = 0

        def step() -> None:
            nonlocal steps
            steps += 1

        event.listen(store._database._readers, "checkout", lambda raw, *_: raw.set_progress_handler(step, 1000))
        verifier.mark_unseen(record_id)
    assert 0 < steps < count / 40


def test_one_who_holds_the_lock_is_waited_for_once(path: Path, query: Query, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float | None] = []
    write = Database.write

    @contextmanager
    def noted(database: Database, *, wait: float | None = None, nbytes: int = 0) -> Iterator[Any]:
        waits.append(wait)
        with write(database, wait=wait, nbytes=nbytes) as session:
            yield session

    with RecordStore(path, timeout=0.1) as store, closing(sqlite3.connect(path, isolation_level=None)) as other:
        store.save((str(number), np.array(number)) for number in range(30))
        query("UPDATE chunk SET data = zeroblob(length(data))")
        other.execute("BEGIN IMMEDIATE")
        monkeypatch.setattr(Database, "write", noted)
        assert len(store.verify().damaged) == 30
        assert waits == [None] + [0.0] * 29
        other.execute("ROLLBACK")
        assert not store.verify()
    assert query("SELECT count(*) FROM blob WHERE state = 'damaged'") == [(30,)]
