"""``verify`` reads every byte, names what is damaged and nothing else, and keeps later saves from sharing it."""

import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import Engine, event
from support import rows

from recordstore import (
    Array,
    ArrayNotFoundError,
    Checkpoint,
    CorruptRecordError,
    HistoryEntry,
    InvalidTypeError,
    Progress,
    RecordNotFoundError,
    RecordStore,
    VerifyReport,
)
from recordstore.__main__ import main

Query = Callable[..., list[tuple[Any, ...]]]

pytestmark = pytest.mark.usefixtures("small")

LARGE = np.random.default_rng(0).integers(0, 256, 200_000, np.uint8)
OTHER = np.random.default_rng(1).integers(0, 256, 100_000, np.uint8)


@pytest.fixture
def full(path: Path) -> Iterator[RecordStore]:
    """Records 1 and 2 share a large array, 3 has one of its own, 4 is a checkpoint, 5 is empty."""
    with RecordStore(path) as store:
        store.save({"large": LARGE, "bias": np.zeros(3)}, run="r", round=1, metrics={"loss": 0.5}, tags=["first"])
        store.save({"frozen": LARGE, "bias": np.ones(3), "tied": LARGE}, run="r", round=2)
        store.save({"other": OTHER, "bias": np.zeros(3)})
        checkpoint = Checkpoint({"step": 7}, {"moments": OTHER[::-1]})
        history = [HistoryEntry(3, "train", {"loss": 0.5})]
        store.save_checkpoint({"own": np.full(4, 4)}, checkpoint, run="r", round=3, history=history)
        store.save({}, run="empty")
        yield store


def blob(record_id: int, name: str) -> str:
    return f"(SELECT blob_id FROM array WHERE record_id = {record_id} AND name = '{name}')"


def flip(record_id: int, name: str, seq: int) -> str:
    where = f"blob_id = {blob(record_id, name)} AND seq = {seq}"
    return f"UPDATE chunk SET data = CAST(x'ff' || substr(data, 2) AS BLOB) WHERE {where}"


def found(report: VerifyReport) -> set[tuple[int | None, str | None]]:
    return {(damage.record_id, damage.array) for damage in report.damaged}


def test_a_sound_store_is_read_once_for_all_that_share_bytes(full: RecordStore, query: Query) -> None:
    report = full.verify()
    assert report
    assert (report.records, report.arrays, report.damaged) == (5, 9, ())
    assert query("SELECT sum(length(data)) FROM chunk") == [(report.nbytes,)]
    full.delete(1)
    assert full.verify().records == 4


@pytest.mark.parametrize("ref", [3, "r@1", "first", "latest"])
def test_one_record_is_read_alone(full: RecordStore, query: Query, ref: int | str) -> None:
    query(flip(2, "bias", 0))
    report = full.verify(ref)
    assert report
    assert report.records == 1
    assert report.nbytes == full.info(ref).nbytes
    assert not full.verify(2)


def test_the_bytes_of_a_checkpoint_belong_to_its_record(full: RecordStore, query: Query) -> None:
    query(flip(4, "moments", 2))
    report = full.verify("r@3")
    assert found(report) == {(4, "moments")}
    assert "chunk 2 does not hold the bytes that were saved" in report.damaged[0].message


DAMAGES: dict[str, tuple[str, set[tuple[int | None, str | None]]]] = {
    "a small array": (flip(2, "bias", 0), {(2, "bias")}),
    "a chunk that two records share": (flip(1, "large", 5), {(1, "large"), (2, "frozen"), (2, "tied")}),
    "a missing chunk": (f"DELETE FROM chunk WHERE blob_id = {blob(3, 'other')} AND seq = 1", {(3, "other")}),
    "a chunk too many": (
        f"INSERT INTO chunk (blob_id, seq, nbytes, digest, data) VALUES ({blob(3, 'other')}, 99, 1, x'00', x'00')",
        {(3, "other")},
    ),
    "a name": ("UPDATE array SET name = 'weight' WHERE record_id = 3 AND position = 0", {(3, None)}),
    "a missing array": ("DELETE FROM array WHERE record_id = 2 AND position = 2", {(2, None)}),
    "the digest of a record": ("UPDATE record SET digest = zeroblob(32) WHERE id = 1", {(1, None)}),
    "the state of a checkpoint": ("UPDATE record SET checkpoint = '{\"step\":8}' WHERE id = 4", {(4, None)}),
    "metadata that are no JSON": ("UPDATE record SET metadata = '{' WHERE id = 3", {(3, None)}),
    "a metric that is no number": ("UPDATE metric SET value = 'much' WHERE record_id = 1", {(1, None)}),
    "the history of a run": ("UPDATE history SET \"values\" = '[' WHERE run = 'r'", {(None, None)}),
    "a small and a large array": (
        flip(1, "bias", 0) + ";" + flip(3, "other", 3),
        {(1, "bias"), (3, "bias"), (3, "other")},
    ),
}


@pytest.mark.parametrize("what", DAMAGES)
def test_exactly_what_is_damaged_is_named_and_the_rest_still_loads(full: RecordStore, path: Path, what: str) -> None:
    statements, expected = DAMAGES[what]
    with sqlite3.connect(path) as connection:
        connection.executescript(statements)
    connection.close()
    report = full.verify()
    assert not report
    assert found(report) == expected
    assert all(damage.message for damage in report.damaged)
    for record_id in {1, 2, 3, 4, 5} - {record_id for record_id, _ in expected}:
        full.load(record_id)
        full.load_checkpoint(record_id)
    assert main(["verify", str(path)]) == 1


@pytest.mark.parametrize("large", [False, True])
def test_damaged_bytes_are_marked_and_a_later_save_stores_them_anew(
    full: RecordStore, query: Query, large: bool
) -> None:
    name, array = ("large", LARGE) if large else ("bias", np.zeros(3))
    query(flip(1, name, 0))
    assert not full.verify()
    assert query(f"SELECT state FROM blob WHERE id = {blob(1, name)}") == [("damaged",)]
    anew = full.save({"x": array})
    assert full.load(anew)["x"].numpy().tolist() == array.tolist()
    assert full.verify(anew)
    with pytest.raises(CorruptRecordError):
        full.load(1)


def test_a_read_only_store_is_verified_and_not_written_to(
    full: RecordStore, path: Path, query: Query, fingerprint: Callable[[], str]
) -> None:
    query(flip(1, "large", 0))
    full.close()
    before = fingerprint()
    with RecordStore(path, read_only=True) as store:
        assert len(store.verify().damaged) == 3
    assert fingerprint() == before


def test_progress_counts_the_bytes_up_to_all(full: RecordStore) -> None:
    seen: list[Progress] = []
    report = full.verify(progress=seen.append)
    done = [progress.done for progress in seen]
    assert done == sorted(done)
    assert seen[-1] == Progress(report.nbytes, report.nbytes)
    assert {progress.total for progress in seen} == {report.nbytes}


def test_an_error_of_the_progress_function_arrives_and_the_store_works_on(full: RecordStore) -> None:
    def stop(_: Progress) -> None:
        raise KeyError("enough")

    with pytest.raises(KeyError, match="enough"):
        full.verify(progress=stop)
    assert full.verify()


@dataclass(frozen=True)
class Frozen(Exception):  # noqa: N818 - as a user may call it
    reason: str


@pytest.mark.parametrize(
    "error",
    [
        Frozen("x"),
        RecordNotFoundError("x"),
        ArrayNotFoundError("x"),
        CorruptRecordError("x"),
        sqlite3.OperationalError("x"),
        StopIteration("x"),
    ],
)
def test_an_error_of_the_progress_function_is_nobody_elses(
    full: RecordStore, path: Path, query: Query, error: Exception
) -> None:
    """Not a record that was deleted, not one that is damaged, and not an error of the database."""
    query(flip(3, "other", 0))
    cause = ValueError("its own")

    def stop(_: Progress) -> None:
        raise error from cause

    for call in (full.verify, partial(full.verify, 3), partial(full.backup, path.with_name("copy.db"))):
        with pytest.raises(type(error)) as caught:
            call(progress=stop)
        assert caught.value is error
        assert error.__cause__ is cause
    assert found(full.verify()) == {(3, "other")}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("UPDATE record SET nbytes = -5 WHERE id = 2", (2, None)),
        ("UPDATE record SET nbytes = nbytes + 1 WHERE id = 5", (5, None)),
        ("UPDATE array SET nbytes = 1 WHERE record_id = 4 AND name = 'moments'", (4, "moments")),
    ],
)
def test_lengths_are_those_of_the_bytes(full: RecordStore, query: Query, change: str, named: tuple) -> None:
    query(change)
    assert found(full.verify()) == {named}


def test_a_record_that_is_deleted_meanwhile_is_no_damage(full: RecordStore) -> None:
    deleted: list[int] = []

    def delete(_: Progress) -> None:
        if not deleted:
            deleted.extend([2, 3])
            full.delete(2)
            full.delete(3)

    report = full.verify(progress=delete)
    assert report
    assert report.records == 3


def test_the_caller_may_save_and_delete_while_it_verifies(full: RecordStore) -> None:
    assert full.verify(progress=lambda _: full.delete(full.save({"x": LARGE[::-1]})))
    assert list(full) == [1, 2, 3, 4, 5]


def test_wrong_arguments_are_refused(full: RecordStore) -> None:
    with pytest.raises(RecordNotFoundError):
        full.verify(99)
    with pytest.raises(InvalidTypeError, match="progress must be a function"):
        full.verify(progress=1)
    full.close()
    with pytest.raises(RuntimeError, match="closed"):
        full.verify()


@pytest.mark.parametrize("count", [10, 400])
def test_small_arrays_take_one_query_for_many(memory: RecordStore, count: int) -> None:
    memory.save({str(number): np.full(3, number) for number in range(count)})
    statements: list[str] = []
    listen = (Engine, "before_cursor_execute", lambda connection, cursor, sql, *_: statements.append(sql))
    event.listen(*listen)
    assert memory.verify()
    event.remove(*listen)
    assert len(statements) < 40


def test_the_command_says_what_was_read(full: RecordStore, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nbytes = full.verify().nbytes
    full.close()
    assert main(["verify", str(path)]) == 0
    assert capsys.readouterr().out == f"{path}: records: 5, arrays: 9, bytes: {nbytes}; nothing is damaged\n"
    with sqlite3.connect(path) as connection:
        connection.executescript(flip(2, "bias", 0))
    connection.close()
    assert main(["verify", str(path)]) == 1
    assert capsys.readouterr().err == (
        f"recordstore: {path} is damaged\nrecord 2: array 'bias': chunk 0 does not hold the bytes that were saved\n"
    )


def test_arrays_of_any_stype_and_odd_shapes_are_sound(memory: RecordStore) -> None:
    memory.save({"raw": Array("t", [1], "raw", b"x" * 50_000), "empty": Array("t", [], "raw", b"")})
    assert memory.verify()


def test_what_was_damaged_on_the_disk_is_what_raw_sqlite_sees(full: RecordStore, path: Path, query: Query) -> None:
    query(flip(3, "other", 3))
    full.verify()
    marked = rows(path, "SELECT DISTINCT record_id FROM array JOIN blob ON blob.id = blob_id WHERE state = 'damaged'")
    assert marked == [(3,)]
