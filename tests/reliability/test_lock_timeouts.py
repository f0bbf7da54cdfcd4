"""Every call waits for a lock as long as the timeout of its store says, and no call waits for a lock it does not need."""

import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from support import ASSETS, flaws

from recordstore import RecordStore, StoreBusyError, connection

TIMEOUT = 0.3
LATE = 1.5
"""Seconds that a busy machine may add."""
_copies = count()

READS: dict[str, Callable[[RecordStore, Path], Any]] = {
    "load": lambda store, path: store.load(2),
    "stream": lambda store, path: list(store.stream(2)),
    "open": lambda store, path: store.open(2),
    "verify": lambda store, path: store.verify(),
    "backup": lambda store, path: store.backup(path.with_name(f"copy-{next(_copies)}.db")),
    "opening": lambda store, path: RecordStore(path, timeout=TIMEOUT).close(),
}
WRITES: dict[str, Callable[[RecordStore, Path], Any]] = {
    "gc": lambda store, path: store.gc(),
    "compact": lambda store, path: store.compact(),
    "save_async": lambda store, path: store.save_async([np.ones(4)]).result(),
}


@pytest.fixture
def path(memory_folder: Path) -> Path:
    return memory_folder / "store.db"


@pytest.fixture
def store(path: Path) -> Iterator[RecordStore]:
    """A store with a record, and the space of another one."""
    with RecordStore(path, timeout=TIMEOUT) as opened:
        opened.save([np.ones(300_000)])
        opened.save([np.ones(3)])
        opened.delete(1)
        yield opened
    assert flaws(path) == {}


@contextmanager
def held(path: Path, begin: str) -> Iterator[None]:
    """Hold a lock with a connection that is not the store's."""
    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as other:
        other.execute(begin)
        yield
        other.execute("ROLLBACK")


def refuse(call: Callable[[], Any], seconds: float = TIMEOUT) -> None:
    """Check that a call gives up for a lock, no sooner than the timeout and not much later."""
    before = time.monotonic()
    with pytest.raises(StoreBusyError, match=r"locked|another thread") as caught:
        call()
    assert seconds <= time.monotonic() - before < seconds + LATE
    assert isinstance(caught.value, TimeoutError)


@pytest.mark.parametrize("name", [*READS, *WRITES])
def test_a_call_that_finds_the_file_locked_waits_as_long_as_the_timeout_says(
    path: Path, store: RecordStore, name: str
) -> None:
    call = (READS | WRITES)[name]
    with held(path, "BEGIN EXCLUSIVE"):
        refuse(lambda: call(store, path))
    assert {file.name for file in path.parent.iterdir()} == {path.name, f"{path.name}-journal"}
    call(store, path)
    assert list(store)[:1] == [2]


@pytest.mark.parametrize("name", WRITES)
def test_a_writer_waits_for_another_one_as_long_as_the_timeout_says(path: Path, store: RecordStore, name: str) -> None:
    with held(path, "BEGIN IMMEDIATE"):
        refuse(lambda: WRITES[name](store, path))
    WRITES[name](store, path)


@pytest.mark.parametrize("name", READS)
def test_a_reader_waits_for_no_writer_that_does_not_commit(path: Path, store: RecordStore, name: str) -> None:
    with held(path, "BEGIN IMMEDIATE"):
        READS[name](store, path)


def test_arrays_of_an_open_record_and_of_a_stream_that_is_under_way_wait_too(path: Path, store: RecordStore) -> None:
    array, stream = store.open(2)["0"], store.stream(2)
    with held(path, "BEGIN EXCLUSIVE"):
        refuse(array.numpy)
        refuse(lambda: next(stream))
    assert array.numpy().tolist() == [1, 1, 1]


@pytest.mark.parametrize("begin", ["BEGIN IMMEDIATE", "BEGIN EXCLUSIVE"])
def test_an_upgrade_waits_as_long_as_the_timeout_says(path: Path, begin: str) -> None:
    shutil.copy(ASSETS / "schema-0001.db", path)
    with held(path, begin):
        refuse(lambda: RecordStore(path, upgrade=True, timeout=TIMEOUT))
    with RecordStore(path, upgrade=True, timeout=TIMEOUT) as upgraded:
        assert upgraded.verify()


def test_a_thread_waits_for_another_one_as_long_as_the_timeout_says(path: Path, store: RecordStore) -> None:
    inside, enough = threading.Event(), threading.Event()

    def write() -> None:
        with store._database.write():
            inside.set()
            enough.wait()

    thread = threading.Thread(target=write)
    thread.start()
    inside.wait()
    try:
        with RecordStore(path, timeout=TIMEOUT) as other:
            refuse(lambda: other.save([np.ones(4)]))
    finally:
        enough.set()
        thread.join()


def test_a_thread_behind_another_one_does_not_wait_twice(path: Path, store: RecordStore) -> None:
    """Both wait for the lock of another process: the first one gives up a moment before the second one would."""
    with (
        held(path, "BEGIN IMMEDIATE"),
        RecordStore(path, timeout=1.0) as first,
        RecordStore(path, timeout=1.1) as second,
    ):
        thread = threading.Thread(target=lambda: refuse(lambda: first.save([np.ones(4)]), 1.0))
        thread.start()
        while (lock := first._database._lock).acquire(blocking=False):
            lock.release()
            time.sleep(0.001)
        before = time.monotonic()
        with pytest.raises(StoreBusyError):
            second.save([np.ones(5)])
        waited = time.monotonic() - before
        thread.join()
    assert 1.1 <= waited < 1.9


@pytest.mark.parametrize("timeout", [0.0, 0.3, 30.0])
def test_a_lock_is_asked_for_every_millisecond_up_to_the_timeout(
    path: Path, monkeypatch: pytest.MonkeyPatch, timeout: float
) -> None:
    now = 0.0
    asked: list[float] = []

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr(connection, "time", SimpleNamespace(monotonic=lambda: now, sleep=sleep))
    RecordStore(path).close()
    with held(path, "BEGIN EXCLUSIVE"), closing(sqlite3.connect(path, timeout=0)) as other:

        def ask() -> None:
            asked.append(now)
            other.execute("SELECT 1 FROM record")

        with pytest.raises(sqlite3.OperationalError, match="locked"):
            connection.poll(ask, timeout)
    assert timeout <= asked[-1] < timeout + 0.0011
    assert len(asked) >= timeout / 0.0011
