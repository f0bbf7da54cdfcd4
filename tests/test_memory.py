"""What a save and a read cost: peak memory, bytes on the disk, rows. Counted, in processes of their own."""

import gc
import os
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import Child, bytes_written, flaws, memory_used, npy, rows, say

from recordstore import Array, ArrayRecord, CorruptRecordError, RecordStore

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
MIB = 1024 * 1024
ALLOWED = 64 * MIB
"""What a save or a stream may need beyond the caller's own data and one array."""


def noise(seed: int, nbytes: int) -> np.ndarray:
    """Return bytes no two chunks of which are equal, in memory that was touched."""
    words = np.arange(seed << 40, (seed << 40) + nbytes // 8, dtype=np.uint64)
    words *= np.uint64(0x9E3779B97F4A7C15)
    return words.view(np.uint8)


@pytest.fixture
def big(tmp_path: Path) -> Iterator[Path]:
    """A path for gigabytes, which are given back at once."""
    yield tmp_path / "big.db"
    for file in tmp_path.iterdir():
        file.unlink()


# What a save needs


def make_ndarray() -> Any:
    return {"x": noise(1, 400_000_000)}


def make_bytes() -> Any:
    return ArrayRecord({"x": Array("uint8", [300_000_000], "numpy.ndarray", noise(1, 300_000_000).tobytes())})


def make_many_small() -> Any:
    return {str(number): noise(number, 10_000) for number in range(20_000)}


def make_strided() -> Any:
    return {"x": noise(1, 400_000_000).view(np.float32).reshape(10_000, 10_000)[:, ::2]}


def make_transposed() -> Any:
    return {"x": noise(1, 400_000_000).view(np.float32).reshape(10_000, 10_000).T}


def make_tensor() -> Any:
    import torch

    return {"x": torch.from_numpy(noise(1, 300_000_000).view(np.int32))}


def make_strided_tensor() -> Any:
    import torch

    return {"x": torch.from_numpy(noise(1, 400_000_000).view(np.int32)).reshape(10_000, 10_000).t()}


def make_bfloat16() -> Any:
    import torch

    return {"x": torch.from_numpy(noise(1, 300_000_000).view(np.int16)).view(torch.bfloat16)}


LAZY_BYTES = 100_000_000


def make_lazy() -> Any:
    """Make each array when it is asked for: one at a time is the caller's own."""
    return ((str(number), noise(number, LAZY_BYTES)) for number in range(4))


def measure_save(path: str, make: str) -> None:
    record = globals()[make]()
    used: list[int] = []
    with RecordStore(path) as store:
        with memory_used(used):
            store.save(record)
        with memory_used(used):  # finds everything stored
            store.save(record if make != "make_lazy" else make_lazy())
    say(used)


@linux_only
@pytest.mark.slow
@pytest.mark.parametrize(
    "make",
    [
        make_ndarray,
        make_bytes,
        make_many_small,
        make_strided,
        make_transposed,
        make_tensor,
        make_strided_tensor,
        make_bfloat16,
        make_lazy,
    ],
)
def test_a_save_needs_64_mib_whatever_it_saves(big: Path, make: Callable[[], Any]) -> None:
    if make in {make_tensor, make_strided_tensor, make_bfloat16}:
        pytest.importorskip("torch", reason="torch is not installed")
    own = LAZY_BYTES if make is make_lazy else 0
    with Child(measure_save, big, make.__name__) as child:
        first, second = child.hear()
        child.finish()
    print(f"\nfirst save {(first - own) / MIB:.1f} MiB, second {(second - own) / MIB:.1f} MiB")
    assert first <= own + ALLOWED
    assert second <= own + ALLOWED


# What a read needs


def save_and_load(path: str) -> None:
    """Save more than a value of SQLite can hold, and load it."""
    array = noise(1, 1_200_000_000)
    with RecordStore(path) as store:
        record_id = store.save([array])
        used: list[int] = []
        with memory_used(used):
            loaded = store.load(record_id)
        assert np.array_equal(loaded["0"].numpy(), array)
    say(used)


@linux_only
@pytest.mark.slow
def test_an_array_of_more_bytes_than_sqlite_can_hold_in_a_row_saves_and_loads(big: Path) -> None:
    with Child(save_and_load, big) as child:
        (used,) = child.hear()
        child.finish()
    print(f"\nload: its bytes and {(used - 1_200_000_000) / MIB:.1f} MiB")
    assert rows(big, "SELECT count(*), sum(length(data)) FROM chunk") == [(1221, 1_200_000_128)]
    assert used <= 1_200_000_000 + ALLOWED


LARGEST = 200_000_000
SIZES = [150_000_000, LARGEST, 50_000_000, 1_000, 100_000_000, 50_000, 1_000, LARGEST, 100_000_000]
"""800 MB."""


def make_arrays_of_any_size() -> Iterator[tuple[str, np.ndarray]]:
    for number, size in enumerate(SIZES):
        yield str(number), noise(number, size)


def stream_and_copy(path: str, copy: str) -> None:
    with RecordStore(path) as store, RecordStore(copy) as other:
        record_id = store.save(make_arrays_of_any_size())
        digest, total = store.info(record_id).digest, 0
        used: list[int] = []
        with memory_used(used):
            for _, array in store.stream(record_id):
                total += len(array.data)
                del array
        with memory_used(used):
            copied = other.save(store.stream(record_id))
        assert other.info(copied).digest == digest
    say((total, *used))


@linux_only
@pytest.mark.slow
def test_a_stream_and_a_copy_need_the_largest_array_and_64_mib(big: Path) -> None:
    with Child(stream_and_copy, big, big.with_name("copy.db")) as child:
        total, streamed, copied = child.hear()
        child.finish()
    print(f"\nbeyond the largest array: stream {(streamed - LARGEST) / MIB:.1f} MiB")
    print(f"copy from store to store {(copied - LARGEST) / MIB:.1f} MiB")
    assert total == sum(SIZES) + 128 * len(SIZES)
    assert streamed <= LARGEST + ALLOWED
    assert copied <= LARGEST + ALLOWED


def load_into_arrays_of_any_size(path: str) -> None:
    with RecordStore(path) as store:
        record_id = store.save(make_arrays_of_any_size())
        plain = {str(number): np.ones(size // 8, np.uint64).view(np.uint8) for number, size in enumerate(SIZES)}
        used: list[int] = []
        with memory_used(used):
            store.load_into(record_id, plain)
        assert all(np.array_equal(plain[name], array) for name, array in make_arrays_of_any_size())
        del plain
        strided = {str(number): np.ones(2 * size, np.uint8)[::2] for number, size in enumerate(SIZES[:2])}
        with memory_used(used):
            store.load_into(record_id, strided, strict=False)
        assert all(np.array_equal(strided[name], noise(int(name), len(array))) for name, array in strided.items())
    say(used)


def test_a_read_that_fails_lets_go_of_what_it_has_read(path: Path) -> None:
    arrays = {"sound": noise(1, 32_000_000), "damaged": noise(2, 24_000_000)}
    place = {name: np.zeros_like(array) for name, array in arrays.items()}
    with RecordStore(path) as store:
        store.save(arrays)
        rows(path, "UPDATE chunk SET data = zeroblob(length(data)) WHERE blob_id = 2 AND seq = 20")
        reads: list[Callable[[], Any]] = [
            lambda: store.load(1),
            lambda: list(store.stream(1)),
            lambda: store.load_into(1, place),
            store.open(1)["damaged"].numpy,
        ]
        gc.disable()  # which would let go of it at some time
        tracemalloc.start()
        try:
            for read in reads:
                with pytest.raises(CorruptRecordError):
                    read()
                assert tracemalloc.get_traced_memory()[0] < MIB
        finally:
            tracemalloc.stop()
            gc.enable()


@linux_only
@pytest.mark.slow
def test_loading_into_place_needs_no_second_array(big: Path) -> None:
    """Only what does not lie as it is stored is read whole before it is copied."""
    with Child(load_into_arrays_of_any_size, big) as child:
        direct, staged = child.hear()
        child.finish()
    print(
        f"\nload_into: {direct / MIB:.1f} MiB; into strided arrays beyond one array: {(staged - LARGEST) / MIB:.1f} MiB"
    )
    assert direct <= ALLOWED
    assert staged <= LARGEST + ALLOWED


# What is written


def count_written(path: str) -> None:
    record = {str(number): noise(number, 50_000_000) for number in range(10)}
    with RecordStore(path) as store:
        os.sync()
        before = bytes_written()
        store.save(record)
        first = bytes_written()
        store.save(record)
        say((first - before, bytes_written() - first))


@linux_only
@pytest.mark.slow
def test_each_byte_of_a_record_is_written_to_the_disk_once(big: Path) -> None:
    with Child(count_written, big) as child:
        first, second = child.hear()
        child.finish()
    if not first:
        pytest.skip(f"{big.parent} is not on a disk")
    print(f"\nbytes written per byte: {first / 500_000_000:.4f}; saved again: {second} bytes")
    assert 1.0 <= first / 500_000_000 <= 1.05
    assert second < 2 * MIB


# Rows


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"CHUNK_SIZE": 4096, "BATCH_BYTES": 16_384, "RING_CHUNKS": 4}.items():
        monkeypatch.setattr(f"recordstore.constants.{name}", value)


MODEL = {"w": noise(1, 80_000), "frozen": noise(2, 60_000), "b": noise(3, 80)}


def chunks(path: Path) -> list[tuple[Any, ...]]:
    return rows(path, "SELECT id, blob_id, seq, nbytes, digest, data FROM chunk ORDER BY id")


def test_saving_a_large_model_again_writes_no_chunk(path: Path, small: None) -> None:
    with RecordStore(path) as store:
        first = store.save(MODEL)
        before = chunks(path)
        again = store.save(MODEL), store.save(store.load(first)), store.save(store.stream(first))
        assert chunks(path) == before
        assert [store.load(id_) for id_ in again] == [store.load(first)] * 3
    assert len(before) == -(-80_128 // 4096) + -(-60_128 // 4096) + 1
    assert rows(path, "SELECT count(*), count(DISTINCT blob_id) FROM array") == [(12, 3)]


def test_a_model_of_which_one_layer_was_trained_writes_the_chunks_of_that_layer(path: Path, small: None) -> None:
    with RecordStore(path) as store:
        store.save(MODEL)
        before = chunks(path)
        trained = MODEL["w"].copy()
        trained[-1] ^= 1  # the first chunks are those of the old one
        second = store.save(MODEL | {"w": trained})
        new = chunks(path)[len(before) :]
        assert b"".join(row[-1] for row in new) == npy(trained)
        assert store.load(second)["w"].data == npy(trained)


@pytest.mark.parametrize("nbytes", [800, 80_000])
def test_tied_weights_are_stored_once_and_come_back_twice(path: Path, small: None, nbytes: int) -> None:
    tied = noise(1, nbytes)
    with RecordStore(path) as store:
        record_id = store.save({"in": tied, "b": MODEL["b"], "out": tied, "copy": tied.copy()})
        assert b"".join(row[-1] for row in chunks(path)) in {
            npy(tied) + npy(MODEL["b"]),
            npy(MODEL["b"]) + npy(tied),
        }
        record = store.load(record_id)
    assert [array.data == npy(tied) for array in record.values()] == [True, False, True, True]


@pytest.mark.parametrize("gone", [0, 1])
def test_deleting_one_of_two_records_that_share_bytes_keeps_the_other_whole(path: Path, small: None, gone: int) -> None:
    models = [MODEL, MODEL | {"w": noise(4, 80_000)}]
    with RecordStore(path) as store:
        ids = [store.save(model) for model in models]
        store.delete(ids[gone])
        store.gc(grace=0)
        kept = store.load(ids[1 - gone])
        assert {name: array.data for name, array in kept.items()} == {
            name: npy(array) for name, array in models[1 - gone].items()
        }
        assert sum(len(row[-1]) for row in chunks(path)) == sum(len(array.data) for array in kept.values())
        store.delete(ids[1 - gone])
    assert chunks(path) == []
    assert flaws(path) == {}
