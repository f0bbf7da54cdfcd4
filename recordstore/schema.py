"""Which schema a database has, and how it gets the newest one: always through the revisions in ``migrations/``."""

import shlex
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path

from sqlalchemy import Connection

from recordstore import forks
from recordstore.definitions import DEFINITIONS, SQLITE_OWN, definition
from recordstore.engine import Database
from recordstore.exceptions import (
    NotARecordStoreError,
    SchemaError,
    SchemaOutdatedError,
    SchemaTooNewError,
    StoreAccessError,
    StoreBusyError,
)
from recordstore.faults import result_code, translated
from recordstore.locks import is_mine, process_lock
from recordstore.orm import Base
from recordstore.target import Target

HEAD = "0002"
"""The revision that this version of the package works with; compared at each open, without importing Alembic."""

VERSION_TABLE = "recordstore_version"
"""Where Alembic keeps the revision; ``alembic_version``, its default, belongs to other applications."""

APPLICATION_ID = int.from_bytes(b"FLRS")
"""Marks a file as ours in its header, https://www.sqlite.org/pragma.html#pragma_application_id"""

CREATION = ("PRAGMA page_size=32768", "PRAGMA auto_vacuum=INCREMENTAL")
"""Settings that only an empty file takes.

With the default pages of 4 KiB rows of 1 MB are written four times slower; without auto_vacuum the space of deleted
records could be given back to the disk by a full VACUUM only.
"""

_UNTOUCHED = "mode=ro&immutable=1"

_made: dict[tuple[str, Path], list[str]] = {}
"""What the revisions have made of an empty database in this process, by the newest of them and where they lie.

Running them again takes four times as long, which a simulation or a test suite with a store for each case would feel.
"""


def refuse_foreign(target: Target) -> None:
    """Raise if the file belongs to something else, without as much as locking it.

    An ordinary connection would roll back or check-point what the other program left unfinished.

    Raises
    ------
    NotARecordStoreError
        The file is no SQLite database, or another application's.
    """
    if target.path is None:
        return
    try:
        size = Path(target.path).stat().st_size
    except OSError as error:
        raise StoreAccessError(f"{target} cannot be opened: {error.strerror}") from error
    if size == 1:  # SQLite takes a file of one byte for an empty one
        raise NotARecordStoreError(f"{target} is no record store: it holds one byte; choose another path")
    if size == 0 or Path(f"{target.path}-journal").exists():
        return  # new, or perhaps cut off in its creation: what it is shows after the roll-back
    with (
        translated(str(target), opening=True),
        forks.transaction(),
        closing(sqlite3.connect(target.uri(_UNTOUCHED), uri=True)) as connection,
    ):
        try:
            _read_version(lambda sql: connection.execute(sql).fetchall(), target)
        except sqlite3.DatabaseError as error:
            # Somebody may be writing to it at this moment, which a look without locks takes for damage.
            if result_code(error) != sqlite3.SQLITE_CORRUPT:
                raise


def prepare(database: Database, *, upgrade: bool) -> None:
    """Check the schema of a database that is being opened; create it in an empty one, upgrade it if asked to.

    Raises
    ------
    NotARecordStoreError
        Another application's database, or one with objects that we did not make.
    SchemaOutdatedError
        An older schema, and ``upgrade`` is false or the store read-only.
    SchemaTooNewError
        A newer schema than :data:`HEAD`.
    """
    with database.inspection() as connection:
        version = inspect(connection, database.target)
    if version != int(HEAD):
        _refuse_change(database, version, upgrade=upgrade)
        _migrate(database)
    database.schema_version = int(HEAD)


def inspect(connection: Connection, target: Target) -> int | None:
    """Return the schema version of a record store, None for an empty database; raise for anything else."""

    def query(sql: str) -> list[tuple[object, ...]]:
        return [tuple(row) for row in connection.exec_driver_sql(sql)]

    version = _read_version(query, target)
    if version is None:
        return None
    if version > int(HEAD):
        raise SchemaTooNewError(
            f"{target} has schema {version:04}, this recordstore knows up to {HEAD}: "
            "upgrade it with pip install --upgrade flwr-recordstore"
        )
    _check_objects(query, target, version)
    # a constant: nothing is injected
    rows = query(f"SELECT version_num FROM {VERSION_TABLE}")  # noqa: S608  # nosec B608
    if rows != [(f"{version:04}",)]:
        raise NotARecordStoreError(f"{target} contradicts itself about its schema: {version:04} and {rows}")
    return version


def _read_version(query: Callable[[str], list[tuple[object, ...]]], target: Target) -> int | None:
    application = query("PRAGMA application_id")[0][0]
    version = query("PRAGMA user_version")[0][0]
    if application == APPLICATION_ID and isinstance(version, int) and version > 0:
        return version
    tables = [str(name) for (name,) in query("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name")]
    ours = application == APPLICATION_ID and set(tables) <= {VERSION_TABLE, "sqlite_sequence"}  # after a full downgrade
    if version == 0 and (ours or (application == 0 and not tables)):
        return None
    raise NotARecordStoreError(
        f"{target} is a database of another application ({', '.join(tables[:5]) or 'no tables'}); "
        "a record store needs a file of its own: choose another path"
    )


def _check_objects(query: Callable[[str], list[tuple[object, ...]]], target: Target, version: int) -> None:
    """Refuse what we did not make: a trigger, a view, a default or a check would run code of the file's author."""
    expected = DEFINITIONS.get(version) or _names()
    seen = set()
    for kind, name, table, rootpage, sql in query("SELECT type, name, tbl_name, rootpage, sql FROM sqlite_schema"):
        text = str(name)
        if not _is_known(str(kind), text, sql, expected) or not rootpage:
            raise NotARecordStoreError(f"{target} holds the {kind} {text!r}, which no record store has; refused")
        if expected.get(text) and definition(str(kind), str(table), str(sql)) != expected[text]:
            raise NotARecordStoreError(f"{target} holds the {kind} {text!r}, defined as in no record store; refused")
        seen.add(text)
    if missing := expected.keys() - seen:
        raise NotARecordStoreError(f"{target} lacks {', '.join(sorted(missing))}: it is damaged")


def _is_known(kind: str, name: str, sql: object, expected: Mapping[str, str]) -> bool:
    if name in SQLITE_OWN:
        return kind == "table" and sql == SQLITE_OWN[name]
    if name.startswith("sqlite_autoindex_"):
        return kind == "index" and sql is None
    return kind in {"table", "index"} and name in expected


def _names() -> dict[str, str]:
    """Return the names of the tables and indexes of a version whose definitions are not recorded yet."""
    tables = Base.metadata.tables
    return dict.fromkeys(
        [VERSION_TABLE, *tables, *(str(index.name) for one in tables.values() for index in one.indexes)], ""
    )


def _refuse_change(database: Database, version: int | None, *, upgrade: bool) -> None:
    if version is None and database.read_only:
        raise NotARecordStoreError(f"{database.target} is empty, and read_only=True creates nothing")
    if version is not None and (database.read_only or not upgrade):
        raise SchemaOutdatedError(
            f"{database.target} has schema {version:04}, this recordstore works with {HEAD}; upgrade it with "
            f"`python -m recordstore upgrade {shlex.quote(str(database.target))}` or RecordStore(..., upgrade=True)"
        )


@contextmanager
def migrating(database: Database) -> Iterator[Connection]:
    """Give a connection in a transaction that may change the schema, and its final settings to an empty database."""
    with database.inspection() as connection:
        empty = connection.exec_driver_sql("SELECT count(*) FROM sqlite_schema").scalar_one() == 0
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
    rebuild = ("VACUUM",) if pages else ()  # a file that is not empty, though its database is, has settings already
    with database.migration(*((*CREATION, *rebuild) if empty else ())) as connection:
        yield connection


def _migrate(database: Database) -> None:
    """Run the missing revisions in one transaction, unless another process has just done so."""
    alembic = process_lock("alembic")  # whose state is global
    if is_mine(alembic):  # the handler of a signal
        raise StoreBusyError(f"{database.target} cannot be made while this thread makes another store; try again then")
    with migrating(database) as connection, alembic:
        if inspect(connection, database.target) == int(HEAD):
            return
        empty = connection.exec_driver_sql("SELECT 1 FROM sqlite_schema").first() is None
        revisions = HEAD, _scripts()
        if empty and revisions in _made:
            for statement in _made[revisions]:
                connection.exec_driver_sql(statement)
        else:
            _run_alembic(connection)
            if empty:
                _made[revisions] = _statements(connection)
        inspect(connection, database.target)


def _statements(connection: Connection) -> list[str]:
    """Return what makes the schema of a database without rows anew, to the letter."""
    objects = connection.exec_driver_sql(
        "SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite_%' ORDER BY rowid"
    )
    return [
        *objects.scalars(),
        f"INSERT INTO {VERSION_TABLE} VALUES ('{HEAD}')",  # noqa: S608 - a constant  # nosec B608
        f"PRAGMA user_version={int(HEAD)}",
        f"PRAGMA application_id={APPLICATION_ID}",
    ]


def _run_alembic(connection: Connection) -> None:
    from alembic import command  # noqa: PLC0415 - 130 ms that opening an up-to-date store does not pay
    from alembic.config import Config  # noqa: PLC0415
    from alembic.util import CommandError  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", str(_scripts()).replace("%", "%%"))
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, HEAD)
    except CommandError as error:
        raise SchemaError(f"the schema cannot be brought to {HEAD}, nothing was changed: {error}") from error


def _scripts() -> Path:
    packaged = Path(__file__).parent / "migrations"
    return packaged if packaged.is_dir() else Path(__file__).parent.parent / "migrations"
