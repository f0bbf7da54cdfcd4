"""A store that must not be used any more: closed, or inherited by a forked child."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recordstore import Checkpoint, RecordStore, StoreClosedError

ONE = {"x": np.ones(3)}

CLOSED: dict[str, Callable[[RecordStore], Any]] = {
    "save": lambda store: store.save(ONE),
    "load": lambda store: store.load(1),
    "getitem": lambda store: store[1],
    "stream": lambda store: store.stream(1),
    "info": lambda store: store.info(1),
    "records": lambda store: store.records(),
    "latest": lambda store: store.latest(),
    "best": lambda store: store.best("m", "max"),
    "runs": lambda store: store.runs(),
    "tag": lambda store: store.tag(1, "t"),
    "untag": lambda store: store.untag(1, "t"),
    "delete": lambda store: store.delete(1),
    "gc": lambda store: store.gc(),
    "save_checkpoint": lambda store: store.save_checkpoint(ONE, Checkpoint(1, ONE), run="r", round=1),
    "load_checkpoint": lambda store: store.load_checkpoint(1),
    "add_history": lambda store: store.add_history("r", []),
    "history": lambda store: store.history("r"),
    "len": len,
    "in": lambda store: 1 in store,
    "iter": iter,
    "with": lambda store: store.__enter__(),
}


@pytest.mark.parametrize("call", CLOSED)
def test_a_closed_store_refuses_every_call(store: RecordStore, call: str) -> None:
    store.save(ONE)
    store.close()
    with pytest.raises(StoreClosedError, match="open the file again") as caught:
        CLOSED[call](store)
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
