"""Records that tell what they hold, and the parties that save, read and sweep them.

The bytes of a record follow from a number that it holds and that its metadata tells too: whoever reads one can tell by
itself whether what it got is one whole record, and the one that it asked for.
"""

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import count, cycle
from typing import Any

import numpy as np

from recordstore import RecordNotFoundError, RecordStore

SMALL: dict[str, Any] = {"CHUNK_SIZE": 16 * 1024, "BATCH_BYTES": 64 * 1024, "RING_CHUNKS": 6}
"""Sizes with which a record takes up to ten batches."""

ROUNDS = 6
KEPT = 9
"""Records from which on the writer deletes."""

ACTIONS = ["save", "save", "save_async", "tag", "delete"]

READS = 5
"""Reads until a reader opens the file anew."""

SPACE = 1_000_000
"""Bytes that there are to give back when the parties begin."""

PATIENCE = 60.0
"""Seconds after which a party that has had no success is given up."""

Arrays = dict[str, np.ndarray]
Opened = Callable[[], AbstractContextManager[RecordStore]]


@lru_cache(maxsize=64)
def content(seed: int) -> Arrays:
    """Return the arrays of a record; one of them is in a third of all records."""
    numbers = np.random.default_rng(seed)
    return {
        "large": numbers.integers(0, 256, (numbers.integers(20, 500), 1000), np.uint8),
        "seed": np.array([seed]),
        "frozen": np.random.default_rng(seed % 3).integers(0, 256, (100, 997), np.uint8),
        **{f"bias {number}": np.full(9, seed + number) for number in range(seed % 5)},
    }


def is_whole(got: Arrays) -> bool:
    """Return whether these are the arrays of one record, in their order."""
    wanted = content(int(got["seed"][0]))
    return list(got) == list(wanted) and all(
        got[name].dtype == array.dtype and np.array_equal(got[name], array) for name, array in wanted.items()
    )


# Ways to read a record


def loads(store: RecordStore, ref: Any) -> Arrays:
    return {name: array.numpy() for name, array in store.load(ref).items()}


def streams(store: RecordStore, ref: Any) -> Arrays:
    got = {}
    for name, array in store.stream(ref):
        got[name] = array.numpy()
        time.sleep(0.002)  # let others change the file between two arrays
    return got


def slices(store: RecordStore, ref: Any) -> Arrays:
    got = {}
    for name, array in store.open(ref).items():
        middle = array.shape[0] // 2
        got[name] = np.concatenate([array[:middle], array[middle:]])
    return got


def fills(store: RecordStore, ref: Any) -> Arrays:
    stored = store.open(ref)
    target = {name: np.empty(array.shape, array.dtype) for name, array in stored.items()}
    store.load_into(stored.id, target)
    return target


def verifies(store: RecordStore, ref: Any) -> Arrays:
    id_ = store.info(ref).id
    report = store.verify(id_)
    assert report, report
    assert report.records <= 1, "0 if it was deleted meanwhile"
    return loads(store, id_)


WAYS = [loads, streams, slices, fills, verifies]


@dataclass
class Report:
    """What a party has seen: how often each outcome, and whatever else there is to tell."""

    outcomes: Counter[str] = field(default_factory=Counter)
    kept: list[tuple[int, int, int | None]] = field(default_factory=list)
    best: int | None = None
    freed: int = 0

    @property
    def done(self) -> int:
        """Return how often there was a success."""
        return sum(times for outcome, times in self.outcomes.items() if outcome.endswith((": exact", ": done")))

    def turns(self, seconds: float) -> Iterator[None]:
        """Go on until the time is up, and longer for the first success: a busy machine may let nobody begin."""
        began = time.monotonic()
        while time.monotonic() < began + (seconds if self.done else seconds + PATIENCE):
            yield


def fill(store: RecordStore) -> None:
    """Save what there is before the parties begin: a record of each round, a tag, and space to give back."""
    for number in range(ROUNDS):
        store.save(content(number), run="r", round=number, metadata={"seed": number})
    store.tag("r@0", "best")
    store.delete(store.save({"x": np.random.default_rng(0).integers(0, 256, SPACE, np.uint8)}))


def read(opened: Opened, dice: random.Random, seconds: float) -> Report:
    """Read records until the time is up: each read is exact, or of a record that is gone, or broken."""
    report, ways = Report(), cycle(WAYS)
    for _ in report.turns(seconds):
        with opened() as store:
            for _ in range(READS):
                way = next(ways)
                report.outcomes[f"{way.__name__}: {look(store, dice, way)}"] += 1
    return report


def look(store: RecordStore, dice: random.Random, way: Callable[[RecordStore, Any], Arrays]) -> str:
    """Read some record, and return what became of that."""
    ref: Any = None
    try:
        ref = dice.choice(["latest", "r@latest", "r@best", f"r@{dice.randrange(ROUNDS)}", *store])
        info = store.info(ref)
        if dice.random() < 0.5:
            ref = info  # this very record, whatever is saved in its place
        got = way(store, ref)
        if not is_whole(got):
            return f"broken, {ref} is not one record"
        if ref is info and int(got["seed"][0]) != info.metadata["seed"]:
            return f"broken, {ref} is another record"
    except RecordNotFoundError:
        return "gone"
    except Exception as error:
        return f"broken, {ref} raised {error!r}"
    return "exact"


def tidy(opened: Opened, dice: random.Random, seconds: float) -> Report:
    """Sweep what deleted records have left, and give their space back, until the time is up."""
    report = Report()
    with opened() as store:
        for _ in report.turns(seconds):
            report.freed += store.compact()
            store.gc()
            report.outcomes["gc and compact: done"] += 1
    return report


def write(opened: Opened, dice: random.Random, seconds: float) -> Report:
    """Save, overwrite, tag and delete until the time is up; tell what there has to be in the end."""
    report = Report()
    with opened() as store:
        writer = Writer(store, dice)
        for _ in report.turns(seconds):
            report.outcomes[f"{writer.act()}: done"] += 1
    report.kept = [(id_, *known) for id_, known in writer.kept.items()]
    report.best = writer.best
    return report


class Writer:
    """Knows the seed and the round of each record that it has saved, and which of them has the tag."""

    def __init__(self, store: RecordStore, dice: random.Random) -> None:
        self.kept: dict[int, tuple[int, int | None]] = {}
        for info in store.records():
            self.kept[info.id] = (info.metadata["seed"], info.round)
        self.best: int | None = store.info("r@best").id
        self._store = store
        self._dice = dice
        self._seeds = count(dice.randrange(1_000_000))

    def act(self) -> str:
        """Do something, and return what it was."""
        of_run = [id_ for id_, (_, number) in self.kept.items() if number is not None]
        action = "delete" if len(self.kept) >= KEPT else self._dice.choice(ACTIONS if of_run else ["save"])
        if action == "delete":
            self._delete(self._dice.choice(list(self.kept)))
        elif action == "tag":
            self.best = self._dice.choice(of_run)
            self._store.tag(self.best, "best")
        else:
            self._save(later=action == "save_async")
        return action

    def _delete(self, id_: int) -> None:
        self._store.delete(id_)
        del self.kept[id_]
        self.best = None if self.best == id_ else self.best

    def _save(self, *, later: bool) -> None:
        seed, number = next(self._seeds), self._dice.choice([None, *range(ROUNDS)])
        place: dict[str, Any] = {} if number is None else {"run": "r", "round": number, "overwrite": True}
        if later:
            new = self._store.save_async(content(seed), metadata={"seed": seed}, **place).result()
        else:
            new = self._store.save(content(seed), metadata={"seed": seed}, **place)
        for old in [id_ for id_, (_, taken) in self.kept.items() if taken is not None and taken == number]:
            del self.kept[old]
            self.best = new if self.best == old else self.best
        self.kept[new] = (seed, number)


def flood(opened: Opened, dice: random.Random, seconds: float) -> Report:
    """Save records of a hundred batches until the time is up."""
    report = Report()
    with opened() as store:
        for _ in report.turns(seconds):
            store.save({"x": np.frombuffer(dice.randbytes(6_400_000), np.uint8)})
            report.outcomes["save: done"] += 1
    return report
