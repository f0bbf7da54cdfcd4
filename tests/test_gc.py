"""What is freed and what stays: bytes stored once, delete, and gc."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import flaws

from recordstore import RecordStore, Swept
from recordstore import sweep as sweeping
from recordstore.engine import Database

Query = Callable[..., list[tuple[Any, ...]]]

SIZE = 128 + 8 * 1000
"""Serialized bytes of the arrays below: the header of a .npy file, and 1,000 numbers of 8 bytes."""


def array(number: int) -> np.ndarray:
    return np.full(1000, number)


def counts(query: Query) -> dict[str, int]:
    tables = ("record", "array", "blob", "chunk", "metric", "tag")
    return {table: query(f"SELECT count(*) FROM {table}")[0][0] for table in tables}


def test_saving_the_same_model_again_writes_no_chunk(file_store: RecordStore, query: Query) -> None:
    model = {"w": array(1), "b": array(2)}
    first = file_store.save(model)
    before = query("SELECT * FROM chunk"), query("SELECT * FROM blob")
    second = file_store.save(file_store.load(first))
    assert (query("SELECT * FROM chunk"), query("SELECT * FROM blob")) == before
    assert file_store.load(second) == file_store.load(first)


def test_tied_weights_are_stored_once(file_store: RecordStore, query: Query) -> None:
    record_id = file_store.save({"in": array(1), "out": array(1), "other": array(2)})
    assert query("SELECT count(*), sum(nbytes) FROM chunk") == [(2, 2 * SIZE)]
    assert file_store.info(record_id).nbytes == 3 * SIZE
    assert [saved.numpy()[0] for saved in file_store.load(record_id).values()] == [1, 1, 2]


def test_tied_weights_of_many_chunks_are_stored_once(
    file_store: RecordStore, query: Query, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recordstore.constants.CHUNK_SIZE", 512)
    monkeypatch.setattr("recordstore.constants.BATCH_BYTES", 2048)
    record_id = file_store.save({"in": array(1), "out": array(1), "other": array(2)})
    assert query("SELECT nbytes, count(*), sum(length(data)) FROM chunk GROUP BY blob_id") == [(512, 16, SIZE)] * 2
    assert [saved.numpy()[0] for saved in file_store.load(record_id).values()] == [1, 1, 2]


def test_deleting_a_record_frees_its_rows_and_bytes_at_once(file_store: RecordStore, query: Query) -> None:
    file_store.save({"a": array(1)}, run="r", round=1, metrics={"m": 1}, tags=["t"])
    empty = dict.fromkeys(counts(query), 0)
    assert counts(query) == dict.fromkeys(empty, 1)
    file_store.delete("r@1")
    assert counts(query) == empty
    assert file_store.gc(grace=0) == Swept(0, 0, 0)


def test_the_bytes_that_other_records_share_stay(store: RecordStore) -> None:
    first = store.save({"shared": array(1), "own": array(2)})
    second = store.save({"x": array(3), "y": array(1)})
    store.delete(first)
    store.gc(grace=0)
    assert [saved.numpy()[0] for saved in store.load(second).values()] == [3, 1]


def test_freed_space_is_used_by_later_saves(file_store: RecordStore, path: Path) -> None:
    def save_and_delete(number: int) -> int:
        file_store.delete(file_store.save({"x": np.full(500_000, number)}))
        return path.stat().st_size

    first = save_and_delete(0)
    assert [save_and_delete(number) for number in (1, 2, 3)] == [first] * 3


def test_gc_removes_what_a_delete_could_not_and_says_how_much(
    file_store: RecordStore, query: Query, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recordstore.upkeep.DELETE_STEPS", 0)
    first = file_store.save({"a": array(1), "b": array(2)})
    second = file_store.save({"a": array(3), "c": array(2)})
    file_store.delete(first)
    assert counts(query)["record"] == 2
    assert file_store.gc() == Swept(records=1, blobs=1, nbytes=SIZE)
    file_store.delete(second)
    assert file_store.gc() == Swept(records=1, blobs=2, nbytes=2 * SIZE)
    assert set(counts(query).values()) == {0}


def test_gc_takes_bounded_steps(file_store: RecordStore, query: Query, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recordstore.constants.CHUNK_SIZE", 512)
    monkeypatch.setattr("recordstore.upkeep.DELETE_STEPS", 0)
    file_store.delete(file_store.save({str(number): array(number) for number in range(9)}))
    monkeypatch.setattr("recordstore.constants.BATCH_BYTES", 4000)
    monkeypatch.setattr("recordstore.constants.BATCH_ROWS", 7)
    assert file_store.gc(grace=0) == Swept(records=1, blobs=9, nbytes=9 * SIZE)
    assert set(counts(query).values()) == {0}


def test_gc_with_a_grace_leaves_young_drafts_alone(file_store: RecordStore, query: Query) -> None:
    draft = "INSERT INTO record (state, created_at, writer, touched_at) VALUES ('writing', ?, 'w', ?)"
    for age in ("-1 hours", "-1 minutes"):
        ((time,),) = query("SELECT strftime('%Y-%m-%d %H:%M:%f', 'now', ?)", age)
        query(draft, time, time)
    assert list(file_store) == []
    assert file_store.gc() == Swept(1, 0, 0)
    assert file_store.gc() == Swept(0, 0, 0)
    assert file_store.gc(grace=30) == Swept(1, 0, 0)


def test_opening_for_writing_sweeps_leftovers_and_opening_for_reading_does_not(path: Path, query: Query) -> None:
    with RecordStore(path) as store:
        store.save({"x": array(1)})
    query("UPDATE record SET state = 'deleting'")
    with RecordStore(path, read_only=True) as store:
        assert list(store) == []
    assert counts(query)["record"] == counts(query)["chunk"] == 1
    with RecordStore(path):
        assert counts(query)["record"] == counts(query)["chunk"] == 0


def test_gc_finds_blobs_that_no_array_points_at(file_store: RecordStore, query: Query) -> None:
    file_store.save({"x": array(1)})
    query("INSERT INTO blob (state, nbytes, head) VALUES ('writing', 5, x'00')")
    query("INSERT INTO chunk (blob_id, seq, nbytes, digest, data) VALUES (2, 0, 5, x'00', 'abcde')")
    assert file_store.gc() == Swept(0, 1, 5)
    assert file_store.load(1)["x"].numpy()[0] == 1


@pytest.mark.parametrize("call", [RecordStore.gc, RecordStore.compact])
def test_what_another_one_sweeps_first_is_no_damage(
    path: Path, monkeypatch: pytest.MonkeyPatch, call: Callable[[RecordStore], object]
) -> None:
    needed = sweeping._needed
    left = iter([True])

    def and_then_another_sweeps(database: Database, grace: float) -> bool:
        found = needed(database, grace)
        if found and next(left, False):
            with RecordStore(path) as faster:
                faster.gc()
        return found

    monkeypatch.setattr("recordstore.upkeep.DELETE_STEPS", 0)
    with RecordStore(path) as store:
        store.delete(store.save({"x": np.arange(3)}))
        monkeypatch.setattr(sweeping, "_needed", and_then_another_sweeps)
        call(store)
        assert not next(left, False), "another one was faster"
        assert store.gc(grace=0) == (0, 0, 0)
    assert flaws(path) == {}


def test_every_batch_shows_that_the_writer_lives(
    file_store: RecordStore, query: Query, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, size in (("CHUNK_SIZE", 4096), ("BATCH_BYTES", 8192), ("RING_CHUNKS", 4)):
        monkeypatch.setattr(f"recordstore.constants.{name}", size)
    times: list[str] = []

    def entries() -> Iterator[tuple[str, np.ndarray]]:
        for number in range(6):
            yield str(number), array(number)
            times.extend(time for (time,) in query("SELECT touched_at FROM record WHERE state = 'writing'"))

    file_store.save(entries())
    assert len(times) >= 4
    assert times == sorted(set(times))
