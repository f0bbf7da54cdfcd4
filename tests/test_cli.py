"""``python -m recordstore``: the commands that the schema errors name."""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support import HEAD, NEXT

from recordstore import RecordStore
from recordstore.__main__ import main

CHECKOUT = Path(__file__).parents[1]


@pytest.fixture
def full_path(path: Path) -> Path:
    with RecordStore(path) as store:
        for number in range(3):
            store.save({"x": np.full(3, number)}, run="r", round=number)
    return path


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_check_says_what_is_in_a_store_and_changes_nothing(full_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = digest(full_path)
    assert main(["check", str(full_path)]) == 0
    assert capsys.readouterr() == (f"{full_path}: schema {HEAD}, up to date; records: 3, runs: 1\n", "")
    assert digest(full_path) == before


def test_the_module_is_a_command(full_path: Path) -> None:
    command = [sys.executable, "-m", "recordstore", "check", full_path.name]
    done = subprocess.run(command, cwd=full_path.parent, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"store.db: schema {HEAD}, up to date; records: 3, runs: 1\n"
    done = subprocess.run([*command, "more"], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "usage: python -m recordstore" in done.stderr


@pytest.mark.parametrize("encoding", ["ascii", "utf-8:strict"])
def test_a_path_that_the_terminal_cannot_show_is_no_error(full_path: Path, encoding: str) -> None:
    odd = os.fsencode(full_path.parent) + b"/\xc3\xa9\xff.db"
    full_path.rename(os.fsdecode(odd))
    command = [sys.executable, "-m", "recordstore", "verify", odd]
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    done = subprocess.run(command, env=environment, capture_output=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"nothing is damaged" in done.stdout
    assert b".db: records: 3" in done.stdout


@pytest.mark.parametrize("command", ["check", "upgrade", "verify", "backup", "compact"])
def test_a_target_that_is_no_store_is_an_error_on_stderr(
    path: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    rest = [str(path.with_name("copy.db"))] if command == "backup" else []
    arguments = [command, str(path), *rest]
    assert main(arguments) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(f"recordstore: {path} does not exist")
    assert list(path.parent.iterdir()) == [], "no command creates a store"

    path.write_text("round,accuracy\n" * 100)
    assert main(arguments) == 1
    assert capsys.readouterr().err.startswith(f"recordstore: {path}: this is no record store")

    assert main([command, str(path.parent), *rest]) == 1
    assert "is a folder" in capsys.readouterr().err

    assert main([command, "postgresql://me:secret@host/db", *rest]) == 1
    assert "secret" not in capsys.readouterr().err


def test_upgrade_leaves_a_store_that_is_up_to_date_alone(full_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = digest(full_path)
    assert main(["upgrade", str(full_path)]) == 0
    assert capsys.readouterr() == (f"{full_path}: schema {HEAD}, records: 3\n", "")
    assert digest(full_path) == before


def test_the_command_that_check_names_upgrades_an_older_store(
    full_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    scripts = tmp_path / "migrations"
    shutil.copytree(CHECKOUT / "migrations", scripts, ignore=shutil.ignore_patterns("__pycache__"))
    (scripts / f"versions/{NEXT}_nothing.py").write_text(
        f'revision, down_revision, branch_labels, depends_on = "{NEXT}", "{HEAD}", None, None\n\n\n'
        "def upgrade():\n    pass\n"
    )
    monkeypatch.setattr("recordstore.schema.HEAD", NEXT)
    monkeypatch.setattr("recordstore.schema._scripts", lambda: scripts)

    before = digest(full_path)
    assert main(["check", str(full_path)]) == 1
    error = capsys.readouterr().err
    assert f"`python -m recordstore upgrade {full_path}`" in error
    assert digest(full_path) == before

    named = error.split("`")[1].split()[3:]
    assert main(named) == 0
    assert capsys.readouterr().out == f"{full_path}: schema {NEXT}, records: 3\n"
    assert main(["check", str(full_path)]) == 0
    assert f"schema {NEXT}, up to date; records: 3" in capsys.readouterr().out
