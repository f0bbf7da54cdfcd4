"""The digits example: a run that was killed in the middle of a save ends with the bits of one that was not."""

import importlib
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from recordstore import Array, ArrayRecord, RecordStore

pytest.importorskip("torch", reason="the digits example trains with PyTorch")
pytest.importorskip("sklearn", reason="the digits example needs the digits of scikit-learn")

EXAMPLES = Path(__file__).parents[1] / "examples"
ROUNDS = 3
CRASH_AT = 2
SMALL = ("--clients", "3", "--alpha", "1.0")


def start(name: str, *options: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, EXAMPLES / name, *options]
    return subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=300, check=False)


def train(db: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return start("federated_digits.py", "--db", db, "--rounds", str(ROUNDS), *SMALL, *options)


def query(db: Path, sql: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(db)) as connection:
        return connection.execute(sql).fetchall()


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    db = tmp_path_factory.mktemp("uninterrupted") / "digits.db"
    done = train(db)
    assert done.returncode == 0, done.stderr
    assert f"round  {ROUNDS}/{ROUNDS}" in done.stdout
    assert "bytes stored" in done.stdout
    return db


def load(name: str) -> ModuleType:
    """Import an example, which finds its neighbours as a script in that folder does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXAMPLES)
        return importlib.import_module(name)


@pytest.fixture(scope="module")
def example() -> ModuleType:
    return load("federated_digits")


def test_a_killed_and_resumed_run_ends_with_the_same_bits(uninterrupted: Path, tmp_path: Path) -> None:
    db = tmp_path / "digits.db"
    killed = train(db, "--crash-at", str(CRASH_AT))
    assert killed.returncode == -9, killed.stderr
    # In the middle of the transaction: the journal that would undo it is there, and nobody was told of an end.
    assert db.with_name("digits.db-journal").stat().st_size > 0
    assert "bytes stored" not in killed.stdout

    assert query(db, "SELECT round, state FROM record ORDER BY id") == [(n, "ready") for n in range(CRASH_AT)]
    assert query(db, "SELECT count(*) FROM chunk WHERE blob_id NOT IN (SELECT blob_id FROM array)") == [(0,)]

    resumed = train(db)
    assert resumed.returncode == 0, resumed.stderr
    assert f"found round {CRASH_AT - 1} in the store, going on after it" in resumed.stdout
    rounds = "SELECT round, digest, array_count, nbytes FROM record WHERE state = 'ready' ORDER BY round"
    assert query(db, rounds) == query(uninterrupted, rounds)
    assert len(query(db, rounds)) == ROUNDS + 1
    metrics = "SELECT round, name, value FROM metric JOIN record ON record.id = record_id ORDER BY 1, 2"
    assert query(db, metrics) == query(uninterrupted, metrics)


def test_a_finished_run_is_not_trained_again(uninterrupted: Path) -> None:
    before = query(uninterrupted, "SELECT id, touched_at FROM record")
    done = train(uninterrupted)
    assert done.returncode == 0, done.stderr
    assert query(uninterrupted, "SELECT id, touched_at FROM record") == before


def test_a_resume_with_other_settings_is_refused(uninterrupted: Path) -> None:
    done = train(uninterrupted, "--seed", "1")
    assert done.returncode == 1
    assert "choose another --run" in done.stderr


def test_each_example_goes_to_one_client(example: ModuleType) -> None:
    settings = example.Settings(clients=10, alpha=0.3, seed=5)
    labels = np.repeat(np.arange(10), 150)
    split = example.dirichlet_split(labels, settings)
    np.testing.assert_array_equal(np.sort(np.concatenate(split)), np.arange(len(labels)))
    sizes = [len(share) for share in split]
    assert len(sizes) == 10
    assert min(sizes) >= example.MIN_EXAMPLES
    assert max(sizes) > 2 * min(sizes), "a split with alpha 0.3 is not even"


def test_the_average_is_weighted_by_the_number_of_examples(example: ModuleType) -> None:
    replies = [
        (ArrayRecord({"w": Array(np.array([0.0, 4.0], dtype="float32"))}), {"num-examples": 3}),
        (ArrayRecord({"w": Array(np.array([8.0, 0.0], dtype="float32"))}), {"num-examples": 1}),
    ]
    average = example.aggregate(replies)["w"]
    assert average.dtype == "float32"
    np.testing.assert_array_equal(average.numpy(), [2.0, 3.0])


def test_a_save_without_new_chunks_is_no_place_to_crash(tmp_path: Path) -> None:
    record = ArrayRecord([np.arange(9)])
    with RecordStore(tmp_path / "x.db") as store:
        store.save(record)
        code = (
            "from crash import sigkill_before_commit\nimport numpy, recordstore, sys\n"
            "with recordstore.RecordStore(sys.argv[1]) as store, sigkill_before_commit():\n"
            "    store.save(recordstore.ArrayRecord([numpy.arange(9)]))\n"
        )
        command = [sys.executable, "-c", code, str(tmp_path / "x.db")]
        done = subprocess.run(command, cwd=EXAMPLES, capture_output=True, text=True, timeout=100, check=False)
        assert done.returncode == 1
        assert "nothing to interrupt" in done.stderr
        assert len(store) == 2


@pytest.mark.slow
def test_the_demo_shows_equal_digests_and_learns(tmp_path: Path) -> None:
    done = start("demo.py", "--folder", tmp_path / "out")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "21 of 21 records are equal" in done.stdout
    with RecordStore(tmp_path / "out/killed.db", read_only=True) as store:
        last = store.info("digits@20")
        assert last.digest in done.stdout
        assert last.metrics["accuracy"] > 0.90
        assert [(run.run, run.records) for run in store.runs()] == [("digits", 21)]


def test_the_demo_notices_one_differing_bit(capsys: pytest.CaptureFixture[str]) -> None:
    demo = load("demo")
    with RecordStore(":memory:") as one, RecordStore(":memory:") as other:
        one.save(ArrayRecord([np.array([0.0])]), run="digits", round=0)
        other.save(ArrayRecord([np.array([-0.0])]), run="digits", round=0)
        assert demo.compare(one, one, 0) is True
        assert demo.compare(one, other, 0) is False
    assert "0 of 1 records are equal" in capsys.readouterr().out
