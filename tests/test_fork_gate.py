"""What lets threads into transactions, and forks out of them: who waits for whom, and for how long."""

import os
import signal
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import Child, say

from recordstore import RecordStore, StoreBusyError, forks, schema


def test_what_interrupts_a_thread_at_the_gate_of_forks_can_pass_it() -> None:
    """A signal handler or a finalizer, which run on the thread that holds the gate, may use a store."""
    gate, passed = forks._Gate(), []

    def interrupted() -> None:
        with gate.lock, gate.transaction():
            passed.append(True)

    thread = threading.Thread(target=interrupted, daemon=True)
    thread.start()
    thread.join(30)
    assert passed


def test_what_interrupts_a_thread_that_forks_can_pass_and_others_wait() -> None:
    gate, passed, forking = forks._Gate(), [], threading.Event()

    def interrupted() -> None:
        gate.before_fork()
        with gate.transaction(), gate.transaction():
            passed.append("handler")
        forking.set()
        other.join(0.2)
        passed.append("forked")
        gate.after_fork()

    def waiting() -> None:
        forking.wait()
        with gate.transaction():
            passed.append("other")

    threads = other, interrupting = [threading.Thread(target=call, daemon=True) for call in (waiting, interrupted)]
    for thread in threads:
        thread.start()
    interrupting.join(30)
    other.join(30)
    assert passed == ["handler", "forked", "other"]


def test_a_fork_whose_end_was_interrupted_keeps_nobody_out_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forks, "FORK_LASTS_SECONDS", 0.2)
    gate, passed = forks._Gate(), []
    gate.before_fork()

    def other() -> None:
        with gate.transaction():
            passed.append(True)

    for _ in range(2):
        thread = threading.Thread(target=other, daemon=True)
        thread.start()
        thread.join(30)
    assert passed == [True, True]
    assert gate.forking == []


def enters(gate: forks._Gate) -> bool:
    """Return whether another thread gets into a transaction at once."""
    entered = threading.Event()

    def enter() -> None:
        with gate.transaction():
            entered.set()

    threading.Thread(target=enter, daemon=True).start()
    return entered.wait(0.3)


def test_a_fork_within_the_hook_of_another_one_does_not_end_that() -> None:
    gate = forks._Gate()
    for _ in range(2):
        gate.before_fork()
    gate.after_fork()
    assert not enters(gate)
    gate.after_fork()
    assert enters(gate)


def test_a_fork_of_a_handler_within_a_transaction_does_not_end_that_of_another_thread() -> None:
    gate, ready, end = forks._Gate(), threading.Event(), threading.Event()

    def fork() -> None:
        gate.before_fork()
        ready.set()
        end.wait()
        gate.after_fork()

    other = threading.Thread(target=fork, daemon=True)
    with gate.transaction():
        other.start()
        while not gate.forking:
            other.join(0.01)
        gate.before_fork()
        gate.after_fork()
    assert ready.wait(30)
    assert not enters(gate)
    end.set()
    other.join(30)
    assert enters(gate)


@pytest.mark.parametrize("kind", ["file", "memory"])
def test_connections_are_opened_and_closed_where_no_other_thread_forks(
    path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """SQLite holds locks of its own meanwhile, which a child would inherit and wait for."""
    calls: list[str] = []

    def watched(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            assert threading.get_ident() in forks._Gate.current.inside
            calls.append(function.__name__)
            return function(*arguments, **options)

        return call

    monkeypatch.setattr(sqlite3, "connect", watched(sqlite3.connect))
    monkeypatch.setattr(forks.ForkSafeConnection, "close", watched(forks.ForkSafeConnection.close))
    for _ in range(2):
        with RecordStore(path if kind == "file" else ":memory:") as store:
            store.load(store.save({"x": np.ones(3)}))
    assert {"connect", "close"} <= set(calls)


def test_a_handler_that_opens_a_new_store_while_its_thread_makes_one_is_told_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Alembic, which makes the first one of a process, has a state of its own."""
    run = schema._run_alembic

    def interrupted(connection: Any) -> None:
        with pytest.raises(StoreBusyError, match="try again"):
            RecordStore(tmp_path / "handler.db")
        run(connection)

    monkeypatch.setattr(schema, "_made", {})
    monkeypatch.setattr(schema, "_run_alembic", interrupted)
    RecordStore(tmp_path / "first.db").close()
    with RecordStore(tmp_path / "handler.db") as store:
        assert len(store) == 0


def fork_while_a_store_is_made(path: str) -> None:
    """Fork in a signal handler while the revisions run, and make another store in the child."""
    run, children = schema._run_alembic, []

    def fork(*_: Any) -> None:
        if not (child := os.fork()):
            signal.alarm(30)
            schema._run_alembic = run
            RecordStore(f"{path}-child").close()
            os._exit(0)
        children.append(child)

    def interrupted(connection: Any) -> None:
        signal.raise_signal(signal.SIGUSR1)
        run(connection)

    signal.signal(signal.SIGUSR1, fork)
    schema._run_alembic = interrupted
    RecordStore(path).close()
    say([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_child_that_is_forked_while_its_parent_makes_a_store_can_make_one(path: Path) -> None:
    with Child(fork_while_a_store_is_made, path) as process:
        assert process.hear() == [0]
        process.finish()
