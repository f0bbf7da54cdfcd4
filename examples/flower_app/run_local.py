"""The demonstration: a Flower server is killed twice, goes on each time, and ends with the same model, bit for bit.

Runs the app of this folder (see ``local_grid.py``) in processes of their own: once without interruption, and once more
killed with SIGKILL, first while clients train and then while a round is being saved. Exit code 1 if the two trainings
differ in a single bit of a model or of a metric.
"""

import argparse
import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

from recordstore import RecordStore

APP = Path(__file__).with_name("local_grid.py")
RUN = "digits"
QUIET = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}


def heading(number: int, text: str) -> None:
    print(f"\n{number}. {text}\n", flush=True)


def train(db: Path, rounds: int, *options: str) -> int:
    """Run the app in a process of its own and return its exit code."""
    command = [sys.executable, str(APP), "--checkpoints", str(db), "--rounds", str(rounds), *options]
    return subprocess.run(command, check=False, env=os.environ | QUIET).returncode


def must_succeed(code: int) -> None:
    if code != 0:
        raise SystemExit(f"the training ended with exit code {code}")


def must_be_killed(code: int, when: str) -> None:
    if code != -signal.SIGKILL:
        raise SystemExit(f"the training was to die of SIGKILL, and ended with exit code {code}")
    print(f"\n   exit code {code}: SIGKILL, {when}")


def show_rounds(db: Path) -> None:
    """Print what there is to go on from, asking nobody but sqlite3."""
    with closing(sqlite3.connect(db)) as connection:
        newest, partial = connection.execute(
            "SELECT max(round) FILTER (WHERE state = 'ready'), count(*) FILTER (WHERE state != 'ready') FROM record"
        ).fetchone()
    print(f"   what plain sqlite3 finds in the file: {partial} partial records, newest round {newest}\n", flush=True)


def train_and_kill(db: Path, rounds: int) -> None:
    """Train to the end in spite of two kills."""
    first, second = rounds // 3 + 1, max(rounds * 2 // 3, rounds // 3 + 1)
    code = train(db, rounds, "--kill-in-round", str(first))
    must_be_killed(code, f"after the first client has trained in round {first}")
    show_rounds(db)

    code = train(db, rounds, "--kill-at-commit", str(second))
    must_be_killed(code, f"in the transaction that saves round {second}, before its COMMIT")
    journal = db.with_name(f"{db.name}-journal").stat().st_size
    if journal == 0:
        raise SystemExit("the training died, but not in the middle of a transaction")
    print(f"   left behind: a rollback journal of {journal:,} bytes")
    show_rounds(db)

    must_succeed(train(db, rounds))


def compare(whole: RecordStore, resumed: RecordStore, rounds: int) -> bool:
    """Print the digests of both final models, and return whether all models and all metrics are equal."""
    print(f"   final model, uninterrupted        {whole.info(f'{RUN}@{rounds}').digest}")
    print(f"   final model, killed and resumed   {resumed.info(f'{RUN}@{rounds}').digest}\n")
    models = [[(info.round, info.digest) for info in store.records(run=RUN)] for store in (whole, resumed)]
    # repr() tells 0.0 from -0.0 and 1 from 1.0, and shows a float to its last bit
    metrics = [[repr(entry) for entry in store.history(RUN)] for store in (whole, resumed)]
    equal_models = show_equal("models, every array of every round", *models)
    equal_metrics = show_equal("reports of metrics, by server, training and evaluation", *metrics)
    return equal_models and equal_metrics


def show_equal(what: str, whole: list[object], resumed: list[object]) -> bool:
    """Print how many items of two lists are equal, and return whether all of them are."""
    equal = sum(one == other for one, other in zip(whole, resumed, strict=False))
    total = max(len(whole), len(resumed))
    print(f"   {equal} of {total} are equal: {what}")
    return 0 < equal == total


def show_best(store: RecordStore) -> None:
    """Print the best round, by two of the metrics."""
    for metric in ("accuracy", "evaluate/eval_acc"):
        best = store.best(metric, "max", run=RUN)
        if best is not None:
            print(f'   store.best("{metric}", "max", run="{RUN}")   round {best.round}, {best.metrics[metric]:.3f}')


def new_files(folder: Path) -> tuple[Path, Path]:
    """Return the paths of the two stores, and remove what an earlier demonstration left there."""
    folder.mkdir(parents=True, exist_ok=True)
    whole, killed = folder / "uninterrupted.db", folder / "killed.db"
    for path in [*folder.glob(f"{whole.name}*"), *folder.glob(f"{killed.name}*")]:
        path.unlink()
    return whole, killed


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="A Flower app whose server is killed twice and resumed bit for bit.")
    parser.add_argument("--rounds", type=int, default=20, help="server rounds, at least 2 (default: %(default)s)")
    parser.add_argument("--folder", type=Path, default=Path("flower-output"), help="default: %(default)s")
    arguments = parser.parse_args()
    if arguments.rounds < 2:
        parser.error("it takes 2 rounds to be killed twice")
    return arguments


def main() -> int:
    arguments = parse_arguments()
    whole_db, killed_db = new_files(arguments.folder)
    print("A Flower app with checkpoints: FedAdam, 10 clients of which 5 train in a round, 1,797 handwritten digits")
    heading(1, f"The reference: {arguments.rounds} rounds without interruption")
    must_succeed(train(whole_db, arguments.rounds))
    heading(2, "The same app with a new file, killed twice and started three times")
    train_and_kill(killed_db, arguments.rounds)
    heading(3, "Is it the same training?")
    with RecordStore(whole_db) as whole, RecordStore(killed_db) as resumed:
        equal = compare(whole, resumed, arguments.rounds)
        print()
        show_best(resumed)
    verdict = "EQUAL: the killed server lost nothing" if equal else "DIFFERENT: this should never happen"
    print(f"\n{verdict}. Both files are in {arguments.folder}{os.sep}")
    return 0 if equal else 1


if __name__ == "__main__":
    raise SystemExit(main())
