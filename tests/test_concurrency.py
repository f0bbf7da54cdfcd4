"""Several processes and threads on one file: nobody fails, nobody starves, nobody sees half of anything."""

import contextlib
import io
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import Engine, event
from support import Child, flaws, hear, make_small, noise, npy, rows, say

from recordstore import ArrayRecord, RecordExistsError, RecordNotFoundError, RecordStore, StoreBusyError

SMALL: dict[str, Any] = {"CHUNK_SIZE": 4096, "BATCH_BYTES": 32 * 1024, "RING_CHUNKS": 4}
"""A record of 100 kB then takes four transactions."""


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SMALL.items():
        monkeypatch.setattr(f"recordstore.constants.{name}", value)


def data(record: ArrayRecord) -> dict[str, bytes]:
    return {name: array.data for name, array in record.items()}


def npys(arrays: dict[str, np.ndarray]) -> dict[str, bytes]:
    return {name: npy(array) for name, array in arrays.items()}


# Two processes that save as fast as they can

ARRAYS, ARRAY_BYTES, SECONDS = 4, 50_000_000, 10.0


def save_for_a_while(path: str, seed: int) -> None:
    model = {str(number): noise(seed + number, ARRAY_BYTES) for number in range(ARRAYS)}
    with RecordStore(path) as store:
        say("ready")
        hear()
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            say(store.save(model))
            for array in model.values():
                np.add(array, 1, out=array)  # other bytes in each chunk


@pytest.mark.slow
def test_two_processes_that_save_200_mb_records_at_once_share_the_file_fairly(path: Path) -> None:
    seeds = (10, 20)
    RecordStore(path).close()
    with contextlib.ExitStack() as stack:
        children = [stack.enter_context(Child(save_for_a_while, path, seed)) for seed in seeds]
        assert [child.hear() for child in children] == ["ready", "ready"]
        for child in children:
            child.say("go")
        saved = [child.finish() for child in children]
    print(f"\nrecords of 200 MB in {SECONDS} s, by process: {[len(ids) for ids in saved]}")
    try:
        with RecordStore(path) as store:
            assert sorted(store) == sorted(saved[0] + saved[1])
            for seed, ids in zip(seeds, saved, strict=True):
                for number in range(ARRAYS):
                    expected = noise(seed + number, ARRAY_BYTES)
                    for id_ in ids:
                        loaded = store.load(id_, names=[str(number)])[str(number)].numpy()
                        assert np.array_equal(loaded, expected)
                        expected += 1
        assert rows(path, "SELECT count(*) FROM record WHERE state != 'ready'") == [(0,)]
        counts = [len(ids) for ids in saved]
        assert min(counts) * 3 >= sum(counts) > 2
    finally:
        path.unlink()


# Two processes that save the same


def save_rounds(path: str, seed: int) -> None:
    """Save a record for each message (round, content), and say its id or who was there first."""
    make_small(**SMALL)
    with RecordStore(path) as store:
        say("ready")
        while (message := hear()) is not None:
            number, content = message
            try:
                say(store.save({"x": noise(content, 100_000)}, run="r", round=number, tags=[f"from {seed}"]))
            except RecordExistsError as error:
                say(str(error))


@contextlib.contextmanager
def rivals(path: Path) -> Iterator[list[Child]]:
    RecordStore(path).close()
    with Child(save_rounds, path, 1) as one, Child(save_rounds, path, 2) as two:
        assert [one.hear(), two.hear()] == ["ready", "ready"]
        yield [one, two]


def test_of_two_processes_that_save_the_same_round_exactly_one_wins(path: Path, small: None) -> None:
    wins = [0, 0]
    with rivals(path) as children:
        for number in range(15):
            contents = [2 * number, 2 * number + 1]
            for child, content in zip(children, contents, strict=True):
                child.say((number, content))
            answers = [child.hear() for child in children]
            (winner,) = (index for index, answer in enumerate(answers) if isinstance(answer, int))
            wins[winner] += 1
            assert f"run 'r' has a record of round {number} already (id {answers[winner]})" in answers[1 - winner]
            with RecordStore(path) as store:
                assert store.info(f"r@{number}").id == answers[winner]
                assert data(store.load(f"r@{number}")) == {"x": npy(noise(contents[winner], 100_000))}
    print(f"\nwins: {wins}")
    with RecordStore(path) as store:
        store.gc(grace=0)
        assert len(store) == 15
    assert flaws(path) == {}


def test_two_processes_that_save_equal_bytes_at_once_store_them_once(path: Path, small: None) -> None:
    with rivals(path) as children:
        for number in range(8):
            for child, round_ in zip(children, (2 * number, 2 * number + 1), strict=True):
                child.say((round_, number))
            ids = [child.hear() for child in children]
            with RecordStore(path) as store:
                store.gc(grace=0)
                expected = {"x": npy(noise(number, 100_000))}
                assert [data(store.load(id_)) for id_ in ids] == [expected, expected]
            assert rows(path, "SELECT count(*) FROM blob") == [(number + 1,)]
    assert rows(path, "SELECT count(*), count(DISTINCT digest) FROM chunk") == [(8 * 25, 8 * 25)]
    assert flaws(path) == {}


# A stream that is not read to its end


def save_one(path: str) -> None:
    with RecordStore(path, timeout=1.0) as store:
        say(store.save({"y": np.arange(50_000)}))
        store.delete(1)
        store.gc(grace=0)


def test_a_half_consumed_stream_blocks_nobody(path: Path, small: None) -> None:
    model = {str(number): noise(number, 50_000) for number in range(6)}
    with RecordStore(path, timeout=1.0) as store:
        store.save({"z": noise(99, 50_000)})
        streamed = store.save(model)
        stream = store.stream(streamed)
        got = dict(next(stream) for _ in range(2))
        assert store.save({"x": np.arange(50_000)}) == 3
        with Child(save_one, path) as child:
            assert child.hear() == 4
            child.finish()
        got |= dict(next(stream) for _ in range(2))
        assert store.save({"x": np.arange(3)}) == 5
        got |= dict(stream)
        assert {name: array.data for name, array in got.items()} == npys(model)
        assert list(store) == [2, 3, 4, 5]
    assert flaws(path) == {}


def test_a_stream_may_be_saved_record_by_record_in_its_own_loop(store: RecordStore, small: None) -> None:
    model = {str(number): noise(number, 30_000) for number in range(4)}
    first = store.save(model)
    copies = [store.save({name: array}) for name, array in store.stream(first)]
    assert [data(store.load(id_)) for id_ in copies] == [{name: npy(array)} for name, array in model.items()]
    second = store.save(store.stream(first))
    assert data(store.load(second)) == npys(model)


# Threads


def act_in_a_thread(store: RecordStore, seed: int) -> dict[int, dict[str, bytes]]:
    """Save, load and delete at random; return what this thread has left there."""
    dice = random.Random(seed)
    mine: dict[int, dict[str, bytes]] = {}
    for step in range(25):
        action = dice.choice(["save", "save", "load", "delete", "look"])
        if action == "save" or not mine:
            arrays = {"own": noise(1000 * seed + step, dice.choice([100, 60_000])), "shared": noise(0, 30_000)}
            run = dice.choice([None, f"run {seed}"])
            mine[store.save(arrays, run=run, metrics={"seed": seed})] = npys(arrays)
        elif action == "load":
            id_ = dice.choice(list(mine))
            assert data(store.load(id_)) == mine[id_]
        elif action == "delete":
            id_ = dice.choice(list(mine))
            store.delete(id_)
            del mine[id_]
            with pytest.raises(RecordNotFoundError):
                store.load(id_)
        else:
            assert {info.id for info in store.records() if info.metrics == {"seed": seed}} == set(mine)
    return mine


def test_threads_that_share_a_store_do_not_see_each_other(store: RecordStore, small: None) -> None:
    with ThreadPoolExecutor(4) as threads:
        left = [future.result() for future in [threads.submit(act_in_a_thread, store, seed) for seed in range(4)]]
    expected = {id_: content for mine in left for id_, content in mine.items()}
    store.gc(grace=0)
    assert {id_: data(store.load(id_)) for id_ in store} == expected
    assert len(expected) > 10


def test_threads_with_a_store_each_do_not_see_each_other(path: Path, small: None) -> None:
    def act(seed: int) -> dict[int, dict[str, bytes]]:
        with RecordStore(path) as store:
            return act_in_a_thread(store, seed)

    RecordStore(path).close()
    with ThreadPoolExecutor(3) as threads:
        left = [future.result() for future in [threads.submit(act, seed) for seed in range(3)]]
    with RecordStore(path) as store:
        store.gc(grace=0)
        assert {id_: data(store.load(id_)) for id_ in store} == {id_: mine[id_] for mine in left for id_ in mine}
    assert flaws(path) == {}


def test_threads_that_open_a_new_file_at_once_open_the_same_one(path: Path) -> None:
    barrier = threading.Barrier(4)

    def open_and_save(number: int) -> int:
        barrier.wait()
        with RecordStore(path) as store:
            return store.save([np.full(3, number)])

    with ThreadPoolExecutor(4) as threads:
        ids = list(threads.map(open_and_save, range(4)))
    with RecordStore(path) as store:
        assert [int(store.load(id_)["0"].numpy()[0]) for id_ in ids] == [0, 1, 2, 3]


def open_new(path: str) -> None:
    say("ready")
    hear()
    with RecordStore(path) as store:
        say(store.save([np.zeros(3)]))


def test_processes_that_open_a_new_file_at_once_open_the_same_one(path: Path) -> None:
    with contextlib.ExitStack() as stack:
        children = [stack.enter_context(Child(open_new, path)) for _ in range(3)]
        assert [child.hear() for child in children] == ["ready"] * 3
        for child in children:
            child.say("go")
        assert sorted(child.finish()[0] for child in children) == [1, 2, 3]
    assert flaws(path) == {}


def read_for_a_while(path: str) -> None:
    """Load a round again and again while it is being overwritten; say each version that came."""
    make_small(**SMALL)
    say("ready")
    versions, vanished = [], 0
    with RecordStore(path, read_only=True) as store:
        while not versions or versions[-1] < 29:
            try:
                arrays = [array.numpy() for array in store.load("r@0").values()]
            except RecordNotFoundError:  # it was found, and overwritten before its bytes were read
                vanished += 1
                continue
            (version,) = {int(number) for array in arrays for number in np.unique(array)}
            versions.append(version)
    say((versions, vanished))


def test_a_reader_sees_the_old_or_the_new_version_of_a_round_and_no_mixture(path: Path, small: None) -> None:
    def version(number: int) -> dict[str, np.ndarray]:
        return {str(index): np.full(20_000 + index, number, np.uint8) for index in range(3)}

    with RecordStore(path) as store:
        store.save(version(0), run="r", round=0)
        with Child(read_for_a_while, path) as reader:
            assert reader.hear() == "ready"
            for number in range(1, 30):
                store.save(version(number), run="r", round=0, overwrite=True)
                store.gc()
            versions, vanished = reader.hear()
            reader.finish()
    print(f"\n{len(versions)} loads, {len(set(versions))} versions, {vanished} times overwritten while being read")
    assert versions == sorted(versions)
    assert versions[-1] == 29


# Locks


@contextlib.contextmanager
def held(path: Path, begin: str) -> Iterator[None]:
    """Hold a lock with a connection that is not the store's."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute(begin)
        yield
        other.execute("ROLLBACK")


@pytest.mark.parametrize("begin", ["BEGIN IMMEDIATE", "BEGIN EXCLUSIVE"])
@pytest.mark.parametrize("action", ["save", "delete", "load"])
def test_a_lock_is_waited_for_as_long_as_the_timeout_says(path: Path, begin: str, action: str) -> None:
    with RecordStore(path, timeout=0.5) as store:
        store.save([np.ones(3)])
        actions: dict[str, Callable[[], object]] = {
            "save": lambda: store.save([np.ones(4)]),
            "delete": lambda: store.delete(1),
            "load": lambda: store.load(1),
        }
        with held(path, begin):
            start = time.monotonic()
            if (begin, action) == ("BEGIN IMMEDIATE", "load"):
                actions[action]()  # readers and one writer get along
            else:
                with pytest.raises(StoreBusyError, match="locked"):
                    actions[action]()
                assert 0.5 <= time.monotonic() - start < 5
        assert list(store) == [1]
        actions[action]()
    assert flaws(path) == {}


def test_a_lock_that_is_released_in_time_costs_no_error(path: Path) -> None:
    with RecordStore(path) as store, closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with ThreadPoolExecutor(1) as threads:
            saving = threads.submit(store.save, [np.ones(3)])
            time.sleep(0.2)
            assert not saving.done()
            other.execute("ROLLBACK")
            assert saving.result() == 1


def write_and_wait(path: str) -> None:
    with RecordStore(path) as store, store._database.write() as session:
        session.connection()
        say("locked")
        hear()


def test_a_store_opens_and_reads_while_another_process_holds_the_write_lock(path: Path) -> None:
    with RecordStore(path) as store:
        store.save([np.ones(3)])
    with Child(write_and_wait, path) as writer:
        assert writer.hear() == "locked"
        with RecordStore(path, timeout=0.3) as store:
            assert store.load(1)["0"].numpy().tolist() == [1, 1, 1]
            with pytest.raises(StoreBusyError):
                store.save([np.ones(4)])
            writer.say("go on")
            writer.finish()
            assert store.save([np.ones(4)]) == 2


# Input that changes while it is being saved


def change_for_ever(array: Any, stop: threading.Event) -> None:
    value = 0
    while not stop.is_set():
        value = (value + 1) % 100
        array[:] = value


@pytest.mark.parametrize("kind", ["ndarray", "strided", "tensor", "bfloat16"])
def test_what_a_thread_changes_while_it_is_being_saved_loads_and_verifies(
    path: Path, kind: str, small: None, request: pytest.FixtureRequest
) -> None:
    array: Any = np.zeros(100_000, np.uint8)
    if kind == "strided":
        array = np.zeros((100_000, 3), np.uint8)[:, 1]
    elif kind in {"tensor", "bfloat16"}:
        torch = request.getfixturevalue("torch")
        array = torch.zeros(100_000, dtype=torch.uint8 if kind == "tensor" else torch.bfloat16)
    stop = threading.Event()
    thread = threading.Thread(target=change_for_ever, args=(array, stop))
    with RecordStore(path) as store:
        thread.start()
        try:
            ids = [store.save({"x": array, "tied": array}) for _ in range(5)]
        finally:
            stop.set()
            thread.join()
        store.gc(grace=0)
        records = [store.load(id_) for id_ in ids]
    numbers = [numbers_in(saved.data, kind) for record in records for saved in record.values()]
    assert [len(values) for values in numbers] == [100_000] * 10
    assert set(np.unique(numbers)) <= set(range(100))
    print(f"\ndifferent values in each array: {[len(np.unique(values)) for values in numbers]}")
    assert flaws(path) == {}


def numbers_in(content: bytes, kind: str) -> np.ndarray:
    if kind == "bfloat16":  # the upper half of a float32
        return (np.frombuffer(content, "<u2").astype("<u4") << 16).view("<f4")
    return np.load(io.BytesIO(content))


def test_bytes_that_change_after_they_were_hashed_are_stored_as_they_were_hashed(
    path: Path, small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    array = np.zeros(10_000)
    changes = 0

    def change(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        nonlocal changes
        if statement.startswith("INSERT INTO chunk"):  # hashed a moment ago, on its way into the database
            changes += 1
            array[:] = changes

    with RecordStore(path) as store:
        event.listen(Engine, "before_cursor_execute", change)
        try:
            record_id = store.save({"x": array})
        finally:
            event.remove(Engine, "before_cursor_execute", change)
        values = store.load(record_id)["x"].numpy()
    assert changes > 1
    assert array.tolist() == [changes] * 10_000
    assert set(np.unique(values)) <= set(range(changes))
    assert values[0] == 0
