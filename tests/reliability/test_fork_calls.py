"""Every call of an inherited store, and forks in a function of the caller: an error there, and no damage here.

``tests/test_forks.py`` has what else forked children may do, and when. Everything runs in a process of its own: the
process of the tests has threads, and is not to be forked.
"""

import os
import sys
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import Child, flaws, make_small, npy, say

from recordstore import Checkpoint, ForkError, HistoryEntry, RecordStore

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")

SMALL: dict[str, Any] = {"CHUNK_SIZE": 4096, "BATCH_BYTES": 16_384, "RING_CHUNKS": 4}
ONE = {"x": np.ones(3)}


@pytest.fixture
def path(memory_folder: Path) -> Path:
    return memory_folder / "store.db"


def noise(seed: int, nbytes: int = 60_000) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, nbytes, np.uint8)


MODEL = {str(number): noise(number) for number in range(4)}


def content(store: RecordStore, ref: Any) -> dict[str, bytes]:
    return {name: array.data for name, array in store.load(ref).items()}


def npys(arrays: dict[str, np.ndarray]) -> dict[str, bytes]:
    return {name: npy(array) for name, array in arrays.items()}


# Every call

CALLS: dict[str, Callable[[RecordStore], object]] = {
    "save": lambda store: store.save(ONE),
    "save_async": lambda store: store.save_async(ONE),
    "save_checkpoint": lambda store: store.save_checkpoint(ONE, Checkpoint(1, ONE), run="c", round=1),
    "load": lambda store: store.load(1),
    "load_into": lambda store: store.load_into(1, dict(MODEL)),
    "load_checkpoint": lambda store: store.load_checkpoint(1),
    "stream": lambda store: store.stream(1),
    "open": lambda store: store.open(1),
    "info": lambda store: store.info(1),
    "records": lambda store: store.records(),
    "latest": lambda store: store.latest(),
    "best": lambda store: store.best("m", "max"),
    "runs": lambda store: store.runs(),
    "tag": lambda store: store.tag(1, "t"),
    "untag": lambda store: store.untag(1, "t"),
    "delete": lambda store: store.delete(1),
    "gc": lambda store: store.gc(grace=0),
    "compact": lambda store: store.compact(),
    "verify": lambda store: store.verify(),
    "backup": lambda store: store.backup("copy.db"),
    "history": lambda store: store.history("r"),
    "add_history": lambda store: store.add_history("r", [HistoryEntry(1, "s", {})]),
    "swap_history": lambda store: store.swap_history("r", HistoryEntry(1, "s", {}), None),
    "wait": lambda store: store.wait(),
    "close": lambda store: store.close(),
    "__enter__": lambda store: store.__enter__(),
    "__getitem__": lambda store: store[1],
    "__contains__": lambda store: 1 in store,
    "__iter__": iter,
    "__len__": len,
}


def call_everything(path: str) -> None:
    with RecordStore(path) as store:
        store.save(MODEL, run="r", round=1)
        stored, stream, ids, infos = store.open(1), store.stream(1), iter(store), store.records()
        next(stream)
        handle = store.save_async(MODEL, run="r", round=2)
        calls: dict[str, Callable[[], object]] = {name: lambda call=call: call(store) for name, call in CALLS.items()}
        calls |= {
            "an array of an open record": stored["0"].numpy,
            "a part of one": lambda: stored["0"][3:5],
            "a stream that has begun": lambda: next(stream),
            "ids": lambda: next(ids),
            "infos": lambda: next(infos),
            "a handle": handle.result,
            "whether it is done": handle.done,
        }
        if not (child := os.fork()):
            say([name for name, call in calls.items() if not is_refused(call)])
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        say([handle.result(), [name for name, _ in stream], len(list(infos))])


def is_refused(call: Callable[[], object]) -> bool:
    try:
        call()
    except ForkError:
        return True
    return False


def test_every_call_of_an_inherited_store_is_refused_and_none_is_forgotten_here(path: Path) -> None:
    names = {name for name in dir(RecordStore) if not name.startswith("_")}
    assert names <= set(CALLS)
    with Child(call_everything, path) as process:
        assert process.hear() == []
        assert process.finish() == [[2, ["1", "2", "3"], 2]]
    assert not path.with_name("copy.db").exists()
    assert flaws(path) == {}


# Functions of the caller that tell of progress


def fork_in_a_progress_function(path: str, call: str, end: str) -> None:
    make_small(**SMALL)
    codes = []

    def tell(progress: object) -> None:
        if len(codes) < 2:
            if not (child := os.fork()):
                if end == "sys.exit":
                    sys.exit(0)  # through all frames of the call
                os._exit(0)
            codes.append(wait_for(child))

    with RecordStore(path) as store:
        store.save(MODEL)
        store.delete(store.save({"x": noise(9, 400_000)}))
        calls = {
            "verify": store.verify,
            "compact": store.compact,
            "backup": lambda progress: store.backup(f"{path}-2", progress=progress),
        }
        calls[call](progress=tell)
    say(codes)


def wait_for(child: int) -> int | str:
    """Return the exit code of a child, which ends in no time."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if (ended := os.waitpid(child, os.WNOHANG)) != (0, 0):
            return os.waitstatus_to_exitcode(ended[1])
        time.sleep(0.002)
    os.kill(child, 9)
    os.waitpid(child, 0)
    return "it hung"


@pytest.mark.parametrize(("call", "end"), list(product(["verify", "compact", "backup"], ["os._exit", "sys.exit"])))
def test_a_child_forked_by_a_progress_function_harms_nobody(path: Path, call: str, end: str) -> None:
    with Child(fork_in_a_progress_function, path, call, end) as process:
        codes = process.hear()
        assert process.finish() == []
    assert codes
    assert set(codes) == {0}
    for file in [path, Path(f"{path}-2")] if call == "backup" else [path]:
        with RecordStore(file) as store:
            assert content(store, 1) == npys(MODEL)
            assert store.verify()
        assert flaws(file) == {}
    assert not list(path.parent.glob("*.partial-*"))
