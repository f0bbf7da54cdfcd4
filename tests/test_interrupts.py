"""Ctrl-C in the middle of a save leaves the store usable, even for one who keeps the exception, as notebooks do."""

import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, nullcontext, suppress
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from sqlalchemy import Engine, event
from support import flaws

from recordstore import RecordStore, StoreClosedError, forks

STATEMENTS = ["INSERT INTO record", "INSERT INTO blob", "INSERT INTO array", "INSERT INTO chunk", "UPDATE record"]


@pytest.mark.parametrize("statement", STATEMENTS)
@pytest.mark.parametrize("moment", ["before_cursor_execute", "after_cursor_execute"])
def test_the_store_is_usable_after_an_interrupt(
    path: Path, statement: str, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    armed = True
    if statement.startswith("UPDATE"):  # which publishes a record of several batches
        monkeypatch.setattr("recordstore.constants.CHUNK_SIZE", 64)
        monkeypatch.setattr("recordstore.constants.BATCH_BYTES", 64)

    def interrupt(_connection: Any, _cursor: Any, sql: str, *_: Any) -> None:
        nonlocal armed
        if armed and sql.startswith(statement):
            armed = False
            raise KeyboardInterrupt

    with RecordStore(path, timeout=0.5) as store:
        store.save({"x": np.arange(3)}, run="a", round=0)
        record = {"x": np.arange(4)}
        event.listen(Engine, moment, interrupt)
        try:
            with pytest.raises(KeyboardInterrupt) as caught:
                store.save(record, run="a", round=1, keep_input=False)
        finally:
            event.remove(Engine, moment, interrupt)
        assert caught.tb is not None  # the traceback, with the cursor in one of its frames, is still alive
        assert record.keys() == {"x"}
        assert [info.round for info in store.records()] == [0]
        with closing(sqlite3.connect(path, timeout=0.5, isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            other.execute("ROLLBACK")
        store.save(record, run="a", round=1)
        assert [info.round for info in store.records()] == [0, 1]
    assert flaws(path) == {}


@pytest.mark.parametrize("moment", ["before_cursor_execute", "after_cursor_execute"])
@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize("call", ["save", "load", "delete"])
def test_an_interrupt_costs_a_store_in_memory_nothing(memory: RecordStore, call: str, number: int, moment: str) -> None:
    """SQLAlchemy closes a connection whose statement was interrupted."""
    calls = {
        "save": lambda: memory.save({"x": np.arange(4)}),
        "load": lambda: memory.load(1),
        "delete": lambda: memory.delete(1),
    }
    seen = count()

    def interrupt(*_: Any) -> None:
        if next(seen) == number:
            raise KeyboardInterrupt

    memory.save({"x": np.arange(3)})
    event.listen(Engine, moment, interrupt)
    try:
        with suppress(KeyboardInterrupt):
            calls[call]()
    finally:
        event.remove(Engine, moment, interrupt)
    assert next(seen) > number
    if call != "delete":
        assert memory.load(1)["x"].numpy().tolist() == [0, 1, 2]
    assert memory.load(memory.save({"x": np.arange(5)}))["x"].numpy().tolist() == list(range(5))
    assert memory.verify()


def test_a_store_in_memory_whose_connection_was_dropped_is_freed_when_it_is_closed(memory: RecordStore) -> None:
    raw = memory._database._memory
    with suppress(KeyboardInterrupt), memory._database.read() as connection:
        connection.invalidate()
        raise KeyboardInterrupt
    assert raw.execute("SELECT count(*) FROM record").fetchone() == (0,)
    memory.close()
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        raw.execute("SELECT 1")


@pytest.mark.parametrize("kind", ["file", "memory"])
def test_an_interrupt_that_leaves_a_transaction_suspended_is_what_the_block_ends_with(path: Path, kind: str) -> None:
    """It may come when ``with`` has called ``__exit__`` and the generator has not gone on yet."""
    store = RecordStore(path if kind == "file" else ":memory:")
    suspended = store._database.read()

    def interrupted() -> Any:
        with store:
            raw = suspended.__enter__().connection.dbapi_connection
            connections.append(raw)
            raise KeyboardInterrupt

    connections: list[Any] = []
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    suspended.__exit__(None, None, None)
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        connections[0].execute("SELECT 1")
    with pytest.raises(StoreClosedError):
        store.load(1)


class Interrupted:
    """Calls a function, with Ctrl-C before it can return, once."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self.done = False

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        result = self._function(*arguments, **options)
        if not self.done:
            self.done = True
            raise KeyboardInterrupt
        return result


@pytest.mark.parametrize(("kind", "call"), [("file", "tag"), ("file", "save"), ("memory", "save"), ("memory", "load")])
def test_an_interrupt_at_the_moment_at_which_a_lock_is_got_leaves_it_free(
    path: Path, monkeypatch: pytest.MonkeyPatch, call: str, kind: str
) -> None:
    calls = {
        "tag": lambda: store.tag(1, "x"),
        "load": lambda: store.load(1),
        "save": lambda: store.save({"x": np.arange(4)}),
    }
    with RecordStore(path if kind == "file" else ":memory:", timeout=0.5) as store:
        store.save({"x": np.arange(3)})
        lock = store._database._lock
        acquire = Interrupted(lock.acquire)
        monkeypatch.setattr(
            store._database, "_lock", SimpleNamespace(acquire=acquire, release=lock.release, _is_owned=lock._is_owned)
        )
        with pytest.raises(KeyboardInterrupt):
            calls[call]()
        with ThreadPoolExecutor(1) as other:
            assert other.submit(lambda: lock.acquire(timeout=0) and lock.release() is None).result()
            other.submit(store.save, {"x": np.arange(5)}).result()
        calls[call]()


@pytest.mark.parametrize("outer", [False, True])
def test_an_interrupt_at_the_gate_of_forks_leaves_nothing_inside(outer: bool) -> None:
    gate = forks._Gate()
    entered = Interrupted(dict.__setitem__)

    class Inside(dict[int, int]):
        def __setitem__(self, key: int, value: int) -> None:
            entered(self, key, value)

    with gate.transaction() if outer else nullcontext():
        before = dict(gate.inside)
        gate.inside = Inside(gate.inside)
        with pytest.raises(KeyboardInterrupt), gate.transaction():
            pass
        assert gate.inside == before
        with gate.transaction():
            assert gate.inside
        assert gate.inside == before
    assert gate.inside == {}
    gate.before_fork()
    gate.after_fork()
