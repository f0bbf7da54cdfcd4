"""How much checkpointing adds to a round of the digits example, ``examples/flower_app``.

Runs the app as it is, with the configuration of its ``pyproject.toml``, and the same app with a checkpointer that does
nothing: both in this process, in the order A B B A, after a warm-up of each. They draw the same clients, who train on
the same examples: round n of one is compared with round n of the other, and the figure is the median of these ratios.
Beside it stands the time that was spent in commits alone, which the noise of the machine blurs less::

    python benchmarks/flower_overhead.py --folder /on/the/disk/to/measure
"""

import argparse
import contextlib
import logging
import os
import platform
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ |= {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}
sys.path.insert(0, str(Path(__file__).parents[1] / "examples" / "flower_app"))

from digitsapp import server_app
from flwr.app import Message, MessageType
from flwr.serverapp.strategy import Result, Strategy
from local_grid import LocalGrid, read_run_config, run_app
from report import file_system

from recordstore import RecordStore
from recordstore.flower import Checkpointer
from recordstore.flower.committer import Committer


class NoCheckpointer:
    """Starts the strategy and does nothing else."""

    def __init__(self, store: RecordStore, run: str) -> None:
        pass

    def start(self, strategy: Strategy, **arguments: Any) -> Result:
        """Start the strategy as an app without checkpoints does."""
        return strategy.start(**arguments)


class TimedGrid(LocalGrid):
    """Notes when each round begins, which is when the one before has ended."""

    def __init__(self, run_config: dict[str, Any]) -> None:
        super().__init__(run_config)
        self.began: list[float] = []

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Let the clients work."""
        sent = list(messages)
        if sent and sent[0].metadata.message_type == MessageType.TRAIN:
            self.began.append(time.perf_counter())
        return super().send_and_receive(sent, timeout=timeout)


class Commits:
    """Times the commits of all checkpointers."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        commit = Committer.commit

        def timed(*args: Any, **kwargs: Any) -> None:
            began = time.perf_counter()
            commit(*args, **kwargs)
            self.seconds.append(time.perf_counter() - began)

        Committer.commit = timed


def run(folder: Path, rounds: int, checkpointer: type) -> list[float]:
    """Run the app in a new file and return the seconds that each round took."""
    server_app.Checkpointer = checkpointer
    db = folder / "checkpoints.db"
    db.unlink(missing_ok=True)
    os.sync()  # what the run before has left to be written is not to be paid by this one
    # One round more than is measured: the end of a round is the beginning of the next
    run_config = read_run_config(checkpoints=str(db), **{"num-server-rounds": rounds + 1})
    grid = TimedGrid(run_config)
    with contextlib.redirect_stdout(None):
        run_app(grid, run_config)
    return [end - begin for begin, end in zip(grid.began, grid.began[1:], strict=False)]


def describe(folder: Path) -> str:
    """Return what the figures depend on."""
    with RecordStore(folder / "checkpoints.db", read_only=True) as store:
        model, records = store.latest().nbytes, len(store)
    stored = (folder / "checkpoints.db").stat().st_size // records
    libraries = ", ".join(f"{name} {version(name)}" for name in ("flwr", "numpy", "torch"))
    return (
        f"SQLite {sqlite3.sqlite_version}, Python {platform.python_version()}, {libraries}; model of {model:,} bytes, "
        f"{stored:,} bytes of file per record; {file_system(folder)}, fsync on"
    )


def measure(folder: Path, rounds: int, pairs: int) -> str:
    """Return the figures in one line."""
    for checkpointer in (Checkpointer, NoCheckpointer):
        run(folder, 2, checkpointer)
    commits = Commits()
    seconds: dict[type, list[float]] = {Checkpointer: [], NoCheckpointer: []}
    for pair in range(pairs):
        order = [Checkpointer, NoCheckpointer] if pair % 2 == 0 else [NoCheckpointer, Checkpointer]
        for checkpointer in order:
            seconds[checkpointer] += run(folder, rounds, checkpointer)
            if checkpointer is Checkpointer:
                setting = describe(folder)
    ratios = [one / other - 1 for one, other in zip(seconds[Checkpointer], seconds[NoCheckpointer], strict=True)]
    plain, commit = statistics.median(seconds[NoCheckpointer]), statistics.median(commits.seconds)
    return (
        f"checkpointing adds {statistics.median(ratios):+.2%} to a round (median of {len(ratios)} pairs of rounds); "
        f"a round without takes {plain * 1000:.1f} ms, a commit {commit * 1000:.2f} ms = {commit / plain:.2%} "
        f"(medians of {len(ratios)} and {len(commits.seconds)}); {setting}"
    )


def parse_arguments() -> argparse.Namespace:
    """Return what the command line says."""
    parser = argparse.ArgumentParser(description="What checkpointing adds to a round of the digits example.")
    parser.add_argument("--folder", type=Path, help="where the files are written (default: a temporary folder)")
    parser.add_argument("--rounds", type=int, default=20, help="server rounds of each run (default: %(default)s)")
    parser.add_argument("--pairs", type=int, default=6, help="runs with and without (default: %(default)s)")
    return parser.parse_args()


def main() -> None:
    """Print the figures."""
    arguments = parse_arguments()
    logging.getLogger("flwr").setLevel(logging.WARNING)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        print(measure(Path(folder), arguments.rounds, arguments.pairs))


if __name__ == "__main__":
    main()
