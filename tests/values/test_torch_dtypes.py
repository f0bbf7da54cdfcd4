"""Tensors of dtypes that NumPy lacks: kept as raw bytes, restored bit for bit."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recordstore import tensor as tensors
from recordstore.array import Array
from recordstore.arrayrecord import ArrayRecord
from recordstore.constants import SType

RAW = ["bfloat16", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu"]


@pytest.fixture(params=RAW)
def dtype(request: pytest.FixtureRequest, torch: ModuleType) -> object:
    if not hasattr(torch, request.param):
        pytest.skip(f"this torch has no {request.param}")
    return getattr(torch, request.param)


def bits(tensor) -> bytes:
    torch = sys.modules["torch"]
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def every_bit_pattern(torch: ModuleType, dtype: object):
    return torch.from_numpy(np.arange(2**16, dtype=np.uint16)).view(torch.uint8).view(dtype)


def test_every_bit_pattern_comes_back(torch: ModuleType, dtype: object) -> None:
    tensor = every_bit_pattern(torch, dtype)
    record = ArrayRecord({"a": tensor})
    array = record["a"]
    assert (array.dtype, array.shape, array.stype) == (str(dtype)[6:], list(tensor.shape), "torch.Tensor")
    assert array.data == np.arange(2**16, dtype="<u2").tobytes()
    restored = record.to_torch_state_dict()["a"]
    assert (restored.dtype, restored.shape) == (dtype, tensor.shape)
    assert bits(restored) == bits(tensor)


@pytest.mark.parametrize("shape", [(), (0,), (1,), (3, 0), (2, 3, 4)], ids=str)
def test_every_shape_and_layout_comes_back(torch: ModuleType, dtype: object, shape: tuple) -> None:
    count = int(np.prod((4, *shape), dtype=int))
    base = every_bit_pattern(torch, dtype)[1000 : 1000 + count].reshape((4, *shape))
    for tensor in (base, base[0], base.transpose(0, -1), base[::2], base.expand(2, *base.shape), base[1:]):
        array = Array(tensor)
        assert array == Array.from_torch_tensor(tensor) == Array(torch_tensor=tensor)
        restored = tensors.from_raw(array.dtype, array.shape, array.data)
        assert restored.shape == tensor.shape
        assert bits(restored) == bits(tensor)
        assert restored.is_contiguous()


@settings(max_examples=100, deadline=None, derandomize=True)
@given(data=st.binary(min_size=24, max_size=24), name=st.sampled_from(RAW))
def test_any_bits_make_a_tensor_that_gives_them_back(data: bytes, name: str) -> None:
    torch = pytest.importorskip("torch")
    if not hasattr(torch, name):
        return
    shape = [3, 24 // 3 // getattr(torch, name).itemsize]
    tensor = tensors.from_raw(name, shape, data)
    assert tensors.raw_view(tensor).tobytes() == data
    assert Array(tensor) == Array(name, shape, SType.TORCH, data)


def test_parameters_and_gradients_are_detached(torch: ModuleType) -> None:
    parameter = torch.nn.Parameter(torch.ones(2, dtype=torch.bfloat16))
    for tensor in (parameter, parameter * 2):
        array = Array(tensor)
        assert array.shape == [2]
        assert not tensors.from_raw(array.dtype, array.shape, array.data).requires_grad


def test_a_mixed_model_comes_back_whole(torch: ModuleType) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 4).bfloat16(), torch.nn.Linear(4, 2), torch.nn.BatchNorm1d(2))
    state_dict = model.state_dict()
    expected = {name: tensor.clone() for name, tensor in state_dict.items()}
    record = ArrayRecord(dict(state_dict), keep_input=False)
    restored = record.to_torch_state_dict(keep_input=False)
    assert len(record) == 0
    assert list(restored) == list(expected)
    assert all(torch.equal(restored[name], expected[name]) for name in expected)
    assert all(restored[name].dtype == expected[name].dtype for name in expected)
    model.load_state_dict(restored)


def test_the_restored_tensor_owns_its_memory_and_is_writable(torch: ModuleType) -> None:
    array = Array(torch.zeros(4, dtype=torch.bfloat16))
    record = ArrayRecord({"a": array})
    record.to_torch_state_dict()["a"].fill_(3)
    assert record["a"].data == bytes(8)
    assert array.data == bytes(8)


def test_numpy_of_raw_bytes_is_the_usual_type_error(torch: ModuleType) -> None:
    record = ArrayRecord({"a": torch.zeros(1, dtype=torch.bfloat16)})
    with pytest.raises(TypeError, match=r"^Unsupported serialization type for numpy conversion: 'torch.Tensor'"):
        record["a"].numpy()
    with pytest.raises(TypeError, match=r"^Unsupported serialization type"):
        record.to_numpy_ndarrays()


def test_flower_refuses_what_is_kept_here(torch: ModuleType, flower: SimpleNamespace) -> None:
    tensor = torch.ones(2, dtype=torch.bfloat16)
    with pytest.raises(TypeError, match="unsupported ScalarType"):
        flower.Array(tensor)
    ours = Array(tensor)
    theirs = flower.Array(ours.dtype, flower.shape(ours.shape), ours.stype, ours.data)
    assert ArrayRecord.from_array_dict({"a": theirs}) == {"a": ours}


@pytest.mark.filterwarnings("ignore:.*quantize:UserWarning", "ignore:ComplexHalf:UserWarning")
@pytest.mark.parametrize(
    "make",
    [
        lambda torch: torch.ones(2, dtype=torch.complex64).conj(),
        lambda torch: torch.ones(2, dtype=torch.complex64).conj().imag,
        lambda torch: torch.eye(2).to_sparse(),
        lambda torch: torch.eye(2, dtype=torch.bfloat16).to_sparse(),
        lambda torch: torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8),
        lambda torch: torch.empty(2, dtype=torch.complex32),
        lambda torch: torch.empty(2, dtype=torch.bfloat16, device="meta"),
    ],
    ids=["conjugate", "negative", "sparse", "sparse bfloat16", "quantized", "complex32", "meta"],
)
def test_what_flower_refuses_is_refused_with_the_same_exception(torch: ModuleType, make, flower) -> None:
    tensor = make(torch)
    with pytest.raises(Exception) as theirs:  # noqa: PT011
        flower.Array(tensor)
    with pytest.raises(theirs.type):
        Array(tensor)
    with pytest.raises(theirs.type):
        ArrayRecord({"a": tensor})
    with pytest.raises(theirs.type):
        tensors.to_numpy(tensor)
    if tensor.dtype != torch.complex32:
        with pytest.raises(theirs.type):
            tensors.raw_view(tensor)


@pytest.mark.filterwarnings("ignore:ComplexHalf:UserWarning")
def test_a_dtype_that_neither_form_can_hold_keeps_the_message_of_torch(torch: ModuleType) -> None:
    with pytest.raises(TypeError, match="unsupported ScalarType"):
        Array(torch.empty(2, dtype=torch.complex32))


def test_raw_dtype_names_only_what_numpy_lacks(torch: ModuleType) -> None:
    assert tensors.raw_dtype(torch.ones(1, dtype=torch.bfloat16)) == "bfloat16"
    assert tensors.raw_dtype(torch.ones(1)) is None
    assert tensors.raw_dtype(torch.ones(1, dtype=torch.bool)) is None
    assert tensors.raw_dtype(np.ones(1)) is None
    assert tensors.raw_dtype(object()) is None


def test_the_raw_view_shares_memory_with_a_contiguous_tensor(torch: ModuleType) -> None:
    for tensor in (torch.ones(3, dtype=torch.bfloat16), torch.ones(3), torch.tensor(1.5), torch.ones(0)):
        view = tensors.raw_view(tensor)
        assert (view.ndim, view.dtype, view.nbytes) == (1, np.uint8, tensor.numel() * tensor.element_size())
        view[:] = 0
        assert not tensor.any()


def test_is_tensor_and_to_numpy(torch: ModuleType) -> None:
    tensor = torch.ones(3, requires_grad=True)
    assert tensors.loaded_torch() is torch
    assert tensors.is_tensor(tensor)
    assert not tensors.is_tensor(np.ones(3))
    assert tensors.to_numpy(tensor).tolist() == [1, 1, 1]


@pytest.mark.usefixtures("without_torch")
def test_without_torch_nothing_is_a_tensor() -> None:
    assert tensors.loaded_torch() is None
    assert not tensors.is_tensor(np.ones(3))
    with pytest.raises(RuntimeError, match="PyTorch is required"):
        tensors.from_raw("bfloat16", [1], b"ab")


@pytest.mark.parametrize("dtype", ["float32", "load", "nn", "float8_", "float8_unknown", "", "bfloat16x"])
def test_an_unknown_raw_dtype_is_a_type_error(torch: ModuleType, dtype: str) -> None:
    with pytest.raises(TypeError, match="Unsupported dtype"):
        tensors.from_raw(dtype, [1], b"abcd")


def test_a_torch_without_the_dtype_is_a_type_error(stand_in_torch: ModuleType) -> None:
    record = ArrayRecord({"a": Array("bfloat16", [1], SType.TORCH, b"ab")})
    with pytest.raises(TypeError, match="Unsupported dtype for torch conversion: 'bfloat16'"):
        record.to_torch_state_dict()


@pytest.mark.parametrize("shape", [[3], [2, 2], [-2], [-1, -2], [2**62, 2**62], []], ids=str)
def test_raw_bytes_of_another_size_are_a_value_error(torch: ModuleType, shape: list[int]) -> None:
    with pytest.raises(ValueError, match="4 bytes are not"):
        tensors.from_raw("bfloat16", shape, b"abcd")


@pytest.mark.parametrize("shape", [[0, 2**62, 2**62], [0, 10**30], [0, -1], [0, 2**62]], ids=str)
def test_an_empty_tensor_of_an_impossible_shape_is_a_value_error(torch: ModuleType, shape: list[int]) -> None:
    with pytest.raises(ValueError, match="0 bytes are not"):
        tensors.from_raw("bfloat16", shape, b"")


def test_other_stypes_are_the_usual_type_error(torch: ModuleType) -> None:
    record = ArrayRecord({"a": Array("bfloat16", [1], "other", b"ab")})
    with pytest.raises(TypeError, match="'other'"):
        record.to_torch_state_dict()


def test_raw_bytes_are_little_endian_on_every_machine(torch: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    tensor = torch.ones(2, dtype=torch.bfloat16)
    monkeypatch.setattr(sys, "byteorder", "big")  # as if memory held the bytes the other way round
    array = Array(tensor)
    assert array.data == b"\x3f\x80" * 2
    assert torch.equal(tensors.from_raw(array.dtype, array.shape, array.data), tensor)
