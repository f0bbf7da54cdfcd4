"""ArrayRecord, sentence by sentence of its contract."""

from __future__ import annotations

import gc
import logging
import pickle
import weakref
from collections import OrderedDict
from types import ModuleType, SimpleNamespace
from unittest import mock

import numpy as np
import pytest

from recordstore.array import Array
from recordstore.arrayrecord import ArrayRecord, ParametersRecord
from recordstore.constants import SType
from recordstore.typeddict import TypedDict

A, B = Array(np.zeros(2)), Array(np.ones(3))


@pytest.fixture
def collections(monkeypatch: pytest.MonkeyPatch) -> mock.Mock:
    counter = mock.Mock(return_value=0)
    monkeypatch.setattr(gc, "collect", counter)
    return counter


@pytest.mark.parametrize("args", [(), (None,), ({},), ([],)])
def test_may_be_empty(args: tuple) -> None:
    assert len(ArrayRecord(*args)) == 0


def test_takes_a_dict_of_arrays_or_a_list_of_ndarrays() -> None:
    assert ArrayRecord({"b": B, "a": A}) == ArrayRecord(array_dict={"b": B, "a": A}) == {"b": B, "a": A}
    assert ArrayRecord([np.zeros(2)]) == ArrayRecord(numpy_ndarrays=[np.zeros(2)]) == {"0": A}


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        (({}, {}), {}),
        (([], True), {}),
        (({"a": A},), {"array_dict": {"a": A}}),
        (([],), {"array_dict": {}}),
        ((), {"array_dict": {}, "numpy_ndarrays": []}),
        ((), {"numpy_ndarrays": {}}),
        ((), {"array_dict": []}),
        (((np.ones(2),),), {}),
        ((ArrayRecord({"a": A}),), {}),
        (({"a": A, "b": np.ones(2)},), {}),
        (({"a": A, 2: B},), {}),
        (([np.ones(2), None],), {}),
        ((3,), {}),
    ],
)
def test_refuses_any_other_arguments(args: tuple, kwargs: dict) -> None:
    with pytest.raises(TypeError, match=r"^Invalid arguments for ArrayRecord\b"):
        ArrayRecord(*args, **kwargs)


@pytest.mark.parametrize(
    ("method", "value"), [("from_array_dict", {"a": A}), ("from_array_dict", {}), ("from_numpy_ndarrays", [np.ones(2)])]
)
def test_the_constructor_takes_over_what_the_class_method_returns(method: str, value: object) -> None:
    converted = ArrayRecord({"converted": B})
    with mock.patch.object(ArrayRecord, method, return_value=converted) as convert:
        record = ArrayRecord(value, keep_input=False)
    convert.assert_called_once_with(value, keep_input=False)
    assert vars(record) == vars(converted)


def test_class_methods_of_a_subclass_return_the_base_class() -> None:
    class Sub(ArrayRecord):
        pass

    assert type(Sub.from_array_dict({})) is ArrayRecord
    assert type(Sub.from_numpy_ndarrays([])) is ArrayRecord
    assert type(Sub({"a": A})) is Sub


def test_from_array_dict_shares_bytes_and_copies_the_rest() -> None:
    record = ArrayRecord({"a": A})
    assert record["a"] == A
    assert record["a"] is not A
    assert record["a"].data is A.data
    assert record["a"].shape is not A.shape


def test_from_array_dict_takes_whatever_has_the_four_fields() -> None:
    foreign = SimpleNamespace(dtype="float64", shape=(2,), stype=SType.NUMPY, data=A.data)
    assert ArrayRecord.from_array_dict({"a": foreign}) == {"a": A}


def test_a_record_of_flower_is_taken_with_its_bytes(flower: SimpleNamespace) -> None:
    theirs = flower.ArrayRecord([np.zeros(2), np.ones(3)])
    record = ArrayRecord.from_array_dict(theirs)
    assert record == {"0": A, "1": B}
    assert record["0"].data is theirs["0"].data
    assert isinstance(record["0"].shape, list)


def test_ndarrays_are_numbered_and_converted_once_each() -> None:
    arrays = [np.full(3, each) for each in range(12)]
    with mock.patch.object(Array, "from_numpy_ndarray", wraps=Array.from_numpy_ndarray) as convert:
        record = ArrayRecord(arrays)
    assert list(record) == [str(each) for each in range(12)]
    assert [call.args[0] is each for call, each in zip(convert.call_args_list, arrays, strict=True)] == [True] * 12


def test_to_numpy_and_back_is_the_same() -> None:
    arrays = [np.arange(6.0).reshape(2, 3), np.array(5, ">i2"), np.array(["a"])]
    result = ArrayRecord(arrays).to_numpy_ndarrays()
    assert all(
        np.array_equal(left, right) and left.dtype == right.dtype for left, right in zip(arrays, result, strict=True)
    )


def test_keeping_the_input_changes_nothing_and_collects_no_garbage(collections: mock.Mock) -> None:
    arrays, stored = [np.zeros(2)], {"a": A}
    record = ArrayRecord(arrays)
    ArrayRecord(stored)
    record.to_numpy_ndarrays()
    assert (len(arrays), len(stored), len(record)) == (1, 1, 1)
    collections.assert_not_called()


@pytest.mark.parametrize(("threshold", "expected"), [(10**9, 1), (143, 4), (144, 2), (288, 2), (431, 2), (432, 1)])
def test_garbage_is_collected_above_the_threshold_and_at_the_end(
    threshold: int, expected: int, collections: mock.Mock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recordstore.arrayrecord.GC_THRESHOLD", threshold)
    arrays = [np.zeros(2), np.zeros(2), np.zeros(2)]  # of 144 serialized bytes each
    record = ArrayRecord(arrays, keep_input=False)
    assert arrays == []
    assert collections.call_count == expected
    assert len(record.to_numpy_ndarrays(keep_input=False)) == 3
    assert len(record) == 0
    assert collections.call_count == 2 * expected


def test_an_empty_input_that_is_not_kept_collects_garbage_once(collections: mock.Mock) -> None:
    ArrayRecord([], keep_input=False)
    assert collections.call_count == 1
    ArrayRecord().to_numpy_ndarrays(keep_input=False)
    assert collections.call_count == 2


def test_a_dict_that_is_not_kept_is_cleared_without_collecting(collections: mock.Mock) -> None:
    stored = {"a": A}
    assert ArrayRecord(stored, keep_input=False) == {"a": A}
    assert stored == {}
    collections.assert_not_called()


def test_each_ndarray_is_free_before_the_next_is_converted(monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = [np.zeros(2), np.ones(2)]
    first = weakref.ref(arrays[0])
    free = []

    def convert(ndarray: np.ndarray) -> Array:
        free.append(first() is None)
        return A

    monkeypatch.setattr(Array, "from_numpy_ndarray", convert)
    ArrayRecord(arrays, keep_input=False)
    assert free == [False, True]


def test_each_array_is_free_when_the_garbage_is_collected(monkeypatch: pytest.MonkeyPatch) -> None:
    record = ArrayRecord([np.zeros(2), np.ones(2)])
    arrays = [weakref.ref(array) for array in record.values()]
    free: list[list[bool]] = []
    monkeypatch.setattr("recordstore.arrayrecord.GC_THRESHOLD", 0)
    monkeypatch.setattr(gc, "collect", lambda: free.append([array() is None for array in arrays]))
    record.to_numpy_ndarrays(keep_input=False)
    assert free == [[True, False], [True, True], [True, True]]


def test_a_conversion_that_fails_half_way_has_used_up_what_it_had_converted() -> None:
    arrays = [np.zeros(2), np.array([object()]), np.ones(2)]
    with pytest.raises(ValueError, match="Python objects"):
        ArrayRecord(arrays, keep_input=False)
    assert arrays[0] is None
    assert [type(each) for each in arrays[1:]] == [np.ndarray, np.ndarray]
    record = ArrayRecord({"a": A, "b": Array("", [], "other", b""), "c": B})
    with pytest.raises(TypeError, match="'other'"):
        record.to_numpy_ndarrays(keep_input=False)
    assert list(record) == ["c"]


def test_converting_touches_nothing_but_the_method_that_is_needed(stand_in_torch: ModuleType) -> None:
    class OnlyNumpy:
        __slots__ = ()

        def __getattribute__(self, name: str) -> object:
            assert name == "numpy"
            return lambda: np.arange(2)

    record = ArrayRecord()
    vars(record)["_data"]["a"] = OnlyNumpy()
    assert record.to_numpy_ndarrays()[0].tolist() == [0, 1]
    assert record.to_torch_state_dict()["a"].array.tolist() == [0, 1]


def test_a_state_dict_keeps_its_order_and_each_tensor_is_asked_once(stand_in_torch: ModuleType) -> None:
    tensors = {name: stand_in_torch.Tensor(np.arange(3)) for name in "cab"}
    record = ArrayRecord(tensors)
    assert list(record) == ["c", "a", "b"]
    assert all(each.calls == ["detach", "cpu", "numpy"] for each in tensors.values())
    state_dict = record.to_torch_state_dict()
    assert type(state_dict) is OrderedDict
    assert list(state_dict) == ["c", "a", "b"]
    assert ArrayRecord(tensors, keep_input=False) == record
    assert tensors == {}
    assert len(record.to_torch_state_dict(keep_input=False)) == 3
    assert len(record) == 0


@pytest.mark.usefixtures("without_torch")
def test_without_torch_conversions_say_so_before_they_touch_anything() -> None:
    record = ArrayRecord({"a": A})
    with pytest.raises(RuntimeError, match="PyTorch is required"):
        ArrayRecord.from_torch_state_dict(None)
    with pytest.raises(RuntimeError, match="PyTorch is required"):
        record.to_torch_state_dict(keep_input=False)
    assert list(record) == ["a"]


def test_count_bytes_counts_data_and_the_characters_of_names() -> None:
    assert ArrayRecord({"größe": Array("", [], "raw", b"123")}).count_bytes() == 8


@pytest.mark.parametrize("assign", [lambda r, k, v: r.update({k: v}), lambda r, k, v: r.__setitem__(k, v)])
def test_keys_and_values_are_checked_on_the_way_in(assign) -> None:
    record = ArrayRecord()
    with pytest.raises(TypeError, match=r"^Key must be of type"):
        assign(record, 3, A)
    with pytest.raises(TypeError, match=r"^Value must be of type"):
        assign(record, "a", np.ones(2))
    assert len(record) == 0


def test_popitem_takes_the_first_and_views_are_those_of_a_dict() -> None:
    record = ArrayRecord({"b": B, "a": A})
    assert repr(record) == repr({"b": B, "a": A})
    assert [type(view).__name__ for view in (record.keys(), record.values(), record.items())] == [
        "dict_keys",
        "dict_values",
        "dict_items",
    ]
    assert record.popitem() == ("b", B)


def test_is_equal_to_mappings_in_any_order_unhashable_and_picklable() -> None:
    record = ArrayRecord({"b": B, "a": A})
    assert record == {"a": A, "b": B} == record
    assert record != {"a": A}
    assert record != [("a", A), ("b", B)]
    with pytest.raises(TypeError, match="unhashable"):
        hash(record)
    again = pickle.loads(pickle.dumps(record))
    assert again == record
    assert list(again) == ["b", "a"]


def test_is_equal_to_a_typed_dict_of_another_class() -> None:
    mapping: TypedDict[str, Array] = TypedDict(lambda key: None, lambda value: None)
    mapping["a"] = A
    assert ArrayRecord({"a": A}) == mapping == ParametersRecord({"a": A})


def test_state_lives_in_its_dict() -> None:
    assert set(vars(ArrayRecord())) == {"_data", "_check_key_fn", "_check_value_fn"}


def test_a_copy_is_shallow_and_independent() -> None:
    record = ArrayRecord({"a": A})
    copied = record.copy()
    assert type(copied) is ArrayRecord
    assert copied["a"] is record["a"]
    copied["b"] = B
    assert list(record) == ["a"]
    with pytest.raises(TypeError, match="Value must"):
        copied["c"] = 3


def test_the_typed_dict_takes_any_checks() -> None:
    mapping: TypedDict[int, int] = TypedDict(lambda key: None, lambda value: None)
    mapping[1] = 2
    assert mapping == {1: 2}


def test_the_deprecated_name_warns_once_in_a_process(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ParametersRecord, "_warning_logged", False)
    monkeypatch.setattr(logging.getLogger("flwr"), "propagate", True)
    with caplog.at_level("WARNING", logger="flwr"):
        assert ParametersRecord({"a": A}) == ParametersRecord(array_dict={"a": A})
    assert [(each.name, each.levelname) for each in caplog.records] == [("flwr", "WARNING")]
    assert isinstance(ParametersRecord(), ArrayRecord)
