"""Saves in the background: what was handed in is what is stored, in order, one at a time; and no error is lost."""

import contextlib
import gc
import logging
import mmap
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import tracemalloc
import weakref
from collections import OrderedDict, UserDict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

import numpy as np
import pytest
from support import Child, flaws, hear, kill_before_statement, make_small, memory_used, npy, rows, say

from recordstore import (
    Array,
    ArrayRecord,
    Checkpoint,
    ForkError,
    InvalidTypeError,
    InvalidValueError,
    ReadOnlyStoreError,
    RecordExistsError,
    RecordStore,
    RecordStoreError,
    SaveHandle,
    StorageFullError,
    StoreBusyError,
    StoreClosedError,
    background,
    snapshot,
)
from recordstore.batch import Batch

ONE = {"x": np.ones(3)}
LONG = 60.0
"""Seconds after which something that must happen has not happened."""


@contextmanager
def locked(path: Path | str) -> Iterator[None]:
    """Keep all writers of the package waiting, with a connection that is not the store's."""
    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


@contextmanager
def little_room(store: RecordStore, pages: int) -> Iterator[None]:
    """Let the database grow by a few pages only, as the quota of SQLite does."""
    with store._database._writers.connect() as connection:
        count = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        limit = connection.exec_driver_sql("PRAGMA max_page_count").scalar_one()
        connection.exec_driver_sql(f"PRAGMA max_page_count={count + pages}")
    yield
    with store._database._writers.connect() as connection:
        connection.exec_driver_sql(f"PRAGMA max_page_count={limit}")


class Call:
    """A call in a thread of its own."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self.error: BaseException | None = None
        self.value: Any = None
        self._function = function
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.value = self._function()
        except BaseException as error:
            self.error = error

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    def end(self) -> Any:
        self._thread.join(LONG)
        assert not self.running
        if self.error is not None:
            raise self.error
        return self.value


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def is_queued(store: RecordStore, count: int) -> bool:
    """Return whether so many calls of save_async have their turn, or wait for it."""
    turn = store._background._turn
    return len(turn._waiting) + (turn._owner is not None) == count


def watch_background(store: RecordStore) -> list[int]:
    """Return a list to which each save in the background adds how many there are when it begins."""
    inside: set[int] = set()
    counts: list[int] = []
    write = store._write

    def counted(*arguments: Any) -> int:
        me = threading.get_ident()
        if not threading.current_thread().name.startswith("recordstore-save"):
            return write(*arguments)
        inside.add(me)
        counts.append(len(inside))
        try:
            return write(*arguments)
        finally:
            inside.remove(me)

    store._write = counted
    return counts


def content(store: RecordStore, ref: Any) -> dict[str, bytes]:
    return {name: array.data for name, array in store.load(ref).items()}


# What is stored


def arrays() -> dict[str, np.ndarray]:
    big = np.arange(600_000, dtype=np.float32).reshape(600, 1000)
    return {
        "c": big.copy(),
        "fortran": np.asfortranarray(big),
        "strided": big[:, ::2],
        "transposed": big.reshape(10, 60, 1000).transpose(2, 0, 1),
        "reversed": big[::-1],
        "broadcast": np.broadcast_to(np.arange(5.0), (3, 5)),
        "complex": np.arange(60, dtype=np.complex128).reshape(6, 10)[:, ::3],
        "text": np.array([["ab", "c"], ["d", "e"]])[:, :1],
        "big-endian": np.arange(20, dtype=">i4")[::2],
        "structure": np.arange(54, dtype=np.uint8).view(np.dtype([("a", "u1"), ("b", "f8")]))[::2],
        "scalar": np.array(7.0),
        "empty": np.empty((0, 3)),
        "nothing": np.empty(4, "V0"),
        "small": np.arange(3, dtype=np.int8),
    }


FORMS: dict[str, Callable[[], Any]] = {
    "dict of ndarrays": arrays,
    "list of ndarrays": lambda: list(arrays().values()),
    "list of pairs": lambda: list(arrays().items()),
    "ArrayRecord": lambda: ArrayRecord({name: Array(array) for name, array in arrays().items() if array.dtype != "V0"}),
    "dict of Array": lambda: {name: Array(array) for name, array in arrays().items() if array.dtype != "V0"},
    "mapping": lambda: UserDict(arrays()),
    "read-only mapping": lambda: MappingProxyType(arrays()),
    "generator": lambda: ((name, array) for name, array in arrays().items()),
    "nothing": dict,
}


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("form", FORMS)
def test_a_save_in_the_background_stores_what_a_save_stores(store: RecordStore, form: str, keep: bool) -> None:
    if form == "read-only mapping" and not keep:
        pytest.skip("cannot be emptied")
    saved = store.save(FORMS[form](), run="r", round=1, metrics={"m": 1}, metadata={"k": [1]}, tags=["t"])
    expected = store.info(saved)
    handle = store.save_async(
        FORMS[form](),
        run="r",
        round=1,
        metrics={"m": 1},
        metadata={"k": [1]},
        tags=["t"],
        overwrite=True,
        keep_input=keep,
    )
    assert isinstance(handle, SaveHandle)
    info = store.info(handle.result())
    assert handle.done()
    assert handle.record is None
    for field in ("digest", "names", "nbytes", "run", "round", "metrics", "metadata", "tags"):
        assert getattr(info, field) == getattr(expected, field)
    assert info.id > expected.id
    store.load(info)


@pytest.mark.parametrize("call", ["save", "save_async"])
def test_what_lies_between_the_fields_of_a_structure_is_that_of_the_array(store: RecordStore, call: str) -> None:
    memory = np.arange(160_000, dtype=np.uint8)
    array = memory.view(np.dtype([("a", "u1"), ("b", "f8")], align=True))[::2]
    getattr(store, call)({"x": array})
    store.wait()
    assert store.load(1)["x"].data.endswith(memory.reshape(-1, 16)[::2].tobytes())


@pytest.mark.parametrize("strided", [False, True])
def test_tensors_of_every_kind_come_back(store: RecordStore, torch: ModuleType, strided: bool) -> None:
    def state() -> dict[str, Any]:
        whole = {
            "float": torch.arange(200_000.0).reshape(400, 500),
            "bfloat16": torch.arange(200_000.0).reshape(400, 500).to(torch.bfloat16),
            "int": torch.arange(12).reshape(3, 4),
            "bool": torch.tensor([[True, False], [False, True]]),
            "parameter": torch.nn.Parameter(torch.ones(3, 4)),
        }
        return {name: tensor[:, ::2] if strided else tensor for name, tensor in whole.items()}

    given = state()
    handle = store.save_async(given)
    with torch.no_grad():
        for tensor in given.values():
            tensor.zero_()
    assert store.info(handle.result()).digest == store.info(store.save(state())).digest


def test_a_record_of_flower_is_taken_by_its_fields(store: RecordStore, flwr_app: ModuleType) -> None:
    record = flwr_app.ArrayRecord([np.arange(3.0), np.ones((2, 2))])
    assert store.load(store.save_async(record).result()) == ArrayRecord([np.arange(3.0), np.ones((2, 2))])


def test_what_the_caller_changes_after_the_call_is_not_stored(file_store: RecordStore, path: Path) -> None:
    given = {name: np.array(array) for name, array in arrays().items()}
    expected = {name: npy(array) for name, array in given.items()}
    metrics, metadata, tags = {"m": 1.0}, {"k": [1]}, ["t"]
    with locked(path):  # so that nothing can have been written before the changes
        handle = file_store.save_async(given, run="r", round=1, metrics=metrics, metadata=metadata, tags=tags)
        for array in given.values():
            array.view(np.ndarray).reshape(-1).view(np.uint8)[...] = 255 if array.dtype.itemsize else 0
        del given["c"]
        given["new"] = np.ones(2)
        metrics["m"], metadata["k"][0], tags[0] = 2.0, 2, "u"
        assert not handle.done()
    info = file_store.info(handle.result())
    assert content(file_store, info) == expected
    assert (info.metrics, info.metadata, info.tags) == ({"m": 1.0}, {"k": [1]}, ("t",))


def test_the_fields_of_an_array_are_those_of_the_call(file_store: RecordStore, path: Path) -> None:
    array = Array("uint8", [3], "mine", b"abc")
    record = ArrayRecord({"x": array, "y": Array("uint8", [1], "mine", b"d")})
    with locked(path):
        handle = file_store.save_async(record)
        array.data, array.dtype, array.stype = b"zzzz", "int8", "yours"
        array.shape[0] = 4
        del record["y"]
    loaded = file_store.load(handle.result())
    assert list(loaded) == ["x", "y"]
    assert (loaded["x"].dtype, loaded["x"].shape, loaded["x"].stype, loaded["x"].data) == ("uint8", [3], "mine", b"abc")


def test_a_generator_may_fill_the_same_memory_again_and_again(store: RecordStore) -> None:
    def pairs() -> Iterator[tuple[str, np.ndarray]]:
        memory = np.empty(200_000)
        for number in range(5):
            memory[...] = number
            yield str(number), memory

    loaded = store.load(store.save_async(pairs()).result())
    assert [set(array.numpy().tolist()) for array in loaded.values()] == [{number} for number in range(5)]


def test_one_snapshot_after_the_other_holds_its_own_bytes(store: RecordStore) -> None:
    handles = [store.save_async({"x": np.full(size, size), "y": np.ones(3)}) for size in (100_000, 90_000, 10, 300_000)]
    for handle, size in zip(handles, (100_000, 90_000, 10, 300_000), strict=True):
        assert content(store, handle.result()) == {"x": npy(np.full(size, size)), "y": npy(np.ones(3))}


def test_a_record_of_many_batches_is_written_while_the_caller_goes_on(path: Path) -> None:
    with Child(save_in_small_batches, path) as child:
        assert child.hear() == "saved"
        child.finish()
    assert flaws(path) == {}


def save_in_small_batches(path: str) -> None:
    make_small(CHUNK_SIZE=4096, BATCH_BYTES=16_384, RING_CHUNKS=4)
    given = {str(number): np.random.default_rng(number).integers(0, 256, 60_000, np.uint8) for number in range(8)}
    expected = {name: npy(array) for name, array in given.items()}
    with RecordStore(path) as store:
        for round_ in range(3):
            handle = store.save_async(given, run="r", round=round_)
            for array in given.values():
                np.add(array, 1, out=array)
            assert content(store, handle.result()) == expected
            expected = {name: npy(array) for name, array in given.items()}
    say("saved")


# What it costs the caller


MIB = 1024 * 1024


def test_the_bytes_of_arrays_are_not_copied(file_store: RecordStore, path: Path) -> None:
    record = ArrayRecord({str(number): Array("uint8", [MIB], "raw", bytes([number]) * MIB) for number in range(64)})
    file_store.save_async(ONE).result()
    with locked(path):
        tracemalloc.start()
        handle = file_store.save_async(record)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert len(file_store.load(handle.result())) == 64
    assert peak < 2 * MIB


def measure_memory(path: str, kind: str) -> None:
    size = 300 * MIB
    whole = np.arange(size // 8, dtype=np.uint64).view(np.uint8)
    given = {str(number): part for number, part in enumerate(np.split(whole, 10))}
    if kind == "Array":
        given = {name: Array("uint8", [part.size], "raw", part.tobytes()) for name, part in given.items()}
        del whole
    used: list[int] = []
    with RecordStore(path) as store:
        for round_ in range(3):
            with memory_used(used):
                for again in range(2):
                    store.save_async(
                        dict(given) if kind == "given away" else given,
                        run=f"{round_}-{again}",
                        keep_input=kind != "given away",
                    )
                store.wait()
    say(used)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(("kind", "copies"), [("Array", 0), ("given away", 0), ("ndarray", 1)])
def test_there_is_one_copy_of_ndarrays_and_none_of_arrays(path: Path, kind: str, copies: int) -> None:
    with Child(measure_memory, path, kind) as child:
        used = child.hear()
        child.finish()
    print(f"\n{kind}: {[round(each / MIB) for each in used]} MiB")
    assert max(used) <= (300 * copies + 64) * MIB


@pytest.mark.skipif(not hasattr(mmap, "MADV_FREE"), reason="this system lends no memory")
def test_the_memory_of_a_copy_is_used_again_until_the_store_is_closed(path: Path) -> None:
    given = {"x": np.ones(100_000), "y": np.ones(3)}
    with RecordStore(path) as store:
        assert store._staging._idle is None
        store.save_async(given)
        store.wait()
        block = store._staging._idle
        for size, again in ((60_000, True), (1000, False), (100_000, False)):
            store.save_async({"x": np.ones(size)})
            store.wait()
            assert (store._staging._idle is block) == again
            block = store._staging._idle
    assert store._staging._idle is None


def test_a_system_that_lends_no_memory_copies_all_the_same(store: RecordStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(mmap, "MADV_FREE", raising=False)
    given = arrays()
    expected = {name: npy(array) for name, array in given.items()}
    assert content(store, store.save_async(given).result()) == expected
    assert store._staging._idle is None


def test_advice_that_a_system_does_not_take_is_no_error() -> None:
    assert not snapshot._advise(mmap.mmap(-1, 4096), 9999)


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


# Errors


def test_an_error_is_raised_by_result_and_nowhere_else(path: Path) -> None:
    with RecordStore(path) as store:
        store.save(ONE, run="r", round=1)
        handle = store.save_async(ONE, run="r", round=1)
        for _ in range(2):  # as often as one asks the handle
            with pytest.raises(RecordExistsError, match="has a record of round 1"):
                handle.result()
        assert handle.done()
        assert "RecordExistsError" in repr(handle)
        store.wait()
        assert list(store) == [1]


def test_an_error_is_raised_by_wait_once(path: Path) -> None:
    with RecordStore(path) as store:
        store.save(ONE, run="r", round=1)
        store.save_async(ONE, run="r", round=1)
        with pytest.raises(RecordExistsError):
            store.wait()
        store.wait()


def test_each_of_several_errors_is_raised_by_a_wait_of_its_own_in_their_order(path: Path) -> None:
    with RecordStore(path) as store:
        store.save(ONE, run="r", round=1)
        store.save(ONE, run="r", round=2)
        store.save_async(ONE, run="r", round=1)
        store.save_async(ONE, run="r", round=2)
        good = store.save_async(ONE, run="r", round=3)
        for round_ in (1, 2):
            with pytest.raises(RecordExistsError, match=f"round {round_}"):
                store.wait()
        store.wait()
        assert store.info(good.result()).round == 3


@pytest.mark.parametrize("end", ["close", "with"])
def test_an_error_that_nobody_has_seen_is_raised_when_the_store_is_closed(path: Path, end: str) -> None:
    store = RecordStore(path)
    store.save(ONE, run="r", round=1)
    store.save_async(ONE, run="r", round=1)
    with pytest.raises(RecordExistsError):
        store.close() if end == "close" else store.__exit__(None, None, None)
    store.close()
    with pytest.raises(StoreClosedError):
        store.wait()


def test_of_two_errors_at_the_end_one_is_raised_and_one_logged(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = RecordStore(path)
    for round_ in (1, 2):
        store.save(ONE, run="r", round=round_)
    for round_ in (1, 2):
        store.save_async(ONE, run="r", round=round_)
    with caplog.at_level(logging.ERROR, "recordstore"), pytest.raises(RecordExistsError, match="round 1"):
        store.close()
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "round 2" in caplog.text


def test_an_error_hides_no_exception_that_is_under_way(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        with RecordStore(path) as store:
            store.save(ONE, run="r", round=1)
            store.save_async(ONE, run="r", round=1)
            raise ZeroDivisionError

    with caplog.at_level(logging.ERROR, "recordstore"), pytest.raises(ZeroDivisionError):
        fail()
    assert [(record.name, record.levelname) for record in caplog.records] == [("recordstore", "ERROR")]
    assert "has a record of round 1" in caplog.text


def test_a_store_that_is_closed_has_finished_its_save(path: Path) -> None:
    with RecordStore(path) as store:
        handle = store.save_async({"x": np.arange(2_000_000)})
    assert handle.done()
    assert handle.result() == 1
    assert rows(path, "SELECT id, state FROM record") == [(1, "ready")]


def test_a_full_disk_is_told_and_costs_nothing_else(file_store: RecordStore, path: Path) -> None:
    file_store.save(ONE)
    large = {str(number): np.full(250_000, number) for number in range(5)}
    with little_room(file_store, pages=100):
        with pytest.raises(StorageFullError, match="no room left"):
            file_store.save_async(large).result()
        assert list(file_store) == [1]
        assert file_store.save_async({"y": np.zeros(2)}).result() > 1
    assert len(file_store.load(file_store.save_async(large).result())) == 5
    file_store.gc(grace=0)
    assert flaws(path) == {}


def test_a_lock_that_others_keep_is_told_and_is_no_time_out_of_the_waiting(path: Path) -> None:
    with RecordStore(path, timeout=0.05) as store:
        with locked(path):
            handle = store.save_async(ONE)
            with pytest.raises(StoreBusyError, match="locked"):
                handle.result(LONG)
        assert handle.done()
        assert store.save_async(ONE).result() == 1


def test_a_wait_may_be_given_up_and_the_save_goes_on(path: Path) -> None:
    with RecordStore(path) as store:
        with locked(path):
            handle = store.save_async(ONE, run="r", round=4)
            for wait in (handle.result, store.wait):
                for seconds in (0, 0.01):
                    with pytest.raises(TimeoutError, match=r"'r@4' is still running after .* s") as caught:
                        wait(seconds)
                    assert not isinstance(caught.value, RecordStoreError)
            assert not handle.done()
            assert repr(handle) == "<SaveHandle of 'r@4': running>"
        assert handle.result(LONG) == 1
        assert repr(handle) == "<SaveHandle of 'r@4': record 1>"
        assert repr(store.save_async(ONE)).startswith("<SaveHandle of a record without a run: ")


@pytest.mark.parametrize("seconds", [-1, float("nan"), "1", True])
def test_a_timeout_is_a_number_of_seconds(store: RecordStore, seconds: Any) -> None:
    with locked(store._database.target.path) if store._database.target.path else store._database.write():
        handle = store.save_async(ONE)
        for wait in (handle.result, store.wait):
            with pytest.raises((InvalidTypeError, InvalidValueError)):
                wait(seconds)
    store.wait(1e9)


@pytest.mark.parametrize("how", ["result", "wait", "save_async", "save", "close"])
def test_an_interrupt_while_one_waits_leaves_the_save_running_and_the_store_open(path: Path, how: str) -> None:
    with RecordStore(path) as store:
        with locked(path):
            handle = store.save_async(ONE)
            calls: dict[str, Callable[[], Any]] = {
                "result": handle.result,
                "wait": store.wait,
                "save_async": lambda: store.save_async(ONE),
                "save": lambda: store.save(ONE),
                "close": store.close,
            }
            timer = threading.Timer(0.05, lambda: os.kill(os.getpid(), signal.SIGINT))
            timer.start()
            with pytest.raises(KeyboardInterrupt):
                calls[how]()
            timer.join()
            assert not handle.done()
        assert handle.result() == 1
        assert store.save_async(ONE).result() == 2


def test_a_failed_save_leaves_no_copy_behind(file_store: RecordStore) -> None:
    file_store.save(ONE, run="r", round=1)
    array = np.ones(300_000)
    watch = weakref.ref(array)
    handle = file_store.save_async({"x": array}, run="r", round=1, keep_input=False)
    del array
    with pytest.raises(RecordExistsError) as caught:
        handle.result()
    assert watch() is handle.record["x"]
    del handle
    gc.collect()
    assert watch() is None  # although the error, with its traceback, is still there
    assert caught.tb is not None


def test_what_is_printed_at_the_end_is_what_nobody_has_seen(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = RecordStore(path)
    store.save(ONE, run="r", round=1)
    handle = store.save_async(ONE, run="r", round=1)
    until(handle.done)
    background._report()
    background._report()
    store.close()
    assert capsys.readouterr().err.count("RecordExistsError: run 'r' has a record of round 1 already") == 1


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("can't start new thread")])
@pytest.mark.parametrize("queued", [False, True])
def test_an_interrupt_while_a_save_is_handed_over_leaves_the_store_usable(
    path: Path, error: BaseException, queued: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread may have got the save by then or not: it is made once or not at all."""
    submit = ThreadPoolExecutor.submit

    def strike(executor: ThreadPoolExecutor, function: Any, *arguments: Any) -> Any:
        if executor._thread_name_prefix != "recordstore-save":
            return submit(executor, function, *arguments)
        if queued:
            submit(executor, function, *arguments)
        raise error

    with RecordStore(path) as store:
        store.save_async(ONE, run="first").result()
        with monkeypatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
            patch.setattr(ThreadPoolExecutor, "submit", strike)
            store.save_async(ONE, run="second")
        store.save_async(ONE, run="third").result()
        runs = [info.run for info in store.records()]
        assert runs in (["first", "second", "third"], ["first", "third"])
        assert ("second" in runs) or isinstance(error, KeyboardInterrupt)
    with monkeypatch.context() as patch, RecordStore(path) as store, contextlib.suppress(KeyboardInterrupt):
        patch.setattr(ThreadPoolExecutor, "submit", strike)
        assert store.save_async(ONE, run="fourth").done()
    assert flaws(path) == {}


# What is refused at once


@pytest.mark.parametrize(
    "options",
    [
        {"run": "@"},
        {"round": 1},
        {"run": "r", "round": -1},
        {"metrics": {"m": "x"}},
        {"metadata": {1}},
        {"tags": "t"},
        {"overwrite": 1},
        {"keep_input": "no"},
    ],
)
def test_an_argument_that_save_refuses_is_refused_by_the_call(store: RecordStore, options: dict[str, Any]) -> None:
    given = dict(ONE)
    with pytest.raises(RecordStoreError) as expected:
        store.save(given, **options)
    with pytest.raises(type(expected.value)) as caught:
        store.save_async(given, **({"keep_input": False} | options))
    assert str(caught.value) == str(expected.value)
    assert list(given) == ["x"]
    store.wait()
    assert len(store) == 0


BAD: dict[str, Callable[[], Any]] = {
    "number": lambda: 7,
    "object array": lambda: {"good": np.ones(2), "bad": np.array([object()])},
    "wrong value": lambda: {"x": "text"},
    "wrong name": lambda: {1: np.ones(2)},
    "name twice": lambda: [("x", np.ones(2)), ("x", np.ones(2))],
    "generator of numbers": lambda: (number for number in range(3)),
    "generator with a name twice": lambda: (("x", np.ones(2)) for _ in range(2)),
    "generator that fails": lambda: (("x", np.ones(1 // number)) for number in (1, 0)),
}


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("keep", [True, False])
def test_an_input_that_save_refuses_is_refused_by_the_call(store: RecordStore, bad: str, keep: bool) -> None:
    with pytest.raises((RecordStoreError, ZeroDivisionError)) as expected:
        store.save(BAD[bad](), keep_input=keep)
    given = BAD[bad]()
    with pytest.raises(type(expected.value)) as caught:
        store.save_async(given, keep_input=keep)
    assert str(caught.value) == str(expected.value)
    assert not hasattr(given, "__len__") or len(given) == len(BAD[bad]())
    store.wait()
    assert len(store) == 0
    assert store.save_async(ONE).result() > 0


def test_a_mapping_that_cannot_be_emptied_is_refused(store: RecordStore) -> None:
    with pytest.raises(InvalidTypeError, match="keep_input=False has to empty its input"):
        store.save_async(MappingProxyType(ONE), keep_input=False)


def test_a_closed_store_refuses(store: RecordStore) -> None:
    store.close()
    for call in (lambda: store.save_async(ONE), store.wait):
        with pytest.raises(StoreClosedError, match="open the file again"):
            call()


def test_a_read_only_store_refuses(path: Path) -> None:
    RecordStore(path).close()
    with RecordStore(path, read_only=True) as store:
        with pytest.raises(ReadOnlyStoreError):
            store.save_async(ONE)
        store.wait()


def test_an_iterator_that_closes_the_store_has_nothing_saved(path: Path) -> None:
    store = RecordStore(path)

    def pairs() -> Iterator[tuple[str, np.ndarray]]:
        yield "x", np.ones(2)
        store.close()

    with pytest.raises(StoreClosedError):
        store.save_async(pairs())
    assert rows(path, "SELECT * FROM record") == []


def test_a_store_closed_by_another_thread_while_a_call_prepares_its_save_has_nothing_saved(path: Path) -> None:
    store = RecordStore(path)
    given = list(ONE.items())
    take = store._check_usable
    store._check_usable = lambda: (take(), Call(store.close).end())[0] if store._background._turn._owner else take()
    with pytest.raises(StoreClosedError, match="while the save was being prepared"):
        store.save_async(given, keep_input=False)
    assert len(given) == 1
    assert rows(path, "SELECT * FROM record") == []


# Giving the input away


class Weights(dict[str, Any]):
    """A mapping whose class needs an argument."""

    def __init__(self, values: dict[str, Any]) -> None:
        super().__init__(values)


OWNED: dict[str, Callable[[], Any]] = {
    "list of ndarrays": lambda: [np.ones(3), np.zeros(200_000)],
    "list of pairs": lambda: [("a", np.ones(3)), ("b", np.zeros(200_000))],
    "dict": lambda: {"a": np.ones(3), "b": np.zeros(200_000)},
    "OrderedDict": lambda: OrderedDict(b=np.ones(3), a=np.zeros(200_000)),
    "UserDict": lambda: UserDict(a=np.ones(3)),
    "ArrayRecord": lambda: ArrayRecord([np.ones(3), np.zeros(200_000)]),
    "class with an argument": lambda: Weights({"a": np.ones(3)}),
}


def contents(given: Any) -> list[Any]:
    return list(given.items()) if hasattr(given, "items") else list(given)


def same(one: list[Any], other: list[Any]) -> bool:
    """Return whether two containers hold the very same objects, under the same names."""
    pairs = zip(one, other, strict=True)
    return all(a is b or (isinstance(a, tuple) and a[0] == b[0] and a[1] is b[1]) for a, b in pairs)


@pytest.mark.parametrize("kind", OWNED)
def test_what_was_given_away_is_gone_at_once_and_comes_back_if_the_save_fails(path: Path, kind: str) -> None:
    given = OWNED[kind]()
    before = contents(given)
    with RecordStore(path) as store:
        store.save(ONE, run="r", round=1)
        with locked(path):
            handle = store.save_async(given, run="r", round=1, keep_input=False)
            assert contents(given) == []
            assert not handle.done()
            assert handle.record is None
        with pytest.raises(RecordExistsError):
            handle.result()
        assert type(handle.record) is (dict if kind == "class with an argument" else type(given))
        assert same(contents(handle.record), before)
        assert handle.record is handle.record
        again = store.save_async(handle.record, run="r", round=2, keep_input=False)
        assert len(store.load(again.result())) == len(before)
        assert again.record is None
        assert contents(handle.record) == []


def test_what_an_iterator_has_yielded_comes_back_as_a_list_of_pairs(path: Path) -> None:
    with RecordStore(path) as store:
        store.save(ONE, run="r", round=1)
        handle = store.save_async(iter(ONE.items()), run="r", round=1, keep_input=False)
        with pytest.raises(RecordExistsError):
            handle.result()
    assert same(handle.record, list(ONE.items()))


def test_with_keep_input_nothing_comes_back_since_nothing_was_taken(path: Path) -> None:
    given = dict(ONE)
    with RecordStore(path) as store:
        store.save(ONE, run="r", round=1)
        handle = store.save_async(given, run="r", round=1)
        with pytest.raises(RecordExistsError):
            handle.result()
    assert handle.record is None
    assert same(contents(given), contents(ONE))


def test_a_state_dict_comes_back_with_the_versions_of_its_modules(path: Path, torch: ModuleType) -> None:
    model = torch.nn.BatchNorm1d(3)
    state = model.state_dict()
    with RecordStore(path) as store:
        store.save(ONE, run="r", round=1)
        handle = store.save_async(state, run="r", round=1, keep_input=False)
        assert len(state) == 0
        with pytest.raises(RecordExistsError):
            handle.result()
    assert handle.record._metadata == model.state_dict()._metadata
    model.load_state_dict(handle.record)


def test_arrays_that_were_given_away_are_not_copied(file_store: RecordStore, path: Path) -> None:
    given = {str(number): np.ones(MIB, np.uint8) for number in range(64)}
    file_store.save_async(ONE).result()
    with locked(path):
        tracemalloc.start()
        handle = file_store.save_async(given, keep_input=False)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert handle.result() == 2
    assert peak < 20 * MIB  # the ring of an ordinary save


@pytest.mark.parametrize("sizes", [(), (300, 300, 300), (1001,), (400, 600, 1, 1000, 1)])
@pytest.mark.parametrize("kind", ["list", "dict", "generator"])
def test_garbage_is_collected_as_the_arrays_are_let_go_of(
    store: RecordStore, sizes: tuple[int, ...], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recordstore.inputs.GC_THRESHOLD", 1000 + 128)
    made = [np.full(size, index, np.uint8) for index, size in enumerate(sizes)]
    alive = [weakref.ref(array) for array in made]
    given: Any = made if kind == "list" else {str(index): array for index, array in enumerate(made)}
    given = iter(given.items()) if kind == "generator" else given
    collected: list[int] = []
    del made
    with monkeypatch.context() as patch:
        patch.setattr(gc, "collect", lambda: collected.append(sum(one() is not None for one in alive)))
        handle = store.save_async(given, keep_input=False)
        handle.result()
    expected, released = 1, 0
    for size in sizes:
        released += size + 128
        if released > 1000 + 128:
            expected, released = expected + 1, 0
    assert len(collected) == expected
    assert collected == sorted(collected, reverse=True)
    assert kind == "generator" or collected[-1] == 0


# The end of the interpreter


def run(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


PENDING = """
import concurrent.futures.thread, sqlite3, sys, threading, time
import numpy as np
from recordstore import RecordStore

store = RecordStore(sys.argv[1])
store.save({"warm": np.ones(1_000_000)})  # starts the threads that hash
other = sqlite3.connect(sys.argv[1], isolation_level=None, check_same_thread=False)
other.execute("BEGIN IMMEDIATE")
handle = store.save_async({str(n): np.full(1_000_000, n) for n in range(8)}, run="r", round=1)
assert not handle.done()

def let_go():
    while not concurrent.futures.thread._shutdown:  # until the interpreter is ending
        time.sleep(0.001)
    other.execute("ROLLBACK")

threading.Thread(target=let_go).start()
if sys.argv[2] == "raises":
    raise ZeroDivisionError
"""


@pytest.mark.parametrize("end", ["ends", "raises"])
def test_a_pending_save_is_finished_at_the_end_of_the_interpreter(path: Path, end: str) -> None:
    done = run(PENDING, path, end)
    assert ("ZeroDivisionError" in done.stderr, done.returncode) == ((True, 1) if end == "raises" else (False, 0))
    assert done.stderr == "" or end == "raises"
    assert rows(path, "SELECT run, round, state, array_count FROM record WHERE id = 2") == [("r", 1, "ready", 8)]
    assert flaws(path) == {}
    with RecordStore(path) as store:
        assert store.load(2)["7"].numpy().tolist() == [7.0] * 1_000_000


FAILING = """
import sys
import numpy as np
from recordstore import RecordStore

store = RecordStore(sys.argv[1])
store.save([np.ones(3)], run="r", round=1)
handles = [store.save_async([np.ones(3)], run="r", round=1) for _ in range(2)]
if sys.argv[2] == "seen":
    for handle in handles:
        try:
            handle.result()
        except ValueError:
            pass
if sys.argv[2] == "forgotten":
    del store, handles
"""


@pytest.mark.parametrize(("how", "count"), [("unseen", 2), ("forgotten", 2), ("seen", 0)])
def test_an_error_that_nobody_has_seen_is_printed_at_the_end(path: Path, how: str, count: int) -> None:
    done = run(FAILING, path, how)
    assert done.stderr.count("a save in the background has failed, and nobody has asked for it") == count
    assert done.stderr.count("RecordExistsError: run 'r' has a record of round 1 already") == count
    assert done.stderr.count("Traceback") == count
    assert rows(path, "SELECT id FROM record") == [(1,)]


AT_EXIT = """
import atexit, sys
import numpy as np
from recordstore import RecordStore

store = RecordStore(sys.argv[1])

def last():
    handle = store.save_async({"x": np.ones(1_000_000)})
    print(handle.done(), handle.result(), len(store.load(1)["x"].numpy()))

atexit.register(last)
"""


def test_a_save_that_is_begun_when_no_thread_can_start_any_more_is_done_at_once(path: Path) -> None:
    done = run(AT_EXIT, path)
    assert (done.stdout, done.stderr) == ("True 1 1000000\n", "")
    assert rows(path, "SELECT id, state FROM record") == [(1, "ready")]


def test_a_system_without_room_for_a_thread_saves_at_once(store: RecordStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: object) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        handle = store.save_async(ONE)
        assert handle.done()
    assert content(store, handle.result()) == {"x": npy(ONE["x"])}


# Crashes


def save_until_killed(path: str, number: int) -> None:
    make_small(CHUNK_SIZE=4096, BATCH_BYTES=16_384, RING_CHUNKS=4)
    store = RecordStore(path)
    store.save({"x": np.arange(5)}, run="r", round=1, tags=["t"])
    record = {str(index): np.random.default_rng(index).integers(0, 256, 20_000, np.uint8) for index in range(4)}
    kill_before_statement(number)
    store.save_async(record, run="r", round=1, overwrite=True, tags=["t"]).result()
    say("saved")
    hear()


@pytest.mark.parametrize("number", [0, 1, 5, 10, 15, 20, 25, 30, 35])
def test_a_kill_in_the_middle_of_a_save_leaves_the_old_record_whole(memory_folder: Path, number: int) -> None:
    path = memory_folder / "store.db"
    with Child(save_until_killed, path, number) as child:
        child._process.wait()
        assert child._process.returncode == -signal.SIGKILL
    with RecordStore(path) as store:
        assert content(store, "r@1") == content(store, "r@t") == {"x": npy(np.arange(5))}
        store.gc(grace=0)
    assert flaws(path) == {}


# Forks


def fork_during_a_save(path: str) -> None:
    store = RecordStore(path)
    with locked(path):
        handle = store.save_async({"x": np.arange(100_000)}, run="r", round=1)
        store._background._note(RecordStoreError("of the parent"))
        if not (child := os.fork()):
            refused = 0
            calls: list[Callable[[], Any]] = [
                handle.result,
                lambda: handle.result(1),
                handle.done,
                store.wait,
                store.close,
                lambda: store.save_async(ONE),
                lambda: store.save(ONE),
            ]
            for call in calls:
                try:
                    call()
                except ForkError:
                    refused += 1
            assert (refused, handle.record) == (len(calls), None)
            repr(handle)
            store.__exit__(None, None, None)
            sys.exit(refused)  # through the blocks of the parent, and the end of the interpreter
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert not handle.done()
    try:
        store.wait()
    except RecordStoreError as error:
        say([code, handle.result(), str(error)])
    store.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_child_is_told_so_and_the_save_goes_on_in_the_parent(path: Path) -> None:
    with Child(fork_during_a_save, path) as child:
        assert child.hear() == [7, 1, "of the parent"]
        child.finish()
    assert rows(path, "SELECT run, round, state FROM record") == [("r", 1, "ready")]
    assert flaws(path) == {}


def fork_in_an_iterator(path: str) -> None:
    codes: list[int] = []
    store = RecordStore(path)

    def pairs() -> Iterator[tuple[str, np.ndarray]]:
        yield "x", np.ones(2)
        child = os.fork()
        if child:
            codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        yield "forked", np.array([not child])

    try:
        handle = store.save_async(pairs())
    except ForkError:
        sys.exit(3)
    say([codes, handle.result(), store.load(1)["forked"].numpy().tolist()])
    store.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_child_forked_by_an_iterator_saves_nothing(path: Path) -> None:
    with Child(fork_in_an_iterator, path) as child:
        assert child.hear() == [[3], 1, [False]]
        child.finish()
    assert len(rows(path, "SELECT id FROM record")) == 1
