"""A forked child cannot use the store of its parent, and cannot hurt it; it opens the file anew."""

import gc
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
from support import flaws

from recordstore import ForkError, RecordStore

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning"),  # that is what is tested
]

REFUSED, DONE = 11, 12


def fork(action: Callable[[], int], leave: Callable[[int], NoReturn] = os._exit) -> int:
    """Run ``action`` in a forked child, have it leave with what it returned, and return its exit code."""
    pid = os.fork()
    if pid == 0:
        code = 99
        try:
            code = action()
        except ForkError:
            code = REFUSED
        except BaseException as error:
            os.write(2, f"{type(error).__name__}: {error}\n".encode())
        finally:
            if leave is sys.exit:  # the whole shutdown of an interpreter, without pytest's
                os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
                threading.excepthook = sys.excepthook = lambda *_: None
            leave(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def model(size: int = 300_000) -> dict[str, np.ndarray]:
    return {str(number): np.random.default_rng(number).random(size) for number in range(12)}


def use(store: RecordStore) -> list[Callable[[], Any]]:
    """Return every way to use a store."""
    stream = store.stream("a@0")
    return [
        lambda: store.save([np.ones(1)]),
        lambda: store.load("a@0"),
        lambda: store["a@0"],
        lambda: store.stream("a@0"),
        lambda: next(stream),
        lambda: store.info("a@0"),
        lambda: list(store.records()),
        lambda: list(store),
        store.latest,
        lambda: store.best("m", "max"),
        store.runs,
        lambda: store.tag("a@0", "x"),
        lambda: store.untag("a@0", "x"),
        lambda: store.delete("a@0"),
        store.gc,
        lambda: len(store),
        lambda: "a@0" in store,
        store.__enter__,
        store.close,
    ]


@pytest.fixture
def busy(path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RecordStore]:
    """A store in which another thread saves large records all the time."""
    monkeypatch.setattr("recordstore.constants.BATCH_BYTES", 2_000_000)
    with RecordStore(path) as store:
        store.save({"x": np.arange(5)}, run="a", round=0, tags=["x"])
        stop = threading.Event()
        errors: list[BaseException] = []

        def work() -> None:
            number = 0
            while not stop.is_set():
                number += 1
                try:
                    store.save(model(), run="busy", round=number)
                    store.delete(f"busy@{number}")
                except BaseException as error:
                    errors.append(error)
                    return

        thread = threading.Thread(target=work)
        thread.start()
        yield store
        stop.set()
        thread.join()
        assert errors == []
        last = store.save(model(), run="busy", round=0)
        loaded = store.load(last)
        assert all(np.array_equal(loaded[name].numpy(), array) for name, array in model().items())
        assert loaded.keys() == model().keys()
        store.gc(grace=0)
    assert flaws(path) == {}


def refusals(store: RecordStore) -> int:
    """Return DONE if every way to use the store is refused."""
    for action in use(store):
        try:
            action()
        except ForkError:
            continue
        return 1
    return DONE


@pytest.mark.parametrize("target", ["file", ":memory:"])
def test_every_call_is_refused_in_the_child(target: str, path: Path) -> None:
    with RecordStore(path if target == "file" else target) as store:
        store.save({"x": np.arange(5)}, run="a", round=0, tags=["x"])
        actions = use(store)

        def child() -> int:
            refused = 0
            for action in actions:
                try:
                    action()
                except ForkError as error:
                    refused += "in the child" in str(error)
            return refused

        assert fork(child) == len(actions)
        assert store.load("a@0")["x"].numpy().tolist() == [0, 1, 2, 3, 4]


def test_leaving_the_with_block_in_the_child_lets_its_own_exception_through(path: Path) -> None:
    with RecordStore(path) as store:

        def child() -> int:
            try:
                with store:
                    pass
            except ForkError:
                pass
            try:
                store.__exit__(KeyError, KeyError("own"), None)
            except ForkError:
                return 1
            return DONE

        assert fork(child) == DONE
        assert len(store) == 0


def test_using_and_closing_it_in_a_child_hurts_no_save_of_the_parent(busy: RecordStore) -> None:
    for _ in range(8):
        time.sleep(0.01)
        assert fork(lambda: busy.load("a@0") and 1) == REFUSED
        assert fork(lambda: busy.close() or 1) == REFUSED


def test_a_child_that_frees_the_store_and_ends_hurts_no_save_of_the_parent(busy: RecordStore) -> None:
    def free() -> int:
        vars(busy).clear()
        gc.collect()
        return DONE

    for _ in range(4):
        time.sleep(0.01)
        assert fork(free) == DONE
        assert fork(lambda: DONE) == DONE


def test_a_child_that_ends_as_an_interpreter_does_hurts_no_save_of_the_parent(path: Path) -> None:
    """A process of its own, since pytest does not survive a ``sys.exit`` of its child."""
    script = f"""
import os, sys, threading
sys.path[:0] = {sys.path!r}
import numpy as np
from recordstore import RecordStore, constants
constants.BATCH_BYTES = 2_000_000
store = RecordStore({str(path)!r})
model = {{str(n): np.random.default_rng(n).random(300_000) for n in range(12)}}
thread = threading.Thread(target=lambda: [store.save(model, run="r", round=n) for n in range(3)])
thread.start()
codes = []
for _ in range(6):
    pid = os.fork()
    if pid == 0:
        sys.exit(12)
    codes.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
thread.join()
assert codes == [12] * 6, codes
for n in range(3):
    loaded = store.load(f"r@{{n}}")
    assert all(np.array_equal(loaded[name].numpy(), array) for name, array in model.items())
"""
    pid = os.spawnv(os.P_NOWAIT, sys.executable, [sys.executable, "-W", "ignore", "-c", script])
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert flaws(path) == {}


def test_a_child_opens_the_file_anew_while_the_parent_saves(busy: RecordStore, path: Path) -> None:
    def child() -> int:
        with RecordStore(path) as own:
            assert own.load("a@0")["x"].numpy().tolist() == [0, 1, 2, 3, 4]
            own.save([np.ones(3)], run="child", round=os.getpid())
        return DONE

    for _ in range(4):
        time.sleep(0.01)
        assert fork(child) == DONE
    assert len(list(busy.records(run="child"))) == 4


def saved_by_worker(arguments: tuple[str, int]) -> int:
    path, number = arguments
    with RecordStore(path) as own:
        return own.save([np.full(3, number)], run="pool", round=number)


def test_a_pool_of_forked_workers_saves_into_the_file_of_an_open_store(busy: RecordStore, path: Path) -> None:
    with multiprocessing.get_context("fork").Pool(2) as pool:
        ids = pool.map(saved_by_worker, [(str(path), number) for number in range(6)])
    assert len(set(ids)) == 6
    assert [busy.load(f"pool@{number}")["0"].numpy()[0] for number in range(6)] == list(range(6))


def test_the_parent_goes_on_after_a_fork(path: Path) -> None:
    with RecordStore(path) as store:
        stream = store.stream(store.save({"a": np.zeros(3), "b": np.ones(3)}))
        next(stream)
        assert fork(lambda: DONE) == DONE
        assert next(stream)[1].numpy().tolist() == [1, 1, 1]
        store.save([np.zeros(1)])
        assert len(store) == 2
