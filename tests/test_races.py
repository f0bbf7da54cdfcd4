"""The races of the write and read protocols, each played out at every point where it can happen.

A call of the store is a sequence of transactions, and transactions of one file happen one after the other: so all that
another process can do to a call, it does in a gap between two of its transactions. Each race is played again and again,
each time on a new stage (a new file) and with the other side in the next gap, until there is no further one.
"""

import contextlib
import shutil
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import count
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from support import content, flaws, npy, rows

from recordstore import (
    Checkpoint,
    CorruptRecordError,
    HistoryEntry,
    RecordExistsError,
    RecordNotFoundError,
    RecordStore,
    SaveSweptError,
    StoreBusyError,
)
from recordstore.sweep import sweep

Arrays = dict[str, np.ndarray]

pytestmark = pytest.mark.no_cover  # which takes half as long again for each of the many gaps


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a few kilobytes take many chunks and many transactions, written as well as read."""
    for name, value in {"CHUNK_SIZE": 512, "BATCH_BYTES": 2048, "RING_CHUNKS": 4, "PAUSE_SECONDS": 0.0}.items():
        monkeypatch.setattr(f"recordstore.constants.{name}", value)
    monkeypatch.setattr("recordstore.spans.SPAN_CHUNKS", 3)
    monkeypatch.setattr("recordstore.spans.GROUP_BYTES", 1024)


def noise(seed: int, nbytes: int = 6_000) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, nbytes, np.uint8)


MODEL: Arrays = {
    "large": noise(1),
    "small": noise(2, 100),
    "other": noise(3, 5_000),
    "tied": noise(1),
    "b": noise(4, 9),
}
"""Three arrays of many chunks, of which two are equal, and two of one chunk."""

OTHER: Arrays = {name: 255 - array for name, array in MODEL.items()}
"""The same names and lengths with other bytes."""


SHORT: Arrays = {"large": noise(1, 1_500), "small": noise(2, 100), "tied": noise(1, 1_500)}


def npys(arrays: Arrays) -> dict[str, bytes]:
    return {name: npy(array) for name, array in arrays.items()}


class Stage:
    """A new file, the store that makes the call, and the store that gets in between."""

    def __init__(self, path: Path, gap: int) -> None:
        self.path = path
        self.gap = gap
        self.store = RecordStore(path, timeout=0.05)
        self.other = RecordStore(path, timeout=0.05)
        self.reached = False
        """Whether there was such a gap."""

    @contextlib.contextmanager
    def meanwhile(self, action: Callable[[], object]) -> Iterator[None]:
        """Run ``action`` before the transaction of ``store`` whose turn it is, counted from 0."""
        database, transactions = self.store._database, count()

        def wrapped(begin: Callable[..., Any]) -> Callable[..., Any]:
            def call(*arguments: Any, **options: Any) -> Any:
                if not self.reached and next(transactions) == self.gap:
                    self.reached = True
                    action()
                return begin(*arguments, **options)

            return call

        with mock.patch.multiple(database, read=wrapped(database.read), write=wrapped(database.write)):
            yield

    def close(self) -> None:
        self.store.close()
        self.other.close()


@pytest.fixture(scope="module")
def empty_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("empty") / "store.db"
    RecordStore(path).close()
    return path


@pytest.fixture
def stages(empty_file: Path, memory_folder: Path) -> Iterator[Stage]:
    """A stage for each gap, until there is none; after each the file has to be sound."""

    def make() -> Iterator[Stage]:
        for gap in count():
            stage = Stage(shutil.copy(empty_file, memory_folder / f"{gap}.db"), gap)
            yield stage
            stage.other.gc(grace=0)
            stage.close()
            assert flaws(stage.path) == {}, f"gap {gap}"
            if not stage.reached:
                assert gap > 1
                return

    return make()


def attempt(call: Callable[[], Any], failure: type[Exception]) -> Any:
    """Return what a call returns, or this exception if it raises it."""
    try:
        return call()
    except failure as error:
        return error


# Look-up against delete and gc


def test_bytes_that_a_save_found_and_that_are_deleted_meanwhile_are_written_after_all(stages: Iterator[Stage]) -> None:
    for stage in stages:
        first = stage.other.save(MODEL)
        with stage.meanwhile(lambda stage=stage, first=first: remove(stage.other, first)):
            second = stage.store.save(MODEL)
        assert list(stage.store) == ([second] if stage.reached else [first, second])
        assert content(stage.store, second) == npys(MODEL)


def test_bytes_that_a_draft_shares_outlive_the_record_that_brought_them(stages: Iterator[Stage]) -> None:
    for stage in stages:
        stage.other.save({"large": noise(1)}, run="r", round=1)
        with stage.meanwhile(lambda stage=stage: remove(stage.other, "r@1")):
            record_id = stage.store.save({f"{number} tied": noise(1) for number in range(3)} | MODEL)
        stage.other.gc(grace=0)
        assert content(stage.store, record_id) == npys({f"{number} tied": noise(1) for number in range(3)} | MODEL)


def test_a_save_during_gc_shares_nothing_that_gc_removes(
    stages: Iterator[Stage], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recordstore.upkeep.DELETE_STEPS", 0)
    monkeypatch.setattr("recordstore.constants.BATCH_ROWS", 2)
    for stage in stages:
        stage.other.delete(stage.other.save(SHORT))
        saved = []
        with stage.meanwhile(lambda stage=stage, saved=saved: saved.append(stage.other.save(SHORT))):
            stage.store.gc()
        for record_id in saved:
            assert content(stage.store, record_id) == npys(SHORT)


def test_a_lazy_input_may_use_the_store_that_saves_it(store: RecordStore) -> None:
    first = store.save(MODEL)

    def entries() -> Iterator[tuple[str, np.ndarray]]:
        yield "large", MODEL["large"]
        store.delete(first)
        yield "other", MODEL["other"]
        store.gc()
        yield "small", store.load(store.save({"x": MODEL["small"]}))["x"].numpy()

    second = store.save(entries())
    assert content(store, second) == npys({name: MODEL[name] for name in ("large", "other", "small")})


# Publish against gc of a silent writer


def sweep_some(store: RecordStore, steps: int | None) -> None:
    """Sweep as ``gc(grace=0)`` does, two arrays at a time, and stop after some steps."""
    with mock.patch("recordstore.constants.BATCH_ROWS", 2):
        sweep(store._database, grace=0, steps=steps)


@pytest.mark.parametrize("steps", [None, 1, 2])
def test_a_writer_that_gc_took_for_dead_publishes_nothing_and_keeps_its_input(
    stages: Iterator[Stage], steps: int | None
) -> None:
    outcomes = Counter()
    for stage in stages:
        model = dict(MODEL)
        options = {"run": "r", "round": 1, "tags": ["best"]}
        with stage.meanwhile(lambda stage=stage: sweep_some(stage.other, steps)):
            saved = attempt(lambda: stage.store.save(model, keep_input=False, **options), SaveSweptError)  # noqa: B023
        outcomes[type(saved)] += 1
        if isinstance(saved, SaveSweptError):
            assert "save it again" in str(saved)
            assert (list(stage.store), model) == ([], MODEL)
            saved = stage.store.save(model, **options)
        else:
            assert model == {}
        assert list(stage.other) == [saved]
        assert content(stage.other, "r@best") == npys(MODEL)
    assert outcomes[SaveSweptError] > 5
    assert 1 <= outcomes[int] <= 3, "before there is a draft, and in the end without gc"


def test_gc_with_a_grace_takes_no_writer_for_dead(stages: Iterator[Stage]) -> None:
    for stage in stages:
        with stage.meanwhile(lambda stage=stage: stage.other.gc()):
            record_id = stage.store.save(MODEL)
        assert content(stage.other, record_id) == npys(MODEL)


# Two writers of one round


def test_a_round_that_another_writer_saves_meanwhile_stays_that_writers(stages: Iterator[Stage]) -> None:
    for stage in stages:
        model = dict(MODEL)
        with stage.meanwhile(lambda stage=stage: stage.other.save(OTHER, run="r", round=1, tags=["best"])):
            saved = attempt(
                lambda: stage.store.save(model, run="r", round=1, tags=["best"], keep_input=False),  # noqa: B023
                RecordExistsError,
            )
        assert isinstance(saved, RecordExistsError) == stage.reached
        assert model == (MODEL if stage.reached else {})
        expected = OTHER if stage.reached else MODEL
        assert [content(stage.store, ref) for ref in ("r@1", "r@best")] == [npys(expected)] * 2
        assert len(stage.store) == 1


def test_of_two_overwrites_of_a_round_the_last_one_to_publish_stays(stages: Iterator[Stage]) -> None:
    for stage in stages:
        stage.other.save({"old": noise(9)}, run="r", round=1, tags=["best"])
        with stage.meanwhile(
            lambda stage=stage: stage.other.save(OTHER, run="r", round=1, tags=["theirs"], overwrite=True)
        ):
            record_id = stage.store.save(MODEL, run="r", round=1, tags=["ours"], overwrite=True)
        assert list(stage.store) == [record_id]
        assert content(stage.other, "r@1") == npys(MODEL)
        assert stage.store.info(record_id).tags == (("best", "ours", "theirs") if stage.reached else ("best", "ours"))


def test_a_record_that_is_deleted_while_it_is_being_overwritten_takes_its_tags_with_it(
    stages: Iterator[Stage],
) -> None:
    for stage in stages:
        stage.other.save(OTHER, run="r", round=1, tags=["best"])
        with stage.meanwhile(lambda stage=stage: stage.other.delete("r@1")):
            record_id = stage.store.save(MODEL, run="r", round=1, overwrite=True)
        assert content(stage.other, "r@1") == npys(MODEL)
        assert stage.store.info(record_id).tags == (() if stage.reached else ("best",))


def test_two_deletes_of_one_record_leave_nothing(stages: Iterator[Stage], monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes = Counter()
    for stage in stages:
        kept, gone = stage.store.save(OTHER), stage.store.save(SHORT)
        with monkeypatch.context() as patch, stage.meanwhile(lambda stage=stage, gone=gone: remove(stage.other, gone)):
            patch.setattr("recordstore.constants.BATCH_ROWS", 2)
            outcomes[type(attempt(lambda: stage.store.delete(gone), RecordNotFoundError))] += 1  # noqa: B023
        assert list(stage.store) == [kept]
        assert content(stage.store, kept) == npys(OTHER)
    assert outcomes[RecordNotFoundError] == 1, "in the first gap"
    assert outcomes[type(None)] > 5


def remove(store: RecordStore, ref: Any) -> None:
    """Delete a record and all that is left of it, if another one has not done so."""
    attempt(lambda: store.delete(ref), RecordNotFoundError)
    store.gc()


# A reader against delete, overwrite, and the reuse of ids


def read(stage: Stage, ref: Any) -> dict[str, bytes] | None:
    """Return what a reader gets; None if the record is gone."""
    try:
        return content(stage.store, ref)
    except RecordNotFoundError:
        return None


def test_a_record_deleted_under_a_reader_is_read_exactly_or_not_found(stages: Iterator[Stage]) -> None:
    outcomes = []
    for stage in stages:
        stage.other.save(MODEL)
        with stage.meanwhile(lambda stage=stage: remove(stage.other, 1)):
            got = read(stage, 1)
        assert got in (None, npys(MODEL))
        outcomes.append(got is not None)
    assert len(outcomes) > 10
    assert outcomes == [False] * (len(outcomes) - 1) + [True], "the last one was not deleted"


def test_a_record_hidden_but_not_swept_is_read_to_its_end(
    stages: Iterator[Stage], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recordstore.upkeep.DELETE_STEPS", 0)
    for stage in stages:
        stage.other.save(MODEL)
        with stage.meanwhile(lambda stage=stage: stage.other.delete(1)):
            assert read(stage, 1) == (npys(MODEL) if stage.gap else None)


def test_a_reader_never_gets_the_bytes_of_a_record_saved_in_place_of_its_own(stages: Iterator[Stage]) -> None:
    for stage in stages:
        stage.other.save(MODEL, run="r", round=1)
        ids = [rows(stage.path, f"SELECT max(id) FROM {table}")[0][0] for table in ("record", "blob", "chunk")]

        def replace(stage: Stage = stage) -> None:
            stage.other.delete(1)
            stage.other.gc(grace=0)
            assert rows(stage.path, "SELECT count(*) FROM chunk") == [(0,)]
            stage.other.save(OTHER, run="r", round=1)

        with stage.meanwhile(replace):
            assert read(stage, 1) in (None, npys(MODEL))
        if stage.reached:
            assert content(stage.store, "r@1") == npys(OTHER)
            new = [rows(stage.path, f"SELECT min(id) FROM {table}")[0][0] for table in ("record", "blob", "chunk")]
            assert all(later > earlier for later, earlier in zip(new, ids, strict=True))


@pytest.mark.parametrize("swept", [True, False])
def test_a_round_that_is_overwritten_under_a_reader_is_the_old_or_the_new_one(
    stages: Iterator[Stage], swept: bool
) -> None:
    outcomes = Counter()
    for stage in stages:
        stage.other.save(MODEL, run="r", round=1)

        def overwrite(stage: Stage = stage) -> None:
            stage.other.save(OTHER, run="r", round=1, overwrite=True)
            if swept:
                stage.other.gc()

        with stage.meanwhile(overwrite):
            got = read(stage, "r@1")
        outcomes["new" if got == npys(OTHER) else "old" if got == npys(MODEL) else got and "mixture"] += 1
        assert read(stage, "r@1") == npys(OTHER if stage.reached else MODEL)
    gaps = stage.gap
    assert outcomes == ({"new": 1, None: gaps - 1, "old": 1} if swept else {"new": 1, "old": gaps})


# Checkpoints and their history


def save_round(store: RecordStore, model: Arrays, by: str) -> int:
    """Save a checkpoint of the run ``r`` that tells whose it is."""
    entry = HistoryEntry(1, "train", {"by": by})
    return store.save_checkpoint(model, Checkpoint(by, SHORT), run="r", round=1, history=[entry], forget_after=-1)


def told(store: RecordStore) -> tuple[dict[str, bytes], Any, dict[str, bytes], list[HistoryEntry]]:
    """Return all that a store has of the round that ``save_round`` saves."""
    checkpoint = store.load_checkpoint("r@1")
    parts = {name: array.data for name, array in checkpoint.arrays.items()}
    return content(store, "r@1"), checkpoint.state, parts, store.history("r")


def test_a_checkpoint_that_gc_took_for_dead_leaves_the_history_as_it_was(stages: Iterator[Stage]) -> None:
    outcomes = Counter()
    earlier = [HistoryEntry(7, "train", {"by": "an earlier run"})]
    for stage in stages:
        stage.other.add_history("r", earlier)
        with stage.meanwhile(lambda stage=stage: sweep_some(stage.other, None)):
            saved = attempt(lambda: save_round(stage.store, MODEL, "ours"), SaveSweptError)  # noqa: B023
        outcomes[type(saved)] += 1
        if isinstance(saved, SaveSweptError):
            assert (list(stage.other), stage.other.history("r")) == ([], earlier)
            save_round(stage.store, MODEL, "ours")
        assert told(stage.other) == (npys(MODEL), "ours", npys(SHORT), [(1, "train", {"by": "ours"})])
    assert outcomes[SaveSweptError] > 5


def test_a_checkpoint_of_a_round_that_another_writer_saves_meanwhile_stays_that_writers(
    stages: Iterator[Stage],
) -> None:
    for stage in stages:
        with stage.meanwhile(lambda stage=stage: save_round(stage.other, OTHER, "theirs")):
            saved = attempt(lambda: save_round(stage.store, MODEL, "ours"), RecordExistsError)  # noqa: B023
        assert isinstance(saved, RecordExistsError) == stage.reached
        model, by = (OTHER, "theirs") if stage.reached else (MODEL, "ours")
        assert told(stage.store) == (npys(model), by, npys(SHORT), [(1, "train", {"by": by})])
        assert len(stage.store) == 1


def test_a_state_deleted_under_a_reader_is_read_exactly_or_not_found(stages: Iterator[Stage]) -> None:
    outcomes = Counter()
    for stage in stages:
        stage.other.save_checkpoint(SHORT, Checkpoint("old", MODEL), run="r", round=1)

        def replace(stage: Stage = stage) -> None:
            remove(stage.other, "r@1")
            stage.other.save_checkpoint(SHORT, Checkpoint("new", OTHER), run="r", round=1)

        with stage.meanwhile(replace):
            found = attempt(lambda: stage.store.load_checkpoint("r@1"), RecordNotFoundError)  # noqa: B023
        if not isinstance(found, RecordNotFoundError):
            arrays = {name: array.data for name, array in found.arrays.items()}
            assert arrays == npys({"old": MODEL, "new": OTHER}[found.state])
            outcomes[found.state] += 1
    assert stage.gap > 10
    assert outcomes == {"new": 1, "old": 1}


# Equal bytes and damaged bytes


def test_of_two_writers_of_equal_bytes_the_slower_one_takes_those_of_the_faster_one(
    stages: Iterator[Stage], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recordstore.rounds.SHARE_STEPS", 0)  # what was given up stays to be counted
    given_up = 0
    for stage in stages:
        ids = []
        with stage.meanwhile(lambda stage=stage, ids=ids: ids.append(stage.other.save(MODEL))):
            ids.append(stage.store.save(MODEL))
        given_up += rows(stage.path, "SELECT count(*) FROM blob WHERE state = 'dead'")[0][0]
        stage.other.gc()
        assert [content(stage.other, id_) for id_ in ids] == [npys(MODEL)] * len(ids)
        assert rows(stage.path, "SELECT count(*), count(DISTINCT digest) FROM blob") == [(4, 4)]
        pointers = [rows(stage.path, "SELECT blob_id FROM array WHERE record_id = ? ORDER BY position", i) for i in ids]
        assert pointers[0] == pointers[-1]
    assert given_up > 3


def damage(path: Path, record_id: int, name: str) -> None:
    """Flip a bit in the last chunk of an array, behind the back of the library."""
    ((chunk, stored),) = rows(
        path,
        "SELECT chunk.id, data FROM chunk JOIN array USING (blob_id) WHERE record_id = ? AND name = ? "
        "ORDER BY seq DESC LIMIT 1",
        record_id,
        name,
    )
    rows(path, "UPDATE chunk SET data = ? WHERE id = ?", bytes([stored[0] ^ 1]) + stored[1:], chunk)


@pytest.mark.parametrize("name", ["large", "small"])
def test_damaged_bytes_are_noticed_and_never_shared_by_a_later_save(path: Path, name: str) -> None:
    with RecordStore(path) as store:
        first = store.save(MODEL)
        damage(path, first, name)
        with pytest.raises(CorruptRecordError, match=f"record {first}, array '{name}': chunk"):
            store.load(first)
        assert rows(path, "SELECT count(*) FROM blob WHERE state = 'damaged'") == [(1,)]
        before = rows(path, "SELECT count(*) FROM blob")
        second = store.save(MODEL)
        assert rows(path, "SELECT count(*) FROM blob") == [(before[0][0] + 1,)]
        assert content(store, second) == npys(MODEL)
        assert content(store, store.save(MODEL)) == npys(MODEL)
        with pytest.raises(CorruptRecordError):
            store.load(first)
        store.delete(first)
        store.gc(grace=0)
    assert rows(path, "SELECT DISTINCT state FROM blob") == [("ready",)]
    assert flaws(path) == {}


def test_a_save_that_shares_bytes_found_damaged_meanwhile_fails_or_loads(stages: Iterator[Stage]) -> None:
    outcomes = Counter()
    for stage in stages:
        stage.other.save({"large": MODEL["large"]})

        def find_damage(stage: Stage = stage) -> None:
            damage(stage.path, 1, "large")
            assert isinstance(attempt(lambda: stage.other.load(1), CorruptRecordError), CorruptRecordError)

        model = dict(MODEL)
        with stage.meanwhile(find_damage):
            saved = attempt(lambda: stage.store.save(model, keep_input=False), CorruptRecordError)  # noqa: B023
        outcomes[type(saved)] += 1
        if isinstance(saved, CorruptRecordError):
            assert "save it again" in str(saved)
            assert model == MODEL
            saved = stage.store.save(model)
        assert content(stage.store, saved) == npys(MODEL)
    assert outcomes[int] > 1
    assert outcomes[CorruptRecordError] > 1


# A publication that fails


@pytest.mark.parametrize("lock", ["a reader", "a writer"])
def test_a_save_that_meets_a_lock_in_any_gap_keeps_its_input_and_the_store_works_on(
    stages: Iterator[Stage], lock: str
) -> None:
    for stage in stages:
        stage.other.save(OTHER, run="r", round=1, tags=["best"])
        model = dict(MODEL)
        with closing(sqlite3.connect(stage.path, isolation_level=None)) as raw:

            def hold(raw: sqlite3.Connection = raw) -> None:
                raw.execute("BEGIN" if lock == "a reader" else "BEGIN IMMEDIATE")
                raw.execute("SELECT * FROM record").fetchall()

            with stage.meanwhile(hold):
                saved = attempt(
                    lambda: stage.store.save(model, run="r", round=1, overwrite=True, keep_input=False),  # noqa: B023
                    StoreBusyError,
                )
        assert isinstance(saved, StoreBusyError) == stage.reached
        assert model == (MODEL if stage.reached else {})
        assert content(stage.other, "r@best") == npys(OTHER if stage.reached else MODEL)
        stage.store.save(MODEL, run="r", round=1, overwrite=True)
        assert content(stage.other, "r@best") == npys(MODEL)


@pytest.mark.parametrize(
    ("model", "publication"),
    [(MODEL, "publish"), ({"b": noise(4, 9)}, "add")],
    ids=["many transactions", "one transaction"],
)
def test_a_publication_that_raises_leaves_nothing_visible_and_the_input_whole(
    store: RecordStore, monkeypatch: pytest.MonkeyPatch, model: Arrays, publication: str
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise MemoryError

    before = store.save(OTHER, run="r", round=1, tags=["best"])
    given = dict(model)
    with monkeypatch.context() as patch:
        patch.setattr(f"recordstore.drafts.DraftRepository.{publication}", fail)
        with pytest.raises(MemoryError):
            store.save(given, run="r", round=1, overwrite=True, keep_input=False)
    assert given == model
    assert list(store) == [before]
    assert content(store, "r@best") == npys(OTHER)
    store.gc(grace=0)
    assert content(store, store.save(given)) == npys(model)
