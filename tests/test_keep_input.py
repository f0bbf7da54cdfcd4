"""keep_input=False: the input is emptied once the record is safe, and complete if the save fails."""

import gc
from collections.abc import Callable, Iterator
from types import MappingProxyType, ModuleType
from typing import Any

import numpy as np
import pytest

from recordstore import Array, ArrayRecord, InvalidTypeError, RecordExistsError, RecordStore, RecordStoreError

HEADER = 128


def arrays(*sizes: int) -> list[np.ndarray]:
    """Return arrays whose serialized forms have these sizes in bytes."""
    return [np.full(size - HEADER, index, np.uint8) for index, size in enumerate(sizes)]


def named(*sizes: int) -> dict[str, np.ndarray]:
    return {f"array {index}": array for index, array in enumerate(arrays(*sizes))}


FORMS: dict[str, Callable[..., Any]] = {
    "list of ndarrays": arrays,
    "dict of ndarrays": named,
    "dict of Array": lambda *sizes: {name: Array(array) for name, array in named(*sizes).items()},
    "ArrayRecord": lambda *sizes: ArrayRecord({name: Array(array) for name, array in named(*sizes).items()}),
    "list of pairs": lambda *sizes: list(named(*sizes).items()),
}


def contents(given: Any) -> list[Any]:
    return list(given.items()) if hasattr(given, "items") else list(given)


@pytest.fixture(params=FORMS)
def make(request: pytest.FixtureRequest) -> Callable[..., Any]:
    return FORMS[request.param]


def collections_by_the_rule_of_flower(sizes: tuple[int, ...], threshold: int) -> int:
    """One whenever more than the threshold was released since the last one, and one at the end."""
    count, released = 1, 0
    for size in sizes:
        released += size
        if released > threshold:
            count, released = count + 1, 0
    return count


@pytest.mark.parametrize(
    "sizes", [(), (200,), (300, 300, 300), (1000,), (1001,), (400, 600, 1, 1000, 1), (2000, 2000, 2000)]
)
def test_the_input_is_emptied_and_garbage_collected_as_flower_does(
    store: RecordStore, make: Callable[..., Any], sizes: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = tuple(size + HEADER for size in sizes)
    threshold = 1000 + HEADER
    monkeypatch.setattr("recordstore.inputs.GC_THRESHOLD", threshold)
    given, expected = make(*sizes), make(*sizes)
    left: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(gc, "collect", lambda: left.append(sum(item is not None for item in contents(given))))
        record_id = store.save(given, keep_input=False)
    assert contents(given) == []
    assert len(left) == collections_by_the_rule_of_flower(sizes, threshold)
    assert left[-1] == 0
    assert left == sorted(left, reverse=True)
    with RecordStore(":memory:") as other:
        assert store.load(record_id) == other.load(other.save(expected))


def test_with_keep_input_nothing_is_removed_or_collected(
    store: RecordStore, make: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recordstore.inputs.GC_THRESHOLD", 0)
    given = make(300, 300)
    before = contents(given)
    with monkeypatch.context() as patch:
        patch.setattr(gc, "collect", lambda: pytest.fail("nothing was released"))
        store.save(given)
    assert [item is old for item, old in zip(contents(given), before, strict=True)] or before == []
    assert len(contents(given)) == 2


def test_the_input_is_complete_until_the_record_is_visible(file_store: RecordStore, query: Callable[..., Any]) -> None:
    seen = []

    class Watched(dict[str, Any]):
        def pop(self, *arguments: Any) -> Any:
            seen.append((len(self), query("SELECT count(*) FROM record WHERE state = 'ready'")[0][0]))
            return super().pop(*arguments)

    file_store.save(Watched(named(200, 300)), keep_input=False)
    assert seen == [(2, 1), (1, 1)]


def breaking(error: Exception) -> Callable[..., Any]:
    def fail(*_: Any, **__: Any) -> Any:
        raise error

    return fail


@pytest.mark.parametrize("place", ["add", "add_arrays"])
def test_a_save_that_fails_leaves_the_input_complete(
    store: RecordStore, make: Callable[..., Any], place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = make(300, 400)
    before = contents(given)
    with monkeypatch.context() as patch:
        patch.setattr(f"recordstore.drafts.DraftRepository.{place}", breaking(ZeroDivisionError()))
        with pytest.raises(ZeroDivisionError):
            store.save(given, keep_input=False)
    assert all(item is old or item == old for item, old in zip(contents(given), before, strict=True))
    assert list(store) == []
    assert len(store.load(store.save(given, keep_input=False))) == 2


def test_a_save_in_batches_that_fails_at_the_end_leaves_the_input_complete(
    store: RecordStore, make: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recordstore.constants.CHUNK_SIZE", 1000)
    monkeypatch.setattr("recordstore.constants.BATCH_BYTES", 2000)
    given = make(5000, 5000)
    before = contents(given)
    with monkeypatch.context() as patch:
        patch.setattr("recordstore.drafts.DraftRepository.publish", breaking(ZeroDivisionError()))
        with pytest.raises(ZeroDivisionError):
            store.save(given, keep_input=False)
    assert all(item is old or item == old for item, old in zip(contents(given), before, strict=True))
    assert list(store) == []
    store.gc(grace=0)
    assert len(store.load(store.save(given, keep_input=False))) == 2


@pytest.mark.parametrize(
    "options",
    [{"run": "r", "round": 1}, {"run": "@"}, {"round": 1}, {"metrics": {"m": "x"}}, {"metadata": {1}}, {"tags": "t"}],
)
def test_a_save_that_is_refused_leaves_the_input_complete(
    store: RecordStore, make: Callable[..., Any], options: dict[str, Any]
) -> None:
    store.save([], run="r", round=1)
    given = make(200, 200)
    with pytest.raises(RecordStoreError) as caught:
        store.save(given, keep_input=False, **options)
    assert isinstance(caught.value, RecordExistsError) == ("run" in options and options["run"] == "r")
    assert len(contents(given)) == 2
    assert list(store) == [1]


def test_one_bad_array_leaves_all_good_ones_in_the_input(store: RecordStore) -> None:
    given = {"good": np.ones(2), "bad": np.array([object()])}
    with pytest.raises(RecordStoreError, match="'bad' holds Python objects"):
        store.save(given, keep_input=False)
    assert list(given) == ["good", "bad"]


def test_a_mapping_that_cannot_be_emptied_is_refused_before_anything_is_written(store: RecordStore) -> None:
    given = MappingProxyType({"x": np.ones(2)})
    with pytest.raises(InvalidTypeError, match=r"keep_input=False has to empty its input.*mappingproxy"):
        store.save(given, keep_input=False)
    assert list(store) == []


def test_a_generator_is_used_up_either_way(store: RecordStore) -> None:
    def pairs() -> Iterator[tuple[str, np.ndarray]]:
        yield "x", np.ones(2)

    given = pairs()
    assert list(store.load(store.save(given, keep_input=False))) == ["x"]
    assert list(given) == []


def test_a_state_dict_is_emptied_and_the_model_is_not(store: RecordStore, torch: ModuleType) -> None:
    model = torch.nn.Linear(3, 2)
    state = model.state_dict()
    record_id = store.save(state, keep_input=False)
    assert len(state) == 0
    assert store.load(record_id) == ArrayRecord(model.state_dict())
