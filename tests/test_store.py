"""What a store answers: save, load and look around, for a file and for a database in memory."""

from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from recordstore import (
    Array,
    ArrayNotFoundError,
    ArrayRecord,
    RecordExistsError,
    RecordInfo,
    RecordNotFoundError,
    RecordStore,
    RunInfo,
)

ONE = {"x": np.ones(3)}


def save_rounds(store: RecordStore, run: str, rounds: list[int], **options: Any) -> list[int]:
    """Save a record per round, each of its own bytes."""
    return [store.save({"x": np.full(4, number)}, run=run, round=number, **options) for number in rounds]


def value(store: RecordStore, ref: int | str | RecordInfo) -> float:
    return float(store.load(ref)["x"].numpy()[0])


def test_a_record_comes_back_with_its_names_order_types_and_bytes(store: RecordStore) -> None:
    record = ArrayRecord(
        {"z": Array(np.arange(6, dtype=">i2").reshape(2, 3)), "a": Array("odd", [9], "other", b"\0\1")}
    )
    loaded = store.load(store.save(record))
    assert isinstance(loaded, ArrayRecord)
    assert list(loaded.items()) == list(record.items())
    assert loaded["a"] == Array("odd", [9], "other", b"\0\1")


def test_an_empty_record_and_empty_arrays_come_back(store: RecordStore) -> None:
    assert store.load(store.save([])) == ArrayRecord()
    record = ArrayRecord({"none": Array("float32", [0], "raw", b""), "zero": Array(np.zeros((0, 3)))})
    assert store.load(store.save(record)) == record


def test_load_gives_the_named_arrays_in_the_order_of_the_record(store: RecordStore) -> None:
    record_id = store.save({name: np.array(index) for index, name in enumerate("dcba")})
    assert list(store.load(record_id, names=["a", "d", "a"])) == ["d", "a"]
    assert list(store.load(record_id, names=(name for name in "bc"))) == ["c", "b"]
    assert store.load(record_id, names=[]) == ArrayRecord()
    with pytest.raises(ArrayNotFoundError, match=r"no array 'e'.*names lists those it has"):
        store.load(record_id, names=["a", "e"])


def test_stream_yields_what_load_returns_and_complains_at_once(store: RecordStore) -> None:
    record_id = store.save({"b": np.ones(3), "a": np.zeros(2)})
    assert list(store.stream(record_id)) == list(store.load(record_id).items())
    assert [name for name, _ in store.stream(record_id, names=["a"])] == ["a"]
    with pytest.raises(RecordNotFoundError):
        store.stream(99)
    with pytest.raises(ArrayNotFoundError):
        store.stream(record_id, names=["c"])


def test_the_store_can_be_written_to_within_a_loop_over_a_stream(store: RecordStore) -> None:
    record_id = store.save({str(number): np.full(5, number) for number in range(3)})
    for name, array in store.stream(record_id):
        store.save({name: array}, run="copies", round=int(name))
    assert [next(iter(store.load(info))) for info in store.records(run="copies")] == ["0", "1", "2"]


def test_info_tells_all_but_the_arrays(store: RecordStore) -> None:
    before = datetime.now(UTC)
    arrays = {"w": np.zeros((2, 3), np.float32), "b": np.zeros(3)}
    record_id = store.save(
        arrays,
        run="mnist",
        round=7,
        metrics={"loss": 1, "acc": 0.5},
        metadata={"lr": [0.1, None]},
        tags=["z", "a", "z"],
    )
    info = store.info(record_id)
    assert (info.id, info.run, info.round) == (record_id, "mnist", 7)
    assert before <= info.created_at <= datetime.now(UTC)
    assert info.created_at.tzinfo is UTC
    assert info.metrics == {"acc": 0.5, "loss": 1.0}
    assert all(type(number) is float for number in info.metrics.values())
    assert (info.metadata, info.tags, info.names) == ({"lr": [0.1, None]}, ("a", "z"), ("w", "b"))
    assert info.nbytes == sum(len(Array(array).data) for array in arrays.values())
    assert len(bytes.fromhex(info.digest)) == 32
    assert hash(info) == hash(store.info(info))
    with pytest.raises(AttributeError):
        info.round = 8  # type: ignore[misc]


def test_equal_arrays_have_equal_digests_whatever_they_are_saved_under(store: RecordStore) -> None:
    one = store.save({"a": np.ones(2), "b": np.ones(2)}, run="r", round=1, metrics={"m": 1}, tags=["t"])
    two = store.save(ArrayRecord({"a": Array(np.ones(2)), "b": Array(np.ones(2))}))
    other_order = store.save({"b": np.ones(2), "a": np.ones(2)})
    assert store.info(one).digest == store.info(two).digest != store.info(other_order).digest


def test_latest_of_a_run_is_the_highest_round_then_the_highest_id(store: RecordStore) -> None:
    assert store.latest() is None
    assert store.latest("mnist") is None
    ids = save_rounds(store, "mnist", [5, 2])
    without_round = store.save(ONE, run="mnist")
    newest = store.save(ONE, run="other")
    assert store.latest("mnist").id == ids[0]
    assert store.latest().id == newest == store.info("latest").id
    store.delete("mnist@5")
    store.delete("mnist@2")
    newer = store.save(ONE, run="mnist")
    assert store.latest("mnist").id == newer > without_round


def test_best_needs_a_mode_ignores_nan_and_takes_the_oldest_of_several(store: RecordStore) -> None:
    losses = [float("nan"), 0.5, 0.25, 0.25, float("inf"), float("-inf")]
    ids = [store.save(ONE, run="a", round=number, metrics={"loss": loss}) for number, loss in enumerate(losses[:4])]
    assert store.best("loss", "min").id == ids[2]
    assert store.best("loss", "max").id == ids[1]
    high = store.save(ONE, run="b", metrics={"loss": losses[4]})
    low = store.save(ONE, run="b", metrics={"loss": losses[5]})
    assert store.best("loss", "max").id == high
    assert store.best("loss", "min", run="b").id == low
    assert store.best("loss", "min", run="a").id == ids[2]
    assert store.best("accuracy", "max") is None
    store.save(ONE, run="c", metrics={"loss": float("nan")})
    assert store.best("loss", "max", run="c") is None
    with pytest.raises(TypeError):
        store.best("loss")  # type: ignore[call-arg]


def test_records_come_in_the_order_of_their_saves_over_any_number_of_pages(
    store: RecordStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recordstore.catalog.PAGE", 3)
    ids = [*save_rounds(store, "a", list(range(7))), store.save(ONE)]
    assert [info.id for info in store.records()] == ids == list(store)
    assert [info.id for info in store.records(newest_first=True)] == ids[::-1]
    assert [info.round for info in store.records(run="a", limit=5)] == [0, 1, 2, 3, 4]
    assert [info.round for info in store.records(run="a", newest_first=True, limit=3)] == [6, 5, 4]
    assert list(store.records(limit=0)) == list(store.records(run="none")) == []
    assert len(list(store.records(limit=99))) == 8
    assert [store.info(info) for info in store.records()] == list(store.records())


def test_records_may_be_saved_and_deleted_during_an_iteration(
    store: RecordStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recordstore.catalog.PAGE", 1)
    ids = save_rounds(store, "a", [0, 1, 2])
    seen = []
    for info in store.records():
        seen.append(info.id)
        store.delete(info)
        if info.id == ids[0]:
            ids.append(store.save(ONE))
    assert seen == ids
    assert len(store) == 0


def test_runs_have_counts_and_last_rounds(store: RecordStore) -> None:
    assert store.runs() == []
    save_rounds(store, "b", [3, 9])
    store.save(ONE, run="a")
    store.save(ONE)
    assert store.runs() == [RunInfo("a", 1, None), RunInfo("b", 2, 9)]


def test_len_in_and_iteration_follow_saves_and_deletes(store: RecordStore) -> None:
    assert len(store) == 0
    assert bool(store)
    first, second = store.save(ONE), store.save(ONE)
    assert (len(store), list(store), first in store) == (2, [first, second], True)
    store.delete(first)
    assert (len(store), list(store), first in store) == (1, [second], False)


def test_a_second_record_of_a_round_is_refused_unless_it_may_overwrite(store: RecordStore) -> None:
    first = store.save({"x": np.zeros(2)}, run="mnist", round=3, tags=["kept", "moved"], metrics={"m": 1}, metadata=[1])
    with pytest.raises(RecordExistsError, match=f"'mnist'.*round 3.*id {first}.*overwrite=True") as caught:
        store.save(ONE, run="mnist", round=3)
    assert isinstance(caught.value, ValueError)
    second = store.save({"x": np.ones(2)}, run="mnist", round=3, tags=["new"], overwrite=True)
    assert second > first
    assert first not in store
    info = store.info("mnist@3")
    assert (info.id, info.tags, info.metrics, info.metadata) == (second, ("kept", "moved", "new"), {}, None)
    assert value(store, "mnist@kept") == 1
    assert len(store) == 1


def test_the_same_round_belongs_to_each_run_and_rounds_are_optional(store: RecordStore) -> None:
    ids = [store.save(ONE, run="a", round=0), store.save(ONE, run="b", round=0), store.save(ONE, run="a")]
    ids += [store.save(ONE, run="a"), store.save(ONE, run="a", overwrite=True)]
    assert list(store) == ids


def test_a_deleted_round_can_be_saved_again_under_a_new_id(store: RecordStore) -> None:
    first = store.save(ONE, run="a", round=1)
    store.delete(first)
    assert store.save(ONE, run="a", round=1) > first
    store.delete("a@1")
    store.gc(grace=0)
    assert store.save(ONE, run="a", round=1) > first + 1


def test_a_tag_moves_within_its_run_only(store: RecordStore) -> None:
    a1, a2 = save_rounds(store, "a", [1, 2], tags=["best"])
    (b1,) = save_rounds(store, "b", [1], tags=["best"])
    assert [store.info(ref).tags for ref in (a1, a2, b1)] == [(), ("best",), ("best",)]
    store.tag(a1, "best")
    store.tag(a1, "best")
    assert [store.info(ref).tags for ref in (a1, a2, b1)] == [("best",), (), ("best",)]


def test_a_tag_is_taken_from_the_record_that_has_it_only(store: RecordStore) -> None:
    a1, a2 = save_rounds(store, "a", [1, 2], tags=["best"])
    with pytest.raises(RecordNotFoundError, match=f"record {a1} does not have the tag 'best'"):
        store.untag(a1, "best")
    store.untag(a2, "best")
    assert "a@best" not in store
    store.tag(a2, "best")
    store.delete(a2)
    assert "a@best" not in store
