"""Indexes that have lost their entries, as a page written to the wrong place leaves them: verify says so.

The tables are whole, so all records load, and gc, which deletes for good, takes nothing that is in use.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from support import rows

from recordstore import RecordNotFoundError, RecordStore

EMPTY_LEAF = bytes([10, 0, 0, 0, 0, 128, 0, 0])
"""The head of an index page of 32 KiB without entries, https://www.sqlite.org/fileformat2.html#b_tree_pages."""

NUMBERS = range(1, 4)
INDEXES = {
    "ix_array_blob_id": "array",
    "sqlite_autoindex_record_1": "record",
    "ix_record_run_id": "record",
    "ix_tag_record_id": "tag",
    "ix_metric_name_value": "metric",
    "ix_blob_nbytes_head": "blob",
    "uq_blob_ready_digest": "blob",
    "sqlite_autoindex_array_2": "array",
}


@pytest.fixture
def full(path: Path) -> Path:
    with RecordStore(path) as store:
        for number in NUMBERS:
            store.save({"x": np.full(5, number)}, run="r", round=number, tags=[f"t{number}"], metrics={"m": number})
    return path


def empty(path: Path, index: str) -> None:
    ((root,),) = rows(path, "SELECT rootpage FROM sqlite_schema WHERE name = ?", index)
    ((size,),) = rows(path, "PRAGMA page_size")
    with path.open("r+b") as file:
        file.seek((root - 1) * size)
        file.write(EMPTY_LEAF)


def loaded(store: RecordStore) -> Iterator[tuple[int, list[int]]]:
    for number in NUMBERS:
        yield number, store.load(number)["x"].numpy().tolist()


def test_the_indexes_of_every_table_are_here(full: Path) -> None:
    tables = ", ".join(f"'{table}'" for table in {*INDEXES.values(), "history"})
    query = f"SELECT name, tbl_name FROM sqlite_schema WHERE type = 'index' AND tbl_name IN ({tables})"
    empty_anyway = {"ix_record_unfinished": "record", "ix_blob_dead": "blob"}
    assert dict(rows(full, query)) == INDEXES | empty_anyway


@pytest.mark.parametrize("index", INDEXES)
def test_an_emptied_index_is_named_and_costs_no_record(full: Path, index: str) -> None:
    with RecordStore(full) as store:
        before = dict(loaded(store))
    empty(full, index)
    with RecordStore(full) as store:
        report = store.verify()
        assert not report
        assert {damage.record_id for damage in report.damaged} == {None}
        assert f"table {INDEXES[index]}: row 1 missing from index {index}" in {d.message for d in report.damaged}
        store.gc(grace=0)
        assert dict(loaded(store)) == before
    assert len(rows(full, "SELECT id FROM chunk")) == len(NUMBERS)


def test_a_record_that_nobody_sees_any_more_is_named(full: Path) -> None:
    rows(full, "UPDATE record SET state = 'seady' WHERE id = 3")
    with RecordStore(full) as store:
        with pytest.raises(RecordNotFoundError):
            store.load(3)
        report = store.verify()
    assert ("its state is 'seady': nobody sees it", 3) in {(d.message, d.record_id) for d in report.damaged}


@pytest.mark.parametrize(
    ("statement", "table"),
    [("UPDATE tag SET record_id = 99 WHERE name = 't1'", "tag"), ("DELETE FROM record WHERE id = 2", "array")],
)
def test_rows_that_lead_nowhere_are_named(full: Path, statement: str, table: str) -> None:
    with closing(sqlite3.connect(full)) as connection, connection:
        connection.execute(statement)
    with RecordStore(full) as store:
        messages = {damage.message for damage in store.verify().damaged}
    assert f"table {table}: rows refer to rows of record that are not there" in messages
