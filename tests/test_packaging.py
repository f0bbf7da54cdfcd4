"""The wheel: what is in it, and that it works where there is no checkout and nothing but its own dependencies."""

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from support import HEAD, NEXT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

CHECKOUT = Path(__file__).parents[1]

SAVE = """
import numpy as np
from recordstore import ArrayRecord, RecordStore

arrays = [np.arange(300_000, dtype="float32").reshape(500, 600), np.array(7)]
with RecordStore("x.db") as store:
    store.save(ArrayRecord(arrays), run="wheel", round=1, metrics={"accuracy": 0.5}, metadata={"by": "wheel"})
"""

LOAD = """
import sys
import numpy as np
from recordstore import RecordStore

upgrade = sys.argv[1] == "upgrade"
with RecordStore("x.db", upgrade=upgrade) as store:
    first, second = store.load("wheel@latest").to_numpy_ndarrays()
    np.testing.assert_array_equal(first, np.arange(300_000, dtype="float32").reshape(500, 600))
    assert second == 7 and second.shape == ()
    info = store.info("wheel@1")
    print(info.metrics, info.metadata, info.digest)
assert not {"torch", "flwr"} & sys.modules.keys()
"""

RAW = """
import sqlite3
import sys
from contextlib import closing

with closing(sqlite3.connect("x.db")) as connection:
    assert connection.execute("PRAGMA user_version").fetchone() == (int(sys.argv[1]),)
    columns = [row[1] for row in connection.execute("PRAGMA table_info(record)")]
    assert ("note" in columns) == (sys.argv[2:] == ["note"]), columns
    assert connection.execute("SELECT count(*) FROM chunk").fetchone() == (3,)
"""

REVISION = f'''
"""Add a column; a revision that only this test has."""

import sqlalchemy as sa
from alembic import op

revision = "{NEXT}"
down_revision = "{HEAD}"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("record", sa.Column("note", sa.Text()))
    op.execute("UPDATE record SET note = 'came with {NEXT}'")


def downgrade() -> None:
    op.drop_column("record", "note")
'''


def run(*command: str | Path, cwd: Path, fails: bool = False) -> str:
    """Run a command, check whether it fails, and return what it printed."""
    done = subprocess.run([*map(str, command)], cwd=cwd, capture_output=True, text=True, timeout=600, check=False)
    output = done.stdout + done.stderr
    assert (done.returncode != 0) == fails, output
    return output


def build(source: Path, folder: Path) -> Path:
    run(sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", folder, source, cwd=folder)
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(CHECKOUT, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def next_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of the next release, which knows one revision more."""
    source = tmp_path_factory.mktemp("next") / "source"
    ignored = shutil.ignore_patterns(".*", "__pycache__", "*.db*", "tests", "build", "dist", "demo-output")
    shutil.copytree(CHECKOUT, source, ignore=ignored)
    (source / f"migrations/versions/{NEXT}_note.py").write_text(REVISION)
    schema = source / "recordstore/schema.py"
    text, changes = re.subn(rf'^HEAD = "{HEAD}"$', f'HEAD = "{NEXT}"', schema.read_text(), flags=re.MULTILINE)
    assert changes == 1
    schema.write_text(text)
    return build(source, source.parent)


def environment(folder: Path, wheel: Path) -> Path:
    """Return the interpreter of an environment that holds a wheel and what it depends on, and nothing else."""
    run(sys.executable, "-m", "venv", folder / "venv", cwd=folder)
    python = folder / "venv/bin/python"
    run(python, "-m", "pip", "install", "--quiet", wheel, cwd=folder)
    return python


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Path:
    return environment(tmp_path_factory.mktemp("empty"), wheel)


@pytest.fixture(scope="module")
def next_python(tmp_path_factory: pytest.TempPathFactory, next_wheel: Path) -> Path:
    return environment(tmp_path_factory.mktemp("next-empty"), next_wheel)


def test_the_wheel_holds_the_package_its_migrations_and_its_licence(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (metadata,) = [archive.read(name).decode() for name in names if name.endswith(".dist-info/METADATA")]
    expected = {
        "recordstore/__init__.py",
        "recordstore/__main__.py",
        "recordstore/py.typed",
        "recordstore/migrations/env.py",
        "recordstore/migrations/script.py.mako",
    }
    revisions = {f"recordstore/migrations/versions/{path.name}" for path in CHECKOUT.glob("migrations/versions/*.py")}
    assert revisions
    assert names >= expected | revisions
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
    assert {name.split("/")[0].removesuffix(".dist-info") for name in names} == {
        "recordstore",
        wheel.name.removesuffix("-py3-none-any.whl"),
    }
    assert not [name for name in names if "__pycache__" in name]
    assert "Requires-Python: >=3.11" in metadata
    assert "License-Expression: Apache-2.0" in metadata


def test_the_wheel_works_in_an_empty_environment(python: Path, tmp_path: Path) -> None:
    where = run(python, "-c", "import recordstore; print(recordstore.__file__)", cwd=tmp_path)
    assert Path(where.strip()).is_relative_to(python.parents[1])
    run(python, "-c", SAVE, cwd=tmp_path)
    assert "{'accuracy': 0.5} {'by': 'wheel'}" in run(python, "-c", LOAD, "open", cwd=tmp_path)
    run(python, "-m", "recordstore", "check", "x.db", cwd=tmp_path)


def test_an_older_file_is_refused_until_the_named_command_upgrades_it(
    python: Path, next_python: Path, tmp_path: Path
) -> None:
    run(python, "-c", SAVE, cwd=tmp_path)
    saved = run(python, "-c", LOAD, "open", cwd=tmp_path)

    refusal = run(next_python, "-c", LOAD, "open", cwd=tmp_path, fails=True)
    assert "SchemaOutdatedError" in refusal
    assert f"python -m recordstore upgrade {tmp_path / 'x.db'}" in refusal
    run(next_python, "-m", "recordstore", "check", "x.db", cwd=tmp_path, fails=True)
    run(python, "-c", RAW, str(int(HEAD)), cwd=tmp_path)

    run(next_python, "-m", "recordstore", "upgrade", "x.db", cwd=tmp_path)
    run(python, "-c", RAW, str(int(NEXT)), "note", cwd=tmp_path)
    run(next_python, "-m", "recordstore", "check", "x.db", cwd=tmp_path)
    assert run(next_python, "-c", LOAD, "open", cwd=tmp_path) == saved


def test_an_older_file_is_upgraded_when_opened_so(python: Path, next_python: Path, tmp_path: Path) -> None:
    run(python, "-c", SAVE, cwd=tmp_path)
    saved = run(python, "-c", LOAD, "open", cwd=tmp_path)
    assert run(next_python, "-c", LOAD, "upgrade", cwd=tmp_path) == saved
    run(python, "-c", RAW, str(int(NEXT)), "note", cwd=tmp_path)
    assert "SchemaTooNewError" in run(python, "-c", LOAD, "open", cwd=tmp_path, fails=True)
