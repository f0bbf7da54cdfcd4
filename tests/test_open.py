"""Looking at a record without loading it; NumPy and ``load`` are the references, damage elsewhere the witness."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recordstore import (
    Array,
    ArrayNotFoundError,
    CorruptRecordError,
    RecordNotFoundError,
    RecordStore,
    StoreClosedError,
    StoredArray,
    StoredRecord,
)

Query = Callable[..., list[tuple[Any, ...]]]


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recordstore.constants.CHUNK_SIZE", 1000)


TABLE = np.arange(3000).reshape(500, 6)


def test_a_stored_record_is_a_mapping_that_tells_of_its_arrays(store: RecordStore) -> None:
    record = store.open(store.save({"b": TABLE, "a": np.float32([[1, 2]])}, run="r", round=1))
    assert isinstance(record, StoredRecord)
    assert (list(record), len(record), record.id) == (["b", "a"], 2, 1)
    assert "a" in record
    assert "c" not in record
    assert record.get("c") is None
    array = record["b"]
    assert isinstance(array, StoredArray)
    loaded = store.load("r@1")["b"]
    assert (array.name, array.dtype, array.shape, array.stype) == ("b", "int64", (500, 6), "numpy.ndarray")
    assert (array.nbytes, len(array), array.data) == (len(loaded.data), 500, loaded.data)
    assert np.array_equal(array.numpy(), TABLE)
    assert array.numpy().flags.writeable
    assert [repr(record), repr(array)] == ["<StoredRecord 1, 2 arrays>", "<StoredArray 'b', int64, shape (500, 6)>"]
    with pytest.raises(ArrayNotFoundError, match="no array 'c'"):
        record["c"]
    with pytest.raises(TypeError):
        record["b"] = array  # type: ignore[index]


SHAPES = [(500, 6), (3000,), (20, 10, 15), (3, 1000), (1, 3000), (3000, 1)]
BOUNDS = st.none() | st.integers(-600, 600)
FIRST = st.integers(-3000, 2999) | st.builds(slice, BOUNDS, BOUNDS, st.none() | st.integers(-7, 7).filter(bool))
KEYS = FIRST | st.tuples(FIRST) | st.tuples(FIRST, st.just(0)) | st.tuples(FIRST, st.just(...)) | st.just(())
OTHERS = st.sampled_from([..., None, [1, 2], np.array([True]), (..., 0), (np.array([0, 2]),), np.int8(2), ([0, 1], 0)])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300, deadline=None)
@given(shape=st.sampled_from(SHAPES), fortran=st.booleans(), key=KEYS | OTHERS)
def test_any_index_gives_what_numpy_gives(memory: RecordStore, shape: tuple[int, ...], fortran: bool, key: Any) -> None:
    array = np.arange(3000, dtype=">i8").reshape(shape, order="F" if fortran else "C")
    stored = memory.open(memory.save({"x": array}))["x"]
    try:
        expected = array[key]
    except IndexError:
        with pytest.raises(IndexError):
            stored[key]
        return
    found = stored[key]
    assert np.array_equal(found, expected)
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)


@pytest.mark.parametrize("array", [np.array(7), np.zeros((0, 3)), np.zeros((3, 0)), np.zeros(200, "i4,f8"), np.eye(2)])
def test_arrays_at_the_edge_are_indexed_too(memory: RecordStore, array: np.ndarray) -> None:
    stored = memory.open(memory.save({"x": array}))["x"]
    assert stored[()].tobytes() == array[()].tobytes()
    assert stored[...].tobytes() == array.tobytes()
    if array.ndim:
        assert stored[:1].tobytes() == array[:1].tobytes()
        assert len(stored) == len(array)
    else:
        for use in (len, lambda scalar: scalar[0]):
            with pytest.raises((TypeError, IndexError)):
                use(stored)


def test_tensors_come_back_as_such(memory: RecordStore, torch: Any) -> None:
    half, single = torch.randn(400, 5).to(torch.bfloat16), torch.randn(400, 5)
    record = memory.open(memory.save({"half": half, "single": single}))
    for name, tensor in (("half", half), ("single", single)):
        assert torch.equal(record[name].torch(), tensor)
        assert torch.equal(torch.as_tensor(record[name][100:110]), tensor[100:110])
    assert record["half"][3:9, 2].dtype == torch.bfloat16
    assert torch.equal(record["half"][-1], half[-1])
    with pytest.raises(TypeError):
        record["half"].numpy()


def test_other_kinds_of_arrays_have_bytes_only(memory: RecordStore) -> None:
    stored = memory.open(memory.save({"x": Array("t", [5000], "raw", bytes(5000))}))["x"]
    assert stored.data == bytes(5000)
    for use in (stored.numpy, lambda: stored[0]):
        with pytest.raises(TypeError, match="raw"):
            use()


def test_rows_of_an_array_whose_fields_say_something_else_are_those_of_its_bytes(memory: RecordStore) -> None:
    data = Array(TABLE).data
    stored = memory.open(memory.save({"x": Array("int64", [1000, 3], "numpy.ndarray", data)}))["x"]
    assert np.array_equal(stored[400:450], TABLE[400:450])
    with pytest.raises(IndexError):
        stored[700]


# What is read


def test_nothing_is_read_before_it_is_asked_for_and_then_what_is_needed(path: Path, query: Query) -> None:
    """All chunks but the first and those of the rows are damaged: rows are equal all the same, the whole is refused."""
    with RecordStore(path) as store:
        record_id = store.save({"x": TABLE, "y": TABLE + 1})
        needed = {0, *range((128 + 200 * 48) // 1000, (128 + 210 * 48) // 1000 + 1)}
        query(f"UPDATE chunk SET data = zeroblob(nbytes) WHERE seq NOT IN ({','.join(map(str, needed))})")
        record = store.open(record_id)
        assert (record["x"].shape, record["x"].dtype) == ((500, 6), "int64")
        assert np.array_equal(record["x"][200:210], TABLE[200:210])
        assert np.array_equal(record["y"][205, 3:], TABLE[205, 3:] + 1)
        for use in (lambda: record["x"][300:301], record["y"].numpy, lambda: record["y"].data):
            with pytest.raises(CorruptRecordError, match=r"array '[xy]': chunk"):
                use()


def test_a_chunk_that_was_exchanged_with_its_digest_is_noticed(path: Path, query: Query) -> None:
    with RecordStore(path) as store:
        record = store.open(store.save({"x": TABLE}))
        query("UPDATE chunk SET (data, digest) = (SELECT data, digest FROM chunk WHERE seq = 4) WHERE seq = 5")
        with pytest.raises(CorruptRecordError, match="array 'x'"):
            record["x"][105:110]


def test_missing_chunks_are_damage_and_a_deleted_record_is_not(path: Path, query: Query) -> None:
    with RecordStore(path) as store:
        first, second = store.open(store.save({"x": TABLE})), store.open(store.save({"x": TABLE + 1}))
        query("DELETE FROM chunk WHERE seq = 5 AND blob_id = 1")
        with pytest.raises(CorruptRecordError, match="chunks are missing"):
            first["x"][105:110]
        store.delete(second.id)
        store.gc(grace=0)
        for use in (lambda: second["x"][105:110], second["x"].numpy):
            with pytest.raises(RecordNotFoundError, match="deleted"):
                use()


def test_an_open_record_disturbs_nobody_and_ends_with_the_store(file_store: RecordStore) -> None:
    record = file_store.open(file_store.save({"x": TABLE}))
    rows = (record["x"][number] for number in itertools.count())
    for number in range(5):
        assert np.array_equal(next(rows), TABLE[number])
        file_store.save({"y": TABLE + number})
    file_store.close()
    with pytest.raises(StoreClosedError):
        record["x"].numpy()


def test_what_is_missing_is_told_when_it_is_opened(memory: RecordStore) -> None:
    with pytest.raises(RecordNotFoundError):
        memory.open("r@latest")
