"""Array, sentence by sentence of its contract."""

from __future__ import annotations

import dataclasses
import pickle
import sys
from types import ModuleType

import numpy as np
import pytest

from recordstore import npy
from recordstore.array import Array
from recordstore.constants import SType

FIELDS = ("float32", [2], "numpy.ndarray", b"data")


def test_is_a_dataclass_of_four_fields() -> None:
    assert [field.name for field in dataclasses.fields(Array)] == ["dtype", "shape", "stype", "data"]
    assert vars(Array(*FIELDS)) == dict(zip(["dtype", "shape", "stype", "data"], FIELDS, strict=True))
    assert list(vars(Array(np.zeros(2)))) == ["dtype", "shape", "stype", "data"]


@pytest.mark.parametrize("by_position", range(5))
def test_takes_its_fields_by_position_and_by_keyword(by_position: int) -> None:
    keywords = dict(list(zip(["dtype", "shape", "stype", "data"], FIELDS, strict=True))[by_position:])
    assert Array(*FIELDS[:by_position], **keywords) == Array(*FIELDS)


def test_keeps_the_very_list_and_bytes_that_it_is_given() -> None:
    shape, data = [2, 3], b"some bytes"
    array = Array("float32", shape, "raw", data)
    assert array.shape is shape
    assert array.data is data


def test_a_tuple_as_shape_becomes_a_list() -> None:
    assert Array("float32", (2, 3), "raw", b"").shape == [2, 3]
    assert Array(dtype="float32", shape=(), stype="raw", data=b"") == Array("float32", [], "raw", b"")


def test_none_counts_as_not_given() -> None:
    array = Array(*FIELDS)
    assert Array(None, None, None, None, dtype="float32", shape=[2], stype="numpy.ndarray", data=b"data") == array
    assert Array(*FIELDS, ndarray=None, torch_tensor=None) == array
    assert Array(None, np.ones(2), dtype=None) == Array(np.ones(2))


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ((), {}),
        ((None,), {}),
        ((*FIELDS, None), {}),
        (FIELDS[:3], {}),
        (FIELDS, {"dtype": "float32"}),
        (FIELDS, {"ndarray": np.ones(2)}),
        ((np.ones(2),), {"ndarray": np.ones(2)}),
        ((), {"ndarray": np.ones(2), "torch_tensor": np.ones(2)}),
        ((), {"ndarray": np.ones(2), "dtype": "float64"}),
        ((), {"shape": np.ones(2)}),
        ((), {"ndarray": [1.0]}),
        ((), {"torch_tensor": np.ones(2)}),
        (([1.0],), {}),
        (FIELDS[:3], {"data": bytearray(b"data")}),
        (FIELDS[:3], {"data": memoryview(b"data")}),
        (FIELDS[:3], {"data": "data"}),
        (("float32", [2.0], "raw", b""), {}),
        (("float32", [np.int64(2)], "raw", b""), {}),
        (("float32", {2}, "raw", b""), {}),
        ((b"float32", [2], "raw", b""), {}),
        (("float32", [2], None, b""), {}),
    ],
)
def test_refuses_any_other_arguments(args: tuple, kwargs: dict) -> None:
    with pytest.raises(TypeError, match=r"^Invalid arguments for Array\b"):
        Array(*args, **kwargs)


def test_does_not_check_the_bytes_against_the_other_fields() -> None:
    assert Array(dtype="", shape=[], stype="numpy.ndarray.tobytes", data=b"").data == b""


def test_subclasses_of_bytes_pass() -> None:
    class Bytes(bytes):
        pass

    data = Bytes(b"x")
    assert Array("float32", [1], "raw", data).data is data


def test_the_constructor_takes_over_what_the_class_method_returns() -> None:
    class Marked(Array):
        @classmethod
        def from_numpy_ndarray(cls, ndarray: np.ndarray) -> Array:
            array = super().from_numpy_ndarray(ndarray)
            array.mark = "marked"
            return array

    assert Marked(np.ones(2)).mark == "marked"
    assert type(Marked(np.ones(2))) is Marked
    assert type(Marked.from_numpy_ndarray(np.ones(2))) is Array


def test_an_ndarray_becomes_the_bytes_that_numpy_saves() -> None:
    ndarray = np.asfortranarray(np.arange(6, dtype=">i4").reshape(2, 3))
    array = Array(ndarray)
    assert (array.dtype, array.shape, array.stype) == (">i4", [2, 3], SType.NUMPY)
    assert array.data == npy.dump(ndarray)
    assert array == Array(ndarray=ndarray) == Array.from_numpy_ndarray(ndarray)


def test_what_is_no_ndarray_is_an_assertion_error_that_names_its_type() -> None:
    with pytest.raises(AssertionError, match="list"):
        Array.from_numpy_ndarray([1.0])


def test_object_arrays_are_a_value_error() -> None:
    with pytest.raises(ValueError, match="Python objects"):
        Array(np.array([object()]))


def test_numpy_returns_a_fresh_writable_array() -> None:
    array = Array(np.zeros(3))
    array.numpy()[:] = 7
    assert array.numpy().tolist() == [0, 0, 0]


@pytest.mark.parametrize("stype", ["", "torch.Tensor", "numpy.ndarray.tobytes", "it's"])
def test_numpy_of_another_stype_is_a_type_error(stype: str) -> None:
    with pytest.raises(TypeError) as raised:
        Array("float32", [1], stype, b"").numpy()
    assert str(raised.value) == f"Unsupported serialization type for numpy conversion: '{stype}'"


def test_numpy_of_an_archive_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="magic"):
        Array("", [], SType.NUMPY, b"PK\x03\x04" + bytes(60)).numpy()


def test_is_equal_field_by_field_and_to_its_own_class_only() -> None:
    class Other(Array):
        pass

    assert Array(*FIELDS) == Array(*FIELDS)
    assert Array(*FIELDS) != Array("float64", *FIELDS[1:])
    assert Array(*FIELDS) != Other(*FIELDS)
    assert Array(*FIELDS) != vars(Array(*FIELDS))


def test_is_unhashable_picklable_and_shows_all_fields() -> None:
    array = Array(*FIELDS)
    with pytest.raises(TypeError, match="unhashable"):
        hash(array)
    assert pickle.loads(pickle.dumps(array)) == array
    assert repr(array) == "Array(dtype='float32', shape=[2], stype='numpy.ndarray', data=b'data')"


@pytest.mark.usefixtures("without_torch")
def test_without_torch_a_tensor_is_not_recognised() -> None:
    with pytest.raises(TypeError, match="Invalid arguments for Array"):
        Array(torch_tensor=np.ones(2))
    with pytest.raises(RuntimeError, match="PyTorch is required"):
        Array.from_torch_tensor(np.ones(2))


def test_a_torch_that_failed_to_import_counts_as_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(TypeError, match="Invalid arguments for Array"):
        Array(object())
    with pytest.raises(RuntimeError, match="PyTorch is required"):
        Array.from_torch_tensor(object())


def test_a_tensor_is_asked_for_three_methods_once(stand_in_torch: ModuleType) -> None:
    tensor = stand_in_torch.Tensor(np.arange(3))
    assert Array(tensor) == Array(np.arange(3))
    assert tensor.calls == ["detach", "cpu", "numpy"]


def test_a_tensor_goes_through_the_conversion_of_the_class(stand_in_torch: ModuleType) -> None:
    class Marked(Array):
        @classmethod
        def from_numpy_ndarray(cls, ndarray: np.ndarray) -> Array:
            return Array("marked", [], "raw", b"")

    assert Marked.from_torch_tensor(stand_in_torch.Tensor(np.ones(2))).dtype == "marked"


def test_what_is_no_tensor_is_an_assertion_error(stand_in_torch: ModuleType) -> None:
    with pytest.raises(AssertionError, match="ndarray"):
        Array.from_torch_tensor(np.ones(2))


def test_stype_cannot_be_instantiated() -> None:
    with pytest.raises(TypeError):
        SType()
