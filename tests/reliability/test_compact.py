"""``compact`` gives the disk back what deletes have freed, in bounded transactions, while others go on."""

import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from copies import MEGABYTE, noise
from support import Child, bytes_read, flaws, make_small, rows, say

from recordstore import InvalidTypeError, Progress, ReadOnlyStoreError, RecordStore, compaction
from recordstore.__main__ import main

Query = Callable[..., list[tuple[Any, ...]]]


@pytest.fixture
def holey(path: Path) -> Iterator[RecordStore]:
    """A store of 20 MB, two thirds of which are free: pages before, between and behind those in use."""
    with RecordStore(path) as store:
        for number in range(20):
            store.save({"x": noise(number)}, run="r", round=number)
        for number in range(20):
            if number % 3 != 1:
                store.delete(f"r@{number}")
        yield store


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "STEP_BYTES", 8 * 32768)


def assert_intact(store: RecordStore) -> None:
    assert [info.round for info in store.records(run="r")] == [1, 4, 7, 10, 13, 16, 19]
    for number in (1, 4, 7, 10, 13, 16, 19):
        assert store.load(f"r@{number}")["x"].numpy().tobytes() == noise(number).tobytes()


def test_the_file_becomes_as_small_as_what_is_in_it(holey: RecordStore, path: Path) -> None:
    before = path.stat().st_size
    assert before > 20 * MEGABYTE
    assert rows(path, "PRAGMA freelist_count")[0][0] > 300
    given = holey.compact()
    assert path.stat().st_size == before - given
    assert path.stat().st_size < 8 * MEGABYTE
    assert rows(path, "PRAGMA freelist_count") == [(0,)]
    assert_intact(holey)
    assert holey.verify()
    assert flaws(path) == {}
    assert holey.compact() == 0


def test_what_a_delete_has_not_freed_yet_is_freed_first(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recordstore.upkeep.DELETE_STEPS", 0)
    with RecordStore(path) as store:
        store.delete(store.save({"x": noise(1, 5 * MEGABYTE)}))
        assert rows(path, "SELECT count(*) FROM chunk") == [(6,)]
        assert store.compact() > 5 * MEGABYTE


def test_each_transaction_gives_back_a_bounded_number_of_pages(
    holey: RecordStore, path: Path, small_steps: None
) -> None:
    sizes: list[int] = [path.stat().st_size]
    seen: list[Progress] = []

    def note(progress: Progress) -> None:
        seen.append(progress)
        sizes.append(path.stat().st_size)

    given = holey.compact(progress=note)
    steps = [before - after for before, after in itertools.pairwise(sizes)]
    assert len(steps) > 40
    assert max(steps) <= 10 * 32768  # eight pages, and a page of pointers that went with them
    assert sum(steps) == given
    done = [progress.done for progress in seen]
    assert done == sorted(done)
    assert seen[-1].done == seen[-1].total


def test_between_two_steps_others_read_write_and_delete(holey: RecordStore, path: Path, small_steps: None) -> None:
    saved: list[int] = []

    def use(_: Progress) -> None:
        assert holey.load("r@4")["x"].numpy().tobytes() == noise(4).tobytes()
        if len(saved) < 5:
            saved.append(holey.save({"y": noise(100 + len(saved), 100_000)}))
            holey.delete(saved[-1])

    holey.compact(progress=use)
    assert len(saved) == 5
    assert_intact(holey)
    assert flaws(path) == {}


def read_on(path: str) -> None:
    make_small(PAUSE_SECONDS=0.0)
    with RecordStore(path, read_only=True) as store:
        expected = noise(4).tobytes()
        say({"ready": True})
        while True:
            assert store.load("r@4")["x"].numpy().tobytes() == expected
            say({"read": True})


def test_a_reader_of_another_process_goes_on(holey: RecordStore, path: Path, small_steps: None) -> None:
    with Child(read_on, path) as reader:
        reader.hear()
        holey.compact(progress=lambda _: reader.hear())
        reader.kill()
    assert_intact(holey)


def test_a_kill_between_two_steps_loses_nothing(path: Path, holey: RecordStore) -> None:
    holey.close()
    with Child(compact_slowly, path) as process:
        for _ in range(10):
            process.hear()
        process.kill()
    with RecordStore(path) as store:
        assert_intact(store)
        assert store.compact() > 0
        assert_intact(store)
    assert flaws(path) == {}


def compact_slowly(path: str) -> None:
    compaction.STEP_BYTES = 4 * 32768
    with RecordStore(path) as store:
        store.compact(progress=lambda progress: say(progress.done))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_what_is_read_is_no_more_than_what_is_given_back(holey: RecordStore, small_steps: None) -> None:
    steps: list[Progress] = []
    before = bytes_read()
    given_back = holey.compact(progress=steps.append)
    assert len(steps) > 40
    assert bytes_read() - before < given_back + MEGABYTE


def test_a_store_in_memory_gives_memory_back(memory: RecordStore) -> None:
    memory.delete(memory.save({"x": noise(1, 3 * MEGABYTE)}))
    assert memory.compact() > 2.9 * MEGABYTE
    assert memory.compact() == 0


def test_an_error_of_the_progress_function_arrives_and_what_was_done_stays(
    holey: RecordStore, path: Path, small_steps: None
) -> None:
    before = path.stat().st_size

    def stop(_: Progress) -> None:
        raise LookupError("enough")

    with pytest.raises(LookupError, match="enough"):
        holey.compact(progress=stop)
    assert path.stat().st_size < before
    assert_intact(holey)


def test_wrong_calls_are_refused(holey: RecordStore, path: Path) -> None:
    with pytest.raises(InvalidTypeError, match="progress must be a function"):
        holey.compact(progress="loud")
    holey.close()
    with RecordStore(path, read_only=True) as store, pytest.raises(ReadOnlyStoreError):
        store.compact()


def test_the_command_says_what_was_given_back(
    holey: RecordStore, path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    holey.close()
    before = path.stat().st_size
    assert main(["compact", str(path)]) == 0
    given = before - path.stat().st_size
    assert given > 10 * MEGABYTE
    assert capsys.readouterr().out == f"{path}: {given} bytes shorter\n"


def test_a_wal_file_gives_its_space_back_too(path: Path) -> None:
    RecordStore(path).close()
    assert rows(path, "PRAGMA journal_mode=wal") == [("wal",)]
    with RecordStore(path) as store:
        store.save({"kept": noise(1)})
        store.delete(store.save({"x": noise(2, 5 * MEGABYTE)}))
        store.compact()
        assert path.stat().st_size < 2 * MEGABYTE
        assert Path(f"{path}-wal").stat().st_size == 0
        assert store.verify()
