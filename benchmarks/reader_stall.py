"""How long a large save keeps a reader in another process waiting, against the longest commit of that save.

    python benchmarks/reader_stall.py --folder /on/the/disk /dev/shm [--megabytes 500] [--repetitions 5]

The reader loads a small record again and again. In the default journal mode it waits while a batch is committed, which
the disk decides on; what it waits beyond the longest commit is due to the package. In WAL mode it waits for nobody.
"""

import argparse
import json
import select
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, NamedTuple
from unittest import mock

import numpy as np
from report import align, file_system, load, milliseconds, render_setting, setting

from recordstore import RecordStore
from recordstore.connection import poll
from recordstore.handle import wal_is_safe

BOUND = 0.2
"""Seconds that a reader may wait beyond the longest commit, in the default journal mode."""

ARRAYS = 50
READER = "--reader"
Mode = Literal["truncate", "wal"]
Span = tuple[float, float]
"""Begin and end, on the clock that all processes share."""


class Stall(NamedTuple):
    """What was seen during one save."""

    seconds: float
    reads: list[float]
    commits: list[float]

    @property
    def excess(self) -> float:
        """By how much the longest read exceeds the longest commit."""
        return max(self.reads) - max(self.commits)

    def cells(self) -> list[str]:
        """Return the columns of the table."""
        return [
            milliseconds(self.seconds),
            str(len(self.reads)),
            milliseconds(statistics.median(self.reads)),
            milliseconds(max(self.reads)),
            str(len(self.commits)),
            milliseconds(max(self.commits)),
            f"{self.excess * 1000:+.1f}",
        ]


HEAD = ["save", "reads", "median", "longest read", "commits", "longest commit", "difference"]


def read_on(path: str) -> None:
    """Load record 1 until there is a message, and tell when each load has begun and ended."""
    spans: list[Span] = []
    with RecordStore(path) as store:
        store.load(1)
        print("ready", flush=True)
        while not select.select([sys.stdin], [], [], 0)[0]:
            began = time.monotonic()
            store.load(1)
            spans.append((began, time.monotonic()))
    print(json.dumps(spans))


@contextmanager
def reader(path: Path) -> Iterator[Callable[[], list[Span]]]:
    """Have another process read, and give what ends it and returns its loads."""
    command = [sys.executable, __file__, READER, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        if process.stdout is None or process.stdout.readline() != "ready\n":
            raise RuntimeError("the reader has not begun")
        yield lambda: json.loads(process.communicate("enough\n")[0])


@contextmanager
def timed_commits() -> Iterator[list[float]]:
    """Give a list of the seconds of each commit, from the moment on from which no reader begins any more."""
    seconds: list[float] = []

    def timed(action: Callable[[], Any], timeout: float) -> Any:
        began = time.monotonic()
        result = poll(action, timeout)
        if getattr(action, "__name__", None) == "commit":
            seconds.append(time.monotonic() - began)
        return result

    with mock.patch("recordstore.engine.poll", timed):
        yield seconds


def stall(path: Path, model: dict[str, np.ndarray[Any, Any]], mode: Mode) -> Stall:
    """Save a model into a new file while another process reads."""
    with RecordStore(path, journal_mode=mode) as store:
        store.save({"bias": np.ones(10)})
        with reader(path) as finish, timed_commits() as commits:
            time.sleep(0.2)
            began = time.monotonic()
            store.save(model)
            ended = time.monotonic()
            loads = finish()
    reads = [stop - start for start, stop in loads if stop > began and start < ended]
    return Stall(ended - began, reads, commits)


def measure(folder: Path, mode: Mode, megabytes: int, repetitions: int) -> list[Stall]:
    """Return what was seen in each repetition, the warm-up left out."""
    numbers = np.random.default_rng(0)
    nbytes = megabytes * 1_000_000 // ARRAYS
    model = {f"layer {index}": numbers.integers(0, 256, nbytes, np.uint8) for index in range(ARRAYS)}
    found = []
    for _ in range(repetitions + 1):
        with tempfile.TemporaryDirectory(dir=folder, prefix="recordstore-stall-") as place:
            found.append(stall(Path(place) / "store.db", model, mode))
    return found[1:]


def render(folder: Path, mode: Mode, megabytes: int, repetitions: int) -> str:
    """Measure, and return a table."""
    before = load()
    found = measure(folder, mode, megabytes, repetitions)
    worst = max(one.excess for one in found)
    verdict = f"worst difference {worst * 1000:+.1f} ms"
    if mode == "truncate":
        verdict += f", bound {BOUND * 1000:+.0f} ms: {'met' if worst <= BOUND else 'NOT met'}"
    return (
        f"journal mode {mode}, {megabytes} MB in {ARRAYS} arrays, on {file_system(folder)} ({folder}); "
        f"load of the machine {before:.1f} before, {load():.1f} after\n\n"
        + align([["ms, each repetition", *HEAD], *([str(number), *one.cells()] for number, one in enumerate(found, 1))])
        + f"\n\n{verdict}\n"
    )


def main() -> None:
    """Print a table for each folder and journal mode."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, nargs="+", default=[Path(tempfile.gettempdir())])
    parser.add_argument("--megabytes", type=int, default=500)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument(READER, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.reader:
        read_on(arguments.reader)
        return
    print(render_setting(setting({name: version(name) for name in ("numpy", "sqlalchemy", "blake3")}, [])))
    modes: list[Mode] = ["truncate"]
    if wal_is_safe(sqlite3.sqlite_version_info):
        modes.append("wal")
    else:
        print(f"journal mode wal: left out, as recordstore refuses it on SQLite {sqlite3.sqlite_version}")
    for folder in arguments.folder:
        for mode in modes:
            print("\n" + render(folder, mode, arguments.megabytes, arguments.repetitions), flush=True)


if __name__ == "__main__":
    main()
