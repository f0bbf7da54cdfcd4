"""The hint that the disk may begin: given for large commits only, and never in the way of SQLite's locks."""

import os
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from support import rows

from recordstore import RecordStore, writeback

LARGE, SMALL = np.random.default_rng(0).bytes(20 << 20), np.ones(10)

Hints = list[tuple[int, bool]]


@pytest.fixture
def hints(monkeypatch: pytest.MonkeyPatch) -> Hints:
    """Record the file that each hint was given for, and whether it came from a thread of its own."""
    found: Hints = []

    def begin(descriptor: int, start: int, length: int, flags: int) -> int:
        assert (start, length, flags) == (0, 0, 2)
        found.append((os.fstat(descriptor).st_ino, threading.current_thread() is not threading.main_thread()))
        return 0

    monkeypatch.setattr(writeback, "_sync_file_range", lambda: begin)
    monkeypatch.setattr(writeback, "PERIOD_SECONDS", 0.0001)
    monkeypatch.setattr(writeback, "NOTHING_SECONDS", -1.0)
    return found


def open_descriptors(path: Path) -> int:
    return sum(entry.exists() and entry.samefile(path) for entry in Path("/proc/self/fd").iterdir())


pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="the hint is for Linux")


def test_hints_name_the_file_that_sqlite_has_open_and_open_none(
    file_store: RecordStore, path: Path, hints: Hints
) -> None:
    file_store.save([SMALL])
    before = open_descriptors(path)
    file_store.save([np.frombuffer(LARGE, np.uint8)])
    assert hints
    assert set(hints) == {(path.stat().st_ino, True)}
    assert open_descriptors(path) <= before + 1, "a connection that reads"
    assert "recordstore-writeback" not in {thread.name for thread in threading.enumerate()}
    assert file_store.load("latest")["0"].numpy().tobytes() == LARGE


def test_small_commits_and_stores_in_memory_get_none(
    file_store: RecordStore, memory: RecordStore, hints: Hints
) -> None:
    file_store.save([SMALL])
    memory.save([np.frombuffer(LARGE, np.uint8)])
    assert hints == []


def test_sqlite_keeps_its_locks_meanwhile(file_store: RecordStore, path: Path, hints: Hints) -> None:
    """Closing any descriptor of the file in this process would drop them."""
    with file_store._database.write(nbytes=len(LARGE)) as session:
        raw = session.connection().connection.dbapi_connection
        with writeback.early_writeback(raw, str(path), len(LARGE)):
            while not hints:
                pass
        with (
            closing(sqlite3.connect(path, timeout=0)) as other,
            pytest.raises(sqlite3.OperationalError, match="locked"),
        ):
            other.execute("BEGIN IMMEDIATE")


@pytest.mark.parametrize("missing", ["function", "descriptors", "threads"])
def test_without_it_a_save_is_as_good(
    file_store: RecordStore, path: Path, hints: Hints, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    if missing == "function":
        monkeypatch.setattr(writeback, "_sync_file_range", lambda: None)
    elif missing == "descriptors":
        monkeypatch.setattr(writeback, "_DESCRIPTORS", path / "nowhere")
    else:
        real = threading.Thread.start

        def start(thread: threading.Thread) -> None:
            if thread.name == "recordstore-writeback":
                raise RuntimeError("can't create new thread at interpreter shutdown")
            real(thread)

        monkeypatch.setattr(threading.Thread, "start", start)
    file_store.save([np.frombuffer(LARGE, np.uint8)])
    assert hints == []
    assert sum(length for (length,) in rows(path, "SELECT length(data) FROM chunk")) == len(LARGE) + 128


def test_a_hint_that_finds_nothing_to_do_is_the_last_of_its_commit(
    file_store: RecordStore, hints: Hints, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writeback, "NOTHING_SECONDS", 1e9)
    file_store.save([np.frombuffer(LARGE, np.uint8)])
    assert len(hints) <= 2, "as many as large commits"
