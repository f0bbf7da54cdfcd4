"""What a store has to show after a series of operations, which a dict tells, and whether it does.

An operation is a plan that travels as JSON: what to do, and with what.
"""

import random
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import numpy as np
from support import npy

from recordstore import Array, Checkpoint, HistoryEntry, RecordStore, RecordStoreError

Plan = dict[str, Any]

RECORDS = 12
"""Above which there are rather deletes than saves."""

SAVES = ("save", "save_async", "overwrite", "checkpoint")
RUNS = ("a", "b")
TAGS = ("best", "good")


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


@lru_cache(maxsize=64)
def serialized(seed: int, *, large: bool) -> list[tuple[str, bytes]]:
    """Return the names and bytes that have to come out of a record."""
    return [(name, npy(array)) for name, array in content(seed, large=large).items()]


def checkpoint(seed: int) -> Checkpoint:
    """Return what is saved beside a record to go on from it."""
    return Checkpoint({"seed": seed}, content(seed + 1, large=False))


def reported(number: int, seed: int) -> HistoryEntry:
    """Return what is reported of a round."""
    return HistoryEntry(number, "train", {"seed": seed})


@dataclass(frozen=True)
class Model:
    """What a dict would hold: records by id as (run, round, what is in it), ids by (run, tag), what was reported."""

    records: dict[int, tuple[str | None, int | None, Plan]] = field(default_factory=dict)
    tags: dict[tuple[str, str], int] = field(default_factory=dict)
    history: dict[tuple[str, int], dict[str, int]] = field(default_factory=dict)

    def after(self, plan: Plan, new_id: int) -> "Model":
        """Return what it holds once an operation is done."""
        match plan["do"]:
            case "checkpoint":
                return replace(
                    self._saved(plan, new_id), history=self._history(plan["run"], plan["round"], plan["seed"])
                )
            case "save" | "save_async" | "overwrite":
                return self._saved(plan, new_id)
            case "delete":
                return self._without(plan["id"])
            case "tag":
                return replace(self, tags=self.tags | {self._tag(plan): plan["id"]})
            case "untag":
                return replace(self, tags={tag: id_ for tag, id_ in self.tags.items() if tag != self._tag(plan)})
            case _:
                return self

    def _tag(self, plan: Plan) -> tuple[str, str]:
        return (self.records[plan["id"]][0] or "", plan["tag"])

    def _saved(self, plan: Plan, new_id: int) -> "Model":
        run, number = plan["run"], plan["round"]
        old = [id_ for id_, known in self.records.items() if run is not None and known[:2] == (run, number)]
        tags = {tag: new_id if id_ in old else id_ for tag, id_ in self.tags.items()}
        tags |= {(run or "", tag): new_id for tag in plan["tags"]}
        records = {id_: known for id_, known in self.records.items() if id_ not in old}
        return replace(self, records=records | {new_id: (run, number, plan)}, tags=tags)

    def _history(self, run: str, number: int, seed: int) -> dict[tuple[str, int], dict[str, int]]:
        """Return what was reported, with one more round, and without those that came after it."""
        earlier = {place: values for place, values in self.history.items() if place[0] != run or place[1] <= number}
        return earlier | {(run, number): reported(number, seed).values}

    def _without(self, id_: int) -> "Model":
        records = {other: known for other, known in self.records.items() if other != id_}
        return replace(self, records=records, tags={tag: other for tag, other in self.tags.items() if other != id_})


def draw(dice: random.Random, store: RecordStore) -> Plan:
    """Return what to do next with a store."""
    infos = list(store.records())
    tagged = [(info.id, tag) for info in infos for tag in info.tags]
    chances = {"save": 60, "gc": 4, "compact": 6, "backup": 5}
    if infos:
        chances |= {"delete": 25 if len(infos) < RECORDS else 120, "tag": 8}
    if tagged:
        chances["untag"] = 6
    (do,) = dice.choices(list(chances), list(chances.values()))
    match do:
        case "save":
            return _draw_save(dice, {(info.run, info.round) for info in infos if info.run is not None})
        case "delete":
            return {"do": do, "id": dice.choice(infos).id}
        case "tag":
            return {"do": do, "id": dice.choice(infos).id, "tag": dice.choice(TAGS)}
        case "untag":
            id_, tag = dice.choice(tagged)
            return {"do": do, "id": id_, "tag": tag}
        case _:
            return {"do": do}


def _draw_save(dice: random.Random, taken: set[tuple[str | None, int | None]]) -> Plan:
    run = dice.choice([None, *RUNS])
    number = None if run is None else dice.randrange(5)
    do = "overwrite" if (run, number) in taken else "save" if run is None else dice.choice(["save", "checkpoint"])
    if do != "checkpoint" and dice.random() < 0.3:
        do = "save_async"
    return {
        "do": do,
        "run": run,
        "round": number,
        "seed": dice.randrange(1_000_000),
        "large": dice.random() < 0.6,
        "tags": [] if do == "checkpoint" else dice.sample(TAGS, dice.choice([0, 0, 1])),
        "keep": dice.random() < 0.5,
    }


def kind(plan: Plan) -> str:
    """Return what a plan is counted as."""
    return f"{plan['do']}, {'batched' if plan['large'] else 'small'}" if plan["do"] in SAVES else str(plan["do"])


def seen(store: RecordStore) -> Model:
    """Return what a store shows, its contents left out."""
    records, tags = {}, {}
    for info in store.records():
        records[info.id] = (info.run, info.round)
        tags |= {(info.run or "", tag): info.id for tag in info.tags}
    return Model(records, tags, {(run, entry.round): entry.values for run in RUNS for entry in store.history(run)})


def shape(model: Model) -> Model:
    """Return what a store has to show, its contents left out."""
    return replace(model, records={id_: known[:2] for id_, known in model.records.items()})


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


def wrong_records(model: Model, store: RecordStore) -> Iterator[tuple[str, int]]:
    """Yield the records that are not equal, byte for byte, to what was saved."""
    for id_, (_, _, plan) in model.records.items():
        seed, large = plan["seed"], plan["large"]
        if bytes_of(store.load(id_)) != serialized(seed, large=large):
            yield "other bytes", id_
        found = store.load_checkpoint(id_)
        if (found is not None) != (plan["do"] == "checkpoint"):
            yield "another kind of record", id_
        elif found is not None and (
            found.state != {"seed": seed} or bytes_of(found.arrays) != serialized(seed + 1, large=False)
        ):
            yield "another state", id_


def bytes_of(arrays: Mapping[str, Array]) -> list[tuple[str, bytes]]:
    return [(name, array.data) for name, array in arrays.items()]


def collected(failures: Iterator[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Return what was found wrong; that a check ends in an error of the database is wrong too."""
    found = []
    try:
        for failure in failures:
            found.append(failure)  # noqa: PERF402 - an error must not lose those before it
    except (RecordStoreError, sqlite3.Error) as error:
        found.append(("error", repr(error)))
    return found
