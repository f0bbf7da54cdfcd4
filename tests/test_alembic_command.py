"""The ``alembic`` command in a checkout, for those who write migrations."""

import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from support import HEAD, NEXT

from recordstore import RecordStore

CHECKOUT = Path(__file__).parents[1]


def alembic(*arguments: str, cwd: Path = CHECKOUT) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "alembic", *arguments],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(CHECKOUT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def test_heads_names_the_one_head() -> None:
    assert alembic("heads") == (0, f"{HEAD} (head)\n")


def test_upgrade_makes_a_store_that_the_library_opens(path: Path) -> None:
    target = f"target={path}"
    code, output = alembic("-x", target, "upgrade", "head")
    assert code == 0, output
    with RecordStore(path) as store:
        store.save([np.ones(3)], run="r", round=1)
    assert path.stat().st_mode & 0o777 == 0o600
    before = path.read_bytes()
    assert alembic("-x", target, "upgrade", "head") == (0, "")
    assert alembic("-x", target, "current") == (0, f"{HEAD} (head)\n")
    assert alembic("-x", target, "check") == (0, "No new upgrade operations detected.\n")
    assert path.read_bytes() == before
    with RecordStore(path) as store:
        assert store.load("r@1")["0"].numpy().tolist() == [1, 1, 1]


def test_downgrade_is_one_transaction_and_the_way_back_works(path: Path) -> None:
    RecordStore(path).close()
    assert alembic("-x", f"target={path}", "downgrade", "base")[0] == 0
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (0,)
    assert alembic("-x", f"target={path}", "current") == (0, "")
    assert alembic("-x", f"target={path}", "upgrade", "head")[0] == 0
    RecordStore(path, read_only=True).close()


def test_the_database_has_to_be_named() -> None:
    code, output = alembic("current")
    assert code != 0
    assert "alembic -x target=checkpoints.db upgrade head" in output


def test_another_applications_database_is_refused(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE alembic_version (version_num)")
    before = path.read_bytes()
    code, output = alembic("-x", f"target={path}", "upgrade", "head")
    assert code != 0
    assert "NotARecordStoreError" in output
    assert path.read_bytes() == before


def test_scripts_of_sql_are_refused() -> None:
    code, output = alembic("upgrade", "head", "--sql")
    assert code != 0
    assert "SQL scripts cannot be generated" in output


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of what Alembic needs, to write into."""
    shutil.copy(CHECKOUT / "pyproject.toml", tmp_path)
    shutil.copytree(CHECKOUT / "migrations", tmp_path / "migrations", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def test_a_new_revision_gets_the_next_number_and_finds_nothing_to_do(checkout: Path, path: Path) -> None:
    RecordStore(path).close()
    code, output = alembic("-x", f"target={path}", "revision", "--autogenerate", "-m", "add a note", cwd=checkout)
    assert code == 0, output
    (made,) = checkout.glob(f"migrations/versions/{NEXT}_*.py")
    assert made.name == f"{NEXT}_add_a_note.py"
    text = made.read_text()
    assert f"revision = '{NEXT}'" in text
    assert f"down_revision = '{HEAD}'" in text
    assert text.count("    pass") == 2
    assert "recordstore" not in text
