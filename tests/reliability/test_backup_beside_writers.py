"""A backup beside writers and readers: it is of one moment, and they go on."""

import os
import sqlite3
import threading
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from copies import MEGABYTE, content, leftovers, noise
from support import Child, flaws, make_small, rows, say

from recordstore import (
    ForkError,
    Progress,
    RecordStore,
    StoreBusyError,
    StoreClosedError,
    backup,
    forks,
)


def write_on(path: str) -> None:
    make_small(CHUNK_SIZE=16 * 1024, BATCH_BYTES=64 * 1024, PAUSE_SECONDS=0.0)
    with RecordStore(path) as store:
        number = 0
        say({"ready": True})
        while True:
            number += 1
            store.save({"x": noise(number, 100_000)}, run="r", round=number)
            if number > 3:
                store.delete(f"r@{number - 3}")


def test_a_backup_beside_a_writer_of_another_process_is_of_one_moment(
    path: Path, copy: Path, small: None, small_steps: None
) -> None:
    with RecordStore(path) as store:
        store.save({"ballast": noise(0, 4 * MEGABYTE)})
        with Child(write_on, path) as writer:
            assert writer.hear() == {"ready": True}
            for attempt in range(5):
                target = copy.with_name(f"{attempt}.db")
                steps: list[Progress] = []
                store.backup(target, progress=steps.append)
                with RecordStore(target) as other:
                    assert other.verify()
                    rounds = [info.round for info in other.records(run="r")]
                    assert rounds == list(range(rounds[0], rounds[0] + len(rounds))) if rounds else True
                    assert 1 in other
                    other.gc(grace=0)
                assert flaws(target) == {}
            writer.kill()
        assert store.verify()


def test_a_writer_of_the_same_store_goes_on_between_the_steps(
    file_store: RecordStore, copy: Path, small_steps: None
) -> None:
    file_store.save({"ballast": noise(0, 2 * MEGABYTE)})
    saved: list[int] = []

    def save(progress: Progress) -> None:
        if len(saved) < 2:
            saved.append(file_store.save({"x": noise(len(saved) + 1)}))

    file_store.backup(copy, progress=save)
    with RecordStore(copy) as other:
        assert content(other) == content(file_store)
    assert len(saved) == 2


def test_a_copy_that_is_overtaken_too_often_is_made_in_one_step(
    file_store: RecordStore, copy: Path, small_steps: None
) -> None:
    file_store.save({"ballast": noise(0, 2 * MEGABYTE)})
    steps: list[Progress] = []

    def save(progress: Progress) -> None:
        steps.append(progress)
        file_store.save({"x": noise(len(steps), 1000)})

    file_store.backup(copy, progress=save)
    assert steps[-1].done == steps[-1].total
    assert [step.done for step in steps[:-1]] == [backup.STEP_BYTES] * (backup.RESTARTS + 1)
    with RecordStore(copy) as other:
        assert other.verify()
        assert len(other) == len(file_store) - 1  # what the last call saved came after the copy


def test_a_store_that_stays_locked_gives_up_after_the_timeout(path: Path, copy: Path) -> None:
    with RecordStore(path, timeout=0.3) as store, closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        begin = time.monotonic()
        with pytest.raises(StoreBusyError, match="larger timeout="):
            store.backup(copy)
        assert 0.3 <= time.monotonic() - begin < 5
        assert not copy.exists()
        assert leftovers(copy.parent) == []
        other.execute("ROLLBACK")
        store.backup(copy)
    assert rows(copy, "PRAGMA integrity_check") == [("ok",)]


def test_a_save_in_the_background_that_came_before_is_in_the_copy(file_store: RecordStore, copy: Path) -> None:
    file_store.save_async({"x": noise(1, 5 * MEGABYTE)}, run="r", round=1)
    file_store.backup(copy)
    with RecordStore(copy) as other:
        assert "r@1" in other


def test_threads_read_and_save_while_the_store_is_copied(
    file_store: RecordStore, copy: Path, small_steps: None
) -> None:
    file_store.save({"x": noise(1, 3 * MEGABYTE)})
    errors: list[BaseException] = []
    stop = threading.Event()

    def use() -> None:
        try:
            while not stop.is_set():
                assert len(file_store.load(1)) == 1
                file_store.delete(file_store.save({"y": noise(2, 1000)}))
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=use)
    thread.start()
    for number in range(3):
        file_store.backup(copy.with_name(f"{number}.db"))
    stop.set()
    thread.join()
    assert errors == []
    for number in range(3):
        with RecordStore(copy.with_name(f"{number}.db")) as other:
            assert other.verify(1)


def test_a_copy_that_is_given_up_half_way_leaves_nothing_in_the_next_one(file_store: RecordStore, copy: Path) -> None:
    """SQLite writes what its cache does not hold to the file before the copy is whole."""
    large = noise(0, 50 * MEGABYTE)
    file_store.save({"x": large})
    file_store.backup(copy, progress=lambda _: file_store.save({"y": np.ones(3)}))
    with RecordStore(copy) as other:
        assert other.verify()
        assert np.array_equal(other.load(1)["x"].numpy(), large)
    assert flaws(copy) == {}


def test_a_copy_of_a_store_in_memory_lets_others_in_between_its_steps(
    memory: RecordStore, copy: Path, small_steps: None
) -> None:
    memory.save({"x": noise(0)})
    seen = []
    memory.backup(copy, progress=lambda _: seen.append(memory.load(1)["x"].shape))
    assert len(seen) > 1
    with RecordStore(copy) as other:
        assert content(other) == content(memory)


def test_a_store_that_is_closed_meanwhile_ends_its_copy(store: RecordStore, copy: Path, small_steps: None) -> None:
    store.save({"x": noise(0)})
    with pytest.raises(StoreClosedError):
        store.backup(copy, progress=lambda _: store.close())
    assert list(copy.parent.glob("copy*")) == []


# Forks


def fork_beside_a_backup(path: str, copy: str) -> None:
    inside, enough = threading.Event(), threading.Event()

    def tell(_: Progress) -> None:
        inside.set()
        enough.wait(60)

    with RecordStore(path) as store:
        store.save({"x": noise(0)})
        thread = threading.Thread(target=store.backup, args=[copy], kwargs={"progress": tell})
        thread.start()
        inside.wait()
        before = time.monotonic()
        if not (child := os.fork()):
            os._exit(len(RecordStore(path)))
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        store.save({"y": np.ones(3)})
        seconds = time.monotonic() - before
        enough.set()
        thread.join()
        say([status, seconds])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_fork_and_a_save_wait_for_no_function_of_the_caller(path: Path, copy: Path) -> None:
    with Child(fork_beside_a_backup, path, copy) as child:
        ((status, seconds),) = child.finish()
    assert status == 1
    assert seconds < forks.FORK_WAIT_SECONDS / 2
    with RecordStore(copy) as other:
        assert other.verify()
        assert list(other) in ([1], [1, 2])


def fork_and_go_on(path: str, copy: str) -> None:
    backup.STEP_BYTES = 8 * 32768
    children = []

    def tell(_: Progress) -> None:
        if not children:
            children.append(os.fork())
            if children != [0]:
                os.waitpid(children[0], 0)

    with RecordStore(path) as store:
        store.save({"x": noise(0)})
        try:
            store.backup(copy, progress=tell)
        except ForkError:
            os._exit(0)
    say("done")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_child_that_comes_back_from_the_function_copies_nothing(path: Path, copy: Path) -> None:
    with Child(fork_and_go_on, path, copy) as child:
        assert child.finish() == ["done"]
    with RecordStore(copy) as other:
        assert other.verify()
        assert np.array_equal(other.load(1)["x"].numpy(), noise(0))
    assert leftovers(copy.parent) == []
