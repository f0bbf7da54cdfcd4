"""A reader that is stopped (SIGSTOP, as by Ctrl-Z or a debugger) for as long as one likes.

Between two of its transactions it disturbs nobody. Within one it holds a lock: writers then give up after their
timeout, nothing is damaged, and all goes on when it does.
"""

import contextlib
import os
import random
import select
import signal
import sqlite3
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from itertools import count, cycle
from pathlib import Path

import numpy as np
import parties
import pytest
from parties import ROUNDS, SMALL, WAYS, content, is_whole, loads, look
from sqlalchemy import Engine, event
from support import Child, flaws, hear, make_small, say
from trials import Trials

from recordstore import RecordNotFoundError, RecordStore, StoreBusyError

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="this system stops no processes")

TIMEOUT = 0.2


@pytest.fixture
def path(memory_folder: Path) -> Path:
    return memory_folder / "store.db"


@contextlib.contextmanager
def stopped(process: Child, *, by_itself: bool = False) -> Iterator[None]:
    """Let a process stand still for the length of a block."""
    if not by_itself:
        os.kill(process.pid, signal.SIGSTOP)
    assert os.WIFSTOPPED(os.waitpid(process.pid, os.WUNTRACED)[1])
    yield
    os.kill(process.pid, signal.SIGCONT)


def is_being_read(path: Path) -> bool:
    """Return whether somebody holds a lock of the file."""
    with closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as witness:
        try:
            witness.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError as error:
            return error.sqlite_errorcode == sqlite3.SQLITE_BUSY
        witness.execute("ROLLBACK")
    return False


# Between two arrays of a stream


def read_a_stream(path: str) -> None:
    make_small(**SMALL)
    with RecordStore(path) as store:
        stream = store.stream(1)
        got = dict(next(stream) for _ in range(2))
        say("two arrays")
        hear()
        try:
            got |= dict(stream)
        except RecordNotFoundError:
            say("gone")
        else:
            say("exact" if is_whole({name: array.numpy() for name, array in got.items()}) else "broken")


@pytest.mark.parametrize("end", ["exact", "gone"])
def test_a_reader_stopped_in_the_middle_of_a_stream_disturbs_nobody(path: Path, small: None, end: str) -> None:
    with RecordStore(path, timeout=TIMEOUT) as store:
        store.save(content(3))
        with Child(read_a_stream, path) as reader:
            assert reader.hear() == "two arrays"
            with stopped(reader):
                assert not is_being_read(path)
                for seed in range(100, 130, 3):
                    store.save(content(seed), run="r", round=0, overwrite=True)
                store.delete(1 if end == "gone" else "r@0")
                store.gc(grace=0)
                assert store.compact() > 0
                store.save(content(200), run="r", round=1)
            reader.say("go on")
            assert reader.finish() == [end]
        assert is_whole(loads(store, "r@1"))
        assert store.verify()
    assert flaws(path) == {}


# Within a transaction


def stop_while_reading(path: str, way: str) -> None:
    """Read record 1, and stop when the first of its bytes are about to be read."""
    make_small(**SMALL)

    struck = count()

    def strike(connection: object, cursor: object, statement: str, *_: object) -> None:
        if "FROM chunk" in statement and next(struck) == 0:
            os.kill(os.getpid(), signal.SIGSTOP)

    with RecordStore(path) as store:
        event.listen(Engine, "before_cursor_execute", strike)
        say(is_whole(getattr(parties, way)(store, 1)))


@pytest.mark.parametrize("way", ["loads", "slices"])
def test_writers_give_up_on_a_reader_stopped_in_a_transaction_and_nothing_is_damaged(
    path: Path, small: None, way: str
) -> None:
    with RecordStore(path, timeout=TIMEOUT) as store:
        store.save(content(1), run="r", round=0)
        store.save(content(2), run="r", round=1)
        with Child(stop_while_reading, path, way) as reader:
            with stopped(reader, by_itself=True):
                assert is_being_read(path)
                for call in (
                    lambda: store.save(content(4)),
                    lambda: store.save({"b": np.ones(2)}, run="r", round=0, overwrite=True),
                    lambda: store.delete(1),
                ):
                    before = time.monotonic()
                    with pytest.raises(StoreBusyError, match="locked"):
                        call()
                    assert TIMEOUT <= time.monotonic() - before < TIMEOUT + 1.5  # a busy machine adds something
                    assert is_whole(loads(store, "r@1"))
                assert list(store) == [1, 2]
            assert reader.finish() == [True]
        assert is_whole(loads(store, "r@0"))
        store.save({"b": np.ones(2)}, run="r", round=0, overwrite=True)
        store.delete("r@1")
        store.gc(grace=0)
        assert store.compact() > 0
        assert store.verify()
    assert flaws(path) == {}


# At any moment


def read_on(path: str, seed: str) -> None:
    """Read records until there is a message."""
    make_small(**SMALL)
    dice, outcomes = random.Random(seed), Counter()
    with RecordStore(path) as store:
        say("reading")
        for way in cycle(WAYS):
            if select.select([sys.stdin], [], [], 0)[0]:
                break
            outcomes[look(store, dice, way)] += 1
    say(outcomes)


@pytest.mark.trials(12, 500)
def test_a_reader_stopped_at_any_moment_damages_nothing(path: Path, trials: Trials, small: None) -> None:
    with RecordStore(path, timeout=TIMEOUT) as store:
        for number in range(ROUNDS):
            store.save(content(number), run="r", round=number, metadata={"seed": number})
        with Child(read_on, path, trials.seed) as reader:
            assert reader.hear() == "reading"
            for number in trials:
                dice = trials.dice(number)
                time.sleep(dice.uniform(0, 0.05))
                with stopped(reader):
                    held = is_being_read(path)
                    wrote = change(store, 100 + number, dice.randrange(ROUNDS))
                trials.counts["stopped with a lock held" if held else "stopped without a lock"] += 1
                if wrote == held:
                    trials.fail(number, f"a lock was held: {held}, the others could write: {wrote}")
            reader.say("enough")
            for outcome, times in reader.finish()[0].items():
                trials.counts[f"reads: {outcome}"] = times
                if outcome not in {"exact", "gone"}:
                    trials.fail(0, outcome)
        store.gc(grace=0)
        assert store.verify()
        trials.conclude()
    assert flaws(path) == {}


def change(store: RecordStore, seed: int, number: int) -> bool:
    """Do all kinds of writing; return whether the lock for it could be had."""
    try:
        store.save(content(seed), run="r", round=number, metadata={"seed": seed}, overwrite=True)
        store.delete(store.save({"b": np.full(seed, 1)}))
        store.gc()
        store.compact()
    except StoreBusyError:
        return False
    return True
