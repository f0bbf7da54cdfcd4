"""SIGKILL at any moment: what was acknowledged is there and equal, nothing half-done is visible, gc removes the rest.

A process forks one worker after the other, each of which opens the same file, says what it is going to do, does it and
says so, until it is killed. A dict is the oracle; of the operation in flight nothing or all may have happened.
"""

import os
import random
import shutil
import signal
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import Child, flaws, hear, kill_before_statement, make_small, npy, rows, say

from recordstore import RecordStore

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="the workers are forked"),
]

KILLS = 200
SEED = 20_261_123
LIFE_SECONDS = 0.25
"""Until the kill, at most: a few operations."""

RECORDS = 12
"""Above which a worker rather deletes."""

SMALL: dict[str, Any] = {"CHUNK_SIZE": 16 * 1024, "BATCH_BYTES": 64 * 1024, "BATCH_ROWS": 40, "PAUSE_SECONDS": 0.0}

Plan = dict[str, Any]


@lru_cache(maxsize=64)
def content(seed: int, *, large: bool) -> dict[str, np.ndarray]:
    """Return the arrays of a record: up to 12 batches, or less than one; some are those of other records."""
    random_numbers = np.random.default_rng(seed)
    arrays = {f"own {number}": random_numbers.integers(0, 256, 3_000, np.uint8) for number in range(seed % 4)}
    if large:
        arrays["many chunks"] = random_numbers.integers(0, 256, random_numbers.integers(50_000, 500_000), np.uint8)
        shared = random_numbers.integers(0, 3)
        arrays["frozen layer"] = np.random.default_rng(shared).integers(0, 256, 100_000 + shared, np.uint8)
        arrays["tied to it"] = arrays["frozen layer"]
    arrays["bias"] = np.full(5, seed % 3)
    return arrays


@dataclass(frozen=True)
class Model:
    """What a dict would hold: records by id as (run, round, content), and ids by (run, tag)."""

    records: dict[int, tuple[str | None, int | None, tuple[int, bool]]] = field(default_factory=dict)
    tags: dict[tuple[str, str], int] = field(default_factory=dict)

    def after(self, plan: Plan, new_id: int) -> "Model":
        """Return what it holds once an operation is done."""
        match plan["do"]:
            case "save":
                return self._saved(plan, new_id)
            case "delete":
                return self._without(plan["id"])
            case "tag":
                run = self.records[plan["id"]][0] or ""
                return replace(self, tags=self.tags | {(run, plan["tag"]): plan["id"]})
            case _:
                return self

    def _saved(self, plan: Plan, new_id: int) -> "Model":
        run, number = plan["run"], plan["round"]
        old = [id_ for id_, known in self.records.items() if run is not None and known[:2] == (run, number)]
        tags = {tag: new_id if id_ in old else id_ for tag, id_ in self.tags.items()}
        tags |= {(run or "", tag): new_id for tag in plan["tags"]}
        records = {id_: known for id_, known in self.records.items() if id_ not in old}
        return Model(records | {new_id: (run, number, (plan["seed"], plan["large"]))}, tags)

    def _without(self, id_: int) -> "Model":
        records = {other: known for other, known in self.records.items() if other != id_}
        return Model(records, {tag: other for tag, other in self.tags.items() if other != id_})


def draw(dice: random.Random, store: RecordStore) -> Plan:
    """Return what a worker does next."""
    ids = list(store)
    if ids and dice.random() < (0.25 if len(ids) < RECORDS else 0.7):
        return {"do": "delete", "id": dice.choice(ids)}
    if ids and dice.random() < 0.15:
        return {"do": "tag", "id": dice.choice(ids), "tag": dice.choice(["best", "good"])}
    if dice.random() < 0.05:
        return {"do": "gc"}
    run = dice.choice([None, "a", "b"])
    return {
        "do": "save",
        "run": run,
        "round": None if run is None else dice.randrange(5),
        "seed": dice.randrange(1_000_000),
        "large": dice.random() < 0.6,
        "tags": dice.sample(["best", "good"], dice.choice([0, 0, 1])),
    }


def perform(plan: Plan, store: RecordStore) -> int:
    """Do it, and return the id of the record that was saved, or 0."""
    match plan["do"]:
        case "delete":
            store.delete(plan["id"])
        case "tag":
            store.tag(plan["id"], plan["tag"])
        case "gc":
            store.gc(grace=0)
        case "save":
            arrays = content(plan["seed"], large=plan["large"])
            return store.save(arrays, run=plan["run"], round=plan["round"], tags=plan["tags"], overwrite=True)
    return 0


def work(path: str, seed: int) -> None:
    dice = random.Random(seed)
    with RecordStore(path) as store:
        while True:
            plan = draw(dice, store)
            say({"begin": plan})
            say({"done": perform(plan, store)})


def fork_workers(path: str) -> None:
    """Fork a worker for each seed that comes; the imports are made once. The store is opened after the fork."""
    make_small(**SMALL)
    while (seed := hear()) is not None:
        worker = os.fork()
        if not worker:
            work(path, seed)
        say({"pid": worker})
        say({"status": os.waitpid(worker, 0)[1]})


def live_and_die(process: Child, seed: int, seconds: float) -> list[dict[str, Any]]:
    """Let a worker live for some time, and return what it said."""
    process.say(seed)
    early = []
    while "pid" not in (message := process.hear()):
        early.append(message)
    time.sleep(seconds)
    os.kill(message["pid"], signal.SIGKILL)
    said = early
    while "status" not in (message := process.hear()):
        said.append(message)
    assert os.WTERMSIG(message["status"]) == signal.SIGKILL, "the worker died of something else"
    return said


def told(model: Model, said: list[dict[str, Any]]) -> tuple[Model, Plan | None]:
    """Return what the acknowledged operations lead to, and the operation in flight."""
    plan = None
    for message in said:
        if "begin" in message:
            plan = message["begin"]
        else:
            model, plan = model.after(plan, message["done"]), None
    return model, plan


def seen(store: RecordStore) -> Model:
    """Return what a store shows, its contents left out."""
    records, tags = {}, {}
    for info in store.records():
        records[info.id] = (info.run, info.round)
        tags |= {(info.run or "", tag): info.id for tag in info.tags}
    return Model(records, tags)


def shape(model: Model) -> Model:
    return Model({id_: known[:2] for id_, known in model.records.items()}, model.tags)


def settled(model: Model, plan: Plan | None, store: RecordStore, last_id: int) -> Model | None:
    """Return the one of the two allowed states that the store shows, None if it shows another one."""
    found = seen(store)
    new_id = max(found.records.keys() - model.records.keys(), default=0)
    if shape(model) == found:
        return model
    if plan is not None and (not new_id or new_id > last_id):
        later = model.after(plan, new_id)
        if shape(later) == found:
            return later
    return None


def wrong_records(model: Model, store: RecordStore) -> list[int]:
    """Return the ids of the records that are not equal, byte for byte, to what was saved."""
    wrong = []
    for id_, (_, _, (seed, large)) in model.records.items():
        expected = [(name, npy(array)) for name, array in content(seed, large=large).items()]
        if [(name, array.data) for name, array in store.load(id_).items()] != expected:
            wrong.append(id_)
    return wrong


def has_open_journal(path: Path) -> bool:
    journal = Path(f"{path}-journal")
    return journal.exists() and journal.stat().st_size > 0


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sizes that the workers use."""
    for name, value in SMALL.items():
        monkeypatch.setattr(f"recordstore.constants.{name}", value)


@dataclass
class Examination:
    """What the kills have cost so far."""

    path: Path
    model: Model = field(default_factory=Model)
    last_id: int = 0
    failures: list[tuple[Any, ...]] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def after_kill(self, trial: int, said: list[dict[str, Any]]) -> None:
        """Compare the file with the dict; nothing has opened it since the kill."""
        acknowledged, plan = told(self.model, said)
        self.counts["operations acknowledged"] += sum("done" in message for message in said)
        self.counts[f"killed during: {plan['do'] if plan else 'opening, or between two operations'}"] += 1
        self.counts["open journals"] += has_open_journal(self.path)
        with RecordStore(self.path, read_only=bool(trial % 2)) as store:  # either has to roll back
            state = settled(acknowledged, plan, store, self.last_id)
            if state is None:
                self.failures.append((trial, "another state", shape(acknowledged), plan, seen(store)))
                return
            self.failures += [(trial, "other bytes", id_) for id_ in wrong_records(state, store)]
        self.counts["done though not acknowledged"] += state is not acknowledged
        self.counts["left a draft"] += bool(rows(self.path, "SELECT 1 FROM record WHERE state = 'writing'"))
        with RecordStore(self.path) as store:
            store.gc(grace=0)
            self.failures += [(trial, "other bytes after gc", id_) for id_ in wrong_records(state, store)]
        self.failures += [(trial, flaw, found) for flaw, found in flaws(self.path).items()]
        self.model, self.last_id = state, max([self.last_id, *state.records])


def test_200_kills_cost_no_acknowledged_record_and_show_no_half_one(path: Path, small: None) -> None:
    RecordStore(path).close()
    dice = random.Random(SEED)
    examination = Examination(path)
    with Child(fork_workers, path) as process:
        for trial in range(KILLS):
            said = live_and_die(process, dice.randrange(2**32), dice.uniform(0, LIFE_SECONDS))
            examination.after_kill(trial, said)
            if examination.failures:
                break
    share = examination.counts["open journals"] / KILLS
    print(f"\nseed {SEED}: {trial + 1} kills, {len(examination.failures)} failures, {share:.0%} hit an open journal")
    print(dict(sorted(examination.counts.items())))
    assert examination.failures == []
    assert share > 0.3
    assert examination.counts["left a draft"] > 0.1 * KILLS


OLD, SHARING, NEW = (4, True), (8, True), (12, True)
"""Contents; the frozen layer of all three is the same."""


def replace_and_delete(store: RecordStore) -> None:
    new_id = store.save(content(NEW[0], large=True), run="r", round=1, tags=["new"], overwrite=True)
    say({"saved": new_id})
    store.delete(2)
    say({"deleted": 2})
    store.gc(grace=0)
    say({"collected": True})


def fork_suicides(path: str) -> None:
    """Fork a worker for each number of a statement that comes."""
    make_small(**SMALL | {"BATCH_BYTES": 256 * 1024, "BATCH_ROWS": 1_000})
    while (number := hear()) is not None:
        worker = os.fork()
        if not worker:
            with RecordStore(f"{path}.{number}") as store:
                kill_before_statement(number)
                replace_and_delete(store)
            os._exit(0)
        say({"status": os.waitpid(worker, 0)[1]})


def expected_after(said: list[dict[str, Any]]) -> list[Model]:
    """Return the states that are allowed after a worker has said this."""
    old, sharing = ("r", 1, OLD), (None, None, SHARING)
    states = [
        Model({1: old, 2: sharing}, {("r", "best"): 1}),
        Model({2: sharing, 3: ("r", 1, NEW)}, {("r", "best"): 3, ("r", "new"): 3}),
        Model({3: ("r", 1, NEW)}, {("r", "best"): 3, ("r", "new"): 3}),
    ]
    done = sum("saved" in message or "deleted" in message for message in said)
    return states[done : done + 2]


def test_a_kill_before_any_statement_of_a_save_a_delete_and_a_gc_is_harmless(memory_folder: Path, small: None) -> None:
    path = memory_folder / "store.db"
    with RecordStore(path) as store:
        store.save(content(OLD[0], large=True), run="r", round=1, tags=["best"])
        store.save(content(SHARING[0], large=True))
    killed = 0
    with Child(fork_suicides, path) as process:
        for number in count():
            copy = Path(f"{path}.{number}")
            shutil.copy(path, copy)
            process.say(number)
            said = []
            while "status" not in (message := process.hear()):
                said.append(message)
            with RecordStore(copy) as store:
                (state,) = (model for model in expected_after(said) if shape(model) == seen(store))
                assert wrong_records(state, store) == []
                store.gc(grace=0)
                assert wrong_records(state, store) == []
            assert flaws(copy) == {}
            copy.unlink()
            if not os.WIFSIGNALED(message["status"]):
                break
            killed += 1
    print(f"\nkilled before each of {killed} statements")
    assert [set(message) for message in said] == [{"saved"}, {"deleted"}, {"collected"}]
    assert killed > 50
