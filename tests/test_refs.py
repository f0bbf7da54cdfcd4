"""How a record is named: every form of reference, in every call that takes one."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from recordstore import (
    AmbiguousReferenceError,
    ArrayRecord,
    RecordInfo,
    RecordNotFoundError,
    RecordStore,
)

ONE = {"x": np.ones(3)}


def save_rounds(store: RecordStore, run: str, rounds: list[int], **options: Any) -> list[int]:
    """Save a record per round, each of its own bytes."""
    return [store.save({"x": np.full(4, number)}, run=run, round=number, **options) for number in rounds]


def value(store: RecordStore, ref: int | str | RecordInfo) -> float:
    return float(store.load(ref)["x"].numpy()[0])


REFS: list[Callable[[RecordInfo], Any]] = [
    lambda info: info.id,
    lambda info: np.int64(info.id),
    lambda info: info,
    lambda info: "mnist@latest",
    lambda info: "mnist@3",
    lambda info: "mnist@003",
    lambda info: "mnist@best",
    lambda info: "best",
    lambda info: "latest",
]


@pytest.mark.parametrize("make_ref", REFS)
def test_every_form_of_reference_works_in_every_call(store: RecordStore, make_ref: Callable[[RecordInfo], Any]) -> None:
    save_rounds(store, "mnist", [1, 2])
    info = store.info(store.save({"x": np.full(4, 3.5)}, run="mnist", round=3, tags=["best"]))
    ref = make_ref(info)
    assert store.info(ref) == info
    assert store.load(ref) == store[ref] == ArrayRecord(dict(store.stream(ref)))
    assert value(store, ref) == 3.5
    assert ref in store
    store.tag(ref, "other")
    store.untag(ref, "other")
    store.delete(ref)
    assert info.id not in store


@pytest.mark.parametrize(
    "ref", [4, 0, -1, 2**63, 10**30, "mnist@9", "mnist@" + "9" * 400, "mnist@none", "cifar@latest"]
)
def test_a_reference_that_leads_nowhere_says_what_to_look_at(store: RecordStore, ref: int | str) -> None:
    save_rounds(store, "mnist", [1])
    assert ref not in store
    for call in (store.load, store.stream, store.info, store.delete):
        with pytest.raises(RecordNotFoundError) as caught:
            call(ref)
    assert isinstance(caught.value, LookupError)
    assert str(caught.value)
    for call in (store.tag, store.untag):
        with pytest.raises(RecordNotFoundError):
            call(ref, "tag")


@pytest.mark.parametrize("ref", ["", "@", "@best", "mnist@", "12", "no such tag", "a\0b", "\ud800", "r@\ud800"])
def test_a_text_that_names_no_record_is_not_found(store: RecordStore, ref: str) -> None:
    store.save(ONE, run="mnist", round=1, tags=["best"])
    assert ref not in store
    with pytest.raises(RecordNotFoundError):
        store.info(ref)


def test_a_bare_tag_leads_to_the_record_without_a_run_first(store: RecordStore) -> None:
    in_run = store.save(ONE, run="mnist", tags=["best"])
    assert store.info("best").id == in_run
    without_run = store.save(ONE, tags=["best"])
    assert store.info("best").id == without_run
    assert store.info("mnist@best").id == in_run


def test_a_bare_tag_of_several_runs_is_an_error_that_lists_them(store: RecordStore) -> None:
    for run in ("b", "a"):
        store.save(ONE, run=run, tags=["best"])
    with pytest.raises(AmbiguousReferenceError, match="'a@best', 'b@best'") as caught:
        store.load("best")
    assert isinstance(caught.value, LookupError)
    store.untag("b@best", "best")
    assert store.info("best").run == "a"
