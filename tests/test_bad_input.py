"""What bad input to an open store gets: an error of the tree that says what to do, and nothing changes on the disk."""

from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest

from recordstore import (
    Array,
    ArrayNotFoundError,
    InvalidTypeError,
    InvalidValueError,
    RecordExistsError,
    RecordNotFoundError,
    RecordStore,
    RecordStoreError,
)

ONE = {"x": np.ones(3)}


class Bad(NamedTuple):
    what: str
    call: Callable[[RecordStore], Any]
    error: type[RecordStoreError]
    says: str


def generator_of(*items: Any) -> Iterator[Any]:
    yield from items


NOT_FOUND, TYPE, VALUE = RecordNotFoundError, InvalidTypeError, InvalidValueError

CALLS = [
    Bad("unknown id", lambda s: s.load(99), NOT_FOUND, "no record has the id 99"),
    Bad("unknown tag", lambda s: s.load("worst"), NOT_FOUND, "no record has the tag 'worst'"),
    Bad("unknown tag of a run", lambda s: s.info("mnist@worst"), NOT_FOUND, "'mnist' has no record with the tag"),
    Bad("unknown run", lambda s: s.info("cifar@latest"), NOT_FOUND, "'cifar' has no record; store.runs"),
    Bad("unknown round", lambda s: s.info("mnist@4"), NOT_FOUND, "no record of round 4; store.records"),
    Bad("delete of an unknown id", lambda s: s.delete(99), NOT_FOUND, "no record has the id 99"),
    Bad("tag of an unknown id", lambda s: s.tag(99, "t"), NOT_FOUND, "no record has the id 99"),
    Bad("untag of another tag", lambda s: s.untag(1, "t"), NOT_FOUND, "does not have the tag 't'"),
    Bad("absent array", lambda s: s.load(1, names=["x", "y"]), ArrayNotFoundError, r"no array 'y'; info\(1\).names"),
    Bad("absent array in stream", lambda s: s.stream(1, names=["y"]), ArrayNotFoundError, "no array 'y'"),
    Bad("second save of a round", lambda s: s.save(ONE, run="mnist", round=3), RecordExistsError, "overwrite=True"),
    Bad("bool as a ref", lambda s: s.load(True), TYPE, "named by its id, a RecordInfo, or a str"),
    Bad("float as a ref", lambda s: s.info(1.0), TYPE, "not by float"),
    Bad("None as a ref", lambda s: s.delete(None), TYPE, "not by NoneType"),
    Bad("bytes in the store", lambda s: b"1" in s, TYPE, "not by bytes"),
    Bad("str as names", lambda s: s.load(1, names="x"), TYPE, "names must be a sequence of str"),
    Bad("int as names", lambda s: s.load(1, names=1), TYPE, "names must be a sequence of str"),
    Bad("int in names", lambda s: s.load(1, names=[1]), TYPE, "must be a str, not int"),
    Bad("int as a run", lambda s: s.save(ONE, run=1), TYPE, "run must be a str, not int"),
    Bad("str as a round", lambda s: s.save(ONE, run="r", round="1"), TYPE, "round must be an int, not str"),
    Bad("bool as a round", lambda s: s.save(ONE, run="r", round=True), TYPE, "round must be an int, not bool"),
    Bad("float as a round", lambda s: s.save(ONE, run="r", round=1.0), TYPE, "round must be an int, not float"),
    Bad("round without a run", lambda s: s.save(ONE, round=1), VALUE, "round needs a run"),
    Bad("list as metrics", lambda s: s.save(ONE, metrics=[1]), TYPE, "metrics must be a mapping"),
    Bad("class as metrics", lambda s: s.save(ONE, metrics=dict), TYPE, "metrics must be a mapping"),
    Bad("int as a metric's name", lambda s: s.save(ONE, metrics={1: 1}), TYPE, "metric must be a str"),
    Bad("str as a metric", lambda s: s.save(ONE, metrics={"m": "1"}), TYPE, "metric 'm' must be an int or a float"),
    Bad("object as metadata", lambda s: s.save(ONE, metadata=object()), TYPE, "metadata must be JSON-able"),
    Bad("tuple as metadata", lambda s: s.save(ONE, metadata=(1,)), TYPE, "lists for tuples"),
    Bad("str as tags", lambda s: s.save(ONE, tags="best"), TYPE, "tags must be a sequence of str"),
    Bad("None as tags", lambda s: s.save(ONE, tags=None), TYPE, "tags must be a sequence of str"),
    Bad("int in tags", lambda s: s.save(ONE, tags=[1]), TYPE, "tag must be a str"),
    Bad("int as a tag", lambda s: s.tag(1, 1), TYPE, "tag must be a str"),
    Bad(
        "str as overwrite",
        lambda s: s.save(ONE, run="mnist", round=3, overwrite="no"),
        TYPE,
        "overwrite must be a bool",
    ),
    Bad("int as keep_input", lambda s: s.save(ONE, keep_input=0), TYPE, "keep_input must be a bool"),
    Bad("str as newest_first", lambda s: s.records(newest_first="no"), TYPE, "newest_first must be a bool"),
    Bad("float as a limit", lambda s: s.records(limit=1.5), TYPE, "limit must be an int"),
    Bad("negative limit", lambda s: s.records(limit=-1), VALUE, "limit must not be negative"),
    Bad("other mode", lambda s: s.best("m", "highest"), VALUE, "mode must be 'max' or 'min'"),
    Bad("list as mode", lambda s: s.best("m", ["max"]), RecordStoreError, "mode must be 'max' or 'min'"),
    Bad("int as a metric to be best", lambda s: s.best(1, "max"), TYPE, "metric must be a str"),
    Bad("str as grace", lambda s: s.gc(grace="0"), TYPE, "grace must be a number of seconds"),
    Bad("negative grace", lambda s: s.gc(grace=-1), VALUE, "grace must be between 0"),
    Bad("nan as grace", lambda s: s.gc(grace=float("nan")), VALUE, "grace must be between 0"),
]

OBJECTS = np.array([object()])


def looks_like_array(**changed: Any) -> Any:
    return SimpleNamespace(**{"dtype": "float32", "shape": [1], "stype": "raw", "data": b"abcd"} | changed)


INPUTS = [
    Bad("None", lambda s: s.save(None), TYPE, "record must be an ArrayRecord"),
    Bad("int", lambda s: s.save(1), TYPE, "record must be an ArrayRecord.*not int"),
    Bad("str", lambda s: s.save("weights.pt"), TYPE, "not str"),
    Bad("bytes", lambda s: s.save(b"x"), TYPE, "not bytes"),
    Bad("class", lambda s: s.save(dict), TYPE, "record must be an ArrayRecord"),
    Bad("items that is no method", lambda s: s.save(looks_like_array(items=5)), TYPE, "record must be"),
    Bad("items that are no pairs", lambda s: s.save(looks_like_array(items=lambda: [1])), TYPE, "pairs|record must be"),
    Bad("single ndarray", lambda s: s.save(np.ones((2, 2))), TYPE, "not ndarray"),
    Bad("single Array", lambda s: s.save(Array(np.ones(2))), TYPE, "not Array"),
    Bad("list of numbers", lambda s: s.save([1.0]), TYPE, "element 0 of the list must be a numpy.ndarray, not float"),
    Bad("list with None", lambda s: s.save([np.ones(1), None]), TYPE, "element 1 of the list"),
    Bad("list of lists", lambda s: s.save([["x", np.ones(1)]]), TYPE, "element 0 of the list"),
    Bad("set of names", lambda s: s.save({"x"}), TYPE, "yielded str"),
    Bad("generator of arrays", lambda s: s.save(generator_of(np.ones(2))), TYPE, "pairs is needed; it yielded ndarray"),
    Bad("triples", lambda s: s.save(generator_of(("x", 1, 2))), TYPE, "pairs is needed"),
    Bad("int as a name", lambda s: s.save({1: np.ones(1)}), TYPE, "name of an array must be a str, not int"),
    Bad("int as a later name", lambda s: s.save(generator_of(("x", OBJECTS[:0].astype(int)), (1, 1))), TYPE, "not int"),
    Bad("list as a value", lambda s: s.save({"x": [1.0]}), TYPE, "'x' must be an Array, ndarray or tensor, not list"),
    Bad("number as a value", lambda s: s.save({"x": np.float64(1)}), TYPE, "not float64"),
    Bad("objects", lambda s: s.save({"x": OBJECTS}), VALUE, "'x' holds Python objects"),
    Bad("structured objects", lambda s: s.save({"x": np.zeros(1, "i4,O")}), VALUE, "'x' holds Python objects"),
    Bad("same name twice", lambda s: s.save([("x", np.ones(1))] * 2), VALUE, "'x' comes twice"),
    Bad("data that may change", lambda s: s.save({"x": looks_like_array(data=bytearray(4))}), TYPE, "must be bytes"),
    Bad("other dtype", lambda s: s.save({"x": looks_like_array(dtype=np.float32)}), TYPE, "the dtype of array 'x'"),
    Bad("other stype", lambda s: s.save({"x": looks_like_array(stype=None)}), TYPE, "the stype of array 'x'"),
    Bad("NUL in stype", lambda s: s.save({"x": looks_like_array(stype="a\0")}), VALUE, "the stype of array 'x'.*NUL"),
    Bad(
        "other shape", lambda s: s.save({"x": looks_like_array(shape=3)}), TYPE, "the shape of array 'x' must be a list"
    ),
    Bad("float in shape", lambda s: s.save({"x": looks_like_array(shape=[1.0])}), TYPE, "the shape of array 'x'"),
]


@pytest.fixture
def full_path(path: Path) -> Path:
    """A store with a record in it, that nobody has open."""
    with RecordStore(path) as store:
        store.save({"x": np.arange(4)}, run="mnist", round=3, metrics={"m": 1}, tags=["best"])
    return path


@pytest.mark.parametrize("bad", [*CALLS, *INPUTS], ids=lambda bad: bad.what)
def test_bad_arguments_raise_and_change_nothing(full_path: Path, fingerprint: Callable[[], str], bad: Bad) -> None:
    before = fingerprint()
    with RecordStore(full_path) as store:
        with pytest.raises(bad.error, match=bad.says):
            bad.call(store)
        assert store.load("mnist@3")["x"].numpy().tolist() == [0, 1, 2, 3]
    assert fingerprint() == before


@pytest.mark.parametrize("bad", CALLS, ids=lambda bad: bad.what)
def test_bad_arguments_raise_the_same_with_a_store_in_memory(memory: RecordStore, bad: Bad) -> None:
    memory.save({"x": np.arange(4)}, run="mnist", round=3, metrics={"m": 1}, tags=["best"])
    info = memory.info(1)
    with pytest.raises(bad.error, match=bad.says):
        bad.call(memory)
    assert list(memory.records()) == [info]


def test_bad_tensors_raise_and_change_nothing(
    full_path: Path, fingerprint: Callable[[], str], torch: ModuleType
) -> None:
    tensors = {
        "sparse.*to_dense": torch.eye(2).to_sparse(),
        "meta device": torch.ones(2, device="meta"),
        "conjugate.*resolve_conj": torch.ones(2, dtype=torch.complex64).conj(),
        "negation.*resolve_neg": torch.ones(2, dtype=torch.complex64).conj().imag,
    }
    before = fingerprint()
    with RecordStore(full_path) as store:
        for says, tensor in tensors.items():
            with pytest.raises(InvalidTypeError, match=f"tensor 'x' has .*{says}"):
                store.save({"good": torch.ones(2), "x": tensor})
        with pytest.raises(InvalidTypeError, match="not Tensor"):
            store.save(torch.ones(2))
        with pytest.raises(InvalidTypeError, match=r"save its state_dict\(\) instead"):
            store.save(torch.nn.Linear(2, 2))
    assert fingerprint() == before


def test_an_error_of_the_callers_own_generator_passes_through_and_nothing_changes(
    full_path: Path, fingerprint: Callable[[], str]
) -> None:
    def pairs() -> Iterator[tuple[str, np.ndarray]]:
        yield "x", np.ones(3)
        raise KeyError("mine")

    before = fingerprint()
    with RecordStore(full_path) as store, pytest.raises(KeyError, match="mine"):
        store.save(pairs())
    assert fingerprint() == before
