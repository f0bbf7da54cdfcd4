"""A fault at any statement or commit of any operation: an error, a kill, and another kill while the first is mended.

Each operation is done again and again on a copy of the same file, each time with the fault at the next point of all that
it asks of SQLite. Every day that is each k-th point, from a first one that the seed tells; with ``--many`` all of them.
"""

import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fault_hook import FAULTS, failing, hooked
from fault_look import look, look_at
from fault_operations import OPERATIONS, TINY, Arrays, Operation, make_stages, patched
from fault_worker import fork_performers, opened
from kill_journals import MAGIC, head_of_journal, remove_store
from oracle import collected
from support import Child, flaws
from trials import Trials

from recordstore import RecordStore, StorageFullError, StoreAccessError

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
forks_only = pytest.mark.skipif(not hasattr(os, "fork"), reason="the processes are forked")

EXPECTED = {sqlite3.SQLITE_IOERR: StoreAccessError, sqlite3.SQLITE_FULL: StorageFullError}
ENOUGH = 20
"""Trials from which on a share means something."""

UNREACHED = "points that were not reached any more"
"""Threads come in another order each time."""

Failures = Iterator[tuple[Any, ...]]

SHORT = 25
"""Points of an operation up to which its recovery is killed at every point."""

RECOVERIES = 4
"""Points at which the recovery of longer ones is killed, for each point of the operation."""


@dataclass
class Rehearsal:
    """An operation that meets no fault: what its file shows before and after it, and what it asks of SQLite."""

    operation: Operation
    folder: Path

    @property
    def path(self) -> Path:
        return self.folder / "work" / "store.db"

    def new_file(self, path: Path | None = None) -> Path:
        """Return the path of a file that is as it was before the operation."""
        path = path or self.path
        remove_store(path)
        if self.operation.stage:
            shutil.copy(self.folder / self.operation.stage, path)
        return path

    @cached_property
    def before(self) -> dict[str, Any]:
        return look_at(self.new_file(self._stage))

    @cached_property
    def after(self) -> dict[str, Any]:
        self._perform(reads=False)
        return look_at(self._stage)

    @cached_property
    def points(self) -> list[str]:
        return self._perform(reads=False)

    @cached_property
    def points_and_reads(self) -> list[str]:
        return self._perform(reads=True)

    @property
    def either(self) -> list[dict[str, Any]]:
        return [self.before, self.after]

    @property
    def _stage(self) -> Path:
        return self.folder / "rehearsal" / "store.db"

    def _perform(self, *, reads: bool) -> list[str]:
        with opened(self.operation, self.new_file(self._stage)) as subject, FAULTS.armed(None, int, reads=reads):
            self.operation.act(subject, dict(self.operation.given))
        return FAULTS.seen


@pytest.fixture(scope="module")
def rehearsals() -> Iterator[dict[str, Rehearsal]]:
    """All operations, with small sizes as long as this module is tested; in memory, where there is such a disk."""
    disk = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=disk if disk.is_dir() else None) as name, patched(TINY), hooked():
        folder = Path(name)
        for used in ("work", "rehearsal"):
            (folder / used).mkdir()
        make_stages(folder)
        yield {name: Rehearsal(operation, folder) for name, operation in OPERATIONS.items()}


@pytest.fixture(scope="module")
def process() -> Iterator[Child]:
    with Child(fork_performers) as child:
        yield child


def chosen(trials: Trials, points: list[str]) -> Iterator[tuple[int, int]]:
    """Yield the numbers of trials, and of the points that they try: all, or some, evenly spread, and the last."""
    total = len(points)
    step = 1 if trials.count >= total else -(-total // max(1, trials.count - 1))
    numbers = range(trials.dice("first").randrange(min(step, total)), total, step)
    numbers = sorted({*numbers, total - 1}) if trials.count > 1 else list(numbers)
    trials.counts[f"points, of which one in {step} is tried"] = total
    for trial in trials:
        if trial >= len(numbers):
            return
        yield trial, numbers[trial]


def wrong_in_the_end(path: Path, operation: Operation, expected: dict[str, Any]) -> Failures:
    """Yield what is wrong with a file once leftovers are removed."""
    with RecordStore(path, upgrade=True) as store:
        yield from wrong_after_gc(store, expected)
        if bool(store.verify()) == (operation.stage == "damaged"):
            yield "verify", store.verify()
    yield from flaws(path).items()


def wrong_after_gc(store: RecordStore, expected: dict[str, Any]) -> Failures:
    store.gc(grace=0)
    found = look(store)
    if found != expected:
        yield "another state in the end", found, expected


# An error


def equal(given: Arrays, wanted: Arrays) -> bool:
    return list(given) == list(wanted) and all(np.array_equal(given[name], wanted[name]) for name in wanted)


def after_error(rehearsal: Rehearsal, number: int, code: int, trials: Trials) -> Failures:
    """Yield what is wrong after an error at a point, and after the operation was done again by the same store."""
    operation, path = rehearsal.operation, rehearsal.new_file()
    given = dict(operation.given)
    error = None
    with opened(operation, path) as subject:
        with FAULTS.armed(number, failing(code), reads=True):
            try:
                operation.act(subject, given)
            except Exception as caught:
                error = caught
        trials.counts[type(error).__name__ if error else "done in spite of it"] += 1
        trials.counts[UNREACHED] += FAULTS.struck is None
        if error is not None and not isinstance(error, EXPECTED[code]):
            yield "another error", FAULTS.struck, repr(error)
        if error is not None and not equal(given, operation.given):
            yield "another input", FAULTS.struck, list(given)
        found = look_at(path) if operation.opens else look(subject)
        if found not in (
            rehearsal.either if operation.opens or operation.tries else [rehearsal.before if error else rehearsal.after]
        ):
            yield "another state", FAULTS.struck, repr(error), found
        if error is not None or operation.tries:
            operation.act(subject, given)
        if not operation.opens:
            yield from wrong_after_gc(subject, rehearsal.after)
    if operation.opens:
        yield from wrong_in_the_end(path, operation, rehearsal.after)
    yield from flaws(path).items()


@pytest.mark.parametrize("code", [sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL], ids=["I/O error", "full disk"])
@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.trials(2, 10_000)
def test_an_error_at_any_point_leaves_all_as_it_was_and_the_store_works_on(
    rehearsals: dict[str, Rehearsal], trials: Trials, name: str, code: int
) -> None:
    rehearsal = rehearsals[name]
    for trial, number in chosen(trials, rehearsal.points_and_reads):
        for failure in collected(after_error(rehearsal, number, code, trials)):
            trials.fail(trial, number, *failure)
    trials.conclude()
    tried = min(trials.count, len(rehearsal.points_and_reads))
    # threads read ahead as far as they get: how many reads there are differs by some
    assert trials.counts[UNREACHED] <= (0.1 if tried >= ENOUGH else 0.5) * tried


# A kill


def perform(process: Child, name: str, path: Path, number: int | None, *, spilling: bool) -> tuple[bool, int]:
    """Have an operation done by a process that kills itself.

    Return whether it was killed, and how many points it had when it was done, 0 if it was not.
    """
    process.say([name, str(path), number, spilling])
    said = []
    while "status" not in (message := process.hear()):
        said.append(message)
    killed = os.WIFSIGNALED(message["status"])
    assert killed or message["status"] == 0, "the process died of something else"
    return killed, said[0]["done"] if said else 0


def count_journal(path: Path, trials: Trials) -> None:
    head = head_of_journal(path)
    trials.counts["killed with an open journal"] += bool(head)
    trials.counts["killed with pages overwritten"] += head == MAGIC


def after_kill(rehearsal: Rehearsal, *, done: bool) -> Failures:
    """Yield what is wrong with a file whose process was killed, or the recovery that followed."""
    found = look_at(rehearsal.path)
    if found not in ([rehearsal.after] if done else rehearsal.either):
        yield "another state", found, done
    # looking marks what is damaged too
    ended = "rows" in found or rehearsal.operation.tries
    yield from wrong_in_the_end(rehearsal.path, rehearsal.operation, rehearsal.after if ended else found)


@forks_only
@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.trials(3, 10_000)
def test_a_kill_at_any_point_leaves_all_of_an_operation_or_nothing(
    rehearsals: dict[str, Rehearsal], process: Child, trials: Trials, name: str
) -> None:
    rehearsal = rehearsals[name]
    for trial, number in chosen(trials, rehearsal.points):
        ways = [False, True] if trials.count >= len(rehearsal.points) else [trials.dice(trial).random() < 0.5]
        for spilling in ways:
            killed, done = perform(process, name, rehearsal.new_file(), number, spilling=spilling)
            trials.counts["kills"] += killed
            count_journal(rehearsal.path, trials)
            for failure in collected(after_kill(rehearsal, done=bool(done))):
                trials.fail(trial, number, spilling, *failure)
    trials.conclude()
    assert trials.counts["kills"]


# A kill, and another one during the recovery


class Remains:
    """A file as a kill has left it, with its journal, and a backup if there is one."""

    def __init__(self, path: Path) -> None:
        self._files = {file: file.read_bytes() for file in path.parent.glob(f"{path.name}*")}
        self._path = path

    def restore(self) -> None:
        remove_store(self._path)
        for file, data in self._files.items():
            file.write_bytes(data)


def recoveries(trials: Trials, trial: int, rehearsal: Rehearsal, total: int) -> Iterable[int]:
    """Return the points at which a recovery is killed."""
    few = 1 if trials.count < len(rehearsal.points) else RECOVERIES
    if few > 1 and len(rehearsal.points) <= SHORT:
        return range(total)
    return trials.dice(trial, "recoveries").sample(range(total), min(few, total))


@forks_only
@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.trials(2, 10_000)
def test_a_kill_during_the_recovery_from_a_kill_leaves_all_of_an_operation_or_nothing(
    rehearsals: dict[str, Rehearsal], process: Child, trials: Trials, name: str
) -> None:
    rehearsal = rehearsals[name]
    for trial, number in chosen(trials, rehearsal.points):
        spilling = trials.dice(trial, "spilling").random() < 0.5
        _, done = perform(process, name, rehearsal.new_file(), number, spilling=spilling)
        remains = Remains(rehearsal.path)
        _, total = perform(process, "recover", rehearsal.path, None, spilling=spilling)
        for second in recoveries(trials, trial, rehearsal, total):
            remains.restore()
            killed, _ = perform(process, "recover", rehearsal.path, second, spilling=spilling)
            trials.counts["kills during a recovery"] += killed
            for failure in collected(after_kill(rehearsal, done=bool(done))):
                trials.fail(trial, number, second, *failure)
    trials.conclude()
    assert trials.counts["kills during a recovery"]
