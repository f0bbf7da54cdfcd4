"""Loading into memory that is there: a model, a state_dict, ndarrays; ``load`` and torch are the references."""

import copy
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from recordstore import (
    Array,
    CorruptRecordError,
    IncompatibleKeys,
    InvalidTypeError,
    InvalidValueError,
    MismatchError,
    RecordNotFoundError,
    RecordStore,
)

Query = Callable[..., list[tuple[Any, ...]]]
NOTHING = IncompatibleKeys([], [])


@pytest.fixture(autouse=True, params=[1024, None], ids=["small chunks", "chunks"])
def chunks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have arrays of a kilobyte make many chunks, in several transactions."""
    if request.param is not None:
        monkeypatch.setattr("recordstore.constants.CHUNK_SIZE", request.param)
        monkeypatch.setattr("recordstore.spans.SPAN_CHUNKS", 3)


def numbers(*shape: int, dtype: Any = np.float64, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=shape) * 100).astype(dtype)


def blank(array: np.ndarray) -> np.ndarray:
    return np.zeros_like(array)


STATE = {
    "large": numbers(300, 7),
    "small": numbers(3, dtype=np.float32),
    "scalar": np.array(7),
    "empty": np.zeros((0, 3)),
    "bool": numbers(2000) > 0,
    "big-endian": numbers(500, dtype=">i4"),
    "complex": numbers(40).astype(np.complex64),
    "fortran": np.asfortranarray(numbers(30, 50)),
    "text": np.array(["ab", "c"]),
    "date": np.arange(3).astype("datetime64[s]"),
    "record": np.zeros(90, "i4,f8"),
}


def test_a_dict_of_ndarrays_is_filled_in_place(store: RecordStore) -> None:
    record_id = store.save(STATE)
    target = {name: blank(array) for name, array in reversed(STATE.items())}
    before = dict(target)
    assert store.load_into(record_id, target) == NOTHING
    for name, array in STATE.items():
        assert target[name] is before[name]
        assert (target[name].tobytes(), target[name].dtype) == (array.tobytes(), array.dtype), name


LAYOUTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "C": lambda array: np.zeros(array.shape, array.dtype),
    "Fortran": lambda array: np.zeros(array.shape, array.dtype, order="F"),
    "every other row": lambda array: np.zeros((2 * array.shape[0], array.shape[1]), array.dtype)[::2],
    "backwards": lambda array: np.zeros(array.shape, array.dtype)[::-1, ::-1],
    "a part": lambda array: np.zeros((array.shape[0] + 2, array.shape[1] + 2), array.dtype)[1:-1, 1:-1],
    "a subclass": lambda array: np.zeros(array.shape, array.dtype).view(np.matrix),
}


@pytest.mark.parametrize("saved", LAYOUTS)
@pytest.mark.parametrize("wanted", LAYOUTS)
def test_any_layout_is_filled_from_any_other(memory: RecordStore, saved: str, wanted: str) -> None:
    source = LAYOUTS[saved](numbers(60, 40))
    source[...] = numbers(60, 40)
    target = LAYOUTS[wanted](source)
    whole = target if target.base is None else target.base
    memory.load_into(memory.save({"x": source}), {"x": target})
    assert np.array_equal(np.asarray(target), numbers(60, 40))
    assert np.count_nonzero(np.asarray(whole)) == target.size, "nothing beside it was written"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    arrays=st.dictionaries(
        st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=5),
        hnp.arrays(hnp.scalar_dtypes(), hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=9)),
        max_size=5,
    )
)
def test_any_arrays_come_into_place_to_the_bit(memory: RecordStore, arrays: dict[str, np.ndarray]) -> None:
    target = {name: np.empty_like(array) for name, array in arrays.items()}
    memory.load_into(memory.save(arrays), target)
    assert [array.tobytes() for array in target.values()] == [array.tobytes() for array in arrays.values()]


def test_a_model_keeps_its_parameters(store: RecordStore, torch: Any) -> None:
    def build(seed: int) -> Any:
        torch.manual_seed(seed)
        layers = torch.nn
        model = layers.Sequential(layers.Linear(40, 30), layers.BatchNorm1d(30), layers.Linear(30, 40, bias=False))
        model[2].weight = layers.Parameter(model[0].weight.detach().T.contiguous())
        model.register_buffer("sixteen", torch.randn(700).to(torch.bfloat16))
        return model

    source, target = build(0), build(1)
    parameters = [parameter.data_ptr() for parameter in target.parameters()]
    optimizer = torch.optim.SGD(target.parameters(), lr=0.1)
    assert store.load_into(store.save(source.state_dict()), target) == NOTHING
    assert [parameter.data_ptr() for parameter in target.parameters()] == parameters
    for one, other in zip(source.state_dict().values(), target.state_dict().values(), strict=True):
        assert torch.equal(one, other)
        assert one.dtype == other.dtype
    assert all(parameter.requires_grad for parameter in target.parameters())
    assert optimizer.param_groups[0]["params"][0] is next(target.parameters())


def test_a_state_dict_in_other_layouts_is_filled(memory: RecordStore, torch: Any) -> None:
    state = OrderedDict(
        transposed=torch.randn(40, 50).T,
        strided=torch.randn(100, 30)[::2],
        half=torch.randn(30, 20).to(torch.bfloat16).T,
        eighth=torch.randn(1500).to(torch.float8_e5m2),
        scalar=torch.tensor(3),
        parameter=torch.nn.Parameter(torch.randn(3)),
    )
    targets = [
        {name: torch.zeros_like(tensor) for name, tensor in state.items()},
        {name: torch.zeros(tensor.shape, dtype=tensor.dtype) for name, tensor in state.items()},
    ]
    record_id = memory.save(state)
    for target in targets:
        memory.load_into(record_id, target)
        for name, tensor in state.items():
            assert torch.equal(
                target[name].view(torch.uint8) if name == "eighth" else target[name],
                tensor.view(torch.uint8) if name == "eighth" else tensor,
            ), name


def test_tied_weights_are_one_afterwards_too(memory: RecordStore, torch: Any) -> None:
    def build() -> Any:
        model = torch.nn.Sequential(torch.nn.Linear(30, 30, bias=False), torch.nn.Linear(30, 30, bias=False))
        model[1].weight = model[0].weight
        return model

    source, target = build(), build()
    memory.load_into(memory.save(source.state_dict()), target)
    assert target[0].weight is target[1].weight
    assert torch.equal(target[0].weight, source[0].weight)


# What does not fit


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize(
    ("target", "words"),
    [
        (np.zeros((7, 300)), r"the shape of 'large' is \[300,7\] stored and \[7,300\] in the target"),
        (np.zeros((300, 7), np.float32), "the dtype of 'large' is float64 stored and float32 in the target"),
        (np.zeros((300, 7), ">f8"), "the dtype of 'large' is float64 stored and >f8"),
    ],
)
def test_other_shapes_and_dtypes_are_refused_before_anything_is_written(
    memory: RecordStore, target: np.ndarray, words: str, strict: bool
) -> None:
    record_id = memory.save(STATE)
    targets = {name: blank(array) for name, array in STATE.items()} | {"large": target}
    with pytest.raises(MismatchError, match=words):
        memory.load_into(record_id, targets, strict=strict)
    assert not any(array.any() for array in targets.values() if array.dtype.kind in "fib")


def test_names_that_differ_are_told_and_left_out_if_that_is_wanted(memory: RecordStore) -> None:
    record_id = memory.save({"a": numbers(3), "b": numbers(4)})
    target = {"b": np.zeros(4), "c": np.zeros(2)}
    with pytest.raises(MismatchError, match=r"missing in the record: 'c'; unexpected in the record: 'a'.*strict=False"):
        memory.load_into(record_id, target)
    assert not target["b"].any()
    assert memory.load_into(record_id, target, strict=False) == IncompatibleKeys(["c"], ["a"])
    assert np.array_equal(target["b"], numbers(4))


@pytest.mark.parametrize("wrapper", ["module.", "_orig_mod."])
def test_the_prefix_of_a_wrapper_is_named_and_taken_off(memory: RecordStore, wrapper: str) -> None:
    plain = {"weight": numbers(3), "layer.bias": numbers(2)}
    wrapped = {f"{wrapper}{name}": array for name, array in plain.items()}
    record_id = memory.save(wrapped)
    target = {name: blank(array) for name, array in plain.items()}
    with pytest.raises(MismatchError, match=f"pass prefix='{wrapper}'"):
        memory.load_into(record_id, target)
    assert memory.load_into(record_id, target, prefix=wrapper) == NOTHING
    assert all(np.array_equal(target[name], array) for name, array in plain.items())
    with pytest.raises(MismatchError, match=f"load into its attribute '{wrapper.removesuffix('.')}'"):
        memory.load_into(memory.save(plain), wrapped)


def test_a_prefix_selects_a_part_of_a_model(memory: RecordStore) -> None:
    record_id = memory.save({"encoder.w": numbers(3), "encoder.b": numbers(2), "decoder.w": numbers(5)})
    target = {"w": np.zeros(3), "b": np.zeros(2)}
    assert memory.load_into(record_id, target, prefix="encoder.") == NOTHING
    assert memory.load_into(record_id, {"w": np.zeros(3)}, prefix="encoder.", strict=False) == ([], ["b"])


def frozen() -> np.ndarray:
    array = np.zeros(3)
    array.flags.writeable = False
    return array


@pytest.mark.parametrize(
    ("target", "error"),
    [
        ([np.zeros(3)], InvalidTypeError),
        (None, InvalidTypeError),
        ({"x": [0.0]}, InvalidTypeError),
        ({"x": Array(np.zeros(3))}, InvalidTypeError),
        ({3: np.zeros(3)}, InvalidTypeError),
        ({"x": frozen()}, InvalidValueError),
        ({"x": np.array([None])}, InvalidValueError),
    ],
    ids=str,
)
def test_a_target_that_cannot_be_written_to_is_refused(memory: RecordStore, target: Any, error: type) -> None:
    with pytest.raises(error):
        memory.load_into(memory.save({"x": numbers(3)}), target)


def test_tensors_without_memory_are_refused(memory: RecordStore, torch: Any) -> None:
    record_id = memory.save({"x": torch.zeros(3)})
    for tensor in (torch.zeros(3, device="meta"), torch.zeros(3).to_sparse()):
        with pytest.raises(InvalidValueError, match="no plain memory"):
            memory.load_into(record_id, {"x": tensor})


def test_bytes_that_are_not_what_their_fields_say_are_refused(memory: RecordStore) -> None:
    lying = Array("float64", [3], "numpy.ndarray", Array(np.zeros(4, np.float32)).data)
    for array in (lying, Array("float64", [3], "numpy.ndarray", b"no array")):
        with pytest.raises(InvalidValueError, match="array 'x'"):
            memory.load_into(memory.save({"x": array}), {"x": np.zeros(3)})


def test_legacy_parameters_tell_their_types_by_their_bytes(memory: RecordStore) -> None:
    legacy = Array("", [], "numpy.ndarray", Array(numbers(300)).data)
    target = {"0": np.zeros(300)}
    memory.load_into(memory.save({"0": legacy}), target)
    assert np.array_equal(target["0"], numbers(300))


def test_a_missing_record_and_bad_options_change_nothing(memory: RecordStore) -> None:
    target = {"x": np.zeros(3)}
    with pytest.raises(RecordNotFoundError):
        memory.load_into(7, target)
    memory.save({"x": numbers(3)})
    for options in ({"strict": 1}, {"prefix": 3}):
        with pytest.raises(InvalidTypeError):
            memory.load_into(1, target, **options)
    assert not target["x"].any()


# Damage


def test_what_was_overwritten_before_the_damage_is_named(path: Path, query: Query) -> None:
    arrays = {name: numbers(500, 300, seed=seed) for seed, name in enumerate("abcd")}
    with RecordStore(path) as store:
        record_id = store.save(arrays)
        (blob,) = query("SELECT blob_id FROM array WHERE name = 'c'")[0]
        last = query("SELECT max(seq) FROM chunk WHERE blob_id = ?", blob)[0][0]
        query("UPDATE chunk SET data = zeroblob(length(data)) WHERE blob_id = ? AND seq = ?", blob, last)
        target = {name: blank(array) for name, array in arrays.items()}
        with pytest.raises(CorruptRecordError, match=r"array 'c': chunk \d+ .*overwritten.*\['a', 'b'") as caught:
            store.load_into(record_id, target)
    assert np.array_equal(target["a"], arrays["a"])
    assert all(repr(name) in str(caught.value) for name, array in target.items() if array.any())
    assert query("SELECT state FROM blob WHERE id = ?", blob) == [("damaged",)]


def test_bytes_of_a_chunk_that_is_damaged_never_come_into_place(path: Path, query: Query) -> None:
    array = numbers(400, 300)
    with RecordStore(path) as store:
        record_id = store.save({"x": array})
        query("UPDATE chunk SET data = zeroblob(length(data)) WHERE seq = 0")
        target = np.full_like(array, 5)
        with pytest.raises(CorruptRecordError):
            store.load_into(record_id, {"x": target})
    assert np.all((target == 5) | (target == array))


def test_a_record_that_is_deleted_meanwhile_says_so(file_store: RecordStore, monkeypatch: pytest.MonkeyPatch) -> None:
    from recordstore import loading

    record_id = file_store.save({"x": numbers(400, 300)})
    original = copy.copy(loading.match)

    def deleting(*args: Any, **named: Any) -> Any:
        file_store.delete(record_id)
        file_store.gc(grace=0)
        return original(*args, **named)

    monkeypatch.setattr(loading, "match", deleting)
    with pytest.raises(RecordNotFoundError, match="deleted while it was being read"):
        file_store.load_into(record_id, {"x": np.zeros((400, 300))})
