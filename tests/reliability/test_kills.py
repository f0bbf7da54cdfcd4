"""SIGKILL at any moment: what was acknowledged is there and equal, nothing half-done is visible, gc removes the rest.

A process forks one worker after the other, each of which opens the same file, says what it is going to do, does it and
says so, until it is killed. A dict is the oracle; of the operation in flight nothing or all may have happened. Most
kills wait for a transaction that is open, the others come at any time. A moment cannot be drawn again: ``--only``
repeats the operations of a trial, on a file that is new.
"""

import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from kill_examination import Examination, Message, after_killed_upgrade, count_journal, version_of
from kill_journals import MAGIC, head_of_journal, remove_store
from kill_worker import fork_workers
from oracle import SAVES, collected
from support import ASSETS, HEAD, Child
from trials import Trials

import recordstore
from recordstore import RecordStore, constants

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(4 * 3600),
    pytest.mark.skipif(not hasattr(os, "fork"), reason="the workers are forked"),
]

OPERATIONS = 6
"""Before the kill, at most."""

LIFE_SECONDS = 0.03
"""What is added to that: about as long as an operation takes."""

PATIENCE_SECONDS = 0.25
"""How long the moment is waited for."""

OLDER = [path for path in sorted(ASSETS.glob("schema-*.db")) if version_of(path) < HEAD]

KINDS = [
    *(f"{do}, {size}" for do in SAVES for size in ("small", "batched")),
    *("tag", "untag", "delete", "gc", "compact", "backup"),
]


def sizes() -> dict[str, float]:
    """Return the sizes that are set for this test, for the processes that it starts."""
    names = ("CHUNK_SIZE", "BATCH_BYTES", "BATCH_ROWS", "RING_CHUNKS", "PAUSE_SECONDS")
    return {name: getattr(constants, name) for name in names}


def live_and_die(process: Child, order: list[Any], wait: Callable[[], None], operations: int = 0) -> list[Message]:
    """Let a worker begin so many operations, kill it when the wait is over, and return what it said."""
    process.say(order)
    said = []
    pid = None
    while pid is None or sum("begin" in message for message in said) < operations:
        message = process.hear()
        assert "status" not in message, "the worker died before it was killed"
        if "pid" in message:
            pid = message["pid"]
        else:
            said.append(message)
    wait()
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    while "status" not in (message := process.hear()):
        said.append(message)
    assert os.WTERMSIG(message["status"]) == signal.SIGKILL, "the worker died of something else"
    return said


def wait_for_the_moment(path: Path, dice: random.Random) -> None:
    """Return at any time, or shortly after a transaction has written its first page, or begun to overwrite the file."""
    time.sleep(dice.uniform(0, LIFE_SECONDS))
    (aim,) = dice.choices(["any time", "an open journal", "an overwritten page"], [20, 40, 40])
    if aim == "any time":
        return
    wanted = b"" if aim == "an open journal" else MAGIC
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        head = head_of_journal(path)
        if head and head.startswith(wanted):
            break
    pause = dice.choice([0, 0, 0, dice.uniform(0, 0.0003), dice.uniform(0, 0.003)])
    if pause:
        time.sleep(pause)


def new_store(path: Path, trials: Trials) -> Examination:
    """Make an empty store, in place of one that has been found wrong."""
    remove_store(path)
    RecordStore(path).close()
    return Examination(path, trials.counts)


def kill_once_or_twice(process: Child, examination: Examination, dice: random.Random) -> list[Message]:
    """Kill a worker, and now and then also the next one while it recovers the file; return what the first said."""
    path, counts = examination.path, examination.counts
    seed = dice.randrange(2**32)
    operations = dice.randrange(OPERATIONS)
    wait = partial(wait_for_the_moment, path, dice)
    said = live_and_die(process, ["work", str(path), seed], wait, operations)
    examination.count_kill(said)
    if dice.random() < 0.15:
        later = live_and_die(process, ["recover", str(path)], lambda: time.sleep(dice.uniform(0, 0.03)))
        counts["killed during: the recovery from a kill"] += not later
    return said


@pytest.mark.trials(60, 5000)
def test_a_kill_at_any_moment_costs_no_acknowledged_operation_and_shows_no_half_one(
    tmp_path: Path, small: None, trials: Trials
) -> None:
    path = tmp_path / "store.db"
    examination = new_store(path, trials)
    with Child(fork_workers, sizes()) as process:
        for trial in trials:
            said = kill_once_or_twice(process, examination, trials.dice(trial))
            failures = collected(examination.after_kill(said, read_only=bool(trial % 2)))
            for failure in failures:
                trials.fail(trial, *failure)
            if failures:  # begin anew
                examination = new_store(path, trials)
    trials.conclude()
    counts, kills = trials.counts, trials.counts["kills"]
    if kills >= 60:
        assert counts["hit an open journal"] >= 0.6 * kills, "kills between transactions prove little"
        assert counts["left a draft"]
    if kills >= 500:
        assert counts["hit while pages were overwritten"] >= 0.1 * kills
        assert [kind for kind in KINDS if not counts[f"acknowledged: {kind}"]] == []
        assert [kind for kind in KINDS if not counts[f"killed during: {kind}"]] == []


@pytest.mark.skipif(not OLDER, reason="there is one schema")
@pytest.mark.trials(12, 500)
def test_a_kill_during_an_upgrade_leaves_a_file_of_one_schema_with_all_its_records(
    tmp_path: Path, small: None, trials: Trials
) -> None:
    path = tmp_path / "old.db"
    with Child(fork_workers, sizes()) as process:
        for trial in trials:
            dice = trials.dice(trial)
            old = dice.choice(OLDER)
            remove_store(path)
            shutil.copy(old, path)
            said = live_and_die(process, ["upgrade", str(path)], partial(wait_for_the_moment, path, dice))
            count_journal(path, trials.counts)
            with mock.patch("recordstore.constants.CHUNK_SIZE", recordstore.CHUNK_SIZE):  # as these files have
                checked = after_killed_upgrade(path, old, trials.counts, done={"done": 0} in said)
                for failure in collected(checked):
                    trials.fail(trial, *failure)
    trials.conclude()
    if trials.counts["kills"] >= 100:
        assert trials.counts["hit an open journal"] >= 0.4 * trials.counts["kills"]
        assert trials.counts[f"of schema {HEAD} then"] < trials.counts["kills"]
