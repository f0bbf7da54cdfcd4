"""No error of a save in the background is lost, and what cannot be saved is refused at once."""

import contextlib
import gc
import logging
import os
import signal
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from in_background import LONG, ONE, Call, little_room, locked, until
from support import flaws, rows

from recordstore import (
    InvalidTypeError,
    InvalidValueError,
    ReadOnlyStoreError,
    RecordExistsError,
    RecordStore,
    RecordStoreError,
    StorageFullError,
    StoreBusyError,
    StoreClosedError,
    background,
)

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


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Have SIGINT raise KeyboardInterrupt: a shell's background job begins with the signal ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("how", ["result", "wait", "save_async", "save", "close"])
def test_an_interrupt_while_one_waits_leaves_the_save_running_and_the_store_open(
    path: Path, interruptible: None, how: str
) -> None:
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
