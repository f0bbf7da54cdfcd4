"""A progress bar and the closing table of the digits example."""

import sqlite3
import sys
from contextlib import closing

from recordstore import RecordStore

WIDTH = 30

NEW_BYTES = """
    WITH first AS (SELECT blob_id, min(record_id) AS record_id FROM array GROUP BY blob_id)
    SELECT record.round, sum(blob.nbytes)
    FROM first JOIN blob ON blob.id = first.blob_id JOIN record ON record.id = first.record_id
    WHERE record.run = ? GROUP BY record.round
"""


class Progress:
    """A bar that redraws itself in a terminal, and a line every few rounds anywhere else."""

    def __init__(self, rounds: int) -> None:
        self.rounds = rounds

    def show(self, server_round: int, metrics: dict[str, float]) -> None:
        """Say that a server round is done."""
        done = WIDTH * server_round // max(self.rounds, 1)
        line = f"[{'#' * done:.<{WIDTH}}] round {server_round:2}/{self.rounds}  accuracy {metrics['accuracy']:.3f}"
        last = server_round == self.rounds
        if sys.stdout.isatty():
            print(f"\r{line}", end="\n" if last else "", flush=True)
        elif last or server_round % 5 == 0:
            print(line, flush=True)


def new_bytes(db: str, run: str) -> dict[int, int]:
    """Return the bytes that each round of a run added: arrays equal to one already stored are not stored again."""
    with closing(sqlite3.connect(db)) as connection:
        return dict(connection.execute(NEW_BYTES, [run]))


def print_rounds(store: RecordStore, db: str, run: str) -> None:
    """Print the closing table of a run."""
    added = new_bytes(db, run)
    print("\n round  accuracy    loss   bytes stored   seconds\n ------------------------------------------------")
    total_bytes, total_seconds = 0, 0.0
    for info in store.records(run=run):
        stored, seconds = added.get(info.round, 0), info.metadata["seconds"]
        metrics = f"{info.metrics['accuracy']:8.3f}  {info.metrics['loss']:6.3f}"
        print(f" {info.round:5}  {metrics}  {stored:13,}  {seconds:8.2f}")
        total_bytes, total_seconds = total_bytes + stored, total_seconds + seconds
    print(f" ------------------------------------------------\n {'total':22}{total_bytes:17,}  {total_seconds:8.2f}")
