"""Every kind of input that save takes, and what it becomes."""

import io
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator
from types import MappingProxyType, ModuleType
from typing import Any

import numpy as np
import pytest

from recordstore import Array, ArrayRecord, RecordStore


def npy(array: np.ndarray) -> bytes:
    """What NumPy itself writes."""
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()


W, B = np.arange(6, dtype=np.float32).reshape(2, 3), np.array(2.5)

SERIALIZED = [
    ("w", "float32", [2, 3], "numpy.ndarray", npy(W)),
    ("b", "float64", [], "numpy.ndarray", npy(B)),
]


def fields(record: ArrayRecord) -> list[tuple[Any, ...]]:
    return [(name, array.dtype, array.shape, array.stype, array.data) for name, array in record.items()]


def pairs() -> Iterator[tuple[str, Any]]:
    yield "w", W
    yield "b", Array(B)


INPUTS: dict[str, Callable[[], Any]] = {
    "ArrayRecord": lambda: ArrayRecord({"w": Array(W), "b": Array(B)}),
    "dict of Array": lambda: {"w": Array(W), "b": Array(B)},
    "dict of ndarray": lambda: {"w": W, "b": B},
    "OrderedDict": lambda: OrderedDict(w=W, b=B),
    "mixed dict": lambda: {"w": Array(W), "b": B},
    "read-only mapping": lambda: MappingProxyType({"w": W, "b": B}),
    "generator of pairs": pairs,
    "list of pairs": lambda: list(pairs()),
    "tuple of pairs": lambda: tuple(pairs()),
    "items of a dict": {"w": W, "b": B}.items,
    "zip": lambda: zip("wb", [W, B], strict=True),
}


@pytest.mark.parametrize("kind", INPUTS)
def test_each_kind_of_input_becomes_the_same_record(store: RecordStore, kind: str) -> None:
    assert fields(store.load(store.save(INPUTS[kind]()))) == SERIALIZED


@pytest.mark.parametrize("kind", [kind for kind in INPUTS if kind not in {"generator of pairs", "zip"}])
def test_an_input_is_as_it_was_after_a_save(store: RecordStore, kind: str) -> None:
    given = INPUTS[kind]()
    store.save(given)
    assert fields(store.load(store.save(given))) == SERIALIZED


def test_a_list_of_ndarrays_is_named_by_position(store: RecordStore) -> None:
    loaded = store.load(store.save([W, B]))
    assert fields(loaded) == [(str(index), *rest) for index, (_, *rest) in enumerate(SERIALIZED)]
    assert loaded == ArrayRecord([W, B])


def test_a_record_of_any_stype_is_carried_as_it_is(store: RecordStore) -> None:
    record = ArrayRecord({"x": Array("anything", (3, -1, 2**70), "my.format", b"\0bytes")})
    loaded = store.load(store.save(record))
    assert fields(loaded) == [("x", "anything", [3, -1, 2**70], "my.format", b"\0bytes")]


def test_a_subclass_of_ndarray_is_saved_as_numpy_saves_it(store: RecordStore) -> None:
    matrix = np.arange(4).reshape(2, 2).view(type("Mine", (np.ndarray,), {}))
    assert store.load(store.save([matrix]))["0"].data == npy(matrix)


@pytest.mark.parametrize("own_store", [True, False])
def test_a_stream_of_one_store_can_be_saved_in_another(store: RecordStore, own_store: bool) -> None:
    record_id = store.save([np.full(100, number) for number in range(10)])
    with RecordStore(":memory:") as other:
        into = store if own_store else other
        copied = into.save(into.stream(record_id) if own_store else store.stream(record_id))
        assert into.load(copied) == store.load(record_id)
        assert into.info(copied).digest == store.info(record_id).digest


def test_a_stream_copies_large_arrays_in_many_batches(store: RecordStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recordstore.constants.CHUNK_SIZE", 4096)
    monkeypatch.setattr("recordstore.constants.BATCH_BYTES", 16384)
    record_id = store.save({str(number): np.full((100, 70), number) for number in range(5)})
    with RecordStore(":memory:") as other:
        assert other.load(other.save(store.stream(record_id))) == store.load(record_id)
    copied = store.save(store.stream(record_id))
    assert store.load(copied) == store.load(record_id)


def test_a_generator_makes_the_next_array_when_the_one_before_is_no_longer_needed(
    store: RecordStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recordstore.constants.CHUNK_SIZE", 1000)
    monkeypatch.setattr("recordstore.constants.BATCH_BYTES", 4000)
    monkeypatch.setattr("recordstore.constants.RING_CHUNKS", 4)
    alive: set[int] = set()

    class Counted(np.ndarray):
        def __array_finalize__(self, obj: Any) -> None:
            self.number = getattr(obj, "number", None)

    def large() -> Iterator[tuple[str, np.ndarray]]:
        import weakref

        for number in range(6):
            array = np.full(2000, number).view(Counted)
            alive.add(number)
            weakref.finalize(array, alive.discard, number)
            assert len(alive) <= 2, "the one that is made and the one before"
            yield str(number), array
            del array

    assert [array.numpy()[0] for array in store.load(store.save(large())).values()] == list(range(6))
    assert alive == set()


def test_a_state_dict_is_saved_with_its_tensors(store: RecordStore, torch: ModuleType) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    state = model.state_dict()
    loaded = store.load(store.save(state))
    assert loaded == ArrayRecord(state)
    restored = loaded.to_torch_state_dict()
    assert list(restored) == list(state)
    assert all(torch.equal(restored[name], tensor) for name, tensor in state.items())


def test_tensors_of_every_memory_layout_are_saved_by_value(store: RecordStore, torch: ModuleType) -> None:
    base = torch.arange(24, dtype=torch.float32).reshape(2, 3, 4)
    tensors = {
        "transposed": base.transpose(0, 2),
        "sliced": base[:, ::2, 1:],
        "expanded": torch.ones(1, 3).expand(5, 3),
        "parameter": torch.nn.Parameter(base.clone()),
        "scalar": torch.tensor(3),
        "bfloat16 transposed": base.to(torch.bfloat16).transpose(0, 1),
        "bool": base > 3,
    }
    restored = store.load(store.save(tensors)).to_torch_state_dict()
    assert all(torch.equal(restored[name], tensor.detach()) for name, tensor in tensors.items())


def test_mixed_pairs_of_tensors_and_arrays_are_saved(store: RecordStore, torch: ModuleType) -> None:
    record_id = store.save(zip("wbt", [W, Array(B), torch.ones(2)], strict=True))
    assert fields(store.load(record_id))[:2] == SERIALIZED
    assert store.load(record_id)["t"].numpy().tolist() == [1, 1]


def test_a_record_of_flower_is_taken_as_it_is(store: RecordStore, flwr_app: ModuleType) -> None:
    theirs = flwr_app.ArrayRecord(OrderedDict(w=flwr_app.Array(W), b=flwr_app.Array(B)))
    loaded = store.load(store.save(theirs))
    assert fields(loaded) == SERIALIZED
    assert list(theirs) == ["w", "b"]
    assert [type(array) for array in loaded.values()] == [Array, Array]


def test_a_record_of_flower_is_emptied_if_it_may_be(store: RecordStore, flwr_app: ModuleType) -> None:
    theirs = flwr_app.ArrayRecord([W, B])
    record_id = store.save(theirs, keep_input=False)
    assert len(theirs) == 0
    assert store.load(record_id) == ArrayRecord([W, B])


def test_a_mapping_of_flowers_arrays_is_taken(store: RecordStore, flwr_app: ModuleType) -> None:
    assert fields(store.load(store.save({"w": flwr_app.Array(W), "b": B}))) == SERIALIZED


def test_saving_imports_neither_torch_nor_flower() -> None:
    script = """
import sys
import numpy as np
from recordstore import Array, ArrayRecord, RecordStore

class ArrayOfFlower:
    dtype, shape, stype, data = "float32", (2, 3), "numpy.ndarray", b"bytes"

class RecordOfFlower:
    def items(self):
        return [("x", ArrayOfFlower())]

class MetricRecordOfFlower(dict):
    pass

with RecordStore(":memory:") as store:
    store.save([np.ones(3)])
    loaded = store.load(store.save(RecordOfFlower(), metrics=MetricRecordOfFlower(loss=1)))
    assert loaded == ArrayRecord({"x": Array("float32", [2, 3], "numpy.ndarray", b"bytes")}), loaded
print(sorted({"torch", "flwr"} & sys.modules.keys()))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout == "[]\n"
