"""Saves in the background when their input was given away, and at the end of the interpreter, in kills and forks."""

import gc
import os
import signal
import subprocess
import sys
import threading
import tracemalloc
import weakref
from collections import OrderedDict, UserDict
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from in_background import MIB, ONE, locked
from support import Child, content, flaws, hear, kill_before_statement, make_small, npy, rows, say

from recordstore import (
    ArrayRecord,
    ForkError,
    RecordExistsError,
    RecordStore,
    RecordStoreError,
)

# Giving the input away


class Weights(dict[str, Any]):
    """A mapping whose class needs an argument."""

    def __init__(self, values: dict[str, Any]) -> None:
        super().__init__(values)


OWNED: dict[str, Callable[[], Any]] = {
    "list of ndarrays": lambda: [np.ones(3), np.zeros(200_000)],
    "list of pairs": lambda: [("a", np.ones(3)), ("b", np.zeros(200_000))],
    "dict": lambda: {"a": np.ones(3), "b": np.zeros(200_000)},
    "OrderedDict": lambda: OrderedDict(b=np.ones(3), a=np.zeros(200_000)),
    "UserDict": lambda: UserDict(a=np.ones(3)),
    "ArrayRecord": lambda: ArrayRecord([np.ones(3), np.zeros(200_000)]),
    "class with an argument": lambda: Weights({"a": np.ones(3)}),
}


def contents(given: Any) -> list[Any]:
    return list(given.items()) if hasattr(given, "items") else list(given)


def same(one: list[Any], other: list[Any]) -> bool:
    """Return whether two containers hold the very same objects, under the same names."""
    pairs = zip(one, other, strict=True)
    return all(a is b or (isinstance(a, tuple) and a[0] == b[0] and a[1] is b[1]) for a, b in pairs)


@pytest.mark.parametrize("kind", OWNED)
def test_what_was_given_away_is_gone_at_once_and_comes_back_if_the_save_fails(path: Path, kind: str) -> None:
    given = OWNED[kind]()
    before = contents(given)
    with RecordStore(path) as store:
        store.save(ONE, run="r", round=1)
        with locked(path):
            handle = store.save_async(given, run="r", round=1, keep_input=False)
            assert contents(given) == []
            assert not handle.done()
            assert handle.record is None
        with pytest.raises(RecordExistsError):
            handle.result()
        assert type(handle.record) is (dict if kind == "class with an argument" else type(given))
        assert same(contents(handle.record), before)
        assert handle.record is handle.record
        again = store.save_async(handle.record, run="r", round=2, keep_input=False)
        assert len(store.load(again.result())) == len(before)
        assert again.record is None
        assert contents(handle.record) == []


def test_what_an_iterator_has_yielded_comes_back_as_a_list_of_pairs(path: Path) -> None:
    with RecordStore(path) as store:
        store.save(ONE, run="r", round=1)
        handle = store.save_async(iter(ONE.items()), run="r", round=1, keep_input=False)
        with pytest.raises(RecordExistsError):
            handle.result()
    assert same(handle.record, list(ONE.items()))


def test_with_keep_input_nothing_comes_back_since_nothing_was_taken(path: Path) -> None:
    given = dict(ONE)
    with RecordStore(path) as store:
        store.save(ONE, run="r", round=1)
        handle = store.save_async(given, run="r", round=1)
        with pytest.raises(RecordExistsError):
            handle.result()
    assert handle.record is None
    assert same(contents(given), contents(ONE))


def test_a_state_dict_comes_back_with_the_versions_of_its_modules(path: Path, torch: ModuleType) -> None:
    model = torch.nn.BatchNorm1d(3)
    state = model.state_dict()
    with RecordStore(path) as store:
        store.save(ONE, run="r", round=1)
        handle = store.save_async(state, run="r", round=1, keep_input=False)
        assert len(state) == 0
        with pytest.raises(RecordExistsError):
            handle.result()
    assert handle.record._metadata == model.state_dict()._metadata
    model.load_state_dict(handle.record)


def test_arrays_that_were_given_away_are_not_copied(file_store: RecordStore, path: Path) -> None:
    given = {str(number): np.ones(MIB, np.uint8) for number in range(64)}
    file_store.save_async(ONE).result()
    with locked(path):
        tracemalloc.start()
        handle = file_store.save_async(given, keep_input=False)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert handle.result() == 2
    assert peak < 30 * MIB  # the ring of an ordinary save


@pytest.mark.parametrize("sizes", [(), (300, 300, 300), (1001,), (400, 600, 1, 1000, 1)])
@pytest.mark.parametrize("kind", ["list", "dict", "generator"])
def test_garbage_is_collected_as_the_arrays_are_let_go_of(
    store: RecordStore, sizes: tuple[int, ...], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recordstore.inputs.GC_THRESHOLD", 1000 + 128)
    made = [np.full(size, index, np.uint8) for index, size in enumerate(sizes)]
    alive = [weakref.ref(array) for array in made]
    given: Any = made if kind == "list" else {str(index): array for index, array in enumerate(made)}
    given = iter(given.items()) if kind == "generator" else given
    collected: list[int] = []
    del made
    with monkeypatch.context() as patch:
        patch.setattr(gc, "collect", lambda: collected.append(sum(one() is not None for one in alive)))
        handle = store.save_async(given, keep_input=False)
        handle.result()
    expected, released = 1, 0
    for size in sizes:
        released += size + 128
        if released > 1000 + 128:
            expected, released = expected + 1, 0
    assert len(collected) == expected
    assert collected == sorted(collected, reverse=True)
    assert kind == "generator" or collected[-1] == 0


# The end of the interpreter


def run(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


PENDING = """
import concurrent.futures.thread, sqlite3, sys, threading, time
import numpy as np
from recordstore import RecordStore

store = RecordStore(sys.argv[1])
store.save({"warm": np.ones(1_000_000)})  # starts the threads that hash
other = sqlite3.connect(sys.argv[1], isolation_level=None, check_same_thread=False)
other.execute("BEGIN IMMEDIATE")
handle = store.save_async({str(n): np.full(1_000_000, n) for n in range(8)}, run="r", round=1)
assert not handle.done()

def let_go():
    while not concurrent.futures.thread._shutdown:  # until the interpreter is ending
        time.sleep(0.001)
    other.execute("ROLLBACK")

threading.Thread(target=let_go).start()
if sys.argv[2] == "raises":
    raise ZeroDivisionError
"""


@pytest.mark.parametrize("end", ["ends", "raises"])
def test_a_pending_save_is_finished_at_the_end_of_the_interpreter(path: Path, end: str) -> None:
    done = run(PENDING, path, end)
    assert ("ZeroDivisionError" in done.stderr, done.returncode) == ((True, 1) if end == "raises" else (False, 0))
    assert done.stderr == "" or end == "raises"
    assert rows(path, "SELECT run, round, state, array_count FROM record WHERE id = 2") == [("r", 1, "ready", 8)]
    assert flaws(path) == {}
    with RecordStore(path) as store:
        assert store.load(2)["7"].numpy().tolist() == [7.0] * 1_000_000


FAILING = """
import sys
import numpy as np
from recordstore import RecordStore

store = RecordStore(sys.argv[1])
store.save([np.ones(3)], run="r", round=1)
handles = [store.save_async([np.ones(3)], run="r", round=1) for _ in range(2)]
if sys.argv[2] == "seen":
    for handle in handles:
        try:
            handle.result()
        except ValueError:
            pass
if sys.argv[2] == "forgotten":
    del store, handles
"""


@pytest.mark.parametrize(("how", "count"), [("unseen", 2), ("forgotten", 2), ("seen", 0)])
def test_an_error_that_nobody_has_seen_is_printed_at_the_end(path: Path, how: str, count: int) -> None:
    done = run(FAILING, path, how)
    assert done.stderr.count("a save in the background has failed, and nobody has asked for it") == count
    assert done.stderr.count("RecordExistsError: run 'r' has a record of round 1 already") == count
    assert done.stderr.count("Traceback") == count
    assert rows(path, "SELECT id FROM record") == [(1,)]


AT_EXIT = """
import atexit, sys
import numpy as np
from recordstore import RecordStore

store = RecordStore(sys.argv[1])

def last():
    handle = store.save_async({"x": np.ones(1_000_000)})
    print(handle.done(), handle.result(), len(store.load(1)["x"].numpy()))

atexit.register(last)
"""


def test_a_save_that_is_begun_when_no_thread_can_start_any_more_is_done_at_once(path: Path) -> None:
    done = run(AT_EXIT, path)
    assert (done.stdout, done.stderr) == ("True 1 1000000\n", "")
    assert rows(path, "SELECT id, state FROM record") == [(1, "ready")]


def test_a_system_without_room_for_a_thread_saves_at_once(store: RecordStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: object) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        handle = store.save_async(ONE)
        assert handle.done()
    assert content(store, handle.result()) == {"x": npy(ONE["x"])}


# Crashes


def save_until_killed(path: str, number: int) -> None:
    make_small(CHUNK_SIZE=4096, BATCH_BYTES=16_384, RING_CHUNKS=4)
    store = RecordStore(path)
    store.save({"x": np.arange(5)}, run="r", round=1, tags=["t"])
    record = {str(index): np.random.default_rng(index).integers(0, 256, 20_000, np.uint8) for index in range(4)}
    kill_before_statement(number)
    store.save_async(record, run="r", round=1, overwrite=True, tags=["t"]).result()
    say("saved")
    hear()


@pytest.mark.parametrize("number", [0, 1, 5, 10, 15, 20, 25, 30, 35])
def test_a_kill_in_the_middle_of_a_save_leaves_the_old_record_whole(memory_folder: Path, number: int) -> None:
    path = memory_folder / "store.db"
    with Child(save_until_killed, path, number) as child:
        child._process.wait()
        assert child._process.returncode == -signal.SIGKILL
    with RecordStore(path) as store:
        assert content(store, "r@1") == content(store, "r@t") == {"x": npy(np.arange(5))}
        store.gc(grace=0)
    assert flaws(path) == {}


# Forks


def fork_during_a_save(path: str) -> None:
    store = RecordStore(path)
    with locked(path):
        handle = store.save_async({"x": np.arange(100_000)}, run="r", round=1)
        store._background._note(RecordStoreError("of the parent"))
        if not (child := os.fork()):
            refused = 0
            calls: list[Callable[[], Any]] = [
                handle.result,
                lambda: handle.result(1),
                handle.done,
                store.wait,
                store.close,
                lambda: store.save_async(ONE),
                lambda: store.save(ONE),
            ]
            for call in calls:
                try:
                    call()
                except ForkError:
                    refused += 1
            assert (refused, handle.record) == (len(calls), None)
            repr(handle)
            store.__exit__(None, None, None)
            sys.exit(refused)  # through the blocks of the parent, and the end of the interpreter
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert not handle.done()
    try:
        store.wait()
    except RecordStoreError as error:
        say([code, handle.result(), str(error)])
    store.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_child_is_told_so_and_the_save_goes_on_in_the_parent(path: Path) -> None:
    with Child(fork_during_a_save, path) as child:
        assert child.hear() == [7, 1, "of the parent"]
        child.finish()
    assert rows(path, "SELECT run, round, state FROM record") == [("r", 1, "ready")]
    assert flaws(path) == {}


def fork_in_an_iterator(path: str) -> None:
    codes: list[int] = []
    store = RecordStore(path)

    def pairs() -> Iterator[tuple[str, np.ndarray]]:
        yield "x", np.ones(2)
        child = os.fork()
        if child:
            codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        yield "forked", np.array([not child])

    try:
        handle = store.save_async(pairs())
    except ForkError:
        sys.exit(3)
    say([codes, handle.result(), store.load(1)["forked"].numpy().tolist()])
    store.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_child_forked_by_an_iterator_saves_nothing(path: Path) -> None:
    with Child(fork_in_an_iterator, path) as child:
        assert child.hear() == [[3], 1, [False]]
        child.finish()
    assert len(rows(path, "SELECT id FROM record")) == 1
