"""Full disks, locked files and failing devices: a clear error, every earlier record intact, the store usable after."""

import sqlite3
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from in_background import little_room
from sqlalchemy import event

from recordstore import (
    CorruptRecordError,
    NotARecordStoreError,
    RecordStore,
    RecordStoreError,
    StorageFullError,
    StoreAccessError,
    StoreBusyError,
)

Query = Callable[..., list[tuple[Any, ...]]]

ONE = {"x": np.ones(3)}
LARGE = {str(number): np.full(250_000, number) for number in range(5)}
"""Ten megabytes."""


@contextmanager
def locked(path: Path, *statements: str) -> Iterator[None]:
    """Hold a lock with a connection that is not the store's."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        for statement in statements:
            other.execute(statement).fetchall()
        yield
        other.execute("ROLLBACK")


@pytest.fixture
def quick(path: Path) -> Iterator[RecordStore]:
    """A store with one record that waits for locks 50 ms at most."""
    with RecordStore(path, timeout=0.05) as store:
        store.save(ONE, run="r", round=1)
        yield store


WRITES: dict[str, Callable[[RecordStore], Any]] = {
    "save": lambda store: store.save(ONE, run="r", round=2),
    "overwrite": lambda store: store.save({"x": np.zeros(2)}, run="r", round=1, overwrite=True),
    "delete": lambda store: store.delete(1),
    "tag": lambda store: store.tag(1, "t"),
    "gc": lambda store: store.gc(),
}


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("lock", ["another writer", "a reader", "an exclusive lock"])
def test_a_write_to_a_file_that_stays_locked_is_refused_and_works_later(
    quick: RecordStore, path: Path, write: str, lock: str
) -> None:
    statements = {
        "another writer": ["BEGIN IMMEDIATE"],
        "a reader": ["BEGIN", "SELECT * FROM record"],
        "an exclusive lock": ["BEGIN EXCLUSIVE"],
    }[lock]
    before = quick.info(1)
    with locked(path, *statements):
        if (write, lock) != ("gc", "a reader"):  # with nothing to remove it has nothing to commit
            with pytest.raises(StoreBusyError, match=f"{path}.*locked.*larger timeout=") as caught:
                WRITES[write](quick)
            assert isinstance(caught.value, TimeoutError)
    assert quick.info(1) == before
    assert list(quick) == [1]
    WRITES[write](quick)


def test_reading_goes_on_beside_a_writer_and_not_beside_an_exclusive_lock(quick: RecordStore, path: Path) -> None:
    with locked(path, "BEGIN IMMEDIATE"):
        assert quick.load(1)["x"].numpy().tolist() == [1, 1, 1]
    with locked(path, "BEGIN EXCLUSIVE"), pytest.raises(StoreBusyError, match="locked"):
        quick.load(1)
    assert len(quick.load(1)) == 1


def test_opening_a_file_that_stays_locked_is_refused(path: Path, fingerprint: Callable[[], str]) -> None:
    RecordStore(path).close()
    before = fingerprint()
    with locked(path, "BEGIN EXCLUSIVE"), pytest.raises(StoreBusyError, match="locked"):
        RecordStore(path, timeout=0.05)
    with locked(path, "BEGIN IMMEDIATE"), RecordStore(path, timeout=0.05) as store:
        assert len(store) == 0
    assert fingerprint() == before


def test_a_thread_that_keeps_the_store_busy_is_waited_for_and_then_an_error(quick: RecordStore) -> None:
    with quick._database.write(), ThreadPoolExecutor(1) as other:
        with pytest.raises(StoreBusyError, match="by another thread"):
            other.submit(quick.save, ONE).result()
        with pytest.raises(StoreBusyError, match="by this thread"):  # a finalizer; to wait for itself is of no use
            quick.save(ONE)
    assert quick.save(ONE) == 2


@pytest.mark.parametrize("batch", [32 * 1024 * 1024, 1024 * 1024])
@pytest.mark.parametrize("kind", ["file", "memory"])
def test_a_full_disk_costs_no_earlier_record_and_the_store_works_on(
    path: Path, kind: str, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recordstore.constants.BATCH_BYTES", batch)
    with RecordStore(path if kind == "file" else ":memory:") as store:
        store.save(ONE, run="r", round=1, tags=["kept"])
        given = dict(LARGE)
        with little_room(store, pages=100):
            with pytest.raises(StorageFullError, match="no room left to write; free some space") as caught:
                store.save(given, run="r", round=2, keep_input=False)
            assert isinstance(caught.value, OSError)
            assert list(given) == list(LARGE)
            assert list(store) == [1]
            assert store.load("r@kept")["x"].numpy().tolist() == [1, 1, 1]
            small = store.save({"y": np.zeros(2)}, run="r", round=2)
        store.gc(grace=0)
        later = store.save(given, run="r", round=3, keep_input=False)
        assert list(store) == [1, small, later]
        assert store.load(later)["4"].numpy()[0] == 4


@pytest.mark.parametrize("write", ["overwrite", "tag", "delete"])
def test_a_full_disk_leaves_a_record_that_was_to_change_as_it_was(path: Path, write: str) -> None:
    with RecordStore(path) as store:
        store.save(ONE, run="r", round=1)
        before = store.info(1)
        calls = WRITES | {
            "overwrite": lambda store: store.save(LARGE, run="r", round=1, overwrite=True),
            "tag": lambda store: [store.tag(1, f"{number}" + "t" * 1000) for number in range(1000)],
        }
        with little_room(store, pages=2):
            if write == "delete":
                calls[write](store)  # takes no room
                assert 1 not in store
                return
            with pytest.raises(StorageFullError):
                calls[write](store)
        info = store.info(1)
        assert (info.digest, info.round) == (before.digest, 1)
        assert store.load(1)["x"].numpy().tolist() == [1, 1, 1]


def failing(code: int, error: type[sqlite3.Error] = sqlite3.OperationalError) -> sqlite3.Error:
    made = error("simulated")
    made.sqlite_errorcode = code
    return made


FAULTS = [
    (sqlite3.SQLITE_IOERR | 2 << 8, StoreAccessError, True),
    (sqlite3.SQLITE_CANTOPEN, StoreAccessError, True),
    (sqlite3.SQLITE_FULL, StorageFullError, False),
    (sqlite3.SQLITE_CORRUPT, CorruptRecordError, False),
    (sqlite3.SQLITE_ERROR, RecordStoreError, False),
]


@pytest.mark.parametrize(("code", "error", "dropped"), FAULTS)
@pytest.mark.parametrize("statement", ["INSERT INTO record", "INSERT INTO chunk"])
def test_a_failing_device_is_reported_and_its_connection_never_used_again(
    file_store: RecordStore, code: int, error: type[RecordStoreError], dropped: bool, statement: str
) -> None:
    file_store.save(ONE)
    engine = file_store._database._writers
    broken: list[Any] = []
    used: list[Any] = []

    def break_down(connection: Any, cursor: Any, sql: str, *_: Any) -> None:
        if sql.startswith(statement):
            broken.append(connection.connection.dbapi_connection)
            raise failing(code)

    def note(connection: Any, *_: Any) -> None:
        used.append(connection.connection.dbapi_connection)

    event.listen(engine, "before_cursor_execute", break_down)
    with pytest.raises(error, match="simulated") as caught:
        file_store.save({"y": np.full(5, 7.0)}, keep_input=False)
    event.remove(engine, "before_cursor_execute", break_down)
    assert type(caught.value) is error
    assert list(file_store) == [1]

    event.listen(engine, "before_cursor_execute", note)
    assert file_store.save({"y": np.full(5, 7.0)}) > 1
    assert any(connection is broken[0] for connection in used) != dropped


def test_an_error_holds_no_bytes_of_the_arrays(file_store: RecordStore) -> None:
    secret = b"s3cr" + b"3t weights"  # so that the source itself does not hold the word
    file_store.save({"x": np.frombuffer(b"other weights padding", np.uint8)})

    def break_down(connection: Any, cursor: Any, sql: str, *_: Any) -> None:
        if sql.startswith("INSERT INTO chunk"):
            raise failing(sqlite3.SQLITE_FULL)

    event.listen(file_store._database._writers, "before_cursor_execute", break_down)
    with pytest.raises(StorageFullError) as caught:
        file_store.save({"x": np.frombuffer(secret, np.uint8)})
    chain = [caught.value, caught.value.__cause__]
    text = "".join(traceback.format_exception(caught.value)) + repr([vars(error) for error in chain if error])
    assert "s3cr3t" not in text
    assert chain[1].params is None


def test_a_database_damaged_under_an_open_store_is_a_corrupt_record(file_store: RecordStore, path: Path) -> None:
    file_store.save({"x": np.arange(100_000)})
    with path.open("r+b") as file:
        file.seek(32768)
        file.write(b"\xff" * (path.stat().st_size - 32768))
    with pytest.raises(CorruptRecordError):
        file_store.load(1)
    file_store.close()
    with pytest.raises(NotARecordStoreError):
        RecordStore(path)


@pytest.mark.parametrize(("code", "dropped"), [(sqlite3.SQLITE_IOERR, True), (sqlite3.SQLITE_BUSY, False)])
def test_a_backup_that_meets_an_io_error_leaves_no_connection_that_has_seen_it(
    file_store: RecordStore, code: int, dropped: bool
) -> None:
    error = sqlite3.OperationalError("of the disk, or of a lock")
    error.sqlite_errorcode = code
    with pytest.raises(sqlite3.OperationalError), file_store._database.source() as first:
        raise error
    with file_store._database.source() as second:
        assert (second is not first) == dropped
