"""One schema, told three times: by the migrations, by the ORM, and by the files of every release."""

import ast
import hashlib
import io
import json
import re
import shutil
from collections import OrderedDict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.operations import Operations
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine
from support import ASSETS, CHECKOUT, HEAD, alembic_config, migrate, rows, sql_of

from recordstore import Array, HistoryEntry, RecordInfo, RecordStore, schema
from recordstore.orm import Base

Query = Callable[..., list[tuple[Any, ...]]]
Kept = dict[str, Any]

MIGRATIONS = CHECKOUT / "migrations"
RELEASED = sorted(path.stem for path in ASSETS.glob("schema-*.db"))


@pytest.fixture
def migrated(path: Path) -> dict[tuple[str, str], str]:
    RecordStore(path).close()
    return sql_of(path)


def test_there_is_one_head_and_the_package_knows_it() -> None:
    scripts = ScriptDirectory.from_config(alembic_config())
    assert scripts.get_heads() == [schema.HEAD]
    numbers = sorted(script.revision for script in scripts.walk_revisions())
    assert numbers == [f"{number + 1:04}" for number in range(len(numbers))]
    assert numbers[-1] == schema.HEAD


def test_revisions_import_nothing_from_the_package() -> None:
    for revision in MIGRATIONS.glob("versions/*.py"):
        tree = ast.parse(revision.read_text())
        modules = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        modules |= {node.module or "." for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert {module.split(".")[0] for module in modules} <= {"alembic", "sqlalchemy"}


def test_a_second_new_store_is_to_the_byte_what_the_revisions_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    upgrade = command.upgrade
    monkeypatch.setattr(command, "upgrade", lambda config, to: calls.append(to) or upgrade(config, to))
    monkeypatch.setattr(schema, "_made", {})
    first, second = tmp_path / "first.db", tmp_path / "second.db"
    for file in (first, second):
        RecordStore(file).close()
        assert calls == [schema.HEAD]
    for query in (
        "SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY type, name",
        f"SELECT * FROM {schema.VERSION_TABLE}",
        "SELECT * FROM sqlite_sequence",
    ):
        assert rows(first, query) == rows(second, query)
    for pragma in ("user_version", "application_id", "page_size", "page_count", "freelist_count", "auto_vacuum"):
        assert rows(first, f"PRAGMA {pragma}") == rows(second, f"PRAGMA {pragma}")
    assert rows(second, "PRAGMA integrity_check") == [("ok",)]


def test_a_store_that_was_downgraded_to_nothing_gets_its_schema_from_the_revisions(path: Path) -> None:
    for _ in range(2):
        RecordStore(path).close()
        migrate(path, "0000")
        assert rows(path, "SELECT name FROM sqlite_schema WHERE name = 'recordstore_version'")
    with RecordStore(path) as store:
        assert store.save([np.ones(3)]) == 1


def test_the_orm_says_what_the_migrations_made(path: Path) -> None:
    RecordStore(path).close()
    engine = create_engine(f"sqlite:///{path}")
    with engine.connect() as connection:
        options = {"version_table": schema.VERSION_TABLE, "compare_type": True, "compare_server_default": True}
        assert compare_metadata(MigrationContext.configure(connection, opts=options), Base.metadata) == []
    engine.dispose()


def test_the_orm_says_it_to_the_letter(migrated: dict[tuple[str, str], str], tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path / 'orm.db'}")
    Base.metadata.create_all(engine)
    engine.dispose()
    del migrated["table", schema.VERSION_TABLE]
    assert migrated == sql_of(tmp_path / "orm.db")


def test_on_postgresql_where_names_belong_to_the_schema_the_migrations_use_none_twice() -> None:
    script = ScriptDirectory.from_config(alembic_config())
    sql = io.StringIO()
    options = {"as_sql": True, "output_buffer": sql}
    with Operations.context(MigrationContext.configure(dialect_name="postgresql", opts=options)):
        for revision in reversed(list(script.walk_revisions())):
            revision.module.upgrade()
    assert "RENAME" not in sql.getvalue()
    names: set[str] = set()
    for dropped, name in re.findall(r"(DROP )?(?:CONSTRAINT|INDEX) (\w+)", sql.getvalue()):
        assert (name in names) == bool(dropped), name
        names ^= {name}
    tables = Base.metadata.tables.values()
    assert names == {str(item.name) for table in tables for item in (*table.constraints, *table.indexes)}


def test_there_are_seven_tables_with_the_keys_of_the_design(migrated: dict[tuple[str, str], str], query: Query) -> None:
    tables = {name for kind, name in migrated if kind == "table"} - {schema.VERSION_TABLE}
    assert tables == {"record", "array", "blob", "chunk", "metric", "tag", "history"}
    for table in ("record", "blob", "chunk"):
        assert "( id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT," in migrated["table", table], "ids come once"
    assert query("SELECT name FROM pragma_table_info('chunk') ORDER BY cid DESC LIMIT 1") == [("data",)]
    assert "WITHOUT ROWID" not in migrated["table", "chunk"]
    unique = migrated["index", "uq_blob_ready_digest"]
    assert unique.endswith("ON blob (digest) WHERE state = 'ready'")
    assert unique.startswith("CREATE UNIQUE INDEX")
    assert "alembic_version" not in tables


def test_a_downgrade_empties_the_file_and_an_upgrade_makes_it_anew(
    migrated: dict[tuple[str, str], str], path: Path, query: Query
) -> None:
    migrate(path, "0000")
    assert query("SELECT name FROM sqlite_schema WHERE name NOT LIKE 'sqlite_%'") == [(schema.VERSION_TABLE,)]
    assert query("PRAGMA user_version") == [(0,)]
    with RecordStore(path) as store:
        store.save([np.ones(2)])
    assert sql_of(path) == migrated
    assert query("PRAGMA user_version") == [(int(HEAD),)]


def test_each_table_of_the_orm_is_in_the_specification() -> None:
    text = (CHECKOUT / "docs/format.md").read_text(encoding="utf-8")
    for table in Base.metadata.tables.values():
        section = text.split(f"**{table.name}**", 1)[1].split("\n**", 1)[0]
        assert all(f"`{column.name}`" in section for column in table.columns), table.name
        assert all(f"`{index.name}`" in text for index in table.indexes)


@pytest.fixture(params=RELEASED)
def released(request: pytest.FixtureRequest, path: Path) -> Kept:
    """A copy of the file of a release at ``path``, and what has to come out of it."""
    shutil.copy(ASSETS / f"{request.param}.db", path)
    expected = json.loads((ASSETS / f"{request.param}.json").read_text())
    # schema 0001 had nothing but records
    return {"records": expected, "history": {}} if isinstance(expected, list) else expected


def test_a_file_of_every_schema_is_kept() -> None:
    assert [f"schema-{number + 1:04}" for number in range(int(schema.HEAD))] == RELEASED


def described(arrays: Iterable[tuple[str, Array]]) -> list[list[Any]]:
    return [
        [name, array.dtype, array.shape, array.stype, hashlib.sha256(array.data).hexdigest()] for name, array in arrays
    ]


def spelled(value: Any) -> str:
    """Return a text that tells values and their types apart, the same with every version of Python and NumPy."""
    if isinstance(value, np.generic):
        return f"{value.dtype.str} {value.tobytes().hex()}"
    return f"ordered {list(value.items())}" if isinstance(value, OrderedDict) else repr(value)


def spelled_entry(entry: HistoryEntry) -> list[Any]:
    return [entry.round, entry.source, {name: spelled(value) for name, value in entry.values.items()}]


def facts(info: RecordInfo) -> Kept:
    """Return what a kept file tells of a record besides its arrays and its checkpoint."""
    plain = {name: getattr(info, name) for name in ("id", "run", "round", "metadata", "nbytes", "digest")}
    metrics = {name: str(number) for name, number in info.metrics.items()}
    return plain | {"metrics": metrics, "tags": list(info.tags), "created_at": info.created_at.isoformat()}


def test_a_file_of_every_release_opens_and_loads_byte_for_byte(released: Kept, path: Path) -> None:
    records = released["records"]
    with RecordStore(path, upgrade=True) as store:
        assert list(store) == [expected["id"] for expected in records]
        for expected in records:
            info, record = store.info(expected["id"]), store.load(expected["id"])
            assert described(record.items()) == expected["arrays"]
            assert facts(info).items() <= expected.items()
            assert store.info(store.save(record)).digest == info.digest
        assert store.save([]) > max(expected["id"] for expected in records)


def test_a_file_of_every_release_has_its_checkpoints_and_its_history(released: Kept, path: Path) -> None:
    with RecordStore(path, upgrade=True) as store:
        for expected in released["records"]:
            checkpoint = store.load_checkpoint(expected["id"])
            kept = checkpoint and {"state": repr(checkpoint.state), "arrays": described(checkpoint.arrays.items())}
            assert kept == expected.get("checkpoint")
        for run in {expected["run"] for expected in released["records"]} - {None} | released["history"].keys():
            assert list(map(spelled_entry, store.history(run))) == released["history"].get(run, [])


def test_a_file_of_a_release_is_as_its_script_makes_it(released: Kept, query: Query) -> None:
    ids = [expected["id"] for expected in released["records"]]
    assert ids == list(range(2, 2 + len(ids))), "the first one was deleted"
    assert query("PRAGMA integrity_check") == [("ok",)]
    assert query("PRAGMA foreign_key_check") == []


def test_one_of_them_has_an_array_of_two_chunks(path: Path, query: Query) -> None:
    shutil.copy(ASSETS / "schema-0001.db", path)
    of_two = "blob_id = (SELECT blob_id FROM chunk WHERE seq = 1)"
    assert query(f"SELECT max(nbytes), count(*) FROM chunk WHERE {of_two}") == [(960 * 1024, 2)]


@pytest.mark.parametrize("release", RELEASED)
def test_a_file_of_a_release_has_the_schema_that_its_revisions_make(path: Path, release: str) -> None:
    RecordStore(path).close()
    number = release.removeprefix("schema-")
    if number != HEAD:
        migrate(path, number)
    assert sql_of(ASSETS / f"{release}.db") == sql_of(path)
