"""Files that are no record store, or a damaged or tampered one: refused with a clear error, and left as they are."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import HEAD, NEXT

from recordstore import NotARecordStoreError, RecordStore, SchemaError, SchemaTooNewError

Query = Callable[..., list[tuple[Any, ...]]]


def sql(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        for statement in statements:
            connection.execute(statement)


def make_store(path: Path) -> None:
    with RecordStore(path) as store:
        store.save({"x": np.arange(100_000)}, run="r", round=1)
    for leftover in path.parent.glob("*-journal"):
        leftover.unlink()


def make_truncated(size: int) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        make_store(path)
        path.write_bytes(path.read_bytes()[:size])

    return make


FLOWER = (
    "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)",
    "INSERT INTO alembic_version VALUES ('8e65d8ae60b0')",
    "CREATE TABLE node (node_id INTEGER UNIQUE, public_key BLOB)",
    "CREATE TABLE run (run_id INTEGER UNIQUE, active_until REAL)",
)
"""The beginnings of the database in which a SuperLink of Flower keeps its state."""

FOREIGN: dict[str, Callable[[Path], Any]] = {
    "a text file": lambda path: path.write_text("round,accuracy\n1,0.5\n" * 1000),
    "a short text file": lambda path: path.write_text("x"),
    "the database of Flower": lambda path: sql(path, *FLOWER),
    "another database": lambda path: sql(path, "CREATE TABLE t (x)"),
    "one with another application id": lambda path: sql(path, "PRAGMA application_id=42", "CREATE TABLE t (x)"),
    "one with another application id and no table": lambda path: sql(path, "PRAGMA application_id=42", "VACUUM"),
    "one with a version and no table": lambda path: sql(path, "PRAGMA user_version=1", "VACUUM"),
    "a numpy file": lambda path: np.save(path.open("wb"), np.zeros(1000)),
    "the first bytes of a store": make_truncated(50),
    "the first page of a store": make_truncated(32768),
    "half of a store": make_truncated(12 * 32768),
    "a store that lacks its last page": make_truncated(-32768),
    "random bytes": lambda path: path.write_bytes(np.random.default_rng(0).bytes(100_000)),
}


def check_refused(path: Path, says: str, error: type[SchemaError] = NotARecordStoreError) -> None:
    before = path.read_bytes(), sorted(path.parent.iterdir())
    for options in ({}, {"read_only": True}, {"upgrade": True}):
        with pytest.raises(error, match=says) as caught:
            RecordStore(path, **options)  # type: ignore[arg-type]
        assert str(path) in str(caught.value)
        assert isinstance(caught.value, ValueError if error is NotARecordStoreError else RuntimeError)
    assert (path.read_bytes(), sorted(path.parent.iterdir())) == before


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("what", FOREIGN)
def test_a_file_that_is_no_store_is_refused_and_left_alone(path: Path, what: str) -> None:
    FOREIGN[what](path)
    says = {
        "the database of Flower": r"another application \(alembic_version, node, run\); .* choose another path",
        "another database": r"another application \(t\)",
        "one with another application id and no table": r"another application \(no tables\)",
    }
    check_refused(path, says.get(what, "no record store|another application"))


def test_a_foreign_file_in_wal_mode_is_left_alone_with_its_unfinished_log(path: Path) -> None:
    with closing(sqlite3.connect(path)) as owner:
        owner.execute("PRAGMA journal_mode=WAL")
        with owner:
            owner.execute("CREATE TABLE t (x)")
        owner.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        with owner:
            owner.execute("INSERT INTO t VALUES (1)")
        wal = path.with_name(f"{path.name}-wal")
        before = wal.read_bytes()
        assert before
        with pytest.raises(NotARecordStoreError, match="another application"):
            RecordStore(path)
        assert wal.read_bytes() == before


def test_a_text_file_beside_a_journal_is_refused_too(path: Path) -> None:
    path.write_text("round,accuracy\n" * 100)
    path.with_name(f"{path.name}-journal").touch()
    with pytest.raises(NotARecordStoreError, match="no record store"):
        RecordStore(path)
    assert path.read_text().startswith("round,accuracy")


UNEXPECTED: dict[str, tuple[str, str]] = {
    "trigger": ("CREATE TRIGGER evil AFTER INSERT ON record BEGIN DELETE FROM chunk; END", "the trigger 'evil'"),
    "view": ("CREATE VIEW evil AS SELECT * FROM record", "the view 'evil'"),
    "table": ("CREATE TABLE evil (x)", "the table 'evil'"),
    "index": ("CREATE INDEX evil ON record (writer)", "the index 'evil'"),
    "virtual table": ("CREATE VIRTUAL TABLE evil USING fts5(x)", "the table 'evil"),
    "table of Alembic": ("CREATE TABLE alembic_version (version_num)", "the table 'alembic_version'"),
    "missing table": ("DROP TABLE tag", "lacks ix_tag_record_id, tag: it is damaged"),
    "missing index": ("DROP INDEX ix_array_blob_id", "lacks ix_array_blob_id"),
    "other version": (f"UPDATE recordstore_version SET version_num = '{NEXT}'", "contradicts itself about its schema"),
    "no version": ("DELETE FROM recordstore_version", "contradicts itself"),
    "two versions": (f"INSERT INTO recordstore_version VALUES ('{NEXT}')", "contradicts itself"),
}


@pytest.mark.parametrize("what", UNEXPECTED)
def test_a_store_with_what_we_did_not_make_is_refused(path: Path, what: str) -> None:
    make_store(path)
    statement, says = UNEXPECTED[what]
    sql(path, statement)
    check_refused(path, says)


def test_a_view_in_place_of_a_table_is_refused(path: Path) -> None:
    make_store(path)
    sql(path, "DROP TABLE tag", "CREATE VIEW tag AS SELECT '' AS run, '' AS name, 1 AS record_id")
    check_refused(path, "the view 'tag'")


def test_a_virtual_table_under_the_name_of_one_of_ours_is_refused(path: Path) -> None:
    make_store(path)
    sql(
        path,
        "DROP TABLE tag",
        "PRAGMA writable_schema=ON",
        "INSERT INTO sqlite_schema VALUES ('table', 'tag', 'tag', 0, 'CREATE VIRTUAL TABLE tag USING fts5(run)')",
    )
    check_refused(path, "the table 'tag'")


def test_the_statistics_of_sqlite_are_welcome(path: Path) -> None:
    make_store(path)
    sql(path, "ANALYZE")
    with RecordStore(path) as store:
        assert len(store.load("r@1")) == 1


def test_a_newer_store_is_refused_with_what_to_upgrade(path: Path, query: Query) -> None:
    make_store(path)
    newer = f"UPDATE recordstore_version SET version_num = '{NEXT}'"
    sql(path, f"PRAGMA user_version={int(NEXT)}", newer, "CREATE TABLE note (x)")
    says = f"schema {NEXT}, .* knows up to {HEAD}: .*pip install --upgrade flwr-recordstore"
    check_refused(path, says, SchemaTooNewError)
    assert query("SELECT count(*) FROM record") == [(1,)]


def test_a_store_that_becomes_newer_while_it_is_open_is_not_used_any_more(path: Path) -> None:
    make_store(path)
    with RecordStore(path) as store:
        sql(path, f"PRAGMA user_version={int(NEXT)}")
        for call in (lambda: store.load(1), lambda: store.save([]), lambda: store.records().__next__()):
            with pytest.raises(SchemaTooNewError, match=f"{NEXT}, and had {HEAD} when it was opened"):
                call()
    sql(path, f"PRAGMA user_version={int(HEAD)}")
    with RecordStore(path) as store:
        assert list(store) == [1]


def test_an_empty_file_and_an_empty_database_become_stores(path: Path) -> None:
    path.touch()
    with RecordStore(path) as store:
        assert store.save([]) == 1
    path.unlink()
    sql(path, "VACUUM")
    with RecordStore(path) as store:
        assert store.save([]) == 1
