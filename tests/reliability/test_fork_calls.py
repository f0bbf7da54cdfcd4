"""Every call of an inherited store, and forks in a function of the caller: an error there, and no damage here.

``tests/test_forks.py`` has what else forked children may do, and when. Everything runs in a process of its own: the
process of the tests has threads, and is not to be forked.
"""

import os
import sys
import time
from collections.abc import Callable
from itertools import count, product
from pathlib import Path
from unittest import mock

import pytest
from every_call import CALLS
from forked import MODEL, SMALL, npys
from sqlalchemy import Engine, event
from support import Child, content, flaws, make_small, noise, say

from recordstore import ForkError, RecordStore
from recordstore.backup import _Watch

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")


@pytest.fixture
def path(memory_folder: Path) -> Path:
    return memory_folder / "store.db"


# Every call


def call_everything(path: str) -> None:
    with RecordStore(path) as store:
        store.save(MODEL, run="r", round=1)
        stored, stream, ids, infos = store.open(1), store.stream(1), iter(store), store.records()
        next(stream)
        handle = store.save_async(MODEL, run="r", round=2)
        calls: dict[str, Callable[[], object]] = {name: lambda call=call: call(store) for name, call in CALLS.items()}
        calls |= {
            "an array of an open record": stored["0"].numpy,
            "a part of one": lambda: stored["0"][3:5],
            "a stream that has begun": lambda: next(stream),
            "ids": lambda: next(ids),
            "infos": lambda: next(infos),
            "a handle": handle.result,
            "whether it is done": handle.done,
        }
        if not (child := os.fork()):
            say([name for name, call in calls.items() if not is_refused(call)])
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        say([handle.result(), [name for name, _ in stream], len(list(infos))])


def is_refused(call: Callable[[], object]) -> bool:
    try:
        call()
    except ForkError:
        return True
    return False


def test_every_call_of_an_inherited_store_is_refused_and_none_is_forgotten_here(path: Path) -> None:
    names = {name for name in dir(RecordStore) if not name.startswith("_")}
    assert names <= set(CALLS)
    with Child(call_everything, path) as process:
        assert process.hear() == []
        assert process.finish() == [[2, ["1", "2", "3"], 2]]
    assert not path.with_name("copy.db").exists()
    assert flaws(path) == {}


def fork_at_a_statement(path: str, number: int) -> None:
    """Fork in the middle of a save, as a signal handler could: in the child it goes on, and fails."""
    seen, children = count(), []

    def fork(*_: object) -> None:
        if next(seen) == number:
            children.append(os.fork())

    with RecordStore(path) as store:
        event.listen(Engine, "before_cursor_execute", fork)
        try:
            record = store.save(MODEL)
        except BaseException as error:
            say(type(error).__name__)
            os._exit(0)
        if children == [0]:
            os._exit(1)
        assert [wait_for(child) for child in children] == [0]
        assert content(store, record) == npys(MODEL)


@pytest.mark.parametrize("number", [0, 2])
def test_a_child_forked_in_the_middle_of_a_call_gets_the_error_for_children(path: Path, number: int) -> None:
    with Child(fork_at_a_statement, path, number) as process:
        assert process.finish() == ["ForkError"]
    assert flaws(path) == {}


def fork_in_a_step_of_a_backup(path: str) -> None:
    """Fork where SQLite calls its caller back, before the store lets forks pass."""
    children = []
    call = _Watch.__call__

    def forking(watch: _Watch, *numbers: int) -> None:
        children.append(os.fork())
        call(watch, *numbers)

    with RecordStore(path) as store, mock.patch.object(_Watch, "__call__", forking):
        store.save(MODEL)
        try:
            store.backup(f"{path}-2")
        except BaseException as error:
            say(type(error).__name__)
            os._exit(0)
        assert [wait_for(child) for child in children] == [0]


def test_a_child_forked_in_a_step_of_a_backup_gets_the_error_for_children(path: Path) -> None:
    with Child(fork_in_a_step_of_a_backup, path) as process:
        assert process.finish() == ["ForkError"]
    assert flaws(Path(f"{path}-2")) == {}
    assert not list(path.parent.glob("*.partial-*"))


# Functions of the caller that tell of progress


def fork_in_a_progress_function(path: str, call: str, end: str) -> None:
    make_small(**SMALL)
    codes = []

    def tell(progress: object) -> None:
        if len(codes) < 2:
            if not (child := os.fork()):
                if end == "sys.exit":
                    sys.exit(0)  # through all frames of the call
                os._exit(0)
            codes.append(wait_for(child))

    with RecordStore(path) as store:
        store.save(MODEL)
        store.delete(store.save({"x": noise(9, 400_000)}))
        calls = {
            "verify": store.verify,
            "compact": store.compact,
            "backup": lambda progress: store.backup(f"{path}-2", progress=progress),
        }
        calls[call](progress=tell)
    say(codes)


def wait_for(child: int) -> int | str:
    """Return the exit code of a child, which ends in no time."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if (ended := os.waitpid(child, os.WNOHANG)) != (0, 0):
            return os.waitstatus_to_exitcode(ended[1])
        time.sleep(0.002)
    os.kill(child, 9)
    os.waitpid(child, 0)
    return "it hung"


@pytest.mark.parametrize(("call", "end"), list(product(["verify", "compact", "backup"], ["os._exit", "sys.exit"])))
def test_a_child_forked_by_a_progress_function_harms_nobody(path: Path, call: str, end: str) -> None:
    with Child(fork_in_a_progress_function, path, call, end) as process:
        codes = process.hear()
        assert process.finish() == []
    assert codes
    assert set(codes) == {0}
    for file in [path, Path(f"{path}-2")] if call == "backup" else [path]:
        with RecordStore(file) as store:
            assert content(store, 1) == npys(MODEL)
            assert store.verify()
        assert flaws(file) == {}
    assert not list(path.parent.glob("*.partial-*"))
