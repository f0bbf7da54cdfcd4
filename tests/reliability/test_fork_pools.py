"""Pools of forked workers beside a store that is being saved to: an error there, and no damage here.

``tests/test_forks.py`` has what single children may do, and when. Everything runs in a process of its own: the process
of the tests has threads, and is not to be forked.
"""

import gc
import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from every_call import ONE
from forked import MODEL, SMALL, npys
from support import Child, content, flaws, make_small, noise, npy, say

from recordstore import ForkError, RecordStore

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")

INHERITED: list[RecordStore] = []
"""The store of the parent, as a worker finds it."""


@pytest.fixture
def path(memory_folder: Path) -> Path:
    return memory_folder / "store.db"


# Pools, whose workers are forked while the parent saves


def uses(path: str) -> int:
    return INHERITED[0].save(ONE)


def closes(path: str) -> int:
    return INHERITED[0].close()


def frees(path: str) -> int:
    INHERITED.clear()
    return min(gc.collect(), 0)


def opens_its_own(path: str) -> int:
    with RecordStore(path) as store:
        assert content(store, 1) == npys(MODEL)
        return store.save({"x": noise(os.getpid())}, run="worker", metadata={"seed": os.getpid()})


def exits(path: str) -> int:
    return 0


WORK = [uses, closes, frees, opens_its_own, exits]


def in_a_pool(work: Callable[[str], int], path: str) -> list[int]:
    with multiprocessing.get_context("fork").Pool(2, maxtasksperchild=1) as pool:
        got = pool.map(work, [path] * 4, chunksize=1)
        pool.close()
        pool.join()
    return got


def in_an_executor(work: Callable[[str], int], path: str) -> list[int]:
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("fork")) as pool:
        return list(pool.map(work, [path] * 4))


POOLS = [in_a_pool, in_an_executor]


def fork_pools_while_saving(path: str, pool: str) -> None:
    make_small(**SMALL)
    with RecordStore(path) as store:
        INHERITED.append(store)
        store.save(MODEL)
        told, forked = {}, 0
        for number, work in enumerate(WORK):
            handle = store.save_async({"x": noise(1000 + number, 3_000_000)}, run="parent", round=number)
            forked += not handle.done()
            try:
                told[work.__name__] = len(globals()[pool](work, path))
            except ForkError as error:
                told[work.__name__] = type(error).__name__
            assert content(store, handle.result()) == {"x": npy(noise(1000 + number, 3_000_000))}
    say([told, forked])


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, size in SMALL.items():
        monkeypatch.setattr(f"recordstore.constants.{name}", size)


@pytest.mark.parametrize("pool", POOLS)
def test_pools_that_are_forked_while_the_parent_saves_harm_nobody(
    path: Path, small: None, pool: Callable[..., Any]
) -> None:
    with Child(fork_pools_while_saving, path, pool.__name__) as process:
        told, forked = process.hear()
        assert process.finish() == []
    assert told == {"uses": "ForkError", "closes": "ForkError", "frees": 4, "opens_its_own": 4, "exits": 4}
    assert forked == len(WORK), "each time the save was under way"
    with RecordStore(path) as store:
        for number in range(len(WORK)):
            assert content(store, f"parent@{number}") == {"x": npy(noise(1000 + number, 3_000_000))}
        workers = list(store.records(run="worker"))
        assert [content(store, info) for info in workers] == [{"x": npy(noise(i.metadata["seed"]))} for i in workers]
        assert len(workers) == 4
        assert store.verify()
        store.gc(grace=0)
    assert flaws(path) == {}


# A loader of training data

ITEMS, BATCH = 24, 4


class Items:
    """A dataset with a store of its own, which each worker opens when it is asked for the first item."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.store: RecordStore | None = None

    def __len__(self) -> int:
        return ITEMS

    def __getitem__(self, index: int) -> np.ndarray:
        if self.store is None:
            self.store = RecordStore(self.path)
        return self.store.load(f"data@{index}")["x"].numpy()


class Wrong(Items):
    """A dataset that takes the store of the parent."""

    def __getitem__(self, index: int) -> np.ndarray:
        return INHERITED[0].load(f"data@{index}")["x"].numpy()


def load_batches_while_saving(path: str) -> None:
    from torch.utils.data import DataLoader

    make_small(**SMALL)
    with RecordStore(path) as store:
        INHERITED.append(store)
        for index in range(ITEMS):
            store.save({"x": noise(index, 9_000)}, run="data", round=index)
        for epoch in range(2):
            handle = store.save_async({"x": noise(1000 + epoch, 3_000_000)}, run="model", round=epoch)
            seen = []
            for batch in DataLoader(Items(path), BATCH, num_workers=2, multiprocessing_context="fork"):
                seen += [row.tobytes() for row in batch.numpy()]
                store.save({"x": noise(len(seen))}, run="steps", round=len(seen), overwrite=True)
                assert content(store, f"steps@{len(seen)}") == {"x": npy(noise(len(seen)))}
            assert seen == [noise(index, 9_000).tobytes() for index in range(ITEMS)]
            handle.result()
        try:
            list(DataLoader(Wrong(path), BATCH, num_workers=2, multiprocessing_context="fork"))
        except ForkError as error:
            say(str(error))
        store.save(MODEL, run="end", round=0)


@pytest.mark.skipif(find_spec("torch") is None, reason="torch is not installed")
def test_a_data_loader_reads_from_the_store_that_its_parent_saves_to(path: Path, small: None) -> None:
    with Child(load_batches_while_saving, path) as process:
        message = process.hear()
        assert process.finish() == []
    assert "Caught ForkError in DataLoader worker process" in message
    assert "open the file again in the child" in message
    with RecordStore(path) as store:
        assert content(store, "end@0") == npys(MODEL)
        for epoch in range(2):
            assert content(store, f"model@{epoch}") == {"x": npy(noise(1000 + epoch, 3_000_000))}
        assert len(list(store.records(run="steps"))) == ITEMS // BATCH
        assert store.verify()
        store.gc(grace=0)
    assert flaws(path) == {}
