"""Indexes that contradict their tables: no lookup ends at another record, nothing that is in use is swept."""

import re
import sqlite3
import tracemalloc
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from support import rows

from recordstore import Array, CorruptRecordError, RecordNotFoundError, RecordStore, RecordStoreError
from recordstore.repository import RecordRepository

pytestmark = pytest.mark.usefixtures("small")

ROUNDS = "sqlite_autoindex_record_1"
DEAD = "ix_blob_dead"
LARGE = np.random.default_rng(0).integers(0, 256, 200_000, np.uint8)


@pytest.fixture
def full(path: Path) -> Iterator[RecordStore]:
    with RecordStore(path) as store:
        for number in range(1, 4):
            store.save({"x": np.full(3, number), "large": LARGE + number}, run="r", round=number)
        store.save({"x": np.full(3, 7)}, run="s", round=1, tags=["of s"])
        yield store


def damaged_records(store: RecordStore) -> set[int | None]:
    """Return the records that ``verify`` names, None for what is wrong with a table or an index."""
    return {damage.record_id for damage in store.verify().damaged}


@contextmanager
def hidden(path: Path, *indexes: str) -> Iterator[sqlite3.Connection]:
    """Give a connection that does not know of some indexes, which keep what they have."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        names = [f"'{name}'" for name in indexes]
        where = f"name IN ({', '.join(names)})"
        entries = connection.execute(f"SELECT * FROM sqlite_schema WHERE {where}").fetchall()
        (table,) = connection.execute("SELECT sql FROM sqlite_schema WHERE name = 'record'").fetchone()
        free = re.sub(r",\s*CONSTRAINT \w+ UNIQUE \(run, round\)", "", table) if ROUNDS in indexes else table
        _write_schema(connection, [f"DELETE FROM sqlite_schema WHERE {where}"], free)
        yield connection
        _write_schema(
            connection, [("INSERT INTO sqlite_schema VALUES (?, ?, ?, ?, ?)", entry) for entry in entries], table
        )
    assert {name for (name,) in rows(path, "SELECT name FROM sqlite_schema")} >= set(indexes)
    assert rows(path, "PRAGMA integrity_check") != [("ok",)]


def _write_schema(connection: sqlite3.Connection, statements: list, table: str) -> None:
    connection.execute("PRAGMA writable_schema=ON")
    for statement in statements:
        connection.execute(*([statement] if isinstance(statement, str) else statement))
    connection.execute("UPDATE sqlite_schema SET sql = ? WHERE name = 'record'", [table])
    connection.execute("PRAGMA writable_schema=RESET")


@pytest.mark.parametrize("ref", ["r@2", "r@latest"])
def test_a_round_whose_index_leads_to_another_record_is_damage(full: RecordStore, path: Path, ref: str) -> None:
    with hidden(path, ROUNDS, "ix_record_run_id") as connection:
        connection.execute("UPDATE record SET run = 'x', round = round + 10")
    for call in (full.load, full.info, full.load_checkpoint, full.open, full.delete):
        with pytest.raises(CorruptRecordError, match="index"):
            call(ref)
    assert full.load(2)["x"].numpy().tolist() == [2, 2, 2]


def test_a_tag_that_leads_to_a_record_of_another_run_is_damage(full: RecordStore, path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE tag SET record_id = 1")
    with pytest.raises(CorruptRecordError, match="tag"):
        full.load("s@of s")


def test_a_record_that_an_index_calls_deleted_is_not_swept(full: RecordStore, path: Path) -> None:
    rows(path, "UPDATE record SET state = 'deleting' WHERE id = 2")
    with hidden(path, "ix_record_unfinished", ROUNDS, "ix_record_run_id") as connection:
        connection.execute("UPDATE record SET state = 'ready' WHERE id = 2")
    with pytest.raises(CorruptRecordError, match="index"):
        full.gc(grace=0)
    with RecordStore(path) as store:
        assert store.load(2)["x"].numpy().tolist() == [2, 2, 2]
        assert damaged_records(store) == {None}


def test_bytes_that_an_index_calls_dead_are_not_swept(full: RecordStore, path: Path) -> None:
    rows(path, "UPDATE blob SET state = 'dead'")
    with hidden(path, DEAD, "uq_blob_ready_digest") as connection:
        connection.execute("UPDATE blob SET state = 'ready'")
    with pytest.raises(CorruptRecordError, match="in use"):
        full.gc(grace=0)
    assert damaged_records(full) == {None}


def test_bytes_in_use_that_are_marked_dead_are_not_swept(full: RecordStore, path: Path) -> None:
    rows(path, "UPDATE blob SET state = 'dead'")
    with pytest.raises(CorruptRecordError, match="in use"):
        full.gc(grace=0)
    with RecordStore(path) as store:
        assert store.verify()
        store.delete("r@3")


def test_a_sweep_ends_where_an_index_lists_what_is_not_there(full: RecordStore, path: Path) -> None:
    rows(path, "INSERT INTO blob (state, nbytes, head) VALUES ('dead', 0, x'')")
    with hidden(path, DEAD) as connection:
        connection.execute("DELETE FROM blob WHERE state = 'dead'")
    with pytest.raises(CorruptRecordError, match="index"):
        full.gc(grace=0)
    assert damaged_records(full) == {None}


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "event", ["DELETE ON record", "DELETE ON array", "DELETE ON chunk", "DELETE ON blob", "UPDATE ON blob"]
)
def test_a_sweep_ends_where_rows_do_not_change(full: RecordStore, path: Path, event: str) -> None:
    """As those do not that only a damaged page leads to; here a trigger keeps them, that came after the opening."""
    rows(path, "INSERT INTO blob (state, nbytes, head) VALUES ('ready', 0, x'')")  # an orphan
    rows(path, "UPDATE record SET state = 'deleting', run = NULL, round = NULL WHERE id = 2")
    rows(path, f"CREATE TRIGGER kept BEFORE {event} BEGIN SELECT RAISE(IGNORE); END")
    with pytest.raises(CorruptRecordError, match="damaged"):
        full.gc(grace=0)
    rows(path, "DROP TRIGGER kept")
    full.gc(grace=0)
    assert full.verify()
    assert list(full) == [1, 3, 4]


def test_a_save_shares_no_bytes_that_an_index_takes_for_others(full: RecordStore, path: Path) -> None:
    blobs = rows(path, "SELECT blob_id FROM array WHERE name = 'x' ORDER BY record_id")
    with hidden(path, "uq_blob_ready_digest") as connection:
        digests = connection.execute(
            "SELECT digest FROM blob WHERE id IN (?, ?)", [blobs[0][0], blobs[1][0]]
        ).fetchall()
        connection.execute("UPDATE blob SET digest = ? WHERE id = ?", [digests[1][0], blobs[0][0]])
    before = list(full)
    with pytest.raises(CorruptRecordError, match="the digest of one"):
        full.save({"x": np.full(3, 1)})
    assert list(full) == before
    assert full.load(full.save({"x": np.full(3, 99)}))["x"].numpy().tolist() == [99, 99, 99]


def test_a_list_of_records_that_is_out_of_order_is_damage(full: RecordStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two pages of records the second one could else come again and again."""
    from recordstore.rowchecks import check_order

    assert check_order([3, 4, 7], after=2) == [3, 4, 7]
    for ids in ([2], [3, 3], [4, 3]):
        with pytest.raises(CorruptRecordError, match="out of order"):
            check_order(ids, after=2)
    assert check_order([7, 4], after=8, newest_first=True) == [7, 4]
    with pytest.raises(CorruptRecordError, match="out of order"):
        check_order([4, 7], after=None, newest_first=True)


def test_a_record_that_is_listed_and_cannot_be_found_is_named(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recordstore.schema.CREATION", ("PRAGMA page_size=1024", "PRAGMA auto_vacuum=INCREMENTAL"))
    with RecordStore(path) as store:
        for number in range(20):
            store.save({"x": np.full(3, number)}, run="r", round=number)
    ((root,),) = rows(path, "SELECT rootpage FROM sqlite_schema WHERE name = 'record'")
    data = bytearray(path.read_bytes())
    page = memoryview(data)[(root - 1) * 1024 : root * 1024]
    assert page[0] == 5  # an inner page of a table: each cell has a child of 4 bytes and the last id in it
    cell = int.from_bytes(page[12:14])
    last = page[cell + 4]
    page[cell + 4] -= 1
    path.write_bytes(data)
    with RecordStore(path) as store:
        assert last in list(store)
        with pytest.raises(RecordNotFoundError):
            store.load(last)
        rows(path, "UPDATE chunk SET data = zeroblob(length(data)) WHERE blob_id = ?", last)
        assert damaged_records(store) == {last, None}
        assert rows(path, "SELECT id FROM blob WHERE state = 'damaged'") == [(last,)]


def test_bytes_whose_digest_was_changed_are_marked_by_verify(full: RecordStore, path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        one, two = connection.execute("SELECT id, digest FROM blob WHERE nbytes < 1000 LIMIT 2").fetchall()
        connection.executemany(
            "UPDATE blob SET digest = ? WHERE id = ?", [(b"", one[0]), (one[1], two[0]), (two[1], one[0])]
        )
    assert not full.verify()
    for number in (1, 2):
        assert full.load(full.save({"x": np.full(3, number)}))["x"].numpy().tolist() == [number] * 3


CLAIMS = [2**40, 2**63 - 1, 0, -1]


@pytest.mark.parametrize(
    "column", ["array.nbytes", "blob.nbytes", "chunk.nbytes", "record.nbytes", "record.array_count"]
)
@pytest.mark.parametrize("claim", CLAIMS)
def test_a_number_that_is_only_claimed_takes_no_memory(full: RecordStore, path: Path, column: str, claim: int) -> None:
    table, name = column.split(".")
    rows(path, f"UPDATE {table} SET {name} = ?", claim)
    tracemalloc.start()
    try:
        for call in (full.load, full.info, lambda id_: full.open(id_)["large"][1000:1010], full.load_checkpoint):
            try:
                found = call(2)
            except RecordStoreError:
                continue
            if isinstance(found, np.ndarray):
                assert found.tolist() == (LARGE + 2)[1000:1010].tolist()
        full.verify()
        assert tracemalloc.get_traced_memory()[1] < 5 * LARGE.nbytes
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("claim", CLAIMS)
def test_rows_of_a_tensor_are_where_its_bytes_say(path: Path, torch: ModuleType, claim: int) -> None:
    with RecordStore(path) as store:
        store.save({"x": Array("bfloat16", [200, 250], "torch.Tensor", LARGE.tobytes()[:100_000])})
        rows(path, "UPDATE array SET nbytes = ?", claim)
        part = store.open(1)["x"][20:22]
        assert part.view(torch.uint8).numpy().tobytes() == LARGE.tobytes()[10_000:11_000]


@pytest.mark.parametrize(
    ("column", "value"),
    [("run", b"r"), ("round", "one"), ("nbytes", "x"), ("digest", 0.5), ("digest", None), ("array_count", None)],
)
def test_a_column_of_a_wrong_type_is_damage(full: RecordStore, path: Path, column: str, value: object) -> None:
    rows(path, f"UPDATE record SET {column} = ? WHERE id = 4", value)
    for call in (full.info, lambda id_: list(full.records())):
        with pytest.raises(CorruptRecordError, match="record 4"):
            call(4)
    assert full.load(1)["x"].numpy().tolist() == [1, 1, 1]


def test_names_and_runs_of_a_wrong_type_are_damage(full: RecordStore, path: Path) -> None:
    rows(path, "UPDATE array SET name = x'00' WHERE record_id = 1 AND position = 0")
    rows(path, "INSERT INTO metric VALUES (2, x'00', 1)")
    rows(path, "UPDATE tag SET name = x'00'")
    for record_id in (1, 2, 4):
        with pytest.raises(CorruptRecordError, match=f"record {record_id}"):
            full.info(record_id)
    rows(path, "UPDATE record SET run = x'00' WHERE id = 4")
    with pytest.raises(CorruptRecordError):
        full.runs()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE chunk SET data = zeroblob(length(data)) WHERE seq = 400",
        "DELETE FROM chunk WHERE seq = 400",
        "UPDATE blob SET nbytes = nbytes * 1000",
        "UPDATE chunk SET data = zeroblob(100000000) WHERE seq = 400",
        "UPDATE array SET shape = '[1]'",
    ],
)
def test_a_damaged_array_takes_no_more_memory_than_a_sound_one(path: Path, statement: str) -> None:
    large = np.random.default_rng(1).integers(0, 256, 8_000_000, np.uint8)
    with RecordStore(path) as store:
        store.save({"x": large, "y": np.ones(3)})
        rows(path, statement)
        for call in (store.load, lambda id_: list(store.stream(id_)), store.verify):
            tracemalloc.start()
            with suppress(CorruptRecordError):
                assert not call(1)
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            assert peak < 1.5 * large.nbytes


KEPT_ERRORS = {
    "records": ("UPDATE record SET metadata = '{' WHERE id = 2", lambda store: list(store.records())),
    "runs": ("UPDATE record SET run = x'00' WHERE id = 1", lambda store: store.runs()),
    "info": ("UPDATE array SET name = x'00' WHERE record_id = 1 AND position = 0", lambda store: store.info(1)),
    "metrics": ("INSERT INTO metric VALUES (1, 'a', 'x'), (1, 'b', 1)", lambda store: store.info(1)),
    "history": ("INSERT INTO history VALUES ('r', 1, 'a', '['), ('r', 2, 'a', '{}')", lambda store: store.history("r")),
    "no bytes": ("UPDATE chunk SET data = 17", lambda store: store.load(1)),
    "longer bytes": ("UPDATE chunk SET data = zeroblob(20000)", lambda store: store.load(1)),
    "bytes of rows": ("UPDATE chunk SET data = zeroblob(20000)", lambda store: store.open(1)["large"][5:7]),
    "streamed bytes": ("UPDATE chunk SET data = zeroblob(20000)", lambda store: list(store.stream(1))),
    "state": ("UPDATE record SET checkpoint = x'00'", lambda store: store.load_checkpoint(1)),
}


@pytest.mark.parametrize("what", KEPT_ERRORS)
def test_an_error_that_is_kept_holds_no_lock(full: RecordStore, path: Path, what: str) -> None:
    statement, call = KEPT_ERRORS[what]
    rows(path, statement)
    with pytest.raises(CorruptRecordError) as caught:
        call(full)
    with closing(sqlite3.connect(path, isolation_level=None, timeout=0)) as other:
        other.execute("BEGIN EXCLUSIVE")
        other.execute("ROLLBACK")
    del caught


def test_records_that_are_listed_are_verified_where_the_lookup_of_many_fails(
    full: RecordStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> set[int]:
        raise CorruptRecordError("the table of records is damaged")

    monkeypatch.setattr(RecordRepository, "findable", fails)
    report = full.verify()
    assert {damage.message for damage in report.damaged} == {"the table of records is damaged"}
    assert report.records == 4


@pytest.mark.parametrize("change", ["state = 'reaey'", "digest = zeroblob(32)"])
@pytest.mark.parametrize("blob", [1, 2])
def test_bytes_that_only_an_index_takes_for_ready_are_saved_anew(
    full: RecordStore, path: Path, change: str, blob: int
) -> None:
    """As a flipped bit in the row leaves it: the entry of the index would keep each save of these arrays out."""
    with hidden(path, "uq_blob_ready_digest") as connection:
        connection.execute(f"UPDATE blob SET {change} WHERE id = {blob}")
    model = {"x": np.full(3, 1), "large": LARGE + 1}
    loaded = full.load(full.save(model))
    assert [np.array_equal(loaded[name].numpy(), array) for name, array in model.items()] == [True, True]
    assert rows(path, "PRAGMA integrity_check(blob)") == [("ok",)]
    ((count,),) = rows(path, "SELECT count(*) FROM blob")
    full.save(model)
    assert rows(path, "SELECT count(*) FROM blob") == [(count,)]
