"""A store that a forked child inherits: an error there, and no damage here, whatever the child does with it.

Everything runs in a child process of its own: the process of the tests has threads, and is not to be forked.
"""

import contextlib
import gc
import multiprocessing
import os
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import Child, content, flaws, make_small, noise, npy, rows, say

from recordstore import ForkError, RecordStore, forks

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")

SMALL: dict[str, Any] = {"CHUNK_SIZE": 4096, "BATCH_BYTES": 16_384, "RING_CHUNKS": 4}


MODEL = {str(number): noise(number) for number in range(4)}
OTHER = {name: 255 - array for name, array in MODEL.items()}


def npys(arrays: dict[str, np.ndarray]) -> dict[str, bytes]:
    return {name: npy(array) for name, array in arrays.items()}


# What a forked child does with the store that it inherits. Those that return a number exit with it.


def uses_it(store: RecordStore, path: str) -> None:
    calls: list[Callable[[], object]] = [
        lambda: store.save(MODEL),
        lambda: store.load(1),
        lambda: store.stream(1),
        lambda: store.info(1),
        lambda: list(store.records()),
        store.latest,
        lambda: store.best("m", "max"),
        store.runs,
        lambda: store.tag(1, "t"),
        lambda: store.untag(1, "t"),
        lambda: store.delete(1),
        lambda: store.gc(grace=0),
        lambda: len(store),
        lambda: 1 in store,
        lambda: list(store),
        store.__enter__,
        store.close,
    ]
    for call in calls:
        with pytest.raises(ForkError, match="open the file again in the child"):
            call()
    with contextlib.suppress(ForkError), contextlib.ExitStack() as stack:
        stack.push(store)  # leaves the block of the parent, and has nothing to close
    assert "RecordStore" in repr(store)


def frees_it(store: RecordStore, path: str) -> None:
    del store._pool, store._database._readers, store._database._writers, store._database._immediate
    gc.collect()


def closes_its_engines(store: RecordStore, path: str) -> None:
    """Do what no user does: close what is inside."""
    store._database.close()
    store._pool.close()


def opens_the_file_anew(store: RecordStore, path: str) -> None:
    with RecordStore(path) as mine:
        assert content(mine, 1) == npys(MODEL)
        record_id = mine.save(OTHER, run="child")
        assert content(mine, record_id) == npys(OTHER)
    with pytest.raises(ForkError):
        store.load(1)


def does_nothing(store: RecordStore, path: str) -> None:
    pass


ACTIONS = ["uses_it", "frees_it", "closes_its_engines", "opens_the_file_anew", "does_nothing"]
ENDS = ["os._exit", "sys.exit"]


def children_of(store: RecordStore, path: str, actions: list[str]) -> dict[str, int]:
    """Fork children that do something with a store and end, one after the other; return their exit codes."""
    codes = {}
    for action, end in product(actions, ENDS):
        if not (child := os.fork()):
            act(store, path, action)
            if end == "os._exit":
                os._exit(0)
            sys.exit(0)  # through all the blocks of the parent, and through the end of the interpreter
        codes[f"{action}, {end}"] = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return codes


def act(store: RecordStore, path: str, action: str) -> None:
    try:
        globals()[action](store, path)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        os._exit(1)


def well(codes: dict[str, int], actions: list[str]) -> bool:
    """Return whether all children have ended well."""
    return codes == {f"{action}, {end}": 0 for action, end in product(actions, ENDS)}


# What the parent is doing meanwhile


def rests(store: RecordStore) -> Iterator[None]:
    yield
    assert content(store, 1) == npys(MODEL)


def saves_in_a_thread(store: RecordStore) -> Iterator[None]:
    """Be in the middle of saves in another thread, which go on after the fork."""
    stop, ids = threading.Event(), []

    def save() -> None:
        while not stop.is_set():
            ids.append(store.save({"x": noise(1000 + len(ids), 300_000)}, run="parent", round=len(ids)))

    thread = threading.Thread(target=save, daemon=True)
    thread.start()
    while not ids:
        time.sleep(0.01)
    yield
    before = len(ids)
    while len(ids) < before + 2:
        time.sleep(0.01)
    stop.set()
    thread.join()
    for number, id_ in enumerate(ids):
        assert content(store, id_) == {"x": npy(noise(1000 + number, 300_000))}


def reads_a_stream(store: RecordStore) -> Iterator[None]:
    stream = store.stream(1)
    got = dict(next(stream) for _ in range(2))
    yield
    got |= dict(stream)
    assert {name: array.data for name, array in got.items()} == npys(MODEL)


SITUATIONS = [rests, saves_in_a_thread, reads_a_stream]


def fork_in(path: str, situation: str) -> None:
    make_small(**SMALL)
    with RecordStore(path) as store:
        store.save(MODEL)
        doing = globals()[situation](store)
        next(doing)
        codes = children_of(store, path, ACTIONS)
        with contextlib.suppress(StopIteration):
            next(doing)
        store.save(OTHER)
    say(codes)


@pytest.mark.parametrize("situation", SITUATIONS)
def test_a_child_that_inherits_a_store_harms_nobody(path: Path, situation: Callable[..., Any]) -> None:
    with Child(fork_in, path, situation.__name__) as process:
        assert well(process.hear(), ACTIONS)
        assert process.finish() == []
    with RecordStore(path) as store:
        store.gc(grace=0)
        assert content(store, 1) == npys(MODEL)
        assert content(store, "latest") == npys(OTHER)
        children = [content(store, info) for info in store.records(run="child")]
    assert children == [npys(OTHER)] * len(ENDS)
    assert flaws(path) == {}


def fork_while_making_input(path: str) -> None:
    make_small(**SMALL)
    codes = {}
    with RecordStore(path) as store:
        store.save(MODEL)

        def entries() -> Iterator[tuple[str, np.ndarray]]:
            for name, array in OTHER.items():
                yield name, array
                codes[name] = children_of(store, path, ["uses_it", "opens_the_file_anew"])

        saved = store.save(entries())
        assert content(store, saved) == npys(OTHER)
    say(codes)


def test_a_child_forked_between_two_arrays_of_a_save_harms_nobody(path: Path) -> None:
    with Child(fork_while_making_input, path) as process:
        codes = process.hear()
        process.finish()
    assert list(codes) == list(OTHER)
    assert all(well(each, ["uses_it", "opens_the_file_anew"]) for each in codes.values())
    assert flaws(path) == {}


def fork_with_a_store_in_memory(path: str) -> None:
    with RecordStore(":memory:") as store:
        store.save(MODEL)
        stream = store.stream(1)
        next(stream)
        codes = children_of(store, path, IN_MEMORY)
        assert content(store, 1) == npys(MODEL)
        assert [name for name, _ in stream] == ["1", "2", "3"]
        saved = store.save(OTHER)
        assert saved == 2
    say(codes)


IN_MEMORY = ["uses_it", "frees_it", "closes_its_engines", "does_nothing"]


def test_a_store_in_memory_is_of_no_use_in_a_child_either(path: Path) -> None:
    with Child(fork_with_a_store_in_memory, path) as process:
        assert well(process.hear(), IN_MEMORY)
        process.finish()


def fork_in_a_transaction(path: str) -> None:
    """Fork while another thread has written and not committed, and does not for longer than a fork waits."""
    make_small(**SMALL)
    forks.FORK_WAIT_SECONDS = 0.2
    inside, go_on = threading.Event(), threading.Event()
    with RecordStore(path) as store:
        store.save(MODEL)

        def write() -> None:
            with store._database.write() as session:
                raw = session.connection()
                raw.exec_driver_sql("UPDATE record SET run = 'changed'")
                inside.set()
                go_on.wait()

        thread = threading.Thread(target=write)
        thread.start()
        inside.wait()
        codes = children_of(store, path, IN_MEMORY)
        with closing(sqlite3.connect(path, timeout=0)) as raw, pytest.raises(sqlite3.OperationalError, match="locked"):
            raw.execute("BEGIN IMMEDIATE")  # the lock is still held
        go_on.set()
        thread.join()
        assert store.info(1).run == "changed"
        assert content(store, 1) == npys(MODEL)
    say(codes)


def test_a_fork_in_the_middle_of_a_transaction_does_not_end_it(path: Path) -> None:
    with Child(fork_in_a_transaction, path) as process:
        assert well(process.hear(), IN_MEMORY)
        process.finish()
    assert rows(path, "SELECT run FROM record") == [("changed",)]
    assert flaws(path) == {}


def fork_in_its_own_transaction(path: str) -> None:
    """Fork in the thread that has written and not committed, as a signal handler could."""
    make_small(**SMALL)
    with RecordStore(path) as store:
        store.save(MODEL)
        with store._database.write() as session:
            session.connection().exec_driver_sql("UPDATE record SET run = 'changed'")
            codes = children_of(store, path, ["ends_all_connections", "frees_it", "does_nothing"])
        assert content(store, 1) == npys(MODEL)
    say(codes)


def ends_all_connections(store: RecordStore, path: str) -> None:
    """Do what the blocks of the parent would do at their end, and what a garbage collector would."""
    connections = [thing for thing in gc.get_objects() if isinstance(thing, sqlite3.Connection)]
    assert connections
    for connection in connections:
        connection.commit()
        connection.rollback()
        with pytest.raises(ForkError):
            connection.execute("SELECT 1")
        connection.close()


def test_a_child_forked_in_the_middle_of_its_own_transaction_does_not_end_that_of_the_parent(path: Path) -> None:
    with Child(fork_in_its_own_transaction, path) as process:
        assert well(process.hear(), ["ends_all_connections", "frees_it", "does_nothing"])
        process.finish()
    assert rows(path, "SELECT run FROM record") == [("changed",)]
    assert flaws(path) == {}


def work_in_processes(path: str) -> None:
    """Use a pool of forked workers beside an open store, as data loaders and simulations do."""
    make_small(**SMALL)
    with RecordStore(path) as store:
        store.save(MODEL)
        with multiprocessing.get_context("fork").Pool(2) as pool:
            sizes = pool.map(len, [b"a" * number for number in range(20)])
            store.save(OTHER)
            saved = pool.map(save_in_worker, [(path, number) for number in range(6)])
        assert all(content(store, id_) == {"x": npy(noise(number))} for number, id_ in enumerate(saved))
        assert content(store, 2) == npys(OTHER)
    say(sizes)


def save_in_worker(task: tuple[str, int]) -> int:
    path, number = task
    with RecordStore(path) as store:
        return store.save({"x": noise(number)})


def test_forked_workers_beside_an_open_store_work(path: Path) -> None:
    with Child(work_in_processes, path) as process:
        assert process.hear() == list(range(20))
        process.finish()
    with RecordStore(path) as store:
        assert len(store) == 8
    assert flaws(path) == {}


def fork_and_outlive(path: str) -> None:
    """Fork a child that holds the inherited store while the parent saves, closes and ends."""
    make_small(**SMALL)
    store = RecordStore(path)
    store.save(MODEL)
    parent = os.getpid()
    if not os.fork():
        while os.getppid() == parent:
            time.sleep(0.01)
        uses_it(store, path)
        opens_the_file_anew(store, path)
        say("well")
        sys.exit(0)
    store.save(OTHER)
    store.close()


def test_a_child_may_outlive_its_parent(path: Path) -> None:
    with Child(fork_and_outlive, path) as process:
        assert process.finish() == ["well"]
    with RecordStore(path) as store:
        assert [content(store, id_) for id_ in store] == [npys(MODEL), npys(OTHER), npys(OTHER)]
    assert flaws(path) == {}
