"""A store that must not be used any more: closed, or inherited by a forked child."""

import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from every_call import CALLS, ONE

from recordstore import RecordStore, RecordStoreError, StoreClosedError

MAY = {"close", "wait"}
"""What a closed store does: nothing is left to be done."""


@pytest.mark.parametrize("call", sorted(CALLS.keys() - MAY))
def test_a_closed_store_refuses_every_call(store: RecordStore, call: str) -> None:
    store.save(ONE)
    store.close()
    with pytest.raises(StoreClosedError, match="open the file again") as caught:
        CALLS[call](store)
    assert isinstance(caught.value, RuntimeError)


def test_iterators_of_a_closed_store_end_with_an_error(store: RecordStore, monkeypatch: pytest.MonkeyPatch) -> None:
    for page in ("PAGE", "ID_PAGE"):
        monkeypatch.setattr(f"recordstore.catalog.{page}", 1)
    for _ in range(2):
        store.save({"x": np.ones(2), "y": np.zeros(2)})
    records, stream, ids = store.records(), store.stream(1), iter(store)
    assert (next(records).id, next(stream)[0], next(ids)) == (1, "x", 1)
    fresh = store.records(), store.stream(1), iter(store)
    store.close()
    for iterator in (records, stream, ids, *fresh):
        with pytest.raises(StoreClosedError):
            next(iterator)


FORK = """
import os, sys
import numpy as np
from recordstore import ForkError, RecordStore

store = RecordStore(sys.argv[1])
store.save({"x": np.ones(3)}, run="r", round=1)
started = store.stream(1)
calls = [lambda: store.save([]), lambda: store.load(1), lambda: store.stream(1), lambda: store.info(1), store.records,
    store.latest, lambda: store.best("m", "max"), store.runs, lambda: store.tag(1, "t"), lambda: store.untag(1, "t"),
    lambda: store.delete(1), store.gc, lambda: len(store), lambda: 1 in store, lambda: iter(store), store.close,
    store.__enter__, lambda: next(started)]
child = os.fork()
if child == 0:
    refused = 0
    for call in calls:
        try:
            call()
        except ForkError as error:
            refused += "child" in str(error)
    with RecordStore(sys.argv[1]) as own:
        own.save({"y": np.ones(2)})
    sys.exit(refused)
_, status = os.waitpid(child, 0)
assert os.waitstatus_to_exitcode(status) == len(calls), status
assert [info.names for info in store.records()] == [("x",), ("y",)]
store.save([])
store.close()
print("done")
"""


def test_a_forked_child_is_refused_and_its_parent_goes_on(path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", FORK, path], capture_output=True, text=True, timeout=120, check=False)
    assert (done.stdout, done.stderr) == ("done\n", "")
    with RecordStore(path) as store:
        assert len(store) == 3


def test_calls_that_wait_for_a_store_in_memory_are_told_that_it_was_closed(
    memory: RecordStore, caplog: pytest.LogCaptureFixture
) -> None:
    memory.save({"x": np.ones(2)})
    inside, end, errors = threading.Event(), threading.Event(), []

    def hold() -> None:
        with memory._database.read():
            inside.set()
            end.wait(30)

    def call(function: Callable[[], object]) -> None:
        try:
            function()
        except RecordStoreError as error:
            errors.append(type(error))

    calls = [lambda: memory.load(1), lambda: memory.save({"x": np.zeros(2)}), lambda: list(memory.records())]
    threads = [threading.Thread(target=hold), *(threading.Thread(target=call, args=[one]) for one in calls)]
    for thread in threads:
        thread.start()
        inside.wait(30)
    time.sleep(0.2)
    closing = threading.Thread(target=memory.close)
    closing.start()
    while not memory._database._closed:
        time.sleep(0.01)
    end.set()
    for thread in (*threads, closing):
        thread.join(30)
    assert errors == [StoreClosedError] * len(calls)
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        memory._database._memory.execute("SELECT 1")
    assert caplog.records == []


def test_a_store_in_memory_that_is_closed_while_it_is_copied_leaves_no_copy(
    memory: RecordStore, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    memory.save({"x": np.ones(2)})
    with pytest.raises(StoreClosedError):
        memory.backup(path, progress=lambda _: memory.close())
    assert list(path.parent.iterdir()) == []
    assert caplog.records == []
