"""Saves in the background take place one at a time and in order, also where inputs save by themselves."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from in_background import LONG, ONE, Call, is_queued, locked, until, watch_background
from support import content, flaws, npy

from recordstore import (
    Checkpoint,
    RecordStore,
    SaveHandle,
    StoreClosedError,
)
from recordstore.batch import Batch

# Order, and how much there is at a time


def test_saves_in_the_background_and_others_take_place_in_the_order_of_the_calls(file_store: RecordStore) -> None:
    arrays_of = {"x": np.arange(100_000)}
    ids: list[Any] = []
    for number in range(6):
        ids.append(file_store.save_async(arrays_of, run="a", round=number))
        ids.append(file_store.save(ONE, run="s", round=number))
        ids.append(file_store.save_async(ONE, keep_input=True))
        ids.append(file_store.save_checkpoint(ONE, Checkpoint(1, ONE), run="c", round=number))
    numbers = [each if isinstance(each, int) else each.result() for each in ids]
    assert numbers == sorted(numbers)
    assert numbers == list(file_store)


@pytest.mark.parametrize("kind", ["save", "save_checkpoint", "gc"])
def test_a_save_in_any_thread_waits_for_the_one_that_was_handed_in_before(path: Path, kind: str) -> None:
    with RecordStore(path) as store:
        calls: dict[str, Callable[[], Any]] = {
            "save": lambda: store.save(ONE),
            "save_checkpoint": lambda: store.save_checkpoint(ONE, Checkpoint(1, ONE), run="c", round=1),
            "gc": lambda: store.gc(grace=0),
        }
        with locked(path):
            handle = store.save_async(ONE)
            call = Call(lambda: (calls[kind](), handle.done())[1])
            assert not handle.done()
            assert call.running
        assert call.end()
        assert handle.result() == 1


def test_a_second_save_waits_until_the_first_has_ended(path: Path) -> None:
    with RecordStore(path) as store:
        touched: list[str] = []

        def second() -> Iterator[tuple[str, np.ndarray]]:
            touched.append(f"taken, first done: {first.done()}")
            yield "x", np.ones(2)

        with locked(path):
            first = store.save_async(ONE)
            call = Call(lambda: store.save_async(second()))
            until(lambda: is_queued(store, 1))
            assert not first.done()
            assert (call.running, touched) == (True, [])
        assert call.end().result() == first.result() + 1
        assert touched == ["taken, first done: True"]


def test_calls_that_wait_are_served_in_the_order_in_which_they_came(path: Path) -> None:
    with RecordStore(path) as store:
        calls = []
        with locked(path):
            store.save_async(ONE, run="first")
            for number in range(8):
                calls.append(Call(lambda number=number: store.save_async(ONE, run=str(number))))
                until(lambda number=number: is_queued(store, number + 1))
        handles = [call.end() for call in calls]
        store.wait()
        assert [info.run for info in store.records()] == ["first", *map(str, range(8))]
        assert [handle.result() for handle in handles] == list(range(2, 10))


def test_many_threads_at_once_have_each_record_stored_and_one_in_flight(path: Path) -> None:
    threads, each = 8, 5
    with RecordStore(path) as store:
        in_flight = watch_background(store)

        def save(thread: int) -> list[SaveHandle]:
            return [
                store.save_async({"x": np.full(50_000, thread * each + number)}, run=str(thread), round=number)
                for number in range(each)
            ]

        calls = [Call(lambda thread=thread: save(thread)) for thread in range(threads)]
        handles = [call.end() for call in calls]
        assert max(in_flight) == 1
        for thread, own in enumerate(handles):
            ids = [handle.result() for handle in own]
            assert ids == sorted(ids)
            for number, id_ in enumerate(ids):
                assert content(store, id_) == {"x": npy(np.full(50_000, thread * each + number))}
    assert flaws(path) == {}


# Inputs that save by themselves


@pytest.mark.parametrize("outer", ["save", "save_async"])
@pytest.mark.parametrize("inner", ["save", "save_async", "wait", "result"])
def test_an_iterator_may_save_while_it_is_being_saved(store: RecordStore, outer: str, inner: str) -> None:
    saved: list[int] = []

    def pairs() -> Iterator[tuple[str, np.ndarray]]:
        for number in range(3):
            yield str(number), np.full(100_000, number)
            if inner == "save":
                saved.append(store.save({"n": np.full(3, number)}))
            else:
                handle = store.save_async({"n": np.full(50_000, number)})
                if inner == "wait":
                    store.wait()
                if inner != "save_async":
                    saved.append(handle.result())

    in_flight = watch_background(store)
    store.save_async({"before": np.ones(100_000)})
    call = Call(lambda: getattr(store, outer)(pairs()))
    result = call.end()
    record_id = result if isinstance(result, int) else result.result()
    assert content(store, record_id) == {str(number): npy(np.full(100_000, number)) for number in range(3)}
    store.wait()
    assert len(store) == 5
    if outer == "save_async":
        assert record_id == 5
    assert all(id_ in store for id_ in saved)
    assert max(in_flight) == 1


def test_a_save_from_another_thread_goes_on_while_an_iterator_is_exhausted(store: RecordStore) -> None:
    def pairs() -> Iterator[tuple[str, np.ndarray]]:
        yield "x", np.full(3, Call(lambda: store.save(ONE)).end())

    handle = store.save_async(pairs())
    assert (handle.result(), store.load(2)["x"].numpy().tolist()) == (2, [1, 1, 1])


@pytest.mark.parametrize("call", ["save", "save_async", "wait", "close"])
def test_a_finalizer_that_runs_in_the_middle_of_a_save_may_use_the_store(
    path: Path, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = RecordStore(path)
    given = [np.ones(3)]
    done: list[Any] = []
    calls: dict[str, Callable[[], Any]] = {
        "save": lambda: store.save(ONE),
        "save_async": lambda: store.save_async(given, keep_input=False).result(),
        "wait": store.wait,
        "close": store.close,
    }

    def strike(batch: Batch) -> None:
        if not done:
            done.append(None)
            done.append(calls[call]())
        wait(batch)

    wait = Batch.wait
    monkeypatch.setattr(Batch, "wait", strike)
    handle = store.save_async({"x": np.arange(300_000)})
    if call == "close":
        with pytest.raises(StoreClosedError):
            handle.result(LONG)
    else:
        assert handle.result(LONG) in store
        assert len(done) == 2
        assert len(given) == (call != "save_async")
    store.close()
