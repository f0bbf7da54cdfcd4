"""How much memory and disk a record takes: measured in child processes by the kernel, not by the package."""

import gc
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from support import Child, flaws, hear, rows, say

from recordstore import Array, ArrayRecord, RecordStore

MIB = 1024 * 1024
ALLOWED = 64 * MIB

pytestmark = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux tells the peak memory")


def peak_since_reset() -> int:
    """Return the largest resident memory since the last reset, in bytes."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def reset_peak() -> int:
    """Begin anew, and return the memory that is resident now."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    return peak_since_reset()


def random_floats(count: int) -> np.ndarray:
    """Return float32 values below 2.0, of which no two chunks are equal."""
    return np.random.default_rng(0).integers(0, 2**30, count, np.int32).view(np.float32)


def make_record(kind: str) -> object:
    match kind:
        case "one ndarray of 1.2 GB":
            return {"weight": random_floats(300_000_000)}
        case "bytes":
            whole = random_floats(150_000_000).tobytes()
            size = 100_000_000
            return ArrayRecord({str(i): Array("opaque", [1], "x", whole[i * size : (i + 1) * size]) for i in range(6)})
        case "not contiguous":
            return {"weight": random_floats(80_000_000).reshape(8_000, 10_000)[:, ::2]}
        case "state_dict":
            torch = __import__("torch")
            return {f"layer {i}": torch.from_numpy(random_floats(50_000_000)) for i in range(3)}
        case "bfloat16":
            torch = __import__("torch")
            return {f"layer {i}": torch.from_numpy(random_floats(50_000_000)).to(torch.bfloat16) for i in range(3)}
    raise AssertionError(kind)


def save_in_child(path: str, kind: str) -> None:
    """Save a record, and say by how much the peak of the memory grew; load it, and say whether it is equal."""
    with RecordStore(path) as store:
        store.save([np.zeros(1)])  # what a first save loads and compiles is not the record's
        record = make_record(kind)
        before = reset_peak()
        record_id = store.save(record)
        say(peak_since_reset() - before)
        equal = True
        for name, array in store.stream(record_id):
            value = record[name]
            if isinstance(value, Array):
                equal &= array == value
            elif array.stype == "torch.Tensor":
                equal &= array == Array(value)
            else:
                equal &= np.array_equal(array.numpy(), np.asarray(value))
            del array
        say(bool(equal))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["one ndarray of 1.2 GB", "bytes", "not contiguous", "state_dict", "bfloat16"])
def test_saving_takes_64_mib_however_large_the_record_is(path: Path, kind: str) -> None:
    if kind in {"state_dict", "bfloat16"}:
        pytest.importorskip("torch", reason="torch is not installed")
    with Child(save_in_child, path, kind) as child:
        growth = child.hear()
        print(f"\nsaving {kind}: {growth / MIB:.1f} MiB")
        assert growth <= ALLOWED
        assert child.hear() is True
        child.finish()
    path.unlink()


def arrays_of(sizes: list[int]) -> Iterator[tuple[str, np.ndarray]]:
    for number, size in enumerate(sizes):
        yield str(number), np.random.default_rng(number).integers(0, 256, size, np.uint8)


def stream_in_child(path: str, copy: str, sizes: list[int]) -> None:
    """Say how the peak of the memory grew over a loop over a record, a copy into another store, and a save."""
    with RecordStore(path) as store, RecordStore(copy) as other:
        for warm in (store, other):
            warm.load(warm.save([np.zeros(1)]))
        before = reset_peak()
        record_id = store.save(arrays_of(sizes))
        say(peak_since_reset() - before)
        before = reset_peak()
        nbytes = 0
        for _, array in store.stream(record_id):
            nbytes += len(array.data)
            del array
        say(peak_since_reset() - before)
        say(nbytes == store.info(record_id).nbytes)
        before = reset_peak()
        copied = other.save(store.stream(record_id))
        say(peak_since_reset() - before)
        say(other.info(copied).digest == store.info(record_id).digest)


@pytest.mark.slow
def test_streaming_two_gigabytes_takes_the_largest_array_and_64_mib(path: Path, tmp_path: Path) -> None:
    sizes = [300_000_000, 500_000_000, 200_000_000, 1_000, 450_000_000, 550_000_000]
    assert sum(sizes) > 2_000_000_000
    largest = max(sizes)
    copy = tmp_path / "copy.db"
    with Child(stream_in_child, path, copy, sizes) as child:
        saved, streamed, complete, copied, equal = (child.hear() for _ in range(5))
        child.finish()
    print(f"\nsave {saved / MIB:.1f}, stream {streamed / MIB:.1f}, copy {copied / MIB:.1f} MiB")
    print(f"the largest array {largest / MIB:.1f} MiB")
    assert complete is True
    assert equal is True
    assert streamed <= largest + ALLOWED
    assert copied <= largest + ALLOWED
    path.unlink()
    copy.unlink()


def written_to_disk() -> int:
    """Return the bytes that this process has caused to be written to disks."""
    text = Path("/proc/self/io").read_text()
    return int(text.partition("\nwrite_bytes:")[2].split()[0])


def write_in_child(path: str, count: int) -> None:
    record = {str(number): random_floats(count // 40) + number for number in range(10)}
    with RecordStore(path) as store:
        store.save([np.zeros(1)])
        before = written_to_disk()
        record_id = store.save(record)
        say(written_to_disk() - before)
        say(store.info(record_id).nbytes)
        assert hear() == "enough"


@pytest.mark.slow
def test_a_record_of_500_mb_is_written_once(path: Path) -> None:
    kind = subprocess.run(["stat", "-f", "-c", "%T", path.parent], capture_output=True, text=True, check=True).stdout
    if kind.strip() in {"tmpfs", "ramfs"}:
        pytest.skip("nothing is written to a disk in a file system in memory")
    with Child(write_in_child, path, 500_000_000) as child:
        written, nbytes = child.hear(), child.hear()
        child.say("enough")
        child.finish()
    print(f"\n{written} bytes written for {nbytes}: {written / nbytes:.4f}")
    assert nbytes >= 500_000_000
    assert nbytes <= written <= 1.05 * nbytes
    path.unlink()


def model(seed: int = 0) -> dict[str, np.ndarray]:
    random_numbers = np.random.default_rng(seed)
    return {"large": random_numbers.random(400_000), "small": random_numbers.random(10), "none": np.zeros(0)}


def chunks(path: Path) -> list[int]:
    return [id_ for (id_,) in rows(path, "SELECT id FROM chunk ORDER BY id")]


def test_saving_the_same_model_again_writes_no_chunk(path: Path) -> None:
    with RecordStore(path) as store:
        store.save(model())
        before = chunks(path)
        assert len(before) == 4 + 1 + 1  # 3.2 MB, and one each for the header of an empty array and a small one
        second = store.save(model())
        assert chunks(path) == before
        assert np.array_equal(store.load(second)["large"].numpy(), model()["large"])


def test_only_the_layers_that_changed_are_written(path: Path) -> None:
    with RecordStore(path) as store:
        store.save(model())
        before = set(chunks(path))
        store.save(model() | {"small": np.arange(10.0)})
        assert len(set(chunks(path)) - before) == 1


@pytest.mark.parametrize("size", [10, 400_000], ids=["one chunk", "several chunks"])
def test_tied_weights_are_stored_once(path: Path, size: int) -> None:
    weight = np.random.default_rng(0).random(size)
    with RecordStore(path) as store:
        record_id = store.save({"encoder": weight, "between": np.zeros(3), "decoder": weight.copy()})
        ((blobs,),) = rows(path, "SELECT count(*) FROM blob")
        assert blobs == 2
        ((stored,),) = rows(path, "SELECT sum(length(data)) FROM chunk")
        assert stored < 1.5 * weight.nbytes + 400
        loaded = store.load(record_id)
    assert list(loaded) == ["encoder", "between", "decoder"]
    assert np.array_equal(loaded["decoder"].numpy(), weight)


def test_deleting_one_of_two_records_that_share_blobs_keeps_the_other_whole(path: Path) -> None:
    with RecordStore(path) as store:
        first, second = store.save(model()), store.save(model() | {"extra": np.ones(5)})
        before = chunks(path)
        store.delete(second)
        store.gc(grace=0)
        assert len(chunks(path)) == len(before) - 1
        loaded = store.load(first)
        assert all(np.array_equal(loaded[name].numpy(), array) for name, array in model().items())
        store.delete(first)
        store.gc(grace=0)
    assert chunks(path) == []
    assert flaws(path) == {}
