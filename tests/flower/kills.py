"""Federations in processes of their own, which kill themselves at a chosen point.

Flower takes seconds to import. So a process imports it once, opens no store, starts no thread, and forks a process for
each federation.
"""

import gc
import importlib
import importlib.util
import logging
import os
import shutil
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, Self

from support import Child, hear, say

sys.path.insert(0, str(Path(__file__).parent))  # the processes import this file alone

RESTORE = ("recordstore.flower.state", "StrategyState", "restore")
"""The method that brings the strategy's state back, for the tests that need to see that it does something."""

RUN = "digits"

IMPORTED_ONCE = (
    "federation",
    "legacy_federation",
    "flwr.serverapp.strategy",
    "flwr.server.strategy",
    "recordstore.flower",
)

ENVIRONMENT = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
}


@dataclass(frozen=True)
class Job:
    """A federation to run: without a path, without a checkpointer."""

    name: str
    path: str | None = None
    kill_at: tuple[str, int, int] | None = None
    options: dict[str, Any] = field(default_factory=dict)
    restore: bool = True


@dataclass(frozen=True)
class End:
    """How a federation ended."""

    committed: int = -1
    """The last round in the store when it started, -1 if there was none."""

    killed_at: tuple[str, int, int] | None = None
    trace: list[tuple[str, int, int]] = field(default_factory=list)
    outcome: dict[str, Any] | None = None

    @property
    def trained(self) -> list[int]:
        """The rounds of the calls to train that clients got, in order."""
        return [server_round for phase, server_round, _ in self.trace if phase == "train"]


class Federations:
    """The process that forks the federations; leaving the block ends it."""

    def __init__(self) -> None:
        self._child = Child(serve)

    def run(self, job: Job) -> End:
        """Run a federation in a new process and return how it ended: well, or by the kill that was asked for."""
        self._child.say(vars(job))
        said: dict[str, Any] = {}
        while "status" not in (message := self._child.hear()):
            said |= message
        assert "error" not in said, said["error"]
        killed = os.WIFSIGNALED(message["status"])
        if killed:
            assert os.WTERMSIG(message["status"]) == signal.SIGKILL
            assert tuple(said["killed at"]) == job.kill_at
        assert killed == ("outcome" not in said)
        trace = [tuple(point) for point in said["trace"]]
        return End(said.get("committed", -1), job.kill_at if killed else None, trace, said.get("outcome"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._child.__exit__(*error)


class Bench:
    """Runs federations with stores in a folder.

    Parameters
    ----------
    folder
        Holds an empty store, which each new one is a copy of.
    here
        Forks what is killed and resumed.
    there
        Forks what that is compared with.
    references
        The uninterrupted federations, each of which is run once.
    """

    EMPTY = "empty.db"

    def __init__(self, folder: Path, here: Federations, there: Federations, references: dict[str, End]) -> None:
        self.here, self.there = here, there
        self._folder, self._references = folder, references
        self._stores = count()

    def new_store(self) -> str:
        """Return the path of a new store."""
        path = self._folder / f"{next(self._stores)}.db"
        shutil.copy(self._folder / self.EMPTY, path)
        return str(path)

    def reference(self, name: str) -> End:
        """Return what a configuration ends with if nothing interrupts it, with a checkpointer and a store of its own."""
        if name not in self._references:
            self._references[name] = self.there.run(Job(name, self.new_store()))
        return self._references[name]


def serve() -> None:
    """Fork a process for each federation that is asked for."""
    warnings.simplefilter("ignore")
    import digits_task

    for module in IMPORTED_ONCE:
        importlib.import_module(module)
    if importlib.util.find_spec("xgboost"):
        importlib.import_module("trees_task")
    digits_task.load_examples()
    for name in ("flwr", "recordstore"):
        logging.getLogger(name).setLevel(logging.ERROR)
    gc.freeze()  # some strategies collect garbage many times a round
    assert threading.active_count() == 1, "a fork copies one thread only"
    while (job := hear()) is not None:
        worker = os.fork()
        if not worker:
            work(Job(**job))
        say({"status": os.waitpid(worker, 0)[1]})


def work(job: Job) -> None:
    """Run one federation, and end this process, a fork."""
    try:
        run(job)
    except BaseException:
        say({"error": traceback.format_exc()})
        os._exit(1)
    os._exit(0)


def run(job: Job) -> None:
    from configurations import EVERY, Configuration
    from federation import SEED, run_federation
    from legacy_federation import run_legacy_federation
    from points import Points, watch_stores

    points = Points(None if job.kill_at is None else tuple(job.kill_at))
    configuration = EVERY[job.name]
    is_message_api = isinstance(configuration, Configuration)
    go = partial(run_federation if is_message_api else run_legacy_federation, configuration, points)
    if job.path is None:
        outcome = go()
    else:
        if not job.restore:
            forget_to_restore()
        watch_stores(points)
        with checkpointed(job) as (checkpointer, committed):
            seed = SEED if committed < 0 else None  # from then on the checkpoint decides
            outcome = go(checkpointer.start if is_message_api else checkpointer.legacy, seed)
    say({"outcome": outcome, "trace": points.trace})


@contextmanager
def checkpointed(job: Job) -> Iterator[tuple[Any, int]]:
    """Give a checkpointer with a store, and the last round in it, which is told too."""
    from recordstore import RecordStore

    checkpointer_class = importlib.import_module("recordstore.flower").Checkpointer
    with RecordStore(job.path) as store:
        newest = store.latest(RUN)
        committed = -1 if newest is None else newest.round
        say({"committed": committed})
        yield checkpointer_class(store, RUN, **{"on_error": "raise"} | job.options), committed


def forget_to_restore() -> None:
    """Have the checkpointer leave the strategy's state as it is in a new process."""
    module, owner, method = RESTORE
    kind = getattr(importlib.import_module(module), owner)
    assert callable(getattr(kind, method))
    setattr(kind, method, lambda *_arguments, **_named: None)
