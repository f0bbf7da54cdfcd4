"""R8 for the schemas of database files: a table or an index that is not as we make it is refused before it is used.

tests/test_foreign_files.py has the files that are no store at all, and what is there besides our tables and indexes.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile_rows import executed
from support import ASSETS, HEAD, migrate, rows, sql_of
from tampering import make_store, opened, rewrite

from recordstore import NotARecordStoreError, RecordStore, RecordStoreError
from recordstore.definitions import DEFINITIONS, definition

Tamper = Callable[[Path], Any]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(tmp_path_factory.mktemp("template") / "store.db")


def changed(name: str, old: str, new: str) -> Tamper:
    def tamper(path: Path) -> None:
        with opened(path) as connection:
            rewrite(connection, name, old, new)

    return tamper


BOMB = "hex(zeroblob(400000000))"
DUMMY = "INSERT INTO sqlite_schema SELECT {} FROM sqlite_schema WHERE name = 'tag'"

SCHEMAS: dict[str, Tamper] = {
    "a column made up of a call": changed("chunk", "data BLOB NOT NULL", "data BLOB AS (zeroblob(900000000)) NOT NULL"),
    "one column more": changed("record", "touched_at DATETIME NOT NULL", "touched_at DATETIME NOT NULL, more TEXT"),
    "one column less": changed("record", "checkpoint TEXT", "checkpoint_ TEXT"),
    "a default that calls": changed("record", "run TEXT", f"run TEXT DEFAULT ({BOMB})"),
    "a check that calls": changed("record", "run TEXT", f"run TEXT CHECK (length({BOMB}) > 0)"),
    "a check of the table": changed(
        "metric", "CONSTRAINT pk", f"CONSTRAINT c CHECK (length({BOMB}) > 0), CONSTRAINT pk"
    ),
    "names that ignore case": changed("record", "run TEXT", "run TEXT COLLATE NOCASE"),
    "numbers for texts": changed("array", "name TEXT", "name INTEGER"),
    "nulls": changed("array", "name TEXT NOT NULL", "name TEXT"),
    "a cascade": changed("array", "REFERENCES record (id)", "REFERENCES record (id) ON DELETE CASCADE"),
    "ids that come again": changed("record", " AUTOINCREMENT", ""),
    "conflicts that replace": changed("record", "UNIQUE (run, round)", "UNIQUE (run, round) ON CONFLICT REPLACE"),
    "a space that is none": changed("tag", "run TEXT", "run\u00a0TEXT"),
    "an index on a call": changed("ix_record_run_id", "(run, id)", f"(run, id, length({BOMB}))"),
    "an index on other columns": changed("ix_record_run_id", "(run, id)", "(round)"),
    "an index of other rows": changed("ix_blob_dead", "state = 'dead'", "state = 'ready'"),
    "an index on a condition that calls": changed("ix_blob_dead", "state = 'dead'", f"length({BOMB}) = 'dead'"),
    "an index that is not unique": changed("uq_blob_ready_digest", "UNIQUE ", ""),
    "an index on another table": executed("DROP INDEX ix_blob_dead", "CREATE INDEX ix_blob_dead ON tag (name)"),
    "a table that is a trigger": changed(
        "tag", "CREATE TABLE tag", "CREATE TRIGGER tag AFTER INSERT ON record BEGIN SELECT 1; END --"
    ),
    "a table that is a view": changed("tag", "CREATE TABLE tag", "CREATE VIEW tag AS SELECT 1 AS run --"),
    "a table that is virtual": changed("tag", "CREATE TABLE tag", "CREATE VIRTUAL TABLE tag USING fts5(run) --"),
    "a table without a text": executed("UPDATE sqlite_schema SET sql = NULL WHERE name = 'tag'"),
    "a table whose text is bytes": executed("UPDATE sqlite_schema SET sql = CAST(sql AS BLOB) WHERE name = 'history'"),
    "a table whose text is no UTF-8": executed(
        "UPDATE sqlite_schema SET sql = CAST(sql || x'ff' AS TEXT) WHERE name = 'tag'"
    ),
    "a table twice": executed(DUMMY.format("type, name, tbl_name, rootpage, sql")),
    "a name of SQLite's that it does not use": executed(
        DUMMY.format(
            "type, 'sqlite_sequences', 'sqlite_sequences', rootpage, replace(sql, 'TABLE tag', 'TABLE sqlite_sequences')"
        )
    ),
    "statistics with a check": executed(
        "ANALYZE",
        f"UPDATE sqlite_schema SET sql = 'CREATE TABLE sqlite_stat1(tbl,idx,stat CHECK (length({BOMB}) > 0))' WHERE name = 'sqlite_stat1'",
    ),
    "a sequence with a check": changed("sqlite_sequence", "name,seq", "name,seq CHECK (seq > 0)"),
    "an index of SQLite's with a text": executed(
        DUMMY.format(
            "'index', 'sqlite_autoindex_tag_2', 'tag', rootpage, 'CREATE INDEX sqlite_autoindex_tag_2 ON tag (name)'"
        )
    ),
    "a trigger of a name like SQLite's": executed(
        DUMMY.format(
            "'trigger', 'sqlite_sequence', 'tag', 0, 'CREATE TRIGGER sqlite_sequence AFTER INSERT ON tag BEGIN SELECT 1; END'"
        )
    ),
    "a view of a name like SQLite's": executed(
        DUMMY.format("'view', 'sqlite_stat1', 'sqlite_stat1', 0, 'CREATE VIEW sqlite_stat1 AS SELECT 1'")
    ),
    "an object of no kind": executed(DUMMY.format("x'ff', x'fe', 3, rootpage, sql")),
}


@pytest.mark.parametrize("what", SCHEMAS)
def test_a_table_or_index_that_we_did_not_make_so_is_refused(template: Path, path: Path, what: str) -> None:
    shutil.copy(template, path)
    SCHEMAS[what](path)
    before = path.read_bytes()
    for options in ({}, {"read_only": True}, {"upgrade": True}):
        with pytest.raises(RecordStoreError) as caught:
            RecordStore(path, **options)  # type: ignore[arg-type]
        assert isinstance(caught.value, NotARecordStoreError), caught.value
    assert path.read_bytes() == before


@pytest.mark.parametrize("release", sorted(ASSETS.glob("schema-*.db")), ids=lambda path: path.stem)
def test_an_older_file_that_we_did_not_make_so_is_not_upgraded(path: Path, release: Path) -> None:
    shutil.copy(release, path)
    SCHEMAS["a check that calls"](path)
    before = path.read_bytes()
    with pytest.raises(NotARecordStoreError, match="the table 'record'"):
        RecordStore(path, upgrade=True)
    assert path.read_bytes() == before


def test_a_file_that_went_down_and_up_again_is_still_ours(template: Path, path: Path) -> None:
    shutil.copy(template, path)
    for revision in ("0001", "0002", "0000", "0001"):
        migrate(path, revision)
    with RecordStore(path, upgrade=True) as store:
        store.save([np.ones(2)])
    assert sql_of(path) == sql_of(template)


@pytest.mark.parametrize("version", range(1, int(HEAD) + 1))
def test_each_version_has_the_definitions_that_its_revisions_leave(template: Path, path: Path, version: int) -> None:
    shutil.copy(template, path)
    if version != int(HEAD):
        migrate(path, f"{version:04}")
    found = rows(path, "SELECT name, type, tbl_name, sql FROM sqlite_schema WHERE name NOT LIKE 'sqlite~_%' ESCAPE '~'")
    made = {name: definition(*rest) for name, *rest in found}
    print(f"\n{version}: {made}")
    assert DEFINITIONS[version] == made
