"""Large arrays, read by several threads: bounded memory, no thread that goes on, and the first damage is told."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recordstore import Array, CorruptRecordError, RecordNotFoundError, RecordStore, blobs, pipeline
from recordstore.assembly import BytesAssembly
from recordstore.destinations import ArrayDestination, apart
from recordstore.feed import Ring
from recordstore.hashing import HashPool
from recordstore.listing import Listing, open_record
from recordstore.refs import parse_ref
from recordstore.traffic import Abandoned, Traffic

Query = Callable[..., list[tuple[Any, ...]]]
SIZES = [1500, 20_000, 1001, 7000, 64_000, 3000, 12_000]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recordstore.constants.CHUNK_SIZE", 1000)
    monkeypatch.setattr("recordstore.spans.SPAN_CHUNKS", 4)
    monkeypatch.setattr("recordstore.pipeline.LOOKED_UP", 3)


def noise(size: int, seed: int = 0) -> bytes:
    return np.random.default_rng(size + seed).bytes(size)


@pytest.fixture
def record() -> dict[str, Array]:
    return {f"{number} of {size}": Array("t", [1], "raw", noise(size)) for number, size in enumerate(SIZES)}


@pytest.fixture
def saved(file_store: RecordStore, record: dict[str, Array]) -> RecordStore:
    file_store.save(record)
    return file_store


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Let each chunk take a millisecond, and note which were read."""
    read, real = [], blobs._read

    def slowly(raw: Any, place: Any) -> bytes | None:
        time.sleep(0.001)
        read.append(place.id)
        return real(raw, place)

    monkeypatch.setattr(blobs, "_read", slowly)
    return read


def test_all_arrays_come_in_order(saved: RecordStore, record: dict[str, Array]) -> None:
    assert list(saved.load(1).items()) == list(record.items())
    assert list(saved.stream(1)) == list(record.items())


def test_several_threads_read_each_with_a_connection_of_its_own(
    saved: RecordStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    found: set[tuple[str, int]] = set()
    both, real = threading.Barrier(2, timeout=30), blobs._read

    def read(raw: Any, place: Any) -> bytes | None:
        if len(found) < 2:
            found.add((threading.current_thread().name, id(raw)))
            both.wait()
        return real(raw, place)

    monkeypatch.setattr(blobs, "_read", read)
    saved.load(1)
    assert len({name for name, _ in found}) == len({connection for _, connection in found}) == 2


def test_arrays_that_are_read_whole_on_their_way_take_bounded_memory(
    saved: RecordStore, monkeypatch: pytest.MonkeyPatch, slow: list[int]
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    held, peaks, lock = [0], [], threading.Lock()
    begin, finish = BytesAssembly.begin, Traffic.give

    def begun(assembly: BytesAssembly) -> None:
        with lock:
            held[0] += assembly.room
            peaks.append(held[0])
        begin(assembly)

    def given(traffic: Traffic, nbytes: int) -> None:
        with lock:
            held[0] -= nbytes
        finish(traffic, nbytes)

    monkeypatch.setattr(BytesAssembly, "begin", begun)
    monkeypatch.setattr(Traffic, "give", given)
    monkeypatch.setattr("recordstore.pipeline.STAGED_BYTES", 8000)
    arrays = {f"{number}": np.frombuffer(noise(size // 8 * 8), np.uint64) for number, size in enumerate(SIZES * 3)}
    record_id = saved.save(arrays)
    strided = {name: np.zeros((len(array), 2), np.uint64)[:, 0] for name, array in arrays.items()}
    saved.load_into(record_id, strided)
    assert all((strided[name] == array).all() for name, array in arrays.items())
    assert max(peaks) <= 64_128, "the largest array alone"
    assert len(peaks) == len(arrays)
    assert max(peak for peak in peaks if peak < 12_000) > 4000, "small ones share the room"


@pytest.mark.parametrize("stop", ["close", "error in the loop"])
def test_no_thread_reads_on_once_nobody_wants_the_arrays(
    saved: RecordStore, monkeypatch: pytest.MonkeyPatch, slow: list[int], stop: str
) -> None:
    rows = open_record(saved._database, saved._proofs, parse_ref(1), None).arrays
    arrays = pipeline.Pipeline(saved._database, saved._pool, Listing(1, rows), BytesAssembly, staged=1_000_000).read(
        rows
    )
    next(arrays)
    if stop == "close":
        arrays.close()
    else:
        with pytest.raises(KeyError):
            arrays.throw(KeyError("mine"))
    count = len(slow)
    time.sleep(0.05)
    assert len(slow) == count


def test_after_an_error_no_thread_writes_to_the_target(
    saved: RecordStore, query: Query, slow: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    arrays = {f"{number}": np.frombuffer(noise(size // 8 * 8, 1), np.uint64) for number, size in enumerate(SIZES)}
    record_id = saved.save(arrays)
    query(
        "UPDATE chunk SET data = zeroblob(length(data)) WHERE seq = 2 AND blob_id = "
        f"(SELECT blob_id FROM array WHERE record_id = {record_id} AND name = '1')"
    )
    target = {name: np.zeros_like(array) for name, array in arrays.items()}
    with pytest.raises(CorruptRecordError, match=r"array '1': chunk 2 .*overwritten, perhaps in part: \['0', '1'"):
        saved.load_into(record_id, target)
    after = {name: array.copy() for name, array in target.items()}
    time.sleep(0.05)
    assert all((target[name] == array).all() for name, array in after.items())


def test_of_several_damaged_arrays_the_first_is_told(saved: RecordStore, query: Query) -> None:
    query("UPDATE chunk SET data = zeroblob(length(data)) WHERE seq = 0")
    for _ in range(10):
        with pytest.raises(CorruptRecordError, match="array '0 of 1500': chunk 0"):
            saved.load(1)


def test_a_record_that_is_deleted_between_look_up_and_reading_is_not_found(
    saved: RecordStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = pipeline.Pipeline._look_up

    def look_up(*args: Any) -> Any:
        found = real(*args)
        with RecordStore(path) as other:
            if 1 in other:
                other.delete(1)
                other.gc(grace=0)
        return found

    monkeypatch.setattr(pipeline.Pipeline, "_look_up", look_up)
    with pytest.raises(RecordNotFoundError, match="deleted while it was being read"):
        saved.load(1)


def test_while_the_interpreter_ends_one_thread_does_it_all(
    saved: RecordStore, record: dict[str, Array], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise RuntimeError("cannot schedule new futures after interpreter shutdown")

    monkeypatch.setattr("concurrent.futures.ThreadPoolExecutor.submit", refuse)
    monkeypatch.setattr("recordstore.pipeline.STAGED_BYTES", 100)
    assert list(saved.load(1).items()) == list(record.items())
    strided = {name: np.zeros((len(array.data), 2), np.uint8)[:, 0] for name, array in record.items()}
    again = saved.save({name: np.frombuffer(array.data, np.uint8) for name, array in record.items()})
    saved.load_into(again, strided)
    assert all(strided[name].tobytes() == array.data for name, array in record.items())


@pytest.mark.parametrize("column", ["name", "dtype", "shape", "stype"])
def test_rows_that_change_after_they_were_proven_are_noticed(saved: RecordStore, query: Query, column: str) -> None:
    for _ in range(2):
        assert len(saved.load(1)) == len(SIZES)
    query(f"UPDATE array SET {column} = {column} || ' ' WHERE record_id = 1 AND position = 3")
    with pytest.raises(CorruptRecordError, match="not the one that was saved"):
        saved.load(1)


def test_few_proofs_are_remembered(saved: RecordStore, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(10):
        saved.load(saved.save({"x": np.full(3, number)}))
    assert len(saved._proofs._proven) == 4
    monkeypatch.setattr("recordstore.listing.PROOF_ARRAYS", 1)
    before = list(saved._proofs._proven)
    saved.load(saved.save([np.zeros(3), np.ones(3)]))
    assert list(saved._proofs._proven) == before


def test_after_an_interrupt_no_thread_writes_to_the_target(
    saved: RecordStore, monkeypatch: pytest.MonkeyPatch, slow: list[int]
) -> None:
    """Ctrl-C may come once the work is in the queue, and before anybody has noted it."""
    arrays = {f"{number}": np.frombuffer(noise(size // 8 * 8, 1), np.uint64) for number, size in enumerate(SIZES)}
    record_id = saved.save(arrays)
    target = {name: np.zeros_like(array) for name, array in arrays.items()}
    real, calls = HashPool.offer, []

    def offer(pool: HashPool, *args: Any) -> Any:
        work = real(pool, *args)
        calls.append(work)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return work

    monkeypatch.setattr(HashPool, "offer", offer)
    with pytest.raises(KeyboardInterrupt):
        saved.load_into(record_id, target)
    after = {name: array.copy() for name, array in target.items()}
    for work in calls:
        work.exception(timeout=30)
    time.sleep(0.05)
    assert all((target[name] == array).all() for name, array in after.items())


def test_a_second_interrupt_does_not_end_the_wait_for_the_threads() -> None:
    traffic = Traffic(100)
    inside, leave, interrupts = threading.Event(), threading.Event(), iter([KeyboardInterrupt])

    def work() -> None:
        with traffic.entered():
            inside.set()
            leave.wait(30)

    thread = threading.Thread(target=work)
    thread.start()
    inside.wait(30)
    real = traffic._changed.wait_for

    def wait_for(condition: Callable[[], bool]) -> bool:
        for error in interrupts:
            raise error
        leave.set()
        return real(condition)

    traffic._changed.wait_for = wait_for  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        traffic.end()
    assert traffic._inside == 0
    thread.join()
    with pytest.raises(Abandoned), traffic.entered():
        pass


def test_what_no_thread_could_be_started_for_is_done_once(
    saved: RecordStore, record: dict[str, Array], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The executor puts work into its queue before it finds out; a thread that comes later must not do it again."""
    saved.close()
    refusals = iter([RuntimeError("can't start new thread")] * 3)
    real = ThreadPoolExecutor._adjust_thread_count

    def adjust(executor: ThreadPoolExecutor) -> None:
        for error in refusals:
            raise error
        real(executor)

    monkeypatch.setattr(ThreadPoolExecutor, "_adjust_thread_count", adjust)
    counts: dict[int, int] = {}
    plain = blobs._read

    def read(raw: Any, place: Any) -> bytes | None:
        counts[place.id] = counts.get(place.id, 0) + 1
        return plain(raw, place)

    monkeypatch.setattr(blobs, "_read", read)
    with RecordStore(saved._database.target.path) as store:
        assert list(store.load(1).items()) == list(record.items())
    assert set(counts.values()) == {1}


def test_a_page_that_sqlite_finds_broken_is_damage_of_its_array(path: Path) -> None:
    """Later saves must not share the blob, which nobody can read."""
    data = {"a": Array("t", [1], "raw", noise(400_000)), "b": Array("t", [1], "raw", noise(5000))}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("recordstore.constants.CHUNK_SIZE", 200_000)
        with RecordStore(path) as store:
            store.save(data)
        raw = bytearray(path.read_bytes())
        page = raw.index(data["a"].data[100_000:100_064]) // 32768 * 32768
        raw[page : page + 4] = (2**31 - 1).to_bytes(4, "big")  # where the next page of the chunk lies
        path.write_bytes(raw)
        with RecordStore(path) as store:
            with pytest.raises(CorruptRecordError, match="record 1, array 'a'"):
                store.load(1)
            assert store.load(store.save(data))["a"] == data["a"]


def test_of_places_that_share_memory_the_last_array_wins(saved: RecordStore) -> None:
    one, two = np.full(64_000, 1, np.uint8), np.full(64_000, 2, np.uint8)
    record_id = saved.save({"a": one, "b": two, "c": one})
    memory, other = np.zeros(64_000, np.uint8), np.zeros(64_000, np.uint8)
    for _ in range(20):
        saved.load_into(record_id, {"a": memory, "b": memory, "c": other})
        assert (memory == 2).all()
        assert (other == 1).all()


def test_which_places_share_memory() -> None:
    block = np.zeros((10, 10))
    views = [block[:5], block[5:], block[4:6], np.zeros(3), block[::-1, ::-1][:2], np.zeros((0, 3)), block[9:9]]
    bounds = [ArrayDestination(view).bounds() for view in views]
    assert apart(list(zip("abcdefg", bounds, strict=True))) == (["d", "f", "g"], ["a", "b", "c", "e"])


@pytest.mark.parametrize("change", ["seq = 500 WHERE seq = 2", "seq = seq + 100", "seq = seq - 1"])
def test_rows_of_an_array_whose_chunks_are_numbered_otherwise_are_damage(
    saved: RecordStore, query: Query, change: str
) -> None:
    array = np.arange(8000).reshape(-1, 8)
    record_id = saved.save({"a": array})
    stored = saved.open(record_id)["a"]
    assert (stored[-5:] == array[-5:]).all()
    query("DELETE FROM chunk WHERE blob_id != (SELECT max(id) FROM blob)")
    query(f"UPDATE chunk SET {change}" if "WHERE" in change else f"UPDATE chunk SET {change} WHERE seq < 1000")
    with pytest.raises(CorruptRecordError, match="array 'a'"):
        stored[32:40]


def test_memory_of_the_ring_that_lies_idle_counts_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recordstore.constants.CHUNK_SIZE", 100_000)
    monkeypatch.setattr("recordstore.constants.RING_CHUNKS", 4)
    ring = Ring()
    full = [ring.take(100_000) for _ in range(4)]
    assert None not in full
    assert ring.take(100_000) is None
    ring.give_back(full)
    parts = []
    while (part := ring.take(60_000)) is not None:
        parts.append(part)
        assert sum(map(len, parts)) + sum(map(len, ring._free)) <= 4 * 102_048
    assert len(parts) == 6


EXIT = """
import sys, threading, time
import numpy as np
from recordstore import RecordStore, blobs, constants, spans
constants.CHUNK_SIZE, spans.SPAN_CHUNKS = 1000, 4
real = blobs._read
blobs._read = lambda *args: (time.sleep(0.002), real(*args))[1]
arrays = {str(n): np.arange(n, n + 4000, dtype=np.int64) for n in range(8)}
import recordstore.pipeline
recordstore.pipeline.STAGED_BYTES = 1
store = RecordStore(sys.argv[1])
store.save(arrays)
target = {name: np.zeros((4000, 2), np.int64)[:, 0] for name in arrays}
def load():
    try:
        store.load_into(1, target)
        print(all((target[name] == arrays[name]).all() for name in arrays))
    except Exception as error:
        print(type(error).__name__)
threading.Thread(target=load).start()
time.sleep(0.03)
"""


def test_a_load_that_is_under_way_when_the_interpreter_ends_comes_to_an_end(path: Path) -> None:
    command = [sys.executable, "-c", EXIT, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.stdout.strip() == "True", done.stderr
