"""The settings of SQLite, read back from the connections that readers and writers use, and from the file."""

import os
import re
import sqlite3
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import Engine, event, text
from support import HEAD

from recordstore import Checkpoint, HistoryEntry, ReadOnlyStoreError, RecordStore, StoreBusyError

Query = Callable[..., list[tuple[Any, ...]]]

EVERY = {
    "synchronous": 3,  # EXTRA
    "foreign_keys": 1,
    "secure_delete": 2,  # FAST
    "trusted_schema": 0,
    "cell_size_check": 1,
    "mmap_size": 0,
    "cache_spill": 0,
    "busy_timeout": 0,  # waiting is ours
}
FILE = EVERY | {"journal_mode": "truncate", "page_size": 32768, "auto_vacuum": 2}
EXPECTED = {
    ("file", "writer"): FILE | {"cache_size": -26624, "query_only": 0},
    ("file", "reader"): FILE | {"cache_size": -2048, "query_only": 1},
    ("memory", "writer"): EVERY | {"journal_mode": "memory", "query_only": 0, "cache_size": -26624, "page_size": 32768},
    ("memory", "reader"): EVERY | {"journal_mode": "memory", "query_only": 0},
}
EXPECTED[("memory", "writer")].pop("mmap_size")
EXPECTED[("memory", "reader")].pop("mmap_size")


def setting(transaction: Any, name: str) -> Any:
    return transaction.execute(text(f"PRAGMA {name}")).scalar()


@pytest.mark.parametrize("again", [False, True], ids=["new file", "opened again"])
@pytest.mark.parametrize(("kind", "side"), EXPECTED)
def test_each_connection_has_its_settings(path: Path, kind: str, side: str, again: bool) -> None:
    target = path if kind == "file" else ":memory:"
    if again:
        RecordStore(target).close()
    with RecordStore(target) as store:
        store.save([np.ones(2)])
        transaction = store._database.read if side == "reader" else store._database.write
        with transaction() as session:
            found = {name: setting(session, name) for name in EXPECTED[kind, side]}
            connection = session if side == "reader" else session.connection()
            assert connection.connection.dbapi_connection.isolation_level is None
    assert found == EXPECTED[kind, side]


def test_a_second_and_third_reader_have_the_settings_too(file_store: RecordStore) -> None:
    with file_store._database.read() as one, file_store._database.read() as two:
        assert one.connection.dbapi_connection is not two.connection.dbapi_connection
        for connection in (one, two):
            assert {name: setting(connection, name) for name in FILE} == FILE


def test_a_read_only_store_cannot_write_on_any_connection(path: Path) -> None:
    RecordStore(path).close()
    with RecordStore(path, read_only=True) as store:
        with store._database.read() as session:
            assert setting(session, "query_only") == 1
        with pytest.raises(ReadOnlyStoreError), store._database.write() as session:
            setting(session, "user_version")


def test_the_file_tells_what_it_is_and_has_the_layout_of_its_creation(path: Path, query: Query) -> None:
    RecordStore(path).close()
    found = [query(f"PRAGMA {name}")[0][0] for name in ("application_id", "user_version", "page_size", "auto_vacuum")]
    assert found == [int.from_bytes(b"FLRS"), int(HEAD), 32768, 2]
    assert path.read_bytes()[68:72] == b"FLRS"
    assert query("SELECT version_num FROM recordstore_version") == [(HEAD,)]
    assert query("PRAGMA encoding") == [("UTF-8",)]


@pytest.fixture
def umask() -> Iterator[Callable[[int], int]]:
    before = os.umask(0)
    yield os.umask
    os.umask(before)


@pytest.mark.parametrize("mask", [0, 0o022, 0o377])
def test_a_new_file_is_readable_and_writable_by_its_owner_only(
    path: Path, mask: int, umask: Callable[[int], int]
) -> None:
    umask(mask)
    with RecordStore(path) as store:
        store.save([np.ones(2)])
        modes = {stat.S_IMODE(entry.stat().st_mode) for entry in path.parent.iterdir()}
    assert modes == {0o600}


@pytest.mark.usefixtures("umask")
def test_a_new_file_is_private_from_its_first_moment_on(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for owner, name in ((Path, "chmod"), (os, "fchmod"), (os, "chmod")):
        monkeypatch.setattr(owner, name, lambda *_: None)
    RecordStore(path).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.usefixtures("umask")
def test_a_file_that_is_there_keeps_its_mode(path: Path) -> None:
    path.touch(0o640)
    RecordStore(path).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def trace(engine: Engine) -> list[str]:
    """Return a list that fills with what SQLite executes on the one connection of an engine."""
    statements: list[str] = []
    with engine.connect() as connection:
        connection.connection.dbapi_connection.set_trace_callback(statements.append)
        connection.connection.dbapi_connection.rollback()
    statements.clear()
    return statements


def test_a_small_save_is_one_immediate_transaction(file_store: RecordStore) -> None:
    statements = trace(file_store._database._writers)
    file_store.save({str(number): np.full(1000, number) for number in range(10)}, run="r", round=1, metrics={"m": 1})
    assert [sql for sql in statements if sql.startswith(("BEGIN", "COMMIT", "ROLLBACK"))] == [
        "BEGIN IMMEDIATE",
        "COMMIT",
    ]
    assert not [sql for sql in statements if "shrink" in sql]
    inserts = [sql for sql in statements if sql.startswith("INSERT INTO chunk")]
    assert len(inserts) == 10
    assert not [sql for sql in inserts if "RETURNING" in sql]


def test_a_small_save_takes_one_statement_for_all_rows_of_a_table(file_store: RecordStore) -> None:
    statements: list[str] = []
    event.listen(
        file_store._database._writers,
        "before_cursor_execute",
        lambda _connection, _cursor, sql, *_: statements.append(sql),
    )
    arrays = {str(number): np.full(1000, number) for number in range(10)}
    moments = {str(number): np.full(100, number) for number in range(20)}
    history = [HistoryEntry(1, "train", {"loss": 0.5}), HistoryEntry(1, "evaluate", {"loss": 0.4})]
    metrics = {"loss": 0.5, "accuracy": 0.9}
    file_store.save_checkpoint(arrays, Checkpoint([7], moments), run="r", round=1, metrics=metrics, history=history)
    flat = [re.sub(r"\([^()]*\)", "", re.sub(r"\([^()]*\)", "", sql)) for sql in statements]
    assert [re.sub(r"(?s)^(\w+).*?(?:FROM|INTO) (\w+).*", r"\1 \2", sql) for sql in flat] == [
        "SELECT record",
        "INSERT record",
        "INSERT metric",
        "DELETE history",
        "INSERT history",
        "SELECT blob",
        "INSERT blob",
        "INSERT array",
        "INSERT chunk",
    ]


def test_a_large_save_is_several_transactions_of_bounded_size_and_gives_its_memory_back(
    file_store: RecordStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recordstore.constants.CHUNK_SIZE", 1000)
    monkeypatch.setattr("recordstore.constants.BATCH_BYTES", 4000)
    monkeypatch.setattr("recordstore.constants.PAUSE_EVERY_SECONDS", 0.0)
    naps: list[float] = []
    statements = trace(file_store._database._writers)
    with monkeypatch.context() as patch:
        patch.setattr("time.sleep", naps.append)
        file_store.save([np.zeros(2500), np.ones(2500)])
    kinds = [sql.split()[0] for sql in statements]
    assert kinds.count("BEGIN") == kinds.count("COMMIT") >= 40_000 // 4000
    assert {sql for sql in statements if sql.startswith("BEGIN")} == {"BEGIN IMMEDIATE"}
    assert statements[-1] == "PRAGMA shrink_memory"
    chunks_at_once = [part.count("INSERT INTO chunk") for part in "\n".join(statements).split("COMMIT")]
    assert max(chunks_at_once) == 4
    assert len(naps) >= kinds.count("BEGIN") - 1
    assert set(naps) == {0.002}


def test_batches_rest_every_tenth_of_a_second_also_those_of_saves_that_follow_each_other(
    file_store: RecordStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recordstore.constants.CHUNK_SIZE", 1000)
    monkeypatch.setattr("recordstore.constants.BATCH_BYTES", 4000)
    now, naps = [1000.0], []
    monkeypatch.setattr("recordstore.engine.time.monotonic", lambda: now[0])
    monkeypatch.setattr("recordstore.engine.time.sleep", naps.append)
    file_store.save([np.zeros(2500)])
    assert naps == [0.002], "the first batch, after a long rest"
    file_store.save([np.ones(2500)])
    assert naps == [0.002]
    now[0] += 0.1
    file_store.save([np.full(2500, 2.0)])
    assert naps == [0.002, 0.002]


def test_a_read_takes_no_write_lock_and_a_write_takes_it_at_once(file_store: RecordStore, path: Path) -> None:
    with closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as other:
        with file_store._database.read() as session:
            setting(session, "user_version")
            other.execute("BEGIN IMMEDIATE")
            other.execute("ROLLBACK")
        with file_store._database.write() as session:
            setting(session, "user_version")
            with pytest.raises(sqlite3.OperationalError, match="locked"):
                other.execute("BEGIN IMMEDIATE")
        other.execute("BEGIN IMMEDIATE")


def test_a_lock_is_waited_for_in_steps_of_a_millisecond(
    file_store: RecordStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    naps: list[float] = []
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")

        def nap(seconds: float) -> None:
            naps.append(seconds)
            if len(naps) == 20:
                other.execute("ROLLBACK")

        with monkeypatch.context() as patch:
            patch.setattr("time.sleep", nap)
            assert file_store.save([np.ones(2)]) == 1
    assert naps == [0.001] * 20


def test_a_timeout_of_zero_tries_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with RecordStore(path, timeout=0) as store, closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        monkeypatch.setattr("time.sleep", lambda seconds: pytest.fail("it waited"))
        with pytest.raises(StoreBusyError):
            store.save([])
        other.execute("ROLLBACK")
        assert store.save([]) == 1


def test_many_threads_share_the_one_database_in_memory(memory: RecordStore) -> None:
    errors: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for round_ in range(10):
                record_id = memory.save([np.full(10, number)], run=f"thread {number}", round=round_)
                assert memory.load(record_id)["0"].numpy()[0] == number
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert {run.records for run in memory.runs()} == {10}
    assert len(memory.runs()) == 8
