"""Checkpoints and the history of a run: what is kept beside a record, and that the record does not change by it."""

import hashlib
import math
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from sqlalchemy import event
from support import Child, flaws, hear, kill_before_statement, make_small, npy, rows, say

from recordstore import (
    Array,
    ArrayNotFoundError,
    ArrayRecord,
    Checkpoint,
    CorruptRecordError,
    HistoryEntry,
    InvalidTypeError,
    InvalidValueError,
    ReadOnlyStoreError,
    RecordExistsError,
    RecordNotFoundError,
    RecordStore,
)
from recordstore.digest import checkpoint_digest

Query = Callable[..., list[tuple[Any, ...]]]

MODEL = {"w": np.arange(6.0), "b": np.ones(2)}
STATE = {"step": 7, "big": 2**70, "text": "\0 \N{GREEK SMALL LETTER BETA}", "list": [1.5, None, True, {}], "": -0.0}
MOMENTS = {"w": np.full(6, 0.5), "v": np.arange(4)}
"""Arrays of a state, one under a name that the model has too."""


def save(store: RecordStore, round_: int = 1, **options: Any) -> int:
    """Save a checkpoint of the run ``r``."""
    state, arrays = options.pop("state", STATE), options.pop("arrays", MOMENTS)
    model = options.pop("model", MODEL)
    return store.save_checkpoint(model, Checkpoint(state, arrays), run="r", round=round_, **options)


def data(arrays: ArrayRecord) -> list[tuple[str, bytes]]:
    return [(name, array.data) for name, array in arrays.items()]


def npys(arrays: dict[str, np.ndarray]) -> list[tuple[str, bytes]]:
    return [(name, npy(array)) for name, array in arrays.items()]


# The state


def test_a_state_comes_back_with_its_arrays_in_their_order(store: RecordStore) -> None:
    record_id = save(store, metrics={"loss": 0.5})
    for ref in (record_id, "r@1", "latest", store.info("r@1")):
        checkpoint = store.load_checkpoint(ref)
        assert repr(checkpoint.state) == repr(STATE)
        assert data(checkpoint.arrays) == npys(MOMENTS)
        assert isinstance(checkpoint.arrays, ArrayRecord)
    assert store.info("r@1").metrics == {"loss": 0.5}


def test_arrays_of_a_state_may_be_of_any_kind_that_save_takes(memory: RecordStore, torch: ModuleType) -> None:
    arrays = {
        "tensor": torch.ones(2),
        "bfloat16": torch.ones(2, dtype=torch.bfloat16),
        "array": Array("t", [1, -1], "raw", b"\x00\xff"),
        "no bytes": Array("t", [], "", b""),
        "": np.array(7),
    }
    save(memory, arrays=arrays)
    expected = memory.load(memory.save(arrays))
    assert memory.load_checkpoint("r@1").arrays == expected
    save(memory, 2, arrays=expected)
    assert memory.load_checkpoint("r@2").arrays == expected


@pytest.mark.parametrize("state", [None, False, 0, "", [], {}, 0.1, "\ud800", [[[]]]], ids=repr)
def test_a_state_may_be_any_json_value_and_have_no_arrays(memory: RecordStore, state: Any) -> None:
    save(memory, state=state, arrays={})
    checkpoint = memory.load_checkpoint("r@1")
    assert (type(checkpoint.state), checkpoint.state) == (type(state), state)
    assert checkpoint.arrays == ArrayRecord()


def test_a_record_saved_without_a_state_has_none(store: RecordStore) -> None:
    record_id = store.save(MODEL, run="r", round=1)
    assert store.load_checkpoint(record_id) is None
    for missing in (record_id + 1, "r@2", "other@latest"):
        with pytest.raises(RecordNotFoundError):
            store.load_checkpoint(missing)


def test_an_input_is_left_as_it_is(memory: RecordStore) -> None:
    model, moments = dict(MODEL), dict(MOMENTS)
    save(memory, model=model, arrays=moments)
    assert (list(model), list(moments)) == (list(MODEL), list(MOMENTS))


# The record


def test_a_record_with_a_state_looks_like_one_without(store: RecordStore) -> None:
    plain, with_state = store.save(MODEL), save(store)
    expected, info = store.info(plain), store.info(with_state)
    assert (info.names, info.nbytes, info.digest) == (expected.names, expected.nbytes, expected.digest)
    assert store.load(with_state) == store.load(plain)
    assert dict(store.stream(with_state)) == dict(store.load(plain))
    assert store.load(with_state, names=["w"])["w"].data == npy(MODEL["w"])
    with pytest.raises(ArrayNotFoundError):
        store.load(with_state, names=["v"])
    assert [seen.names for seen in store.records()] == [expected.names] * 2
    assert len(store) == 2
    assert store.runs() == [("r", 1, 1)]


def test_a_record_without_arrays_may_have_a_state(store: RecordStore) -> None:
    save(store, model=[])
    assert store.load("r@1") == ArrayRecord()
    assert store.info("r@1").digest == store.info(store.save([])).digest
    assert data(store.load_checkpoint("r@1").arrays) == npys(MOMENTS)


def test_the_arrays_of_a_state_lie_behind_those_of_the_record(file_store: RecordStore, query: Query) -> None:
    save(file_store)
    file_store.save(MODEL)
    assert query("SELECT record_id, position, part, name FROM array ORDER BY 1, 2") == [
        (1, 0, "", "w"),
        (1, 1, "", "b"),
        (1, 2, "state", "w"),
        (1, 3, "state", "v"),
        (2, 0, "", "w"),
        (2, 1, "", "b"),
    ]
    nbytes = sum(len(array) for _, array in npys(MODEL))
    assert query("SELECT array_count, nbytes, checkpoint IS NULL, length(checkpoint_digest) FROM record") == [
        (2, nbytes, 0, 32),
        (2, nbytes, 1, None),
    ]
    ((text,),) = query("SELECT checkpoint FROM record WHERE id = 1")
    assert text == (
        '{"step":7,"big":1180591620717411303424,"text":"\\u0000 \\u03b2","list":[1.5,null,true,{}],"":-0.0}'
    )
    assert query("SELECT count(DISTINCT digest) FROM record") == [(1,)]


def test_equal_bytes_of_a_model_and_of_a_state_are_stored_once(file_store: RecordStore, query: Query) -> None:
    save(file_store, arrays={"best": MODEL["w"], "copy": MODEL["w"].copy(), "own": np.arange(3)})
    save(file_store, 2, model=file_store.load("r@1"), arrays=file_store.load_checkpoint("r@1").arrays)
    assert query("SELECT count(*), count(DISTINCT blob_id) FROM array") == [(10, 3)]
    assert query("SELECT count(*) FROM chunk") == [(3,)]
    assert query("SELECT count(DISTINCT checkpoint_digest) FROM record") == [(1,)], "of equal contents"


def test_a_record_of_a_round_that_is_taken_is_refused_with_its_history(store: RecordStore) -> None:
    save(store, history=[HistoryEntry(1, "train", {"loss": 1})])
    with pytest.raises(RecordExistsError):
        save(store, model={"other": np.ones(1)}, history=[HistoryEntry(1, "train", {"loss": 2})], forget_after=-1)
    assert store.history("r") == [(1, "train", {"loss": 1})]
    assert store.load("r@1") == store.load(store.save(MODEL))


# Several transactions

SMALL: dict[str, Any] = {"CHUNK_SIZE": 1000, "BATCH_BYTES": 4000, "RING_CHUNKS": 4, "PAUSE_SECONDS": 0.0}
LARGE_MODEL = {"w": np.arange(1200.0), "small": np.ones(3), "tied": np.arange(1200.0)}
LARGE_MOMENTS = {"w": np.arange(1200.0)[::-1], "small": np.ones(3), "v": np.zeros(900), "frozen": np.arange(1200.0)}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a checkpoint of some kilobytes take many transactions."""
    for name, value in SMALL.items():
        monkeypatch.setattr(f"recordstore.constants.{name}", value)


def save_large(store: RecordStore, **options: Any) -> int:
    """Save a checkpoint of a run that has had another life, in many batches."""
    history = [HistoryEntry(1, "train", {"loss": 2}), HistoryEntry(2, "train", {"loss": 1})]
    return save(store, 2, model=LARGE_MODEL, arrays=LARGE_MOMENTS, history=history, forget_after=-1, **options)


EARLIER = [HistoryEntry(1, "privacy", {"epsilon": 3}), HistoryEntry(9, "train", {"loss": 9})]
LATER = [(1, "privacy", {"epsilon": 3}), (1, "train", {"loss": 2}), (2, "train", {"loss": 1})]


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("again", [False, True], ids=["new bytes", "stored bytes"])
def test_a_checkpoint_of_many_batches_is_like_one_of_a_single_batch(file_store: RecordStore, again: bool) -> None:
    plain = file_store.save(LARGE_MODEL)
    if not again:
        file_store.delete(plain)
        file_store.gc(grace=0)
    save_large(file_store)
    info = file_store.info("r@2")
    expected = file_store.info(file_store.save(LARGE_MODEL))
    assert (info.names, info.nbytes, info.digest) == (expected.names, expected.nbytes, expected.digest)
    assert data(file_store.load("r@2")) == npys(LARGE_MODEL)
    checkpoint = file_store.load_checkpoint("r@2")
    assert data(checkpoint.arrays) == npys(LARGE_MOMENTS)
    assert checkpoint.state == STATE


@pytest.mark.usefixtures("small")
def test_a_checkpoint_of_many_batches_becomes_visible_with_its_history(path: Path, file_store: RecordStore) -> None:
    file_store.add_history("r", EARLIER)
    seen: list[tuple[Any, ...]] = []
    visible = "SELECT (SELECT count(*) FROM record WHERE state = 'ready'), (SELECT count(*) FROM history)"
    event.listen(file_store._database._writers, "commit", lambda _: seen.extend(rows(path, visible)))
    save_large(file_store)
    assert seen.count((0, 2)) >= 8, "before each of the commits"
    assert set(seen) <= {(0, 2), (1, 3)}
    assert rows(path, visible) == [(1, 3)]
    assert file_store.history("r") == LATER


@pytest.mark.usefixtures("small")
def test_a_checkpoint_that_fails_half_way_leaves_no_trace(file_store: RecordStore, path: Path) -> None:
    file_store.add_history("r", EARLIER)

    def arrays() -> Iterator[tuple[str, np.ndarray]]:
        yield from LARGE_MOMENTS.items()
        assert rows(path, "SELECT count(*) > 3 FROM chunk") == [(1,)]
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        save(file_store, 2, model=LARGE_MODEL, arrays=arrays(), forget_after=-1)
    assert list(file_store) == []
    assert file_store.history("r") == EARLIER
    file_store.gc(grace=0)
    assert rows(path, "SELECT (SELECT count(*) FROM array), (SELECT count(*) FROM chunk)") == [(0, 0)]
    save_large(file_store)
    assert flaws(path) == {}


def fork_suicides(path: str) -> None:
    """Fork a process for each number that comes, which saves a checkpoint and kills itself before that statement."""
    make_small(**SMALL)
    while (number := hear()) is not None:
        worker = os.fork()
        if not worker:
            with RecordStore(f"{path}.{number}") as store:
                kill_before_statement(number)
                say({"saved": save_large(store)})
                store.load_checkpoint("r@2")
            os._exit(0)
        say({"status": os.waitpid(worker, 0)[1]})


def check_all_or_nothing(path: Path) -> str:
    """Check what a killed process has left, and return which of the two it is."""
    with RecordStore(path) as store:
        if 2 not in store:
            assert list(store) == [1]
            assert store.history("r") == EARLIER
            return "nothing"
        assert store.history("r") == LATER
        assert data(store.load("r@2")) == npys(LARGE_MODEL)
        assert data(store.load_checkpoint("r@2").arrays) == npys(LARGE_MOMENTS)
        return "all"


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the processes are forked")
@pytest.mark.usefixtures("small")
def test_a_kill_before_any_statement_shows_the_checkpoint_and_its_history_or_neither(memory_folder: Path) -> None:
    path = memory_folder / "store.db"
    with RecordStore(path) as store:
        store.save({"frozen": LARGE_MOMENTS["frozen"]})
        store.add_history("r", EARLIER)
    outcomes: Counter[str] = Counter()
    with Child(fork_suicides, path) as process:
        for number in count():
            copy = Path(f"{path}.{number}")
            shutil.copy(path, copy)
            process.say(number)
            said = []
            while "status" not in (message := process.hear()):
                said.append(message)
            outcome = check_all_or_nothing(copy)
            assert outcome == "all" or not said, "what was acknowledged is there"
            with RecordStore(copy) as store:
                store.gc(grace=0)
            assert flaws(copy) == {}
            copy.unlink()
            if not os.WIFSIGNALED(message["status"]):
                break
            outcomes[outcome] += 1
    print(f"\nkilled before each of {number} statements; visible: {dict(outcomes)}")
    assert outcome == "all"
    assert outcomes["nothing"] > 30
    assert outcomes["all"] >= 1


# Removal


def test_a_deleted_checkpoint_leaves_nothing_but_its_history(path: Path, file_store: RecordStore) -> None:
    entry = HistoryEntry(1, "train", {"loss": 0.5})
    save(file_store, history=[entry])
    file_store.delete("r@1")
    file_store.gc(grace=0)
    for table in ("record", "array", "blob", "chunk"):
        assert rows(path, f"SELECT * FROM {table}") == []
    assert file_store.history("r") == [entry]
    assert file_store.runs() == []


@pytest.mark.usefixtures("small")
def test_deleting_checkpoints_that_share_bytes_keeps_the_others_whole(path: Path, file_store: RecordStore) -> None:
    save_large(file_store)
    save(file_store, 3, model=LARGE_MODEL, arrays={"frozen": LARGE_MOMENTS["frozen"], "own": np.arange(2000)})
    file_store.save(LARGE_MOMENTS, run="other")
    file_store.delete("r@2")
    file_store.gc(grace=0)
    assert flaws(path) == {}
    assert data(file_store.load("other@latest")) == npys(LARGE_MOMENTS)
    assert data(file_store.load_checkpoint("r@3").arrays)[1] == ("own", npy(np.arange(2000)))
    for ref in ("r@3", "other@latest"):
        file_store.delete(ref)
    file_store.gc(grace=0)
    assert flaws(path) == {}
    assert rows(path, "SELECT count(*) FROM chunk") == [(0,)]


def test_a_plain_record_that_replaces_a_checkpoint_has_none(path: Path, file_store: RecordStore) -> None:
    save(file_store)
    file_store.save(MODEL, run="r", round=1, overwrite=True)
    assert file_store.load_checkpoint("r@1") is None
    file_store.gc(grace=0)
    assert flaws(path) == {}
    assert rows(path, "SELECT DISTINCT part FROM array") == [("",)]


def test_a_copy_of_a_record_takes_the_record_only(memory: RecordStore) -> None:
    save(memory)
    copied = memory.save(memory.stream("r@1"))
    assert memory.info(copied).digest == memory.info("r@1").digest
    assert memory.load_checkpoint(copied) is None


# History


def test_the_history_comes_back_by_round_and_source(store: RecordStore) -> None:
    entries = [
        HistoryEntry(10, "train", {"loss": 0.5}),
        HistoryEntry(2, "train", {"loss": 0.7}),
        HistoryEntry(2, "evaluate", {"accuracy": 0.1}),
        HistoryEntry(0, "server", {}),
        HistoryEntry(2**63 - 1, "", {"last": None}),
    ]
    store.add_history("r", entries)
    store.add_history("other", entries[:1])
    found = store.history("r")
    assert found == sorted(entries, key=lambda entry: (entry.round, entry.source))
    assert all(isinstance(entry, HistoryEntry) for entry in found)
    assert store.history("r", source="train") == [entries[1], entries[0]]
    assert store.history("other") == entries[:1]
    assert store.history("r", source="none") == store.history("R") == []
    assert list(store) == []


def test_values_come_back_with_their_types(store: RecordStore) -> None:
    values = {
        "loss": math.nan,
        "counts": [3, 2**200, -1],
        "none": [],
        "one": 1.0,
        "zero": -0.0,
        "bytes": b"\x00",
        "keys": {1: (2, {3})},
        "$int": "0x1",
        "numpy": np.float32(0.1),
    }
    store.add_history("r", [HistoryEntry(1, "train", values)])
    (entry,) = store.history("r")
    assert repr(entry.values) == repr(values)
    assert type(entry.values["numpy"]) is np.float32


def test_the_rows_of_the_history_are_those_of_the_specification(file_store: RecordStore, query: Query) -> None:
    save(file_store, history=[HistoryEntry(1, "train", {"loss": math.inf, "n": 2**53, "\u03b2": [0.5, True, None]})])
    assert query("SELECT * FROM history") == [
        ("r", 1, "train", '{"loss":{"$float":"inf"},"n":{"$int":"0x20000000000000"},"\\u03b2":[0.5,true,null]}')
    ]


def test_an_entry_of_the_same_round_and_source_is_replaced(store: RecordStore) -> None:
    store.add_history("r", [HistoryEntry(1, "train", {"loss": 1}), HistoryEntry(1, "evaluate", {"loss": 2})])
    store.add_history("r", [HistoryEntry(1, "train", {"other": 3}), HistoryEntry(2, "train", {"loss": 4})])
    assert store.history("r") == [(1, "evaluate", {"loss": 2}), (1, "train", {"other": 3}), (2, "train", {"loss": 4})]
    twice = [HistoryEntry(1, "train", {"loss": 5}), HistoryEntry(1, "train", {"loss": 6})]
    save(store, history=twice)
    assert store.history("r", source="train") == [(1, "train", {"loss": 6}), (2, "train", {"loss": 4})]


def test_history_of_rounds_without_a_record_is_saved_with_a_later_one(store: RecordStore) -> None:
    save(store, 4, history=(HistoryEntry(number, "train", {"round": number}) for number in range(1, 5)))
    assert [entry.values for entry in store.history("r")] == [{"round": number} for number in range(1, 5)]


def test_a_new_run_forgets_the_history_of_an_earlier_one_but_not_its_privacy_budget(store: RecordStore) -> None:
    for run in ("r", "other"):
        entries = [HistoryEntry(3, "train", {"loss": 1}), HistoryEntry(3, "privacy", {"epsilon": 2})]
        store.add_history(run, [*entries, HistoryEntry(0, "privacy2", {})])
    save(store, 0, history=[HistoryEntry(0, "server", {"loss": 9})])
    assert len(store.history("r")) == 4, "only if it is said to be new"
    store.delete("r@0")
    save(store, 0, history=[HistoryEntry(0, "server", {"loss": 8})], forget_after=-1)
    assert store.history("r") == [(0, "server", {"loss": 8}), (3, "privacy", {"epsilon": 2})]
    assert len(store.history("other")) == 3


def test_a_long_history_is_written_and_read(memory: RecordStore) -> None:
    entries = [HistoryEntry(number, source, {"x": number}) for number in range(1000) for source in ("a", "b")]
    for _ in range(2):
        memory.add_history("r", entries)
    assert memory.history("r") == entries


def test_a_read_only_store_shows_states_and_history_and_takes_none(path: Path) -> None:
    with RecordStore(path) as store:
        save(store, history=[HistoryEntry(1, "train", {})])
    before = hashlib.sha256(path.read_bytes()).hexdigest()
    with RecordStore(path, read_only=True) as store:
        assert store.load_checkpoint("r@1").state == STATE
        assert len(store.history("r")) == 1
        with pytest.raises(ReadOnlyStoreError):
            save(store, 2)
        with pytest.raises(ReadOnlyStoreError):
            store.add_history("r", [HistoryEntry(1, "train", {})])
    assert hashlib.sha256(path.read_bytes()).hexdigest() == before


# Damage


@pytest.fixture
def full(file_store: RecordStore) -> RecordStore:
    """Two checkpoints, with equal names and other bytes, and one more without arrays."""
    save(file_store)
    other = {name: array + 1 for name, array in MOMENTS.items()}
    save(file_store, 2, model={name: array + 1 for name, array in MODEL.items()}, state={"step": 8}, arrays=other)
    save(file_store, 3, arrays={})
    return file_store


PART = "record_id = 1 AND part = 'state'"
FROM_SECOND = "(SELECT {0} FROM record WHERE id = 2)"
CHECKPOINTS = {
    "another state": "UPDATE record SET checkpoint = replace(checkpoint, ':7', ':8') WHERE id = 1",
    "the same state with a space": "UPDATE record SET checkpoint = replace(checkpoint, ':7', ': 7') WHERE id = 1",
    "the state of another record": f"UPDATE record SET checkpoint = {FROM_SECOND.format('checkpoint')} WHERE id = 1",
    "a state that is no JSON": "UPDATE record SET checkpoint = '{' WHERE id = 1",
    "no state": "UPDATE record SET checkpoint = NULL WHERE id = 1",
    "bytes as a state": "UPDATE record SET checkpoint = CAST(checkpoint AS BLOB) WHERE id = 1",
    "a state that is no text": "UPDATE record SET checkpoint = CAST(x'ff' AS TEXT) WHERE id = 1",
    "a state that is cut off": "UPDATE record SET checkpoint = substr(checkpoint, 1, 20) WHERE id = 1",
    "another digest": "UPDATE record SET checkpoint_digest = zeroblob(32) WHERE id = 1",
    "the digest of another record": f"UPDATE record SET checkpoint_digest = {FROM_SECOND.format('checkpoint_digest')} WHERE id = 1",
    "the digest of the model": "UPDATE record SET checkpoint_digest = digest WHERE id = 1",
    "no digest": "UPDATE record SET checkpoint_digest = NULL WHERE id = 1",
    "a text as a digest": "UPDATE record SET checkpoint_digest = 'digest' WHERE id = 1",
    "neither state nor digest": "UPDATE record SET checkpoint = NULL, checkpoint_digest = NULL WHERE id = 1",
    "another part": f"UPDATE array SET part = 'stats' WHERE {PART} AND name = 'v'",
    "another part for all": f"UPDATE array SET part = 'stats' WHERE {PART}",
    "bytes as a part": f"UPDATE array SET part = CAST(part AS BLOB) WHERE {PART} AND name = 'v'",
    "an array that became one of the record": f"UPDATE array SET part = '' WHERE {PART} AND name = 'v'",
    "an array of the record among them": "UPDATE array SET part = 'state' WHERE record_id = 1 AND name = 'b'",
    "an array of the record with bytes as a part": "UPDATE array SET part = x'' WHERE record_id = 1 AND name = 'b'",
    "another name": f"UPDATE array SET name = 'u' WHERE {PART} AND name = 'v'",
    "another dtype": f"UPDATE array SET dtype = 'int32' WHERE {PART} AND name = 'v'",
    "another shape": f"UPDATE array SET shape = '[2,2]' WHERE {PART} AND name = 'v'",
    "another stype": f"UPDATE array SET stype = 'raw' WHERE {PART} AND name = 'v'",
    "two arrays swapped": f"UPDATE array SET blob_id = (SELECT sum(blob_id) FROM array WHERE {PART}) - blob_id WHERE {PART}",
    "two arrays in the other order": f"UPDATE array SET position = 10 - position WHERE {PART}",
    "an array that moved": f"UPDATE array SET position = 9 WHERE {PART} AND name = 'v'",
    "the array of another record": f"UPDATE array SET blob_id = (SELECT blob_id FROM array WHERE record_id = 2 AND part = 'state' AND name = 'v') WHERE {PART} AND name = 'v'",
    "the array of the model": f"UPDATE array SET blob_id = (SELECT blob_id FROM array WHERE record_id = 1 AND part = '' AND name = 'w') WHERE {PART} AND name = 'w'",
    "a missing array": f"DELETE FROM array WHERE {PART} AND name = 'v'",
    "no array at all": f"DELETE FROM array WHERE {PART}",
    "an array too many": "INSERT INTO array (record_id, position, name, dtype, shape, stype, nbytes, blob_id, part) "
    f"SELECT record_id, 4, 'more', dtype, shape, stype, nbytes, blob_id, part FROM array WHERE {PART} AND name = 'v'",
    "other bytes": f"UPDATE chunk SET data = CAST(x'00' || substr(data, 2) AS BLOB) WHERE blob_id = (SELECT blob_id FROM array WHERE {PART} AND name = 'v')",
    "missing bytes": f"DELETE FROM chunk WHERE blob_id = (SELECT blob_id FROM array WHERE {PART} AND name = 'v')",
}


@pytest.mark.parametrize("what", CHECKPOINTS)
def test_a_damaged_state_is_never_taken_for_the_saved_one(full: RecordStore, query: Query, what: str) -> None:
    query(CHECKPOINTS[what])
    for _ in range(2):
        with pytest.raises(CorruptRecordError):
            full.load_checkpoint(1)
    assert full.load_checkpoint(2).state == {"step": 8}
    assert full.load_checkpoint(3).arrays == ArrayRecord()
    try:
        assert data(full.load(1)) == npys(MODEL)
    except CorruptRecordError:
        assert "of the record" in what


@pytest.mark.parametrize("what", CHECKPOINTS)
def test_a_record_with_a_damaged_state_can_be_removed(full: RecordStore, path: Path, query: Query, what: str) -> None:
    query(CHECKPOINTS[what])
    for record_id in list(full):
        full.delete(record_id)
    full.gc(grace=0)
    assert flaws(path) == {}
    assert query("SELECT count(*) FROM array") == query("SELECT count(*) FROM blob") == [(0,)]


def test_the_state_of_another_round_is_never_taken_for_that_of_this_one(file_store: RecordStore, query: Query) -> None:
    for number in (1, 2):
        moments = {"m": np.full(3, number)}
        file_store.save_checkpoint([np.full(2, number)], Checkpoint({"step": number}, moments), run="r", round=number)
    for column in ("checkpoint", "checkpoint_digest"):
        query(f"UPDATE record SET {column} = (SELECT {column} FROM record WHERE round = 2)")
    query("UPDATE array SET blob_id = (SELECT max(blob_id) FROM array WHERE part != '') WHERE part != ''")
    assert file_store.load_checkpoint("r@2").state == {"step": 2}
    with pytest.raises(CorruptRecordError):
        file_store.load_checkpoint("r@1")
    assert file_store.load("r@1")["0"].numpy().tolist() == [1, 1]


def test_a_crafted_state_that_is_no_json_is_damage(file_store: RecordStore, query: Query) -> None:
    file_store.save_checkpoint([np.ones(2)], Checkpoint({}, {}), run="r", round=1)
    digest = checkpoint_digest(bytes.fromhex(file_store.info("r@1").digest), "{", b"")
    query("UPDATE record SET checkpoint = '{', checkpoint_digest = ?", digest)
    with pytest.raises(CorruptRecordError, match="the checkpoint of record 1 is no JSON"):
        file_store.load_checkpoint("r@1")


def test_damage_is_told_with_the_record_and_the_array(full: RecordStore, query: Query) -> None:
    query(CHECKPOINTS["another state"].replace("id = 1", "id = 2").replace("':7', ':8'", "':8', ':7'"))
    with pytest.raises(CorruptRecordError, match="the checkpoint of record 2 is not the one that was saved"):
        full.load_checkpoint(2)
    query(CHECKPOINTS["other bytes"])
    with pytest.raises(CorruptRecordError, match="record 1, array 'v': chunk 0 does not hold the bytes"):
        full.load_checkpoint(1)
    assert query("SELECT count(*) FROM blob WHERE state = 'damaged'") == [(1,)]
    save(full, 4)
    assert data(full.load_checkpoint("r@4").arrays) == npys(MOMENTS), "the damaged bytes were not shared"


HISTORIES = {
    "no JSON": "'{'",
    "nothing": "''",
    "a list": "'[1]'",
    "a number": "'7'",
    "null": "'null'",
    "a number in place of a text": "7",
    "bytes": "x'ff'",
    "a text that is no UTF-8": "CAST(x'7bff7d' AS TEXT)",
    "too deep": f"'{'[' * 100_000}'",
    "another kind of collection": """'{"$tuple":[]}'""",
    "an unknown tag": """'{"a":{"$pickle":"gASVAA=="}}'""",
    "a tag without a name": """'{"a":{"$":1}}'""",
    "no hexadecimal number": """'{"a":{"$int":"7g"}}'""",
    "a number as an int": """'{"a":{"$int":7}}'""",
    "a float that is too short": """'{"a":{"$float":"7ff8"}}'""",
    "a float that is none": """'{"a":{"$float":"NaN"}}'""",
    "no base64": """'{"a":{"$bytes":"?"}}'""",
    "a list in a set": """'{"a":{"$set":[[]]}}'""",
    "a dict of single items": """'{"a":{"$dict":[[1]]}}'""",
    "a dtype of objects": """'{"a":{"$scalar":["O","0000000000000000"]}}'""",
    "a dtype of fields": """'{"a":{"$scalar":["f4,f4","0000000000000000"]}}'""",
    "a dtype that is none": """'{"a":{"$scalar":["<f9","00"]}}'""",
    "a dtype that is no expression": """'{"a":{"$scalar":[",","00"]}}'""",
    "a scalar with a code point that is none": """'{"a":{"$scalar":["<U1","7810a104"]}}'""",
    "a scalar with too few bytes": """'{"a":{"$scalar":["<f4","0000"]}}'""",
    "a scalar with too many bytes": """'{"a":{"$scalar":["<f4","0000803f0000803f"]}}'""",
    "a scalar without bytes": """'{"a":{"$scalar":["<f4",""]}}'""",
    "an int of 5000 digits": f"""'{{"a":{"9" * 5000}}}'""",
}


@pytest.mark.parametrize("what", HISTORIES)
def test_a_history_that_cannot_be_understood_is_damage(file_store: RecordStore, query: Query, what: str) -> None:
    file_store.add_history("r", [HistoryEntry(1, "train", {"a": 1}), HistoryEntry(2, "evaluate", {"a": 2})])
    query(f'UPDATE history SET "values" = {HISTORIES[what]} WHERE round = 1')
    with pytest.raises(CorruptRecordError):
        file_store.history("r")
    assert file_store.history("r", source="evaluate") == [(2, "evaluate", {"a": 2})]


@pytest.mark.parametrize("change", ["round = 'x'", "round = 1.5", "source = x'ff'"])
def test_a_key_of_the_history_of_another_type_is_damage(file_store: RecordStore, query: Query, change: str) -> None:
    file_store.add_history("r", [HistoryEntry(1, "train", {"a": 1})])
    query(f"UPDATE history SET {change}")
    with pytest.raises(CorruptRecordError):
        file_store.history("r")


# Bad input


class Anything:
    """Nothing that can be kept."""


CIRCULAR: list[Any] = []
CIRCULAR.append(CIRCULAR)

ENTRIES: dict[str, Any] = {
    "an object": HistoryEntry(1, "train", {"a": Anything()}),
    "an object in a list": HistoryEntry(1, "train", {"a": [1, [Anything()]]}),
    "an object as a key": HistoryEntry(1, "train", {Anything(): 1}),
    "an ndarray": HistoryEntry(1, "train", {"a": np.ones(2)}),
    "a subclass": HistoryEntry(1, "train", {"a": type("Text", (str,), {})("x")}),
    "a circle": HistoryEntry(1, "train", {"a": CIRCULAR}),
    "values that are no mapping": HistoryEntry(1, "train", 7),  # type: ignore[arg-type]
    "NUL in the source": HistoryEntry(1, "tr\0ain", {}),
    "a surrogate in the source": HistoryEntry(1, "\ud800", {}),
    "a long source": HistoryEntry(1, "s" * 1025, {}),
    "no source": HistoryEntry(1, None, {}),  # type: ignore[arg-type]
    "a negative round": HistoryEntry(-1, "train", {}),
    "too high a round": HistoryEntry(2**63, "train", {}),
    "no round": HistoryEntry(None, "train", {}),  # type: ignore[arg-type]
    "a bool as a round": HistoryEntry(True, "train", {}),
    "a float as a round": HistoryEntry(1.0, "train", {}),  # type: ignore[arg-type]
    "a number": 7,
    "two of three": (1, "train"),
}


@pytest.mark.parametrize("what", ENTRIES)
def test_a_bad_entry_is_refused_before_anything_is_written(
    file_store: RecordStore, fingerprint: Callable[[], str], what: str
) -> None:
    file_store.add_history("r", [HistoryEntry(1, "train", {"a": 1})])
    before = fingerprint()
    entries = [HistoryEntry(1, "train", {"a": 2}), ENTRIES[what]]
    for call in (
        lambda: file_store.add_history("r", entries),
        lambda: save(file_store, history=entries, forget_after=-1),
    ):
        with pytest.raises((InvalidTypeError, InvalidValueError)):
            call()
    assert fingerprint() == before


CALLS: dict[str, Callable[[RecordStore], object]] = {
    "history that is none": lambda store: store.add_history("r", None),
    "history of no run": lambda store: store.add_history(None, []),
    "history of '@'": lambda store: store.add_history("a@b", []),
    "history of NUL": lambda store: store.add_history("\0", []),
    "reading no run": lambda store: store.history(None),
    "reading a number": lambda store: store.history(7),
    "reading a source of bytes": lambda store: store.history("r", source=b"train"),
    "no run": lambda store: store.save_checkpoint(MODEL, Checkpoint(1, {}), run=None, round=1),
    "neither run nor round": lambda store: store.save_checkpoint(MODEL, Checkpoint(1, {}), run=None, round=None),
    "no round": lambda store: save(store, None),
    "a negative round": lambda store: save(store, -1),
    "a round that is a text": lambda store: save(store, "1"),
    "no checkpoint": lambda store: store.save_checkpoint(MODEL, {"state": 1}, run="r", round=1),
    "a metric that is a text": lambda store: save(store, metrics={"m": "high"}),
    "history that is a number": lambda store: save(store, history=7),
    "a round to forget after that is a text": lambda store: save(store, forget_after="no"),
    "NaN in the state": lambda store: save(store, state={"a": [math.nan]}),
    "a set in the state": lambda store: save(store, state={"a": {1}}),
    "an object in the state": lambda store: save(store, state=Anything()),
    "a circle in the state": lambda store: save(store, state=CIRCULAR),
    "an int of 5000 digits in the state": lambda store: save(store, state=10**5000),
    "arrays that are none": lambda store: save(store, arrays=None),
    "an array of objects": lambda store: save(store, arrays={"good": np.ones(2), "bad": np.array([None])}),
    "a number among the arrays": lambda store: save(store, arrays={"good": np.ones(2), "bad": 7}),
    "a name with NUL": lambda store: save(store, arrays={"a\0": np.ones(2)}),
    "a name twice": lambda store: save(store, arrays=[("a", np.ones(2)), ("a", np.zeros(2))]),
    "a model of numbers": lambda store: save(store, model={"w": 7}),
}


@pytest.mark.parametrize("what", CALLS)
def test_a_bad_argument_is_refused_before_anything_is_written(
    file_store: RecordStore, fingerprint: Callable[[], str], what: str
) -> None:
    before = fingerprint()
    with pytest.raises((InvalidTypeError, InvalidValueError)):
        CALLS[what](file_store)
    assert fingerprint() == before
    save(file_store)
    assert file_store.load_checkpoint("r@1").state == STATE
