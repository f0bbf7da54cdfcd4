"""Damaged bytes that ``verify`` finds where no reader looks are marked, so that no save shares them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import Engine, event
from support import rows

from recordstore import Checkpoint, Progress, RecordStore, VerifyReport
from recordstore.reader import Reader

Query = Callable[..., list[tuple[Any, ...]]]

MODEL = {"w": np.arange(50.0), "v": np.arange(20.0)}
PAGE = 32768


@pytest.fixture
def checked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The ids of the blobs that were read, once for each time."""
    ids: list[int] = []
    check = Reader.check

    def noted(reader: Reader, listing: Any, arrays: list[Any]) -> Any:
        ids.extend(row.blob_id for row in arrays)
        return check(reader, listing, arrays)

    monkeypatch.setattr(Reader, "check", noted)
    return ids


@pytest.mark.parametrize("column", ["nbytes = '?'", "shape = x'00'", "name = 7.5", "position = -1"])
def test_verify_marks_the_arrays_of_a_list_that_is_damaged(path: Path, query: Query, column: str) -> None:
    with RecordStore(path) as store:
        store.save(MODEL)
        query(f"UPDATE array SET {column} WHERE name = 'v'")
        query("UPDATE chunk SET data = zeroblob(length(data)) WHERE blob_id = 1")
        assert not store.verify()
        assert query("SELECT id FROM blob WHERE state = 'damaged'") == [(1,)]
        assert store.verify(store.save(MODEL))


HIDDEN = {
    "of a save that goes on": "UPDATE record SET state = 'writing', run = NULL, round = NULL, checkpoint_digest = NULL",
    "of a record that is deleted": "UPDATE record SET state = 'deleting', run = NULL, round = NULL",
    "of a checkpoint whose state is damaged": "UPDATE record SET checkpoint = '[]'",
}


@pytest.mark.parametrize("what", HIDDEN)
@pytest.mark.parametrize("blob", [1, 3])
@pytest.mark.parametrize("damage", ["data = zeroblob(length(data))", "data = substr(data, 1, 9)"])
def test_verify_marks_bytes_that_no_reader_sees_but_a_save_would_share(
    path: Path, query: Query, what: str, blob: int, damage: str
) -> None:
    with RecordStore(path) as store:
        store.save_checkpoint(MODEL, Checkpoint([7], {"m": np.ones(9), "n": np.zeros(9)}), run="r", round=1)
        query(HIDDEN[what] + ", touched_at = strftime('%Y-%m-%d %H:%M:%f', 'now')")
        query(f"UPDATE chunk SET {damage} WHERE blob_id = {blob}")
        store.verify()
        assert query("SELECT id FROM blob WHERE state = 'damaged'") == [(blob,)]
        assert store.verify(store.save(MODEL))
        assert store.verify(store.save([np.ones(9)]))


@pytest.mark.parametrize(
    "change", [HIDDEN["of a save that goes on"], "UPDATE array SET shape = '?' WHERE position = 0"]
)
def test_bytes_that_many_arrays_share_are_read_once(path: Path, query: Query, checked: list[int], change: str) -> None:
    """By a record that nobody sees, and by records whose list is damaged."""
    with RecordStore(path) as store:
        for number in range(4):
            store.save({"own": np.full(3, number)} | {str(name): np.arange(9.0) for name in range(5)})
    query(change)
    for read_only in (False, True):
        with RecordStore(path, read_only=read_only) as store:
            store.verify()
        assert len(checked) == len(set(checked))
        assert bool(checked) is not read_only
        checked.clear()


def test_bytes_that_are_still_being_written_are_not_marked(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, size in (("CHUNK_SIZE", 4096), ("BATCH_BYTES", 8192), ("RING_CHUNKS", 4)):
        monkeypatch.setattr(f"recordstore.constants.{name}", size)
    states: set[tuple[str]] = set()

    def look() -> None:
        assert other.verify() == VerifyReport(0, 0, 0)
        states.update(rows(path, "SELECT state FROM blob"))

    with RecordStore(path) as other, RecordStore(path) as store:
        monkeypatch.setattr(store._database, "rest", look)  # between two batches
        record = store.save({str(number): np.random.default_rng(number).standard_normal(3000) for number in range(4)})
        assert states == {("writing",), ("ready",)}
        assert store.verify(record)
    assert rows(path, "SELECT DISTINCT state FROM blob") == [("ready",)]


def test_short_bytes_of_many_hidden_records_are_read_and_marked_once(
    path: Path, query: Query, checked: list[int]
) -> None:
    with RecordStore(path) as store:
        for number in range(4):
            store.save({"own": np.full(3, number)} | {str(name): np.full(30, name) for name in range(5)})
        query(HIDDEN["of a save that goes on"] + ", touched_at = strftime('%Y-%m-%d %H:%M:%f', 'now')")
        query("UPDATE chunk SET data = substr(data, 1, 9) WHERE nbytes > 300")
        store.verify()
    assert len(checked) == len(set(checked)) == 9
    assert query("SELECT count(*) FROM blob WHERE state = 'damaged'") == [(5,)]


def test_large_bytes_in_another_order_are_marked(path: Path, query: Query, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recordstore.constants.CHUNK_SIZE", 4096)
    values = np.random.default_rng(0).standard_normal(3000)
    with RecordStore(path) as store:
        store.save({"x": values})
        query(HIDDEN["of a record that is deleted"] + ", touched_at = strftime('%Y-%m-%d %H:%M:%f', 'now')")
        for change in ("-1 WHERE seq = 1", "1 WHERE seq = 2", "2 WHERE seq = -1"):
            query(f"UPDATE chunk SET seq = {change}")
        store.verify()
        assert query("SELECT state FROM blob") == [("damaged",)]
        assert store.load(store.save({"x": values})).to_numpy_ndarrays()[0].tolist() == values.tolist()


def test_bytes_that_no_array_points_at_any_more_are_marked(path: Path, query: Query) -> None:
    with RecordStore(path) as store:
        store.save(MODEL)
        query("UPDATE array SET blob_id = 2 WHERE name = 'w'")
        query("UPDATE chunk SET data = zeroblob(length(data)) WHERE blob_id = 1")
        store.verify()
        assert query("SELECT id FROM blob WHERE state = 'damaged'") == [(1,)]
        assert store.verify(store.save(MODEL))


@pytest.mark.parametrize("column", ["nbytes = '?'", "digest = 'text'"])
def test_a_blob_whose_columns_have_other_types_is_marked(path: Path, query: Query, column: str) -> None:
    with RecordStore(path) as store:
        store.save(MODEL)
        query(f"UPDATE blob SET {column} WHERE id = 1")
        query("UPDATE array SET blob_id = 2 WHERE name = 'w'")
        store.verify()
        assert query("SELECT id FROM blob WHERE state = 'damaged'") == [(1,)]


@pytest.fixture
def leafy(path: Path, query: Query) -> tuple[Path, int, list[int]]:
    """A file with damaged bytes in a record that nobody sees, where the inner page of the blobs is, and its cells."""
    with RecordStore(path) as store:
        store.save(MODEL)
        for number in range(3):
            store.save({str(index): np.full(1, 1000 * number + index) for index in range(750)})
    query(HIDDEN["of a save that goes on"] + ", touched_at = strftime('%Y-%m-%d %H:%M:%f', 'now') WHERE id = 1")
    query("UPDATE chunk SET data = zeroblob(length(data)) WHERE blob_id = 1")
    ((root,),) = query("SELECT rootpage FROM sqlite_schema WHERE name = 'blob'")
    start = (root - 1) * PAGE
    page = path.read_bytes()[start : start + PAGE]
    assert page[0] == 5, "an inner page of a table, https://www.sqlite.org/fileformat2.html#b_tree_pages"
    count = int.from_bytes(page[3:5])
    assert count >= 4
    return path, start, [int.from_bytes(page[12 + 2 * cell :][:2]) for cell in range(count)]


def test_a_table_of_blobs_that_is_out_of_order_is_read_to_an_end(leafy: tuple[Path, int, list[int]]) -> None:
    """All leaves but the first are the last one."""
    path, start, cells = leafy
    data = bytearray(path.read_bytes())
    for cell in cells[1:]:
        data[start + cell : start + cell + 4] = data[start + 8 : start + 12]
    path.write_bytes(data)
    with RecordStore(path) as store:
        assert len(store.verify().damaged) < 20
    assert rows(path, "SELECT state FROM blob WHERE id = 1") == [("damaged",)]


@pytest.mark.parametrize("blob_id", ["blob_id", "'x'", "x'00'", "7.5"])
def test_blobs_on_either_side_of_a_page_that_cannot_be_read_are_marked(
    leafy: tuple[Path, int, list[int]], query: Query, blob_id: str
) -> None:
    """Whatever another array points at."""
    path, start, cells = leafy
    query(f"UPDATE array SET blob_id = {blob_id} WHERE record_id = 2 AND position = 5")
    data = bytearray(path.read_bytes())
    leaf = int.from_bytes(data[start + cells[2] :][:4]) - 1
    data[leaf * PAGE : (leaf + 1) * PAGE] = bytes(PAGE)
    path.write_bytes(data)
    with RecordStore(path) as store:
        assert not store.verify()
    assert rows(path, "SELECT state FROM blob WHERE id = 1") == [("damaged",)]


@pytest.mark.parametrize("column", ["digest = CAST(x'ff' AS TEXT)", "nbytes = CAST(x'ff' AS TEXT)", "nbytes = -5"])
def test_a_blob_that_cannot_be_understood_keeps_no_other_from_being_marked(
    path: Path, query: Query, column: str
) -> None:
    with RecordStore(path) as store:
        store.save(MODEL)
        store.save([np.ones(7)])
        query(HIDDEN["of a save that goes on"] + ", touched_at = strftime('%Y-%m-%d %H:%M:%f', 'now') WHERE id = 1")
        query("UPDATE chunk SET data = zeroblob(length(data)) WHERE blob_id = 1")
        query(f"UPDATE blob SET {column} WHERE id = 3")
        assert not store.verify()
        assert query("SELECT id FROM blob WHERE state = 'damaged'") == [(1,), (3,)]


def test_blobs_that_no_reader_sees_are_read_together(path: Path, query: Query) -> None:
    statements: list[str] = []
    listen = (Engine, "before_cursor_execute", lambda _connection, _cursor, sql, *_: statements.append(sql))
    counts = []
    for number in (10, 400):
        with RecordStore(path) as store:
            store.save({str(index): np.full(3, 1000 * number + index) for index in range(number)})
            query(HIDDEN["of a save that goes on"] + ", touched_at = strftime('%Y-%m-%d %H:%M:%f', 'now')")
            event.listen(*listen)
            assert store.verify()
            event.remove(*listen)
        counts.append(len(statements))
        statements.clear()
    assert counts[0] == counts[1]


def test_sound_bytes_of_a_damaged_list_are_not_marked(path: Path, query: Query) -> None:
    with RecordStore(path) as store:
        record = store.save(MODEL)
        query("UPDATE array SET dtype = x'00'")
        assert not store.verify()
        assert not store.verify(record)
    assert query("SELECT DISTINCT state FROM blob") == [("ready",)]


def test_verify_of_one_record_marks_its_bytes_alone(path: Path, query: Query) -> None:
    with RecordStore(path) as store:
        store.save({"other": np.ones(7)})
        record = store.save(MODEL)
        query("UPDATE array SET shape = '?' WHERE name = 'w'")
        query("UPDATE chunk SET data = zeroblob(length(data))")
        assert not store.verify(record)
    assert query("SELECT DISTINCT record_id FROM array JOIN blob ON blob.id = blob_id WHERE state = 'damaged'") == [
        (record,)
    ]


@pytest.mark.parametrize("read_only", [False, True])
def test_bytes_that_a_damaged_list_shares_with_sound_ones_are_counted(
    path: Path, query: Query, read_only: bool
) -> None:
    with RecordStore(path) as store:
        for number in range(3):
            store.save({"own": np.full(3, number), "shared": np.arange(3000.0)})
    query("UPDATE array SET shape = '?' WHERE position = 0 AND record_id = 1")
    ((nbytes,),) = query("SELECT sum(nbytes) FROM blob WHERE id != 1")
    told: list[Progress] = []
    with RecordStore(path, read_only=read_only) as store:
        assert store.verify(progress=told.append).nbytes == nbytes
    assert told[-1].done == nbytes


def test_bytes_that_are_saved_meanwhile_are_not_waited_for(
    path: Path, query: Query, monkeypatch: pytest.MonkeyPatch, checked: list[int]
) -> None:
    monkeypatch.setattr("recordstore.verifier.ID_PAGE", 2)
    with RecordStore(path) as store, RecordStore(path) as other:
        store.save({str(number): np.full(3, number) for number in range(5)})
        query("UPDATE record SET array_count = 4")
        check = Reader.check

        def saving(reader: Reader, *arguments: Any) -> Any:
            other.save([np.full(4, len(checked))])
            return check(reader, *arguments)

        monkeypatch.setattr(Reader, "check", saving)
        store.verify()
    assert len(checked) == len(set(checked)) == 5
