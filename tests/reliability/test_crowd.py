"""A crowd on one file: whatever a reader gets is one whole record that was published, and everybody gets on.

One writes, four read in all ways there are, and one sweeps all the time; as processes, as threads that share a store,
and as threads with a store each.
"""

import contextlib
import random
import sqlite3
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path

import parties
import pytest
from parties import SMALL, SPACE, Opened, Report, fill, is_whole, loads
from support import Child, flaws, hear, make_small, say
from trials import Trials

from recordstore import RecordStore
from recordstore.handle import wal_is_safe

CROWD = ["write", "tidy", "tidy", "read", "read", "read", "read"]


LEFT_OVER = ("recordstore.upkeep.DELETE_STEPS", "recordstore.rounds.SHARE_STEPS")
"""Steps that one who deletes or overwrites sweeps by itself: 1 leaves something to those who tidy up."""

UNSAFE_WAL = pytest.mark.skipif(
    not wal_is_safe(sqlite3.sqlite_version_info), reason=f"SQLite {sqlite3.sqlite_version} can lose data in WAL mode"
)


@pytest.fixture
def path(memory_folder: Path) -> Path:
    return memory_folder / "store.db"


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, size in SMALL.items():
        monkeypatch.setattr(f"recordstore.constants.{name}", size)


@pytest.fixture
def left_over(monkeypatch: pytest.MonkeyPatch) -> None:
    for place in LEFT_OVER:
        monkeypatch.setattr(place, 1)


def join(path: str, role: str, seed: str, seconds: float) -> None:
    """Be one of the parties, in a process of its own."""
    make_small(**SMALL)
    for place in LEFT_OVER:
        module, name = place.rsplit(".", 1)
        setattr(import_module(module), name, 1)
    say("ready")
    hear()
    say(vars(getattr(parties, role)(lambda: RecordStore(path), random.Random(seed), seconds)))


def reports_of(path: Path, roles: list[str], trials: Trials) -> list[Report]:
    """Let processes of these roles loose on a file for as many seconds as there are trials."""
    with contextlib.ExitStack() as stack:
        crowd = [
            stack.enter_context(Child(join, path, role, f"{trials.seed} {number}", trials.count))
            for number, role in enumerate(roles)
        ]
        assert [party.hear() for party in crowd] == ["ready"] * len(roles)
        for party in crowd:
            party.say("go")
        return [Report(**party.finish()[0]) for party in crowd]


def conclude(trials: Trials, roles: list[str], reports: list[Report]) -> None:
    """Take each operation of each party for a trial, none of which may be broken; and all have to get on."""
    outcomes = list(sum((Counter(report.outcomes) for report in reports), Counter()).elements())
    trials.count = len(outcomes)
    for number in trials:
        trials.counts[outcomes[number]] += 1
        if not outcomes[number].endswith((": exact", ": gone", ": done")):
            trials.fail(number, outcomes[number])
    for number, (role, report) in enumerate(zip(roles, reports, strict=True)):
        trials.counts[f"party {number}, {role}"] = report.done
    trials.conclude()
    assert min(report.done for report in reports) > 0


def check_file(path: Path, wrote: Report) -> None:
    """Look at whether there is what the writer has said, and nothing besides."""
    with RecordStore(path) as store:
        infos = list(store.records())
        found = [(info.id, info.metadata["seed"], info.round) for info in infos]
        assert found == sorted(tuple(known) for known in wrote.kept)
        assert [info.id for info in infos if "best" in info.tags] == ([] if wrote.best is None else [wrote.best])
        for info in infos:
            got = loads(store, info)
            assert is_whole(got)
            assert got["seed"][0] == info.metadata["seed"]
        report = store.verify()
        assert report
        assert report.records == len(infos)
        store.gc(grace=0)
    assert flaws(path) == {}


@pytest.mark.parametrize("mode", ["truncate", pytest.param("wal", marks=UNSAFE_WAL)])
@pytest.mark.trials(4, 30)  # seconds
def test_a_crowd_of_processes_gets_whole_records_only_and_everybody_gets_on(
    path: Path, trials: Trials, small: None, mode: str
) -> None:
    with RecordStore(path, journal_mode=mode) as store:
        fill(store)
    reports = reports_of(path, CROWD, trials)
    check_file(path, reports[0])
    conclude(trials, CROWD, reports)
    assert sum(report.freed for report in reports) > SPACE // 2


@pytest.mark.parametrize("shared", [True, False], ids=["a shared store", "a store each"])
@pytest.mark.trials(1, 30)  # seconds
def test_a_crowd_of_threads_gets_whole_records_only_and_everybody_gets_on(
    path: Path, trials: Trials, small: None, left_over: None, shared: bool
) -> None:
    with RecordStore(path) as store, ThreadPoolExecutor(len(CROWD)) as threads:
        fill(store)
        opened: Opened = (lambda: contextlib.nullcontext(store)) if shared else (lambda: RecordStore(path))
        crowd = [
            threads.submit(getattr(parties, role), opened, trials.dice(number), trials.count)
            for number, role in enumerate(CROWD)
        ]
        reports = [party.result() for party in crowd]
    check_file(path, reports[0])
    conclude(trials, CROWD, reports)
    assert sum(report.freed for report in reports) > SPACE // 2


@pytest.mark.trials(1, 30)  # seconds
def test_two_processes_that_save_records_of_many_batches_both_get_on(path: Path, trials: Trials, small: None) -> None:
    RecordStore(path).close()
    roles = ["flood", "flood"]
    conclude(trials, roles, reports_of(path, roles, trials))
    with RecordStore(path) as store:
        assert store.verify()
    assert flaws(path) == {}
