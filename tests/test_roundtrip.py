"""Whatever is saved comes back to the byte and in its order: every dtype, layout, name, and size against the chunks."""

import io
import sqlite3
import warnings
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from recordstore import Array, ArrayRecord, RecordStore

DEFAULT: dict[str, int] = {}
SMALL = {"constants.CHUNK_SIZE": 512, "constants.BATCH_BYTES": 2048, "constants.BATCH_ROWS": 20}
THREADED = {"hashing.INLINE_BYTES": 256, "feed.INLINE_BYTES": 256, "constants.RING_CHUNKS": 3}
ONE_ROW = {
    "constants.CHUNK_SIZE": 100,
    "constants.BATCH_BYTES": 1,
    "constants.BATCH_ROWS": 1,
    "constants.RING_CHUNKS": 1,
}
SPANS = {
    "spans.SPAN_CHUNKS": 2,
    "spans.GROUP_BYTES": 1000,
    "spans.GROUP_ARRAYS": 2,
    "feed.HASH_SPAN": 2,
    "pipeline.LOOKED_UP": 2,
}
IN_PLACE = {"blobs.IN_PLACE_BYTES": 1, "copying.PARALLEL_BYTES": 100, "constants.BATCH_BYTES": 20_000}


@dataclass
class Place:
    """A store, and how to look into its file without it."""

    store: RecordStore
    path: Path

    def raw(self, record_id: int) -> dict[str, bytes]:
        with closing(sqlite3.connect(self.path)) as connection:
            arrays = connection.execute(
                "SELECT name, blob_id FROM array WHERE record_id = ? ORDER BY position", [record_id]
            )
            chunks = "SELECT data FROM chunk WHERE blob_id = ? ORDER BY seq"
            return {name: b"".join(data for (data,) in connection.execute(chunks, [blob])) for name, blob in arrays}


@pytest.fixture(
    scope="module",
    params=[DEFAULT, SMALL | SPANS, SMALL | THREADED, SMALL | THREADED | IN_PLACE],
    ids=["as released", "small", "threaded", "in place"],
)
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """One store for all examples: with chunks and batches as released, and with small ones, so that there are many."""
    path = tmp_path_factory.mktemp("roundtrip") / "store.db"
    with pytest.MonkeyPatch.context() as patch, RecordStore(path) as store:
        for name, number in {"constants.PAUSE_SECONDS": 0, **request.param}.items():
            patch.setattr(f"recordstore.{name}", number)
        yield Place(store, path)


def npy(array: np.ndarray) -> bytes:
    """What NumPy itself writes."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that old versions of NumPy cannot read a long header
        np.save(file, array, allow_pickle=False)
    return file.getvalue()


def dtypes() -> st.SearchStrategy[np.dtype[Any]]:
    return st.one_of(
        hnp.scalar_dtypes(),
        hnp.byte_string_dtypes(),
        hnp.unicode_string_dtypes(),
        hnp.array_dtypes(max_size=3),
        hnp.nested_dtypes(max_itemsize=100),
        st.sampled_from(["V5", "S0", "U0", ">f2", "<c16", ">M8[us]", "m8[s]", "i4,(2,3)>f8", np.longdouble, []]),
    ).map(np.dtype)


@st.composite
def ndarrays(draw: st.DrawFn) -> np.ndarray:
    """Arrays of any bit pattern in any layout: also NaN payloads, and values that their dtype should not have."""
    dtype = draw(dtypes())
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=6))
    filler = np.random.default_rng(draw(st.integers(0, 2**32)))
    array = np.empty(shape, dtype)
    if array.nbytes:
        array = np.frombuffer(filler.bytes(array.nbytes), array.dtype).reshape(array.shape)
    layout = draw(st.sampled_from(["C", "F", "reversed", "sliced", "transposed", "broadcast"]))
    if layout == "F":
        return np.asfortranarray(array) if array.ndim else array
    if layout == "reversed":
        return array[(..., *(slice(None, None, -1),) * array.ndim)]
    if layout == "sliced":
        return array[(..., slice(None, None, 2))] if array.ndim else array
    if layout == "broadcast":
        return np.broadcast_to(array, (3, *array.shape))
    return array.T if layout == "transposed" else array


NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30)


def as_given(arrays: dict[str, np.ndarray], form: str) -> Any:
    if form == "Array":
        return {name: Array(array.dtype.str, [1], "bytes", npy(array)) for name, array in arrays.items()}
    return iter(arrays.items()) if form == "iterator" else arrays


@settings(deadline=None, max_examples=40)
@given(arrays=st.dictionaries(NAMES, ndarrays(), max_size=8), form=st.sampled_from(["ndarray", "Array", "iterator"]))
@example(arrays={}, form="iterator")
@example(
    arrays={"": np.array(3, np.float32), "\U0001f600": np.zeros((0, 3)), "/": np.ones(2), "..": np.ones(2)},
    form="ndarray",
)
@example(arrays={"caf\u00e9": np.zeros(200), "cafe\u0301": np.zeros(200)}, form="iterator")
@example(arrays={str(number): np.full(600, number % 3) for number in range(25)}, form="ndarray")
@example(arrays={str(number): np.full(600, number % 3) for number in range(25)}, form="Array")
@example(arrays={str(number): np.full(60, number) for number in range(25)}, form="iterator")
def test_bytes_and_order_come_back(place: Place, arrays: dict[str, np.ndarray], form: str) -> None:
    expected = {name: npy(array) for name, array in arrays.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        record_id = place.store.save(as_given(arrays, form))
    loaded = place.store.load(record_id)
    assert [(name, array.data) for name, array in loaded.items()] == list(expected.items())
    assert list(place.raw(record_id).items()) == list(expected.items())
    assert place.store.info(record_id).names == tuple(arrays)
    if form == "Array":
        return
    for name, array in arrays.items():
        assert (loaded[name].dtype, loaded[name].shape) == (str(array.dtype), list(array.shape))
        assert loaded[name].stype == "numpy.ndarray"


@settings(deadline=None, max_examples=30)
@given(array=ndarrays())
def test_the_array_that_is_loaded_is_the_one_that_numpy_would_load(place: Place, array: np.ndarray) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        loaded = place.store.load(place.store.save([array]))["0"].numpy()
        expected = np.load(io.BytesIO(npy(array)), allow_pickle=False)
    assert (loaded.dtype, loaded.shape, loaded.tobytes()) == (expected.dtype, expected.shape, expected.tobytes())
    assert loaded.flags.f_contiguous == expected.flags.f_contiguous
    assert loaded.flags.writeable


@settings(deadline=None, max_examples=30)
@given(datas=st.lists(st.binary(max_size=3000), max_size=6), names=st.randoms())
def test_opaque_bytes_of_any_length_come_back(place: Place, datas: list[bytes], names: Any) -> None:
    order = [str(index) for index in range(len(datas))]
    names.shuffle(order)
    record = ArrayRecord({name: Array("t", [], "opaque", data) for name, data in zip(order, datas, strict=True)})
    record_id = place.store.save(record)
    assert list(place.store.load(record_id).items()) == list(record.items())
    assert list(place.raw(record_id)) == order


@pytest.mark.parametrize("difference", [-1, 0, 1])
@pytest.mark.parametrize("chunks", [1, 2, 3, 32, 33, 64])
def test_bytes_around_the_size_of_chunks_come_back(place: Place, chunks: int, difference: int) -> None:
    from recordstore import constants

    if constants.CHUNK_SIZE > 10_000:
        chunks = min(chunks, 3)  # three megabytes
    data = np.random.default_rng(chunks).bytes(chunks * constants.CHUNK_SIZE + difference)
    given_ = {"bytes": Array("t", [], "opaque", data), "again": Array("t", [], "opaque", data), "end": np.ones(1)}
    record_id = place.store.save(given_)
    assert place.store.load(record_id)["bytes"].data == place.store.load(record_id)["again"].data == data
    again = place.store.save({"x": np.frombuffer(data, np.uint8)})
    assert place.store.load(again)["x"].numpy().tobytes() == data


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("stable", [False, True], ids=["may change", "cannot change"])
def test_a_batch_may_be_as_small_as_one_row(
    memory: RecordStore, monkeypatch: pytest.MonkeyPatch, lazy: bool, stable: bool
) -> None:
    for name, number in (ONE_ROW | SPANS).items():
        monkeypatch.setattr(f"recordstore.{name}", number)
    arrays = {str(number): np.full(700 * (number % 4), number % 5) for number in range(12)}
    given_ = as_given(arrays, "Array" if stable else "ndarray")
    record_id = memory.save(iter(given_.items()) if lazy else given_)
    assert [array.data for array in memory.load(record_id).values()] == [npy(array) for array in arrays.values()]


TORCH = [
    "bool",
    "uint8",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint16",
    "uint32",
    "uint64",
    "float16",
    "float32",
    "float64",
    "complex64",
    "complex128",
]
RAW = ["bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu"]


def bits(tensor: Any) -> bytes:
    flat = tensor.detach().contiguous().reshape(-1)
    return bytes(flat.untyped_storage()) if flat.numel() else b""


@settings(deadline=None, max_examples=10)
@given(shape=hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=9), seed=st.integers(0, 2**32))
def test_tensors_of_every_dtype_come_back_to_the_bit(
    place: Place, torch: ModuleType, shape: tuple[int, ...], seed: int
) -> None:
    filler = np.random.default_rng(seed)
    tensors = {}
    for name in [name for name in TORCH + RAW if hasattr(torch, name)]:
        dtype = getattr(torch, name)
        raw = np.frombuffer(filler.bytes(max(1, int(np.prod(shape))) * dtype.itemsize), np.uint8)
        flat = torch.from_numpy(raw % 2 if name == "bool" else raw.copy()).view(dtype)
        tensors[name] = flat.reshape(shape) if 0 not in shape else torch.empty(shape, dtype=dtype)
        tensors[f"{name} transposed"] = tensors[name].movedim(0, -1) if shape else tensors[name]
    loaded = place.store.load(place.store.save(tensors))
    assert loaded == ArrayRecord(tensors)
    restored = loaded.to_torch_state_dict()
    assert list(restored) == list(tensors)
    for name, tensor in tensors.items():
        assert (restored[name].dtype, restored[name].shape) == (tensor.dtype, tensor.shape)
        assert bits(restored[name]) == bits(tensor), name
        assert (loaded[name].stype == "torch.Tensor") == (name.split()[0] in RAW)
