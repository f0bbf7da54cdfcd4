"""Opening and closing a store, every form of its target, and what read_only allows."""

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy

from recordstore import (
    InvalidTypeError,
    ReadOnlyStoreError,
    RecordInfo,
    RecordStore,
    RunInfo,
    StoreClosedError,
)

ONE = {"x": np.ones(3)}


def save_rounds(store: RecordStore, run: str, rounds: list[int], **options: Any) -> list[int]:
    """Save a record per round, each of its own bytes."""
    return [store.save({"x": np.full(4, number)}, run=run, round=number, **options) for number in rounds]


def value(store: RecordStore, ref: int | str | RecordInfo) -> float:
    return float(store.load(ref)["x"].numpy()[0])


def test_the_context_manager_closes_and_close_can_be_repeated(path: Path) -> None:
    with RecordStore(path) as store:
        assert store.save(ONE) == 1
        assert repr(store) == f"<RecordStore {str(path)!r}>"
    assert repr(store) == f"<RecordStore {str(path)!r}, closed>"
    store.close()
    with pytest.raises(StoreClosedError), store:
        pass


def test_leaving_the_block_with_an_error_closes_the_store_and_passes_the_error_on(path: Path) -> None:
    with pytest.raises(ZeroDivisionError), RecordStore(path) as store:
        1 / 0  # noqa: B018
    with pytest.raises(StoreClosedError):
        len(store)


@pytest.mark.parametrize("form", ["path", "text", "relative", "url", "url object", "% in the name"])
def test_a_path_can_be_given_in_every_usual_form(path: Path, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if form == "% in the name":
        path = path.with_name("50%20 ?#&.db")
    monkeypatch.chdir(path.parent)
    url = f"sqlite:///{path}"
    forms = {"text": str(path), "relative": path.name, "url": url, "url object": sqlalchemy.make_url(url)}
    with RecordStore(forms.get(form, path)) as store:
        store.save(ONE)
        assert str(path) in repr(store)
    assert [entry.name for entry in path.parent.iterdir() if not entry.name.endswith("-journal")] == [path.name]
    with RecordStore(path, read_only=True) as store:
        assert len(store) == 1


@pytest.mark.parametrize("target", [":memory:", "sqlite://", "sqlite:///:memory:"])
def test_each_database_in_memory_is_one_of_its_own(target: str) -> None:
    with RecordStore(target) as one, RecordStore(target) as two:
        one.save(ONE)
        assert (len(one), len(two)) == (1, 0)
        assert repr(one) == "<RecordStore ':memory:'>"


def test_what_one_store_saves_another_one_on_the_same_file_sees(path: Path) -> None:
    with RecordStore(path) as one, RecordStore(path) as two:
        record_id = one.save({"x": np.full(3, 7)})
        assert value(two, record_id) == 7
        two.delete(record_id)
        assert record_id not in one


def test_a_read_only_store_reads_everything_and_writes_nothing(path: Path, fingerprint: Callable[[], str]) -> None:
    with RecordStore(path) as store:
        store.save(ONE, run="a", round=1, metrics={"m": 2}, tags=["t"])
    before = fingerprint()
    with RecordStore(path, read_only=True) as store:
        assert value(store, "a@t") == 1
        assert store.best("m", "max").id == store.latest().id == 1
        assert (len(store), store.runs(), list(store)) == (1, [RunInfo("a", 1, 1)], [1])
        for write in (
            lambda: store.save(ONE),
            lambda: store.delete(1),
            lambda: store.tag(1, "u"),
            lambda: store.untag(1, "t"),
            store.gc,
        ):
            with pytest.raises(ReadOnlyStoreError, match="read_only=True") as caught:
                write()
            assert isinstance(caught.value, PermissionError)
    assert fingerprint() == before


def test_a_store_can_be_neither_pickled_nor_copied(store: RecordStore) -> None:
    for duplicate in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(InvalidTypeError, match="hand its path"):
            duplicate(store)
