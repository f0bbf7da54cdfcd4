"""The moments of a federation at which its process can be killed, counted and named.

A point is (phase, server round, number within both). The round is that of the clients that were contacted last.
"""

import os
import signal
from collections import Counter
from collections.abc import Mapping
from threading import Lock
from typing import Any

import numpy as np
from sqlalchemy import Connection, Engine, event
from sqlalchemy.engine.default import DefaultDialect
from support import say

PHASES = ("train", "aggregate", "evaluate", "statement", "before COMMIT", "after COMMIT")
WRITES = ("INSERT", "UPDATE", "DELETE")

Point = tuple[str, int, int]


class Points:
    """Counts what happens, and ends the process with SIGKILL at one point."""

    def __init__(self, kill_at: Point | None = None) -> None:
        self.server_round = 0
        self.trace: list[Point] = []
        self._kill_at = kill_at
        self._counts: Counter[tuple[str, int]] = Counter()
        self._lock = Lock()

    def happen(self, phase: str) -> None:
        with self._lock:
            key = (phase, self.server_round)
            point = (*key, self._counts[key])
            self._counts[key] += 1
            self.trace.append(point)
            if point == self._kill_at:
                say({"killed at": point, "trace": self.trace})
                os.kill(os.getpid(), signal.SIGKILL)


def watch_strategy(strategy: Any, method: str, points: Points) -> None:
    """Count the moments before and after a strategy aggregates; in its class, for the checkpointer takes the instance."""
    aggregate = getattr(type(strategy), method)

    def watched(*arguments: Any, **named: Any) -> Any:
        points.happen("aggregate")
        result = aggregate(*arguments, **named)
        points.happen("aggregate")
        return result

    watched.__qualname__, watched.__module__ = aggregate.__qualname__, aggregate.__module__
    setattr(type(strategy), method, watched)


def watch_stores(points: Points) -> None:
    """Count the statements that write, and the COMMITs of what they wrote."""
    wrote: set[int] = set()

    def before_statement(connection: Connection, _cursor: Any, statement: str, *_: object) -> None:
        if statement.lstrip().upper().startswith(WRITES):
            points.happen("statement")
            wrote.add(id(connection.connection.driver_connection))

    def before_commit(connection: Connection) -> None:
        if id(connection.connection.driver_connection) in wrote:
            points.happen("before COMMIT")

    def after_commit(_dialect: DefaultDialect, connection: Any) -> None:
        if id(connection.driver_connection) in wrote:
            wrote.remove(id(connection.driver_connection))
            points.happen("after COMMIT")

    event.listen(Engine, "before_cursor_execute", before_statement)
    event.listen(Engine, "commit", before_commit)  # called before the listener of the store, which commits
    DefaultDialect.do_commit = after_commit  # called after it, and has nothing left to do


def spread(trace: list[Point], shares: Mapping[str, int]) -> list[Point]:
    """Return a number of points of each phase, evenly spread over its moments and so over the rounds."""
    chosen = []
    for phase, share in shares.items():
        moments = [point for point in trace if point[0] == phase]
        indices = np.linspace(0, len(moments) - 1, share + 2 if share < 3 else share).round().astype(int)
        chosen += [moments[index] for index in (indices[1:-1] if share < 3 else indices)]
    return chosen


def increasing(trace: list[Point], number: int) -> list[Point]:
    """Return points one after the other, of changing phases; each can be reached from a kill at the one before.

    A round whose COMMIT was the point of the kill is not run again.
    """
    live = [(index, point) for index, point in enumerate(trace) if point[1] > 0]
    first, length = live[0][0], len(live)
    chosen: list[Point] = []
    for turn in range(number):
        phase = PHASES[turn % len(PHASES)]
        goal = first + length * turn // number
        rest = [(index, point) for index, point in live if point[0] == phase]
        index, point = min(rest, key=lambda candidate: abs(candidate[0] - goal))
        chosen.append(point)
        live = [later for later in live if later[0] > index and (phase != "after COMMIT" or later[1][1] > point[1])]
    return chosen
