"""Power failures: whatever a disk keeps of what was not synced, no acknowledged operation is lost, no half one shown.

strace records the calls with which a process that uses a store changes files. From a random prefix of them the model in
``disk.py`` makes the files that may be found when the power is back; a store opened on them has to show what a dict
holds after the acknowledged operations, or after these and the one in flight. SQLite with settings that are known to be
too weak has to fail in the same hands: otherwise they would find nothing at all.

The calls of two recordings differ in times and random numbers only, so ``--only`` repeats a trial as good as exactly.
"""

import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from disk import Disk
from kill_examination import after_killed_upgrade, version_of
from kill_worker import upgrade
from oracle import Model, seen, shape, wrong_records
from power_recording import FEW, NAME, PLANS, Recording, can_record, record, record_plans
from support import ASSETS, HEAD, flaws
from trials import Trials

from recordstore import RecordStore, RecordStoreError
from recordstore.handle import wal_is_safe

pytestmark = [pytest.mark.slow, pytest.mark.timeout(6 * 3600)]

ENOUGH, PLENTY = 100, 1000
"""Trials from which on shares mean something, and each kind of operation must have been in flight."""

OLD = ASSETS / "schema-0001.db"

Failures = Iterator[tuple[Any, ...]]

needs_safe_wal = pytest.mark.skipif(
    not wal_is_safe(sqlite3.sqlite_version_info),
    reason=f"SQLite {sqlite3.sqlite_version} can lose committed data in WAL mode, which the store refuses therefore",
)

WAL = {"journal_mode": "wal"}


def weaker(synchronous: str, **replaced: str) -> dict[str, str]:
    """Return what is asked of SQLite in place of what the package asks for."""
    settings = {"synchronous=EXTRA": f"synchronous={synchronous}", **replaced}
    return {f"PRAGMA {old}": f"PRAGMA {new}" for old, new in settings.items()}


CONTROLS = [
    pytest.param(weaker("OFF"), {}, id="OFF"),
    pytest.param(weaker("FULL", **{"journal_mode=TRUNCATE": "journal_mode=DELETE"}), {}, id="FULL and DELETE"),
    pytest.param(weaker("NORMAL"), {}, id="NORMAL and TRUNCATE"),
    pytest.param(weaker("NORMAL"), WAL, id="NORMAL and WAL", marks=needs_safe_wal),
]


@pytest.fixture(scope="session")
def strace_works() -> None:
    if not can_record():
        pytest.skip("strace is not installed, or may trace nothing here: apt install strace")


@pytest.fixture
def recorded(memory_folder: Path, strace_works: None) -> Path:
    """The folder of the files that a recorded process works on."""
    folder = memory_folder / "recorded"
    folder.mkdir()
    return folder


@pytest.fixture
def found(memory_folder: Path) -> Path:
    """The folder of the files that are found when the power is back."""
    folder = memory_folder / "found"
    folder.mkdir()
    return folder


def power_failures(
    trials: Trials, recording: Recording, folder: Path, *, ordered: bool | None = None
) -> Iterator[tuple[int, int]]:
    """Fill the folder with what a power failure may leave; yield the trial, and after how many calls it was."""
    places = {number: recording.draw_place(trials.dice(number, "place")) for number in trials}
    disk = Disk(recording.before)
    reached = 0
    for number, place in sorted(places.items(), key=lambda item: item[1]):
        for event in recording.events[reached:place]:
            disk.apply(event)
        reached = place
        dice = trials.dice(number, "disk")
        in_order = dice.random() < 0.5 if ordered is None else ordered
        left = disk.without_power(dice, ordered=in_order)
        for entry in folder.iterdir():
            entry.unlink()
        for name, content in left.items():
            (folder / name).write_bytes(content)
        trials.counts["power failures"] += 1
        trials.counts["with something not synced"] += not disk.idle
        trials.counts["left a journal"] += any(name.endswith(("-journal", "-wal")) and left[name] for name in left)
        yield number, place


def complaints(folder: Path, recording: Recording, done: int, counts: Any, *, read_only: bool) -> Failures:
    """Yield what is wrong with the files that were found after so many operations had been acknowledged."""
    path = folder / NAME
    allowed = recording.models[done : done + 2]
    with RecordStore(path, read_only=read_only) as store:
        shown = seen(store)
        state = next((model for model in allowed if shape(model) == shown), None)
        if state is None:
            undone = any(shape(model) == shown for model in recording.models[:done])
            yield "undone" if undone else "another state", recording.plans[max(0, done - 1) : done + 1], shown
            return
        counts["done though not acknowledged"] += shown != shape(allowed[0])
        yield from wrong_records(state, store)
        if not read_only:
            yield from wrong_after_gc(state, store)
        yield from wrong_report(state, store)
    if read_only:
        with RecordStore(path) as store:
            yield from wrong_after_gc(state, store)
    yield from flaws(path).items()
    yield from wrong_backups(folder, recording, done, counts)


def wrong_after_gc(state: Model, store: RecordStore) -> Failures:
    store.gc(grace=0)
    if seen(store) != shape(state):
        yield "another state after gc", seen(store)


def wrong_report(state: Model, store: RecordStore) -> Failures:
    report = store.verify()
    if not report or report.records != len(state.records):
        yield "verify", report


def wrong_backups(folder: Path, recording: Recording, done: int, counts: Any) -> Failures:
    """Yield what is wrong with backups: those that were acknowledged are there, and whatever has their name is whole.

    Bytes that have been found right before are not looked at again.
    """
    for number, plan in enumerate(recording.plans):
        if plan["do"] != "backup":
            continue
        path, model = folder / plan["to"], recording.models[number]
        if not path.exists():
            if number < done:
                yield "no backup", plan
            continue
        counts["backups found"] += 1
        if path.read_bytes() != recording.right.get(path.name):
            wrong = list(wrong_backup(path, model))
            yield from wrong
            if not wrong:
                recording.right[path.name] = path.read_bytes()


def wrong_backup(path: Path, model: Model) -> Failures:
    with RecordStore(path, read_only=True) as copy:
        if seen(copy) != shape(model):
            yield "another backup", path.name, seen(copy)
        yield from wrong_records(model, copy)
        yield from wrong_report(model, copy)
    yield from flaws(path).items()


def gathered(failures: Failures) -> list[tuple[Any, ...]]:
    """Return what is wrong, a file that cannot be read included."""
    found = []
    try:
        found.extend(failures)
    except (RecordStoreError, sqlite3.DatabaseError) as error:
        found.append(("unreadable", error))
    return found


def examine(trials: Trials, recording: Recording, folder: Path, *, ordered: bool | None = None) -> None:
    """Let the power fail, and note in ``trials`` what is wrong with what it leaves."""
    for number, place in power_failures(trials, recording, folder, ordered=ordered):
        done = recording.acknowledged(place)
        in_flight = recording.plans[done]["do"] if done < len(recording.plans) else "nothing"
        trials.counts[f"during: {in_flight}"] += 1
        read_only = bool(number % 2 and done)
        for failure in gathered(complaints(folder, recording, done, trials.counts, read_only=read_only)):
            trials.fail(number, place, *failure, recording.told(place))


@pytest.mark.trials(100, 50_000)
def test_a_power_failure_costs_no_acknowledged_operation_and_shows_no_half_one(
    recorded: Path, found: Path, small: None, trials: Trials
) -> None:
    recording = record_plans(recorded, PLANS)
    examine(trials, recording, found)
    trials.conclude()
    counts, failures = trials.counts, trials.counts["power failures"]
    if failures >= ENOUGH:
        assert counts["with something not synced"] >= 0.5 * failures
        assert counts["left a journal"] >= 0.4 * failures
        assert counts["done though not acknowledged"] >= 0.01 * failures
    if failures >= PLENTY:
        assert [plan["do"] for plan in PLANS if not counts[f"during: {plan['do']}"]] == []


@needs_safe_wal
@pytest.mark.trials(50, 10_000)
def test_a_power_failure_in_wal_mode_costs_no_acknowledged_operation_and_shows_no_half_one(
    recorded: Path, found: Path, small: None, trials: Trials
) -> None:
    recording = record_plans(recorded, PLANS, open_options=WAL)
    examine(trials, recording, found)
    trials.conclude()


@pytest.mark.skipif(version_of(OLD) == HEAD, reason="there is one schema")
@pytest.mark.trials(25, 2_000)
def test_a_power_failure_during_an_upgrade_leaves_a_file_of_one_schema_with_all_its_records(
    recorded: Path, found: Path, trials: Trials
) -> None:
    shutil.copy(OLD, recorded / NAME)
    recording = record(recorded, upgrade)
    for number, place in power_failures(trials, recording, found):
        done = bool(recording.acknowledged(place))
        trials.counts["acknowledged"] += done
        for failure in gathered(after_killed_upgrade(found / NAME, OLD, trials.counts, done=done)):
            trials.fail(number, place, *failure, recording.told(place))
    trials.conclude()
    if trials.counts["power failures"] >= ENOUGH:
        assert len([what for what in trials.counts if what.startswith("of schema")]) == 2


@pytest.mark.parametrize(("settings", "open_options"), CONTROLS)
@pytest.mark.trials(60, 2_000)
def test_weaker_settings_of_sqlite_lose_acknowledged_operations_in_the_same_hands(
    recorded: Path,
    found: Path,
    small: None,
    trials: Trials,
    settings: dict[str, str],
    open_options: dict[str, Any],
) -> None:
    """FULL and DELETE are what SQLite uses by itself. The disk does nothing worse than one with ext4 does."""
    recording = record_plans(recorded, FEW, settings, open_options)
    examine(trials, recording, found, ordered=True)
    first = {number: kind for number, _, kind, *_ in reversed(trials.failures)}
    for kind in first.values():
        trials.counts[f"lost: {kind}"] += 1
    trials.failures.clear()  # they were asked for
    trials.conclude()
    assert trials.counts["lost: undone"] >= 1
