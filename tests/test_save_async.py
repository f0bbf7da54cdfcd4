"""Saves in the background: what was handed in is what is stored, and what that costs the caller."""

import mmap
import sys
import tracemalloc
from collections import UserDict
from collections.abc import Callable, Iterator
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

import numpy as np
import pytest
from in_background import MIB, ONE, locked
from support import Child, content, flaws, make_small, memory_used, npy, say

from recordstore import (
    Array,
    ArrayRecord,
    RecordStore,
    SaveHandle,
    snapshot,
)

# What is stored


def arrays() -> dict[str, np.ndarray]:
    big = np.arange(600_000, dtype=np.float32).reshape(600, 1000)
    return {
        "c": big.copy(),
        "fortran": np.asfortranarray(big),
        "strided": big[:, ::2],
        "transposed": big.reshape(10, 60, 1000).transpose(2, 0, 1),
        "reversed": big[::-1],
        "broadcast": np.broadcast_to(np.arange(5.0), (3, 5)),
        "complex": np.arange(60, dtype=np.complex128).reshape(6, 10)[:, ::3],
        "text": np.array([["ab", "c"], ["d", "e"]])[:, :1],
        "big-endian": np.arange(20, dtype=">i4")[::2],
        "structure": np.arange(54, dtype=np.uint8).view(np.dtype([("a", "u1"), ("b", "f8")]))[::2],
        "scalar": np.array(7.0),
        "empty": np.empty((0, 3)),
        "nothing": np.empty(4, "V0"),
        "small": np.arange(3, dtype=np.int8),
    }


FORMS: dict[str, Callable[[], Any]] = {
    "dict of ndarrays": arrays,
    "list of ndarrays": lambda: list(arrays().values()),
    "list of pairs": lambda: list(arrays().items()),
    "ArrayRecord": lambda: ArrayRecord({name: Array(array) for name, array in arrays().items() if array.dtype != "V0"}),
    "dict of Array": lambda: {name: Array(array) for name, array in arrays().items() if array.dtype != "V0"},
    "mapping": lambda: UserDict(arrays()),
    "read-only mapping": lambda: MappingProxyType(arrays()),
    "generator": lambda: ((name, array) for name, array in arrays().items()),
    "nothing": dict,
}


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("form", FORMS)
def test_a_save_in_the_background_stores_what_a_save_stores(store: RecordStore, form: str, keep: bool) -> None:
    if form == "read-only mapping" and not keep:
        pytest.skip("cannot be emptied")
    saved = store.save(FORMS[form](), run="r", round=1, metrics={"m": 1}, metadata={"k": [1]}, tags=["t"])
    expected = store.info(saved)
    handle = store.save_async(
        FORMS[form](),
        run="r",
        round=1,
        metrics={"m": 1},
        metadata={"k": [1]},
        tags=["t"],
        overwrite=True,
        keep_input=keep,
    )
    assert isinstance(handle, SaveHandle)
    info = store.info(handle.result())
    assert handle.done()
    assert handle.record is None
    for field in ("digest", "names", "nbytes", "run", "round", "metrics", "metadata", "tags"):
        assert getattr(info, field) == getattr(expected, field)
    assert info.id > expected.id
    store.load(info)


@pytest.mark.parametrize("call", ["save", "save_async"])
def test_what_lies_between_the_fields_of_a_structure_is_that_of_the_array(store: RecordStore, call: str) -> None:
    memory = np.arange(160_000, dtype=np.uint8)
    array = memory.view(np.dtype([("a", "u1"), ("b", "f8")], align=True))[::2]
    getattr(store, call)({"x": array})
    store.wait()
    assert store.load(1)["x"].data.endswith(memory.reshape(-1, 16)[::2].tobytes())


@pytest.mark.parametrize("strided", [False, True])
def test_tensors_of_every_kind_come_back(store: RecordStore, torch: ModuleType, strided: bool) -> None:
    def state() -> dict[str, Any]:
        whole = {
            "float": torch.arange(200_000.0).reshape(400, 500),
            "bfloat16": torch.arange(200_000.0).reshape(400, 500).to(torch.bfloat16),
            "int": torch.arange(12).reshape(3, 4),
            "bool": torch.tensor([[True, False], [False, True]]),
            "parameter": torch.nn.Parameter(torch.ones(3, 4)),
        }
        return {name: tensor[:, ::2] if strided else tensor for name, tensor in whole.items()}

    given = state()
    handle = store.save_async(given)
    with torch.no_grad():
        for tensor in given.values():
            tensor.zero_()
    assert store.info(handle.result()).digest == store.info(store.save(state())).digest


def test_a_record_of_flower_is_taken_by_its_fields(store: RecordStore, flwr_app: ModuleType) -> None:
    record = flwr_app.ArrayRecord([np.arange(3.0), np.ones((2, 2))])
    assert store.load(store.save_async(record).result()) == ArrayRecord([np.arange(3.0), np.ones((2, 2))])


def test_what_the_caller_changes_after_the_call_is_not_stored(file_store: RecordStore, path: Path) -> None:
    given = {name: np.array(array) for name, array in arrays().items()}
    expected = {name: npy(array) for name, array in given.items()}
    metrics, metadata, tags = {"m": 1.0}, {"k": [1]}, ["t"]
    with locked(path):  # so that nothing can have been written before the changes
        handle = file_store.save_async(given, run="r", round=1, metrics=metrics, metadata=metadata, tags=tags)
        for array in given.values():
            array.view(np.ndarray).reshape(-1).view(np.uint8)[...] = 255 if array.dtype.itemsize else 0
        del given["c"]
        given["new"] = np.ones(2)
        metrics["m"], metadata["k"][0], tags[0] = 2.0, 2, "u"
        assert not handle.done()
    info = file_store.info(handle.result())
    assert content(file_store, info) == expected
    assert (info.metrics, info.metadata, info.tags) == ({"m": 1.0}, {"k": [1]}, ("t",))


def test_the_fields_of_an_array_are_those_of_the_call(file_store: RecordStore, path: Path) -> None:
    array = Array("uint8", [3], "mine", b"abc")
    record = ArrayRecord({"x": array, "y": Array("uint8", [1], "mine", b"d")})
    with locked(path):
        handle = file_store.save_async(record)
        array.data, array.dtype, array.stype = b"zzzz", "int8", "yours"
        array.shape[0] = 4
        del record["y"]
    loaded = file_store.load(handle.result())
    assert list(loaded) == ["x", "y"]
    assert (loaded["x"].dtype, loaded["x"].shape, loaded["x"].stype, loaded["x"].data) == ("uint8", [3], "mine", b"abc")


def test_a_generator_may_fill_the_same_memory_again_and_again(store: RecordStore) -> None:
    def pairs() -> Iterator[tuple[str, np.ndarray]]:
        memory = np.empty(200_000)
        for number in range(5):
            memory[...] = number
            yield str(number), memory

    loaded = store.load(store.save_async(pairs()).result())
    assert [set(array.numpy().tolist()) for array in loaded.values()] == [{number} for number in range(5)]


def test_one_snapshot_after_the_other_holds_its_own_bytes(store: RecordStore) -> None:
    handles = [store.save_async({"x": np.full(size, size), "y": np.ones(3)}) for size in (100_000, 90_000, 10, 300_000)]
    for handle, size in zip(handles, (100_000, 90_000, 10, 300_000), strict=True):
        assert content(store, handle.result()) == {"x": npy(np.full(size, size)), "y": npy(np.ones(3))}


def test_a_record_of_many_batches_is_written_while_the_caller_goes_on(path: Path) -> None:
    with Child(save_in_small_batches, path) as child:
        assert child.hear() == "saved"
        child.finish()
    assert flaws(path) == {}


def save_in_small_batches(path: str) -> None:
    make_small(CHUNK_SIZE=4096, BATCH_BYTES=16_384, RING_CHUNKS=4)
    given = {str(number): np.random.default_rng(number).integers(0, 256, 60_000, np.uint8) for number in range(8)}
    expected = {name: npy(array) for name, array in given.items()}
    with RecordStore(path) as store:
        for round_ in range(3):
            handle = store.save_async(given, run="r", round=round_)
            for array in given.values():
                np.add(array, 1, out=array)
            assert content(store, handle.result()) == expected
            expected = {name: npy(array) for name, array in given.items()}
    say("saved")


# What it costs the caller


def test_the_bytes_of_arrays_are_not_copied(file_store: RecordStore, path: Path) -> None:
    record = ArrayRecord({str(number): Array("uint8", [MIB], "raw", bytes([number]) * MIB) for number in range(64)})
    file_store.save_async(ONE).result()
    with locked(path):
        tracemalloc.start()
        handle = file_store.save_async(record)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert len(file_store.load(handle.result())) == 64
    assert peak < 2 * MIB


def measure_memory(path: str, kind: str) -> None:
    size = 300 * MIB
    whole = np.arange(size // 8, dtype=np.uint64).view(np.uint8)
    given = {str(number): part for number, part in enumerate(np.split(whole, 10))}
    if kind == "Array":
        given = {name: Array("uint8", [part.size], "raw", part.tobytes()) for name, part in given.items()}
        del whole
    used: list[int] = []
    with RecordStore(path) as store:
        for round_ in range(3):
            with memory_used(used):
                for again in range(2):
                    store.save_async(
                        dict(given) if kind == "given away" else given,
                        run=f"{round_}-{again}",
                        keep_input=kind != "given away",
                    )
                store.wait()
    say(used)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(("kind", "copies"), [("Array", 0), ("given away", 0), ("ndarray", 1)])
def test_there_is_one_copy_of_ndarrays_and_none_of_arrays(path: Path, kind: str, copies: int) -> None:
    with Child(measure_memory, path, kind) as child:
        used = child.hear()
        child.finish()
    print(f"\n{kind}: {[round(each / MIB) for each in used]} MiB")
    assert max(used) <= (300 * copies + 64) * MIB


@pytest.mark.skipif(not hasattr(mmap, "MADV_FREE"), reason="this system lends no memory")
def test_the_memory_of_a_copy_is_used_again_until_the_store_is_closed(path: Path) -> None:
    given = {"x": np.ones(100_000), "y": np.ones(3)}
    with RecordStore(path) as store:
        assert store._staging._idle is None
        store.save_async(given)
        store.wait()
        block = store._staging._idle
        for size, again in ((60_000, True), (1000, False), (100_000, False)):
            store.save_async({"x": np.ones(size)})
            store.wait()
            assert (store._staging._idle is block) == again
            block = store._staging._idle
    assert store._staging._idle is None


def test_a_system_that_lends_no_memory_copies_all_the_same(store: RecordStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(mmap, "MADV_FREE", raising=False)
    given = arrays()
    expected = {name: npy(array) for name, array in given.items()}
    assert content(store, store.save_async(given).result()) == expected
    assert store._staging._idle is None


def test_advice_that_a_system_does_not_take_is_no_error() -> None:
    assert not snapshot._advise(mmap.mmap(-1, 4096), 9999)
