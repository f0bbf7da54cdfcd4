"""Upgrades, with a revision that only these tests have: atomic, lossless, one at a time, and never unasked."""

import hashlib
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import ASSETS, CHECKOUT, HEAD, NEXT

from recordstore import (
    ArrayRecord,
    RecordStore,
    SchemaError,
    SchemaOutdatedError,
    SchemaTooNewError,
    StoreBusyError,
)

Query = Callable[..., list[tuple[Any, ...]]]

RELEASED = sorted(path.stem for path in ASSETS.glob("schema-*.db"))

REVISION = """
import sqlalchemy as sa
from alembic import op

revision, down_revision, branch_labels, depends_on = "{revision}", "{down_revision}", None, None

def upgrade():
    with op.batch_alter_table("record", recreate="always", table_kwargs={{"sqlite_autoincrement": True}}) as batch:
        batch.add_column(sa.Column("note", sa.Text()))
    op.execute("UPDATE record SET note = 'came with {revision}'")
    {step}

def downgrade():
    op.drop_column("record", "note")
"""

RECORD = {"x": np.arange(300_000), "y": np.ones(3)}


@pytest.fixture
def scripts(tmp_path: Path) -> Path:
    """The migrations and one more."""
    folder = tmp_path / "50% more migrations"
    shutil.copytree(CHECKOUT / "migrations", folder, ignore=shutil.ignore_patterns("__pycache__"))
    write_revision(folder)
    return folder


def write_revision(folder: Path, step: str = "pass") -> None:
    text = REVISION.format(revision=NEXT, down_revision=HEAD, step=step)
    (folder / f"versions/{NEXT}_note.py").write_text(text)


@pytest.fixture
def old(path: Path) -> Path:
    """A store as this release makes it."""
    with RecordStore(path) as store:
        store.save(RECORD, run="r", round=1, metrics={"m": 1}, tags=["t"])
        store.save({"z": np.ones(2)})
    return path


@pytest.fixture
def next_release(old: Path, scripts: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make this package the next release, which works with one revision more, once ``old`` was made by this one."""
    monkeypatch.setattr("recordstore.schema.HEAD", NEXT)
    monkeypatch.setattr("recordstore.schema._scripts", lambda: scripts)
    return scripts


def content(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as connection:
        return sorted(line for line in connection.iterdump() if "record" not in line or "chunk" in line)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.usefixtures("next_release")
@pytest.mark.parametrize("options", [{}, {"read_only": True}, {"read_only": True, "upgrade": True}], ids=str)
def test_an_older_store_is_refused_with_the_command_that_upgrades_it(old: Path, options: dict[str, Any]) -> None:
    before = digest(old)
    with pytest.raises(SchemaOutdatedError, match=f"{HEAD}.*works with {NEXT}.*`python -m recordstore upgrade {old}`"):
        RecordStore(old, **options)
    assert digest(old) == before


@pytest.mark.usefixtures("next_release")
def test_an_upgrade_keeps_every_record_to_the_byte(old: Path, query: Query) -> None:
    before = content(old)
    with RecordStore(old, upgrade=True) as store:
        assert store.load("r@t") == ArrayRecord({name: ArrayRecord([array])["0"] for name, array in RECORD.items()})
        assert store.info("r@1").metrics == {"m": 1}
        assert store.save([]) == 3
        store.delete(3)
    assert query("SELECT id, note FROM record") == [(1, f"came with {NEXT}"), (2, f"came with {NEXT}")]
    assert content(old) == before
    assert query("PRAGMA user_version") == [(int(NEXT),)]
    assert query("SELECT version_num FROM recordstore_version") == [(NEXT,)]
    assert query("PRAGMA foreign_key_check") == []
    assert [query(f"PRAGMA {name}")[0][0] for name in ("page_size", "auto_vacuum")] == [32768, 2]
    with RecordStore(old) as store:
        assert len(store) == 2


@pytest.mark.usefixtures("next_release")
def test_a_new_store_is_made_by_all_revisions(path: Path, query: Query) -> None:
    path.unlink()
    with RecordStore(path) as store, RecordStore(":memory:") as memory:
        assert store.save([]) == memory.save([]) == 1
    assert query("PRAGMA user_version") == [(int(NEXT),)]
    assert query("SELECT note FROM record") == [(None,)]


def test_an_older_release_refuses_what_was_upgraded(old: Path, next_release: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("recordstore.schema.HEAD", NEXT)
        RecordStore(old, upgrade=True).close()
        patch.setattr("recordstore.schema.HEAD", HEAD)
        before = digest(old)
        with pytest.raises(SchemaTooNewError, match=NEXT):
            RecordStore(old, upgrade=True)
    assert digest(old) == before


def test_a_store_that_is_open_notices_the_upgrade(old: Path, next_release: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("recordstore.schema.HEAD", HEAD)
        with RecordStore(old) as store:
            stream = store.stream("r@1")
            next(stream)
            patch.setattr("recordstore.schema.HEAD", NEXT)
            RecordStore(old, upgrade=True).close()
            for call in (lambda: store.save([]), lambda: store.load(1), lambda: store.delete(1), lambda: next(stream)):
                with pytest.raises((SchemaTooNewError, StopIteration)):
                    call()


STEPS = {
    "an error of its own": ("raise ZeroDivisionError('half-way')", ZeroDivisionError, "half-way"),
    "an error of SQL": ("op.execute('INSERT INTO nowhere VALUES (1)')", Exception, "nowhere"),
    "rows that lost their parents": ("op.execute('DELETE FROM blob')", SchemaError, "nothing was changed"),
}


@pytest.mark.parametrize("what", STEPS)
def test_an_upgrade_that_fails_leaves_the_file_as_it_was(old: Path, next_release: Path, what: str) -> None:
    step, error, says = STEPS[what]
    write_revision(next_release, step)
    before = digest(old)
    with pytest.raises(error, match=says):
        RecordStore(old, upgrade=True)
    assert digest(old) == before
    write_revision(next_release)
    with RecordStore(old, upgrade=True) as store:
        assert len(store.load("r@1")) == 2


def test_a_creation_that_fails_leaves_an_empty_file(path: Path, next_release: Path) -> None:
    path.unlink()
    write_revision(next_release, "raise ZeroDivisionError")
    with pytest.raises(ZeroDivisionError):
        RecordStore(path)
    write_revision(next_release)
    with RecordStore(path) as store:
        assert store.save([]) == 1


@pytest.mark.usefixtures("next_release")
def test_an_upgrade_of_a_locked_file_is_refused_and_changes_nothing(old: Path) -> None:
    before = digest(old)
    with closing(sqlite3.connect(old, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreBusyError):
            RecordStore(old, upgrade=True, timeout=0.05)
        other.execute("ROLLBACK")
    assert digest(old) == before
    RecordStore(old, upgrade=True).close()


@pytest.mark.usefixtures("next_release")
@pytest.mark.parametrize("release", RELEASED)
def test_an_older_file_of_every_release_is_upgraded(path: Path, query: Query, release: str) -> None:
    shutil.copy(ASSETS / f"{release}.db", path)
    with closing(sqlite3.connect(path)) as connection:
        counts = connection.execute("SELECT id, array_count FROM record WHERE state = 'ready' ORDER BY id").fetchall()
    with RecordStore(path, upgrade=True) as store:
        assert [(record_id, len(store.load(record_id))) for record_id in store] == counts
    assert query("PRAGMA integrity_check") == [("ok",)]


RACE = """
import sys
import numpy as np
from pathlib import Path
from recordstore import RecordStore, schema

path, scripts, name = sys.argv[1:]
if scripts:
    schema.HEAD = f"{int(schema.HEAD) + 1:04}"
    schema._scripts = lambda: Path(scripts)
import alembic.command
print("ready", flush=True)
sys.stdin.readline()
with RecordStore(path, upgrade=True) as store:
    store.save([np.ones(2)], run=name, round=1)
"""


def race(path: Path, scripts: str) -> None:
    """Let four processes open a file at the same moment."""
    command = [sys.executable, "-c", RACE, str(path), scripts]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    racers = [subprocess.Popen([*command, f"racer {number}"], text=True, **pipes) for number in range(4)]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    assert [racer.communicate(timeout=120)[1] for racer in racers] == [""] * 4
    assert [racer.returncode for racer in racers] == [0] * 4


def test_processes_that_create_a_store_at_once_all_succeed(path: Path, query: Query) -> None:
    race(path, "")
    with RecordStore(path) as store:
        assert [run.run for run in store.runs()] == [f"racer {number}" for number in range(4)]
    assert query("SELECT count(*) FROM recordstore_version") == [(1,)]


def test_processes_that_upgrade_a_store_at_once_all_succeed(old: Path, scripts: Path, query: Query) -> None:
    race(old, str(scripts))
    assert query("SELECT version_num FROM recordstore_version") == [(NEXT,)]
    assert query("SELECT count(*) FROM record WHERE state = 'ready'") == [(6,)]
    assert query("SELECT count(*) FROM record WHERE note = ?", f"came with {NEXT}") == [(2,)]
