"""What a call costs in a store of 10,000 records: as much as in one of ten, counted in steps of SQLite's machine."""

import itertools
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import Engine, event

from recordstore import RecordStore

RECORDS = 10_000
ALLOWED = 1.3
"""Of the steps in the small store: a deeper tree, a longer number."""


ROUNDS = itertools.count()


class Cost:
    """Statements, and steps of the machine that runs them."""

    def __init__(self) -> None:
        self.statements: list[str] = []
        self.steps = 0

    def step(self) -> int:
        self.steps += 1
        return 0


@contextmanager
def counted() -> Iterator[Cost]:
    cost = Cost()

    def watch(_connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        cost.statements.append(statement)
        cursor.connection.set_progress_handler(cost.step, 1)

    event.listen(Engine, "before_cursor_execute", watch)
    try:
        yield cost
    finally:
        event.remove(Engine, "before_cursor_execute", watch)


def arrays(number: int) -> dict[str, np.ndarray]:
    return {name: np.arange(5) * number + index for index, name in enumerate("abc")}


def fill(path: Path, records: int) -> None:
    """Make a store of three runs: one record by the library, the others as its copies by sqlite3 alone."""
    with RecordStore(path) as store:
        store.save(arrays(1), run="a", round=0, metrics={"accuracy": 0.5, "loss": 1.0}, tags=["first"])
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(
            "CREATE TEMP TABLE n AS WITH RECURSIVE n(i) AS (SELECT 2 UNION ALL SELECT i + 1 FROM n "
            "WHERE i < ?) SELECT i FROM n",
            (records,),
        )
        columns = [row[1] for row in connection.execute("PRAGMA table_info(record)")]
        values = {"id": "i", "run": "substr('abc', i % 3 + 1, 1)", "round": "i"}
        connection.execute(
            f"INSERT INTO record ({','.join(columns)}) "
            f"SELECT {','.join(values.get(name, f'record.{name}') for name in columns)} FROM n, record WHERE id = 1"
        )
        connection.execute("INSERT INTO metric SELECT i, name, value + (i * 7919 % 10007) / 1e6 FROM n, metric")
        array = [row[1] for row in connection.execute("PRAGMA table_info(array)")]
        chosen = ",".join("i" if name == "record_id" else name for name in array)
        connection.execute(f"INSERT INTO array ({','.join(array)}) SELECT {chosen} FROM n, array")


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[RecordStore]]:
    """A store of ten records, and one of 10,000."""
    paths = [tmp_path_factory.mktemp(f"of-{count}") / "store.db" for count in (10, RECORDS)]
    for path, count in zip(paths, (10, RECORDS), strict=True):
        fill(path, count)
    with RecordStore(paths[0]) as small, RecordStore(paths[1]) as large:
        yield [small, large]


CALLS: dict[str, Callable[[RecordStore], Any]] = {
    "load": lambda store: store.load(7),
    "load by round": lambda store: store.load("b@7"),
    "load by tag": lambda store: store.load("a@first"),
    "open": lambda store: store.open(7)["b"].numpy(),
    "load_into": lambda store: store.load_into(7, {name: np.zeros(5, int) for name in "abc"}),
    "info": lambda store: store.info(7),
    "latest": lambda store: store.latest(),
    "latest of a run": lambda store: store.latest("b"),
    "best": lambda store: store.best("accuracy", "max"),
    "records": lambda store: list(store.records(limit=5)),
    "records, newest first": lambda store: list(store.records(newest_first=True, limit=5)),
    "records of a run": lambda store: list(store.records(run="b", limit=3)),
    "in": lambda store: 7 in store,
    "save": lambda store: store.save(arrays(2)),
    "save of a round": lambda store: store.save(arrays(3), run="new", round=next(ROUNDS), metrics={"accuracy": 0.1}),
    "overwrite": lambda store: store.save(arrays(4), run="b", round=4, overwrite=True),
    "tag": lambda store: store.tag(5, "best"),
    "delete": lambda store: store.delete(store.latest("c")),
}


@pytest.mark.parametrize("what", CALLS)
def test_a_call_costs_what_it_costs_in_a_small_store(stores: list[RecordStore], what: str) -> None:
    costs = []
    for store in stores:
        CALLS[what](store)  # so that what is cached is cached
        with counted() as cost:
            CALLS[what](store)
        costs.append(cost)
    small, large = costs
    assert len(large.statements) == len(small.statements), "no statement for each record"
    assert small.steps > 10
    print(f"{what}: {len(small.statements)} statements, {small.steps} steps, {large.steps} in the large store")
    assert large.steps <= small.steps * ALLOWED + 50


def test_the_count_of_steps_sees_a_scan(stores: list[RecordStore]) -> None:
    """The negative control: ``len`` looks at each record."""
    with counted() as cost:
        assert len(stores[1]) >= RECORDS
    assert cost.steps > RECORDS / 2
