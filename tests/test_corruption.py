"""Files that were tampered with: other bytes than were saved never come back, and nothing is believed without proof."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recordstore import Array, CorruptRecordError, RecordNotFoundError, RecordStore

Query = Callable[..., list[tuple[Any, ...]]]

GOOD = b"good bytes"
LARGE = np.random.default_rng(0).bytes(25_000)


@pytest.fixture(autouse=True, params=["one transaction", "several"])
def small_chunks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recordstore.constants.CHUNK_SIZE", 1000)
    if request.param == "several":
        monkeypatch.setattr("recordstore.spans.SPAN_CHUNKS", 2)


@pytest.fixture
def full(path: Path) -> Iterator[RecordStore]:
    """A store with a small array, a large one of 25 chunks, and a small one again."""
    with RecordStore(path) as store:
        for data in (LARGE, LARGE[::-1]):
            arrays = {"first": GOOD, "large": data, "last": b"last" + data[:5]}
            store.save({name: Array("t", [1], "raw", bytes_) for name, bytes_ in arrays.items()})
        yield store


def blob(name: str, record_id: int = 1) -> str:
    return f"(SELECT blob_id FROM array WHERE record_id = {record_id} AND name = '{name}')"


CHUNKS: dict[str, tuple[str, str, str]] = {
    "a flipped bit of a small array": (
        f"UPDATE chunk SET data = x'676f6f6420627974657a' WHERE blob_id = {blob('first')}",
        "first",
        "chunk 0 does not hold the bytes",
    ),
    "a longer chunk": (
        f"UPDATE chunk SET data = CAST('last' || data AS BLOB) WHERE blob_id = {blob('first')}",
        "first",
        "holds more bytes than were saved",
    ),
    "a flipped bit of a large array": (
        f"UPDATE chunk SET data = (SELECT data FROM chunk WHERE blob_id = {blob('large')} AND seq = 3) WHERE blob_id = {blob('large')} AND seq = 7",
        "large",
        "chunk 7 does not hold the bytes",
    ),
    "a chunk of another blob with its digest": (
        f"UPDATE chunk SET (data, digest) = (SELECT data, digest FROM chunk WHERE blob_id = {blob('large', 2)} AND seq = 7) WHERE blob_id = {blob('large')} AND seq = 7",
        "large",
        "its chunks are not those that were saved",
    ),
    "two chunks in the wrong order": (
        f"UPDATE chunk SET seq = 1000 - seq WHERE blob_id = {blob('large')}",
        "large",
        "",
    ),
    "a missing chunk of a small array": (f"DELETE FROM chunk WHERE blob_id = {blob('last')}", "last", "missing"),
    "a missing chunk of a large array": (
        f"DELETE FROM chunk WHERE blob_id = {blob('large')} AND seq = 24",
        "large",
        "missing",
    ),
    "all chunks missing": (f"DELETE FROM chunk WHERE blob_id = {blob('large')}", "large", "missing"),
    "a chunk too many": (
        f"INSERT INTO chunk (blob_id, seq, nbytes, digest, data) SELECT blob_id, 99, 5, digest, 'extra' FROM chunk WHERE blob_id = {blob('large')} AND seq = 1",
        "large",
        "",
    ),
    "an empty chunk too many": (
        f"INSERT INTO chunk (blob_id, seq, nbytes, digest, data) SELECT blob_id, 99, 0, digest, x'' FROM chunk WHERE blob_id = {blob('large')} AND seq = 1",
        "large",
        "",
    ),
    "a shorter chunk": (
        f"UPDATE chunk SET data = substr(data, 1, 9) WHERE blob_id = {blob('first')}",
        "first",
        "",
    ),
    "bytes moved from one chunk to the next": (
        f"UPDATE chunk SET data = CASE seq WHEN 0 THEN data || x'00' WHEN 1 THEN substr(data, 2) ELSE data END WHERE blob_id = {blob('large')}",
        "large",
        "",
    ),
    "no bytes at all": (f"UPDATE chunk SET data = 17 WHERE blob_id = {blob('first')}", "first", ""),
}


@pytest.mark.parametrize("what", CHUNKS)
def test_damaged_chunks_are_named_and_their_neighbours_still_load(full: RecordStore, query: Query, what: str) -> None:
    statement, damaged, says = CHUNKS[what]
    query(statement)
    for _ in range(2):
        with pytest.raises(CorruptRecordError, match=f"record 1, array '{damaged}': .*{says}") as caught:
            full.load(1)
        assert isinstance(caught.value, ValueError)
    with pytest.raises(CorruptRecordError):
        full.load(1, names=[damaged])
    others = [name for name in full.info(1).names if name != damaged]
    expected = {"first": GOOD, "large": LARGE, "last": b"last" + LARGE[:5]}
    assert {name: array.data for name, array in full.load(1, names=others).items()} == {
        name: expected[name] for name in others
    }
    if damaged != "first":
        assert len(full.load(2)) == 3


@pytest.mark.parametrize("what", CHUNKS)
def test_a_later_save_does_not_trust_damaged_bytes(full: RecordStore, query: Query, what: str) -> None:
    query(CHUNKS[what][0])
    with pytest.raises(CorruptRecordError):
        full.load(1)
    assert query("SELECT count(*), max(id) FROM blob WHERE state = 'damaged'")[0][0] == 1
    again = full.save({"large": Array("t", [1], "raw", LARGE), "first": Array("t", [1], "raw", GOOD)})
    assert [array.data for array in full.load(again).values()] == [LARGE, GOOD]
    with pytest.raises(CorruptRecordError):
        full.load(1)
    full.delete(1)
    full.gc(grace=0)
    assert [array.data for array in full.load(again).values()] == [LARGE, GOOD]


def test_a_read_only_store_reports_damage_and_changes_nothing(
    full: RecordStore, path: Path, query: Query, fingerprint: Callable[[], str]
) -> None:
    full.close()
    query(CHUNKS["a flipped bit of a large array"][0])
    before = fingerprint()
    with RecordStore(path, read_only=True) as store, pytest.raises(CorruptRecordError, match="'large'"):
        store.load(1)
    assert fingerprint() == before


LISTS = {
    "name": "UPDATE array SET name = 'renamed' WHERE record_id = 1 AND position = 0",
    "dtype": "UPDATE array SET dtype = 'int8' WHERE record_id = 1 AND position = 1",
    "shape": "UPDATE array SET shape = '[2]' WHERE record_id = 1 AND position = 1",
    "stype": "UPDATE array SET stype = 'numpy.ndarray' WHERE record_id = 1 AND position = 1",
    "order": "UPDATE array SET position = 10 - position WHERE record_id = 1",
    "another blob": f"UPDATE array SET blob_id = {blob('large', 2)} WHERE record_id = 1 AND position = 1",
    "a missing array": "DELETE FROM array WHERE record_id = 1 AND position = 2",
    "an array too many": "INSERT INTO array (record_id, position, name, dtype, shape, stype, nbytes, blob_id) SELECT record_id, 3, 'more', dtype, shape, stype, nbytes, blob_id FROM array WHERE record_id = 1 AND position = 0",
    "count": "UPDATE record SET array_count = 2 WHERE id = 1",
    "digest of the record": "UPDATE record SET digest = zeroblob(32) WHERE id = 1",
    "digest of a blob": f"UPDATE blob SET digest = zeroblob(32) WHERE id = {blob('first')}",
    "no digest of a blob": f"UPDATE blob SET digest = NULL WHERE id = {blob('first')}",
}


@pytest.mark.parametrize("what", LISTS)
def test_a_list_of_arrays_that_is_not_the_saved_one_is_refused(full: RecordStore, query: Query, what: str) -> None:
    query(LISTS[what])
    for call in (lambda: full.load(1), lambda: full.stream(1), lambda: full.load(1, names=["large"])):
        with pytest.raises(CorruptRecordError, match="record 1"):
            call()


@pytest.mark.parametrize("claim", [2**40, 2**62, 24_999, 0])
def test_a_length_that_is_only_claimed_allocates_nothing(full: RecordStore, query: Query, claim: int) -> None:
    query(f"UPDATE blob SET nbytes = ? WHERE id = {blob('large')}", claim)
    with pytest.raises(CorruptRecordError, match="record 1"):
        full.load(1)


def test_a_shape_that_is_none_is_refused_even_with_a_matching_digest(full: RecordStore, query: Query) -> None:
    from recordstore.digest import array_digest, blob_digest, chunk_digest, record_digest

    record_id = full.save({"x": Array("t", [1], "raw", GOOD)})
    for shape in ("[", "7", '["a"]', "[" * 100_000):
        blob_ = blob_digest(len(GOOD), [chunk_digest(GOOD)])
        digest = record_digest(array_digest(0, ("x", "t", shape, "raw"), blob_))
        query("UPDATE array SET shape = ? WHERE record_id = ?", shape, record_id)
        query("UPDATE record SET digest = ? WHERE id = ?", digest, record_id)
        with pytest.raises(CorruptRecordError, match=f"record {record_id}, array 'x': its shape is no list of int"):
            full.load(record_id)


@pytest.mark.parametrize("position", [0, 1, 2])
def test_a_record_deleted_while_it_is_streamed_is_not_found_rather_than_wrong(full: RecordStore, position: int) -> None:
    expected = list(full.load(1).items())
    stream = full.stream(1)
    read = [next(stream) for _ in range(position)]
    full.delete(1)
    full.gc(grace=0)
    full.save({"first": Array("t", [1], "raw", b"other"), "large": Array("t", [1], "raw", LARGE[1:])})
    with contextlib.suppress(RecordNotFoundError):
        read += list(stream)
    assert read == expected[: len(read)]


VALUES: dict[str, tuple[str, Callable[[RecordStore], Any]]] = {
    "text in place of bytes": (
        f"UPDATE chunk SET data = 'good bytes' WHERE blob_id = {blob('first')}",
        lambda store: store.load(1),
    ),
    "bytes as a name": (
        "UPDATE array SET name = x'ff' WHERE record_id = 1 AND position = 0",
        lambda store: store.load(1),
    ),
    "a text as a length": (f"UPDATE blob SET nbytes = 'x' WHERE id = {blob('large')}", lambda store: store.load(1)),
    "a text as a digest": (f"UPDATE blob SET digest = 'x' WHERE id = {blob('large')}", lambda store: store.load(1)),
    "metadata that is no JSON": ("UPDATE record SET metadata = '{' WHERE id = 1", lambda store: store.info(1)),
    "a time that is none": ("UPDATE record SET created_at = 'now' WHERE id = 1", lambda store: store.info(1)),
    "a text as a metric": ("INSERT INTO metric VALUES (1, 'm', 'high')", lambda store: store.info(1)),
}


@pytest.mark.parametrize("what", VALUES)
def test_values_of_another_type_are_damage_too(full: RecordStore, query: Query, what: str) -> None:
    statement, call = VALUES[what]
    query(statement)
    with pytest.raises(CorruptRecordError):
        call(full)
