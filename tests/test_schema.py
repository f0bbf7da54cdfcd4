"""One schema, told three times: by the migrations, by the ORM, and by the files of every release."""

import ast
import hashlib
import json
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine

from recordstore import RecordStore, schema
from recordstore.engine import Database
from recordstore.orm import Base
from recordstore.target import parse_target

Query = Callable[..., list[tuple[Any, ...]]]

CHECKOUT = Path(__file__).parents[1]
MIGRATIONS = CHECKOUT / "migrations"
ASSETS = Path(__file__).parent / "assets"
RELEASED = sorted(path.stem for path in ASSETS.glob("schema-*.db"))


def config(connection: Connection | None = None) -> Config:
    made = Config()
    made.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    made.attributes["connection"] = connection
    return made


def sql_of(connection: sqlite3.Connection) -> dict[tuple[str, str], str]:
    """Return the text of each object, but for white space."""
    rows = connection.execute("SELECT type, name, sql FROM sqlite_schema WHERE sql IS NOT NULL")
    return {(kind, name): " ".join(sql.split()) for kind, name, sql in rows if not name.startswith("sqlite_")}


@pytest.fixture
def migrated(path: Path) -> dict[tuple[str, str], str]:
    RecordStore(path).close()
    with closing(sqlite3.connect(path)) as connection:
        return sql_of(connection)


def test_there_is_one_head_and_the_package_knows_it() -> None:
    scripts = ScriptDirectory.from_config(config())
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
    with closing(sqlite3.connect(tmp_path / "orm.db")) as connection:
        expected = sql_of(connection)
    del migrated["table", schema.VERSION_TABLE]
    assert migrated == expected


def test_there_are_six_tables_with_the_keys_of_the_design(migrated: dict[tuple[str, str], str], query: Query) -> None:
    tables = {name for kind, name in migrated if kind == "table"} - {schema.VERSION_TABLE}
    assert tables == {"record", "array", "blob", "chunk", "metric", "tag"}
    for table in ("record", "blob", "chunk"):
        assert "( id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT," in migrated["table", table], "ids come once"
    assert query("SELECT name FROM pragma_table_info('chunk') ORDER BY cid DESC LIMIT 1") == [("data",)]
    assert "WITHOUT ROWID" not in migrated["table", "chunk"]
    unique = migrated["index", "uq_blob_ready_digest"]
    assert unique.endswith("ON blob (digest) WHERE state = 'ready'")
    assert unique.startswith("CREATE UNIQUE INDEX")
    assert "alembic_version" not in tables


@contextmanager
def migration(path: Path) -> Iterator[Connection]:
    database = Database(parse_target(path), read_only=False, timeout=1.0)
    with database.migration() as connection:
        yield connection
    database.close()


def test_a_downgrade_empties_the_file_and_an_upgrade_makes_it_anew(
    migrated: dict[tuple[str, str], str], path: Path, query: Query
) -> None:
    with migration(path) as connection:
        command.downgrade(config(connection), "base")
    assert query("SELECT name FROM sqlite_schema WHERE name NOT LIKE 'sqlite_%'") == [(schema.VERSION_TABLE,)]
    assert query("PRAGMA user_version") == [(0,)]
    with RecordStore(path) as store:
        store.save([np.ones(2)])
    with closing(sqlite3.connect(path)) as connection:
        assert sql_of(connection) == migrated
    assert query("PRAGMA user_version") == [(1,)]


def test_each_table_of_the_orm_is_in_the_specification() -> None:
    text = (CHECKOUT / "docs/format.md").read_text(encoding="utf-8")
    for table in Base.metadata.tables.values():
        section = text.split(f"**{table.name}**", 1)[1].split("\n**", 1)[0]
        assert all(f"`{column.name}`" in section for column in table.columns), table.name
        assert all(f"`{index.name}`" in text for index in table.indexes)


@pytest.fixture(params=RELEASED)
def released(request: pytest.FixtureRequest, path: Path) -> list[dict[str, Any]]:
    """A copy of the file of a release at ``path``, and what has to come out of it."""
    shutil.copy(ASSETS / f"{request.param}.db", path)
    expected: list[dict[str, Any]] = json.loads((ASSETS / f"{request.param}.json").read_text())
    return expected


def test_a_file_of_every_schema_is_kept() -> None:
    assert f"schema-{schema.HEAD}" in RELEASED


def test_a_file_of_every_release_opens_and_loads_byte_for_byte(released: list[dict[str, Any]], path: Path) -> None:
    with RecordStore(path, upgrade=True) as store:
        assert list(store) == [expected["id"] for expected in released]
        for expected in released:
            info, record = store.info(expected["id"]), store.load(expected["id"])
            assert [
                [name, array.dtype, array.shape, array.stype, hashlib.sha256(array.data).hexdigest()]
                for name, array in record.items()
            ] == expected["arrays"]
            assert {name: str(number) for name, number in info.metrics.items()} == expected["metrics"]
            facts = ("run", "round", "metadata", "nbytes", "digest")
            assert [getattr(info, fact) for fact in facts] == [expected[fact] for fact in facts]
            assert (list(info.tags), info.created_at.isoformat()) == (expected["tags"], expected["created_at"])
            assert store.info(store.save(record)).digest == info.digest
        assert store.save([]) > max(expected["id"] for expected in released)


def test_a_file_of_a_release_is_as_its_script_makes_it(
    released: list[dict[str, Any]], path: Path, query: Query
) -> None:
    assert query(
        "SELECT max(nbytes), count(*) FROM chunk WHERE blob_id = (SELECT blob_id FROM chunk WHERE seq = 1)"
    ) == [(960 * 1024, 2)]
    assert [expected["id"] for expected in released] == [2, 3, 4], "the first one was deleted"
    assert query("PRAGMA integrity_check") == [("ok",)]
    assert query("PRAGMA foreign_key_check") == []
