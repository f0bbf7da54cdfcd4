"""Full disks and refused writes: a clear error, every record and the input intact, and the store works on.

For each operation the limits go from nothing to all that it takes. A full disk, or quota of SQLite, is a
``StorageFullError``. A ``StoreAccessError`` is right where a file cannot be created, and where the system refuses a
write for another reason than a full disk, as it does beyond ``RLIMIT_FSIZE``: SQLite calls that an I/O error.
"""

import math
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import SMALL
from room_operations import OPERATIONS, make_stores
from room_work import MOUNT, Quota, carry_out, work
from support import Child
from trials import Trials

Ask = Callable[[str, int | None], Any]

FAILING = 0.4
"""The share of limits, at least, at which an operation has to run out of room: less would test little."""

ABOVE = 1.1
"""The highest limit, as a multiple of what an operation takes: then it has to succeed."""


@pytest.fixture
def bases(memory_folder: Path, monkeypatch: pytest.MonkeyPatch, small: None) -> Path:
    """A folder of stores with small pages, of which an operation takes many."""
    settings = ("PRAGMA page_size=4096", "PRAGMA auto_vacuum=INCREMENTAL")
    monkeypatch.setattr("recordstore.schema.CREATION", settings)
    make_stores(memory_folder / "store.db", memory_folder / "holes.db")
    return memory_folder


@pytest.fixture
def folder(memory_folder: Path) -> Path:
    """An empty folder on the same disk."""
    made = memory_folder / "folder"
    made.mkdir()
    return made


def sweep(trials: Trials, names: list[str], ask: Ask) -> None:
    """Try each operation with limits from nothing to what it takes."""
    needs = {name: ask(name, None) for name in names}
    assert all(isinstance(need, int) for need in needs.values()), [
        need for need in needs.values() if not isinstance(need, int)
    ]
    each = math.ceil(trials.count / len(names))
    for number in trials:
        name = names[number % len(names)]
        amount = int(ABOVE * needs[name] * (number // len(names) + trials.dice(number).random()) / each)
        failure, wrong = ask(name, amount)
        if wrong:
            trials.fail(number, name, f"{amount} of {needs[name]}", wrong)
            print(f"\n{name}, {amount} of {needs[name]}: {wrong}")
        else:
            trials.counts[f"{name}: {failure or 'done'}"] += 1
    failed = sum(count for what, count in trials.counts.items() if not what.endswith("done"))
    trials.conclude()
    assert failed >= FAILING * trials.counts.total() or trials.counts.total() == 1


@pytest.mark.trials(8, 170)
def test_a_quota_of_pages_costs_no_record(trials: Trials, bases: Path, folder: Path) -> None:
    room = Quota()
    grows = [name for name in OPERATIONS if name not in {"backup", "compact", "delete"}]
    sweep(trials, grows, lambda name, amount: carry_out(name, amount, folder, bases, room))
    assert [outcome for outcome in trials.counts if not outcome.endswith(("done", "StorageFullError"))] == []


@pytest.mark.trials(8, 170)
def test_a_limit_of_file_sizes_costs_no_record(trials: Trials, bases: Path, folder: Path) -> None:
    with Child(work, folder, bases, "file size", SMALL) as child:
        sweep(trials, list(OPERATIONS), asker(child))
        child.finish()


@pytest.fixture
def alone(tmp_path: Path) -> list[str]:
    """A command that runs another one where it may mount disks that nobody else sees."""
    command = ["unshare", "--mount"]
    try:
        tried = subprocess.run([*command, *MOUNT, tmp_path], capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        pytest.skip(f"no small disk can be mounted: {error}")
    if tried.returncode:
        pytest.skip(f"no small disk can be mounted: {tried.stderr.strip()}")
    return command


@pytest.mark.trials(8, 170)
def test_a_full_disk_costs_no_record(trials: Trials, bases: Path, folder: Path, alone: list[str]) -> None:
    with Child(work, folder, bases, "disk", SMALL, under=alone) as child:
        sweep(trials, list(OPERATIONS), asker(child))
        child.finish()
    full, refused = (
        sum(count for outcome, count in trials.counts.items() if outcome.endswith(error))
        for error in ("StorageFullError", "StoreAccessError")
    )
    assert refused < full / 4, "only where a file cannot be created"


def asker(child: Child) -> Ask:
    def ask(name: str, amount: int | None) -> Any:
        child.say([name, amount])
        return child.hear()

    return ask
