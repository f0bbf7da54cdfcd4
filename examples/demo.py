"""The main demonstration: a federated training is killed while it saves, and resumed from one SQLite file.

Trains the federation of ``federated_digits.py`` twice, once without interruption and once killed with SIGKILL in the
middle of a save, and compares the two models. Exit code 1 if they differ in a single bit.
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

EXAMPLE = Path(__file__).with_name("federated_digits.py")
RUN = "digits"
COPY = "digits-resumed"


def heading(number: int, text: str) -> None:
    print(f"\n{number}. {text}\n", flush=True)


def train(db: Path, rounds: int, *options: str) -> int:
    """Run the example in a process of its own and return its exit code."""
    command = [sys.executable, str(EXAMPLE), "--db", str(db), "--run", RUN, "--rounds", str(rounds), *options]
    return subprocess.run(command, check=False).returncode


def must_succeed(code: int) -> None:
    if code != 0:
        raise SystemExit(f"the training ended with exit code {code}")


def kill_while_saving(db: Path, rounds: int, crash_at: int) -> None:
    """Train until the process kills itself, and say what it left behind."""
    code = train(db, rounds, "--crash-at", str(crash_at))
    if sys.stdout.isatty():
        print()  # the progress bar was cut off in its line
    if code != -signal.SIGKILL:
        raise SystemExit(f"the training was to die of SIGKILL, and ended with exit code {code}")
    journal = db.with_name(f"{db.name}-journal").stat().st_size
    if journal == 0:
        raise SystemExit("the training died, but not in the middle of a transaction")
    print(f"\nexit code {code}: SIGKILL, in the transaction that saved round {crash_at}, before its COMMIT")
    print(f"left behind: a rollback journal of {journal:,} bytes")
    with closing(sqlite3.connect(db)) as connection:
        newest, partial = connection.execute(
            "SELECT max(round) FILTER (WHERE state = 'ready'), count(*) FILTER (WHERE state != 'ready') FROM record"
        ).fetchone()
    print(f"what plain sqlite3 finds in the file: {partial} partial records, newest round {newest}")


def compare(whole: RecordStore, resumed: RecordStore, rounds: int) -> bool:
    """Print the digests of both final models and return whether all rounds are equal."""
    print(f"final model, uninterrupted        {whole.info(f'{RUN}@{rounds}').digest}")
    print(f"final model, killed and resumed   {resumed.info(f'{RUN}@{rounds}').digest}")
    pairs = zip(whole.records(run=RUN), resumed.records(run=RUN), strict=True)
    equal = [one.digest == other.digest for one, other in pairs]
    print(f"\n{sum(equal)} of {len(equal)} records are equal: names, types, shapes and every bit of every array")
    return all(equal)


def copy(source: RecordStore, target: RecordStore) -> None:
    """Copy the run into the other file, array by array; only bytes that are not there yet take room."""
    for info in source.records(run=RUN):
        target.save(source.stream(info), run=COPY, round=info.round, metrics=info.metrics, metadata=info.metadata)


def show_runs(store: RecordStore) -> None:
    """Print the best round of the federation, and the runs."""
    best = store.best("accuracy", "max", run=RUN)
    if best is not None:
        accuracy = best.metrics["accuracy"]
        print(f'store.best("accuracy", "max", run="{RUN}")   round {best.round}, accuracy {accuracy:.3f}')
    for run in store.runs():
        print(f"store.runs()   {run.run:<16}{run.records:3} records, last round {run.last_round}")


def show_sizes(name: str, store: RecordStore, db: Path) -> None:
    """Print how many bytes the records of a file are by themselves, and how many the file takes."""
    raw, size = sum(info.nbytes for info in store.records()), db.stat().st_size
    print(f"{db.name:<18}{name:<12}{len(store):3} records  {raw:12,}  {size:12,}  {size / raw:5.0%}")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="A federated training, killed while it saves and resumed bit for bit.")
    parser.add_argument("--rounds", type=int, default=20, help="server rounds (default: %(default)s)")
    parser.add_argument("--crash-at", type=int, default=12, help="round to be killed in (default: %(default)s)")
    parser.add_argument("--folder", type=Path, default=Path("demo-output"), help="default: %(default)s")
    return parser.parse_args()


def new_files(folder: Path) -> tuple[Path, Path]:
    """Return the paths of the two stores, and remove what an earlier demonstration left there."""
    folder.mkdir(parents=True, exist_ok=True)
    whole, killed = folder / "uninterrupted.db", folder / "killed.db"
    for path in [*folder.glob(f"{whole.name}*"), *folder.glob(f"{killed.name}*")]:
        path.unlink()
    return whole, killed


def show(whole_db: Path, killed_db: Path, rounds: int) -> bool:
    """Compare the two stores and show what they hold; return whether their models are equal."""
    with RecordStore(whole_db) as whole, RecordStore(killed_db) as resumed:
        heading(4, "Is it the same model?")
        equal = compare(whole, resumed, rounds)
        heading(5, "Both runs in one file")
        copy(resumed, whole)
        show_runs(whole)
        print(f"\n{'file':<43}  {'serialized':>12}  {'file size':>12}")
        show_sizes("one run", resumed, killed_db)
        show_sizes("both runs", whole, whole_db)
    print("\nEqual arrays are stored once: the second run took no room. A file grows by pages of 32 KiB,")
    print("which shows with a model as small as this one.")
    return equal


def main() -> int:
    arguments = parse_arguments()
    rounds, crash_at = arguments.rounds, arguments.crash_at
    whole_db, killed_db = new_files(arguments.folder)
    print("recordstore: a federated training survives a kill, bit for bit")
    heading(1, f"The reference: {rounds} server rounds of FedAvg, 10 clients, 1,797 handwritten digits")
    must_succeed(train(whole_db, rounds))
    heading(2, f"The same federation again in a new file, killed while it saves round {crash_at}")
    kill_while_saving(killed_db, rounds, crash_at)
    heading(3, "The same command once more")
    must_succeed(train(killed_db, rounds))
    equal = show(whole_db, killed_db, rounds)
    verdict = "EQUAL: the killed run lost nothing" if equal else "DIFFERENT: this should never happen"
    print(f"\n{verdict}. Both files are in {arguments.folder}{os.sep}")
    return 0 if equal else 1


if __name__ == "__main__":
    raise SystemExit(main())
