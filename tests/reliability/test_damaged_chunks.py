"""The table of chunks and its index, damaged where no digest tells: a read raises, ``verify`` sees it before a save."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import rows

from recordstore import CorruptRecordError, RecordStore, integrity

INDEX = "sqlite_autoindex_chunk_1"

Query = Callable[..., list[tuple[Any, ...]]]


def page_of(path: Path, name: str) -> tuple[int, int]:
    """Return where the root page of a table or an index begins, and how long it is."""
    ((root,),) = rows(path, f"SELECT rootpage FROM sqlite_schema WHERE name = '{name}'")
    ((size,),) = rows(path, "PRAGMA page_size")
    return (root - 1) * size, size


def flip_bit(path: Path, offset: int, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1 << bit
    path.write_bytes(data)


def cells(page: bytes) -> list[int]:
    """Return the offsets of the cells of a leaf, https://www.sqlite.org/fileformat2.html#b_tree_pages."""
    count = int.from_bytes(page[3:5], "big")
    return [int.from_bytes(page[8 + 2 * number : 10 + 2 * number], "big") for number in range(count)]


@pytest.fixture
def misled(path: Path) -> Path:
    """A file in which one bit of the index of chunks is wrong: what it has of the third array is that of the first."""
    with RecordStore(path) as store:
        for number in range(3):
            store.save([np.full(4, float(number))])
    start, size = page_of(path, INDEX)
    page = path.read_bytes()[start : start + size]
    cell = cells(page)[2]
    value = cell + 1 + page[cell + 1]  # behind the length of the cell and its header
    assert page[value] == 3
    flip_bit(path, start + value, 1)
    return path


READS: dict[str, Callable[[RecordStore, int], object]] = {
    "load": lambda store, record: store.load(record),
    "load_into": lambda store, record: store.load_into(record, {"0": np.zeros(4)}),
    "stream": lambda store, record: list(store.stream(record)),
    "data": lambda store, record: store.open(record)["0"].data,
    "rows": lambda store, record: store.open(record)["0"][1:2],
}


@pytest.mark.parametrize("how", READS)
def test_an_index_that_leads_to_chunks_of_another_array_is_damage(misled: Path, how: str) -> None:
    with RecordStore(misled) as store:
        damaged = {1, 2, 3} - {record for record in (1, 2, 3) if store.verify(record)}
        assert damaged
        for record in damaged:
            with pytest.raises(CorruptRecordError, match=f"record {record}, array '0'"):
                READS[how](store, record)
        for record in {1, 2, 3} - damaged:
            READS[how](store, record)


def test_verify_names_the_records_of_an_index_that_leads_elsewhere(misled: Path) -> None:
    with RecordStore(misled) as store:
        named = {damage.record_id for damage in store.verify().damaged}
        readable = {record for record in (1, 2, 3) if store.verify(record)}
        assert named - {None} == {1, 2, 3} - readable
        assert 3 in named
        assert named != {1, 2, 3, None}


@pytest.fixture
def holey(path: Path) -> Path:
    """A small file whose table of chunks has room between its rows."""
    dice = np.random.default_rng(0)
    with RecordStore(path) as store:
        for number in range(5):
            store.save([dice.standard_normal(40 + number)])
        store.delete(3)
        store.gc(grace=0)
    return path


@pytest.mark.parametrize(("tree", "byte", "bit"), [("chunk", 6, 2), ("chunk", 6, 4), (INDEX, 1, 4)])
def test_verify_sees_a_page_on_which_the_next_save_would_overwrite_others(
    holey: Path, tree: str, byte: int, bit: int
) -> None:
    """Byte 6 says where the rows of a page begin, byte 1 where its first gap is."""
    flip_bit(holey, page_of(holey, tree)[0] + byte, bit)
    with RecordStore(holey) as store:
        for record in (1, 2, 4, 5):
            assert store.verify(record), "every row is as it was"
        damaged = store.verify().damaged
    assert {damage.record_id for damage in damaged} == {None}
    assert all(damage.message.startswith("the file: ") for damage in damaged)


def test_verify_sees_a_page_in_use_that_is_listed_as_free(holey: Path) -> None:
    """The first trunk of the list is named at byte 32, https://www.sqlite.org/fileformat2.html#the_freelist."""
    with RecordStore(holey) as store:
        record = store.save([np.zeros(20_000)])
        store.delete(record)
        assert store.verify()
    data = bytearray(holey.read_bytes())
    used = page_of(holey, "blob")[0] // page_of(holey, "blob")[1] + 1
    assert int.from_bytes(data[32:36], "big") > 0
    data[32:36] = used.to_bytes(4, "big")
    holey.write_bytes(data)
    with RecordStore(holey, read_only=True) as store:
        assert [damage for damage in store.verify().damaged if damage.message.startswith("the file: ")]


def test_a_large_file_is_not_locked_for_a_look_at_all_its_pages(holey: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flip_bit(holey, page_of(holey, "chunk")[0] + 6, 2)
    monkeypatch.setattr(integrity, "WHOLE_BYTES", holey.stat().st_size - 1)
    with RecordStore(holey) as store:
        assert store.verify()
        monkeypatch.setattr(integrity, "WHOLE_BYTES", holey.stat().st_size)
        assert not store.verify()


def test_chunks_of_no_array_are_named(holey: Path, query: Query) -> None:
    with closing(sqlite3.connect(holey, isolation_level=None)) as connection:
        connection.execute("INSERT INTO chunk (blob_id, seq, nbytes, digest, data) VALUES (99, 0, 1, x'00', x'00')")
    with RecordStore(holey) as store:
        (damage,) = store.verify().damaged
    assert damage == (None, None, "table chunk: rows refer to rows of blob that are not there")


# What a save may share


@pytest.fixture
def saved(path: Path) -> Iterator[RecordStore]:
    with RecordStore(path) as store:
        store.save(MODEL)
        yield store


MODEL = {"w": np.arange(50.0), "v": np.arange(20.0)}

UNUSABLE = {
    "a length that is no number": "UPDATE blob SET nbytes = 'x' WHERE id = 1",
    "a length that is no whole number": "UPDATE blob SET nbytes = nbytes + 0.5 WHERE id = 1",
    "another length": "UPDATE blob SET nbytes = nbytes + 1 WHERE id = 1",
    "another id": "UPDATE blob SET id = 2147483648 WHERE id = 1",
    "no chunk": "DELETE FROM chunk WHERE blob_id = 1",
    "one chunk too many": "INSERT INTO chunk (blob_id, seq, nbytes, digest, data) VALUES (1, 1, 1, x'00', x'00')",
}


@pytest.mark.parametrize("what", UNUSABLE)
def test_a_save_shares_no_bytes_that_cannot_be_there(saved: RecordStore, query: Query, what: str) -> None:
    query(UNUSABLE[what])
    record = saved.save(MODEL)
    assert saved.load(record).to_numpy_ndarrays()[0].tolist() == MODEL["w"].tolist()
    assert saved.verify(record)
    assert query("SELECT count(*) FROM blob WHERE state = 'damaged'") == [(1,)]
    again = saved.save(MODEL)
    assert query(f"SELECT count(*) FROM array WHERE record_id IN ({record}, {again})") == [(4,)]
    assert query(f"SELECT count(DISTINCT blob_id) FROM array WHERE record_id IN ({record}, {again})") == [(2,)]


def test_a_slice_has_the_order_of_its_chunks_proven(path: Path, query: Query, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recordstore.constants.CHUNK_SIZE", 4096)
    values = np.random.default_rng(0).standard_normal(3000)
    with RecordStore(path) as store:
        record = store.save({"x": values})
        assert store.open(record)["x"][600:700].tolist() == values[600:700].tolist()
        for change in ("-1 WHERE seq = 1", "1 WHERE seq = 2", "2 WHERE seq = -1"):
            query(f"UPDATE chunk SET seq = {change}")
        with pytest.raises(CorruptRecordError, match=f"record {record}, array 'x'"):
            store.open(record)["x"][600:700]
