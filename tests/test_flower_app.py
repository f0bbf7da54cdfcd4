"""The Flower app: its server, killed twice, ends with the bits of one that was not; and Flower takes it as an app."""

import hashlib
import importlib
import os
import re
import shlex
import shutil
import sqlite3
import subprocess
import sys
import tomllib
import zipfile
from contextlib import closing
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from flwr_import import FLWR, import_quietly

from recordstore import ArrayRecord, HistoryEntry, RecordStore

pytest.importorskip("torch", reason="the app trains with PyTorch")
pytest.importorskip("sklearn", reason="the app needs the digits of scikit-learn")
if not FLWR:
    pytest.skip("flwr is not installed", allow_module_level=True)

CHECKOUT = Path(__file__).parents[1]
APP = CHECKOUT / "examples" / "flower_app"
README = (APP / "README.md").read_text(encoding="utf-8")
PYPROJECT = tomllib.loads((APP / "pyproject.toml").read_text(encoding="utf-8"))
SETTINGS = PYPROJECT["tool"]["flwr"]["app"]
ROUNDS = 6
KILLED_IN, KILLED_AT = 3, 4


def start(*command: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    quiet = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "COLUMNS": "200"}
    arguments = [*map(str, command)]
    return subprocess.run(
        arguments, cwd=cwd, env=os.environ | quiet, capture_output=True, text=True, timeout=500, check=False
    )


def flwr(*arguments: str | Path, home: Path) -> str:
    """Run Flower's own command line and return what it prints."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLWR_HOME", str(home / "flwr"))
        done = start(Path(sys.executable).with_name("flwr"), *arguments, cwd=home)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def load(name: str) -> ModuleType:
    """Import a module of the app, which finds its neighbours as a script in that folder does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(APP)
        return importlib.import_module(name)


def query(db: Path, sql: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(db)) as connection:
        return connection.execute(sql).fetchall()


def contents(db: Path) -> list[tuple[Any, ...]]:
    """Return all arrays of all rounds, those of the optimizer's state too, with a hash of the bytes.

    But for the state of NumPy's global generator, which the app neither seeds nor uses: it is another in each process.
    """
    listed = query(
        db,
        "SELECT round, part, position, name, dtype, shape, stype, array.nbytes, blob_id "
        "FROM array JOIN record ON record.id = record_id "
        "WHERE state = 'ready' AND name NOT LIKE 'numpy_random%' ORDER BY round, position",
    )
    return [(*array, hash_of(db, blob)) for *array, blob in listed]


def hash_of(db: Path, blob: int) -> str:
    chunks = query(db, f"SELECT data FROM chunk WHERE blob_id = {blob} ORDER BY seq")
    return hashlib.sha256(b"".join(data for (data,) in chunks)).hexdigest()


@pytest.fixture(scope="module")
def demonstration(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    folder = tmp_path_factory.mktemp("flower-app")
    done = start(sys.executable, APP / "run_local.py", "--rounds", str(ROUNDS), "--folder", folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, folder


@pytest.mark.slow
def test_the_killed_server_ends_with_the_same_bits(demonstration: tuple[str, Path]) -> None:
    printed, folder = demonstration
    assert printed.count("exit code -9: SIGKILL") == 2
    assert re.search(r"a rollback journal of [1-9][\d,]+ bytes", printed), "not in the middle of a transaction"
    assert f"{ROUNDS + 1} of {ROUNDS + 1} are equal: models" in printed
    assert f"{3 * ROUNDS + 1} of {3 * ROUNDS + 1} are equal: reports of metrics" in printed
    assert "EQUAL: the killed server lost nothing" in printed

    whole, killed = folder / "uninterrupted.db", folder / "killed.db"
    writers = [set(query(db, "SELECT writer FROM record")) for db in (whole, killed)]
    assert not writers[0] & writers[1], "each save signs with a token of its own: one file is a copy of the other"

    assert query(killed, "SELECT round, state FROM record ORDER BY id") == [(n, "ready") for n in range(ROUNDS + 1)]
    arrays = contents(whole)
    assert contents(killed) == arrays
    state = {name.split(".")[0] for round_, part, _, name, *_ in arrays if round_ == ROUNDS and part}
    assert {"m_t", "v_t"} <= state, "the moments of FedAdam are among what was compared"
    for table in (
        "SELECT * FROM history ORDER BY round, source",
        "SELECT round, checkpoint FROM record ORDER BY round",
        "SELECT round, name, value FROM metric JOIN record ON record.id = record_id ORDER BY round, name",
    ):
        rows = query(whole, table)
        assert len(rows) > ROUNDS
        assert query(killed, table) == rows


@pytest.mark.slow
def test_clients_are_contacted_once_for_each_round_that_was_finished(demonstration: tuple[str, Path]) -> None:
    lines = re.findall(r"clients train in round ([\d ]+)", demonstration[0])
    assert [[int(number) for number in line.split()] for line in lines] == [
        list(range(1, ROUNDS + 1)),
        list(range(1, KILLED_IN + 1)),
        list(range(KILLED_IN, KILLED_AT + 1)),
        list(range(KILLED_AT, ROUNDS + 1)),
    ]


@pytest.mark.slow
def test_the_readme_reads_the_checkpoints(demonstration: tuple[str, Path], tmp_path: Path) -> None:
    shutil.copy(demonstration[1] / "killed.db", tmp_path / "checkpoints.db")
    (code,) = (code for code in re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL) if "import" in code)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(APP))
        done = start(sys.executable, "-c", code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    runs, best, keys, *history = done.stdout.splitlines()
    assert runs == f"[RunInfo(run='digits', records={ROUNDS + 1}, last_round={ROUNDS})]"
    assert float(best.split()[1]) > 0.8, "the app learns"
    assert keys == "<All keys matched successfully>"
    assert [int(line.split()[0]) for line in history] == list(range(ROUNDS + 1))


@pytest.mark.slow
def test_the_benchmark_prints_one_line() -> None:
    done = start(sys.executable, CHECKOUT / "benchmarks" / "flower_overhead.py", "--rounds", "1", "--pairs", "1")
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    assert re.match(r"checkpointing adds [+-][\d.]+% to a round \(median of 1 pairs of rounds\)", line)
    assert f"SQLite {sqlite3.sqlite_version}" in line


def compare(whole: list[float], resumed: list[float], metric: float) -> bool:
    """Let the demonstration compare two trainings of one round."""
    with RecordStore(":memory:") as one, RecordStore(":memory:") as other:
        for store, values, loss in ((one, whole, 0.0), (other, resumed, metric)):
            store.save(ArrayRecord([np.array(values)]), run="digits", round=0)
            store.add_history("digits", [HistoryEntry(0, "server", {"loss": loss})])
        return load("run_local").compare(one, other, 0)


def test_the_demonstration_notices_one_differing_bit() -> None:
    assert compare([0.0], [0.0], 0.0) is True
    assert compare([0.0], [-0.0], 0.0) is False
    assert compare([0.0], [0.0], -0.0) is False
    assert compare([0.0], [0.0], 5e-324) is False


def test_lists_of_other_lengths_are_not_equal() -> None:
    show_equal = load("run_local").show_equal
    assert show_equal("", ["a"], ["a"]) is True
    assert show_equal("", ["a"], ["a", "b"]) is False
    assert show_equal("", [], []) is False


def test_each_example_goes_to_one_client_or_to_the_server() -> None:
    task = load("digitsapp.task")
    shares = [loader.dataset.tensors for number in range(3) for loader in task.load_partition(number, 3, 10)]
    images = np.concatenate([images.numpy() for images, _ in [*shares, task.load_testset(10).dataset.tensors]])
    digits = np.array(task.load_digits().images / 16, dtype="float32")
    assert sorted(image.tobytes() for image in images) == sorted(image.tobytes() for image in digits)


def test_flower_accepts_the_settings() -> None:
    validate = import_quietly("flwr.cli.config_utils").load_and_validate
    config, warned = validate(APP / "pyproject.toml", check_module=True)
    assert config == PYPROJECT
    assert warned == []


def test_flower_builds_the_app(tmp_path: Path) -> None:
    # Flower wants no underscore in the folder that it builds; it runs an app from any
    shutil.copytree(APP, tmp_path / "digitsapp", ignore=shutil.ignore_patterns("__pycache__"))
    assert "Successfully built" in flwr("build", "--app", "digitsapp", home=tmp_path)
    (bundle,) = tmp_path.glob("*.fab")
    with zipfile.ZipFile(bundle) as archive:
        names = {name for name in archive.namelist() if not name.startswith(".info/")}
    assert names == {"pyproject.toml", "README.md", *(f"digitsapp/{path.name}" for path in APP.glob("digitsapp/*.py"))}


def test_the_settings_are_those_of_an_app() -> None:
    assert {"name", "version", "description", "license", "dependencies"} <= PYPROJECT["project"].keys()
    assert SETTINGS["components"] == {
        "serverapp": "digitsapp.server_app:app",
        "clientapp": "digitsapp.client_app:app",
    }
    assert all(isinstance(value, int | float | str) for value in SETTINGS["config"].values())
    assert "federations" not in PYPROJECT["tool"]["flwr"], (
        "Flower would move them to its own settings, and edit the file"
    )
    code = "".join(path.read_text(encoding="utf-8") for path in APP.glob("digitsapp/*.py"))
    used = set(re.findall(r'(?:\bconfig|run_config)\["([\w-]+)"\]', code)) - {"server-round"}
    assert used == set(SETTINGS["config"])


def test_the_readme_shows_the_lines_that_are_there() -> None:
    (shown,) = (code for code in re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL) if "import" not in code)
    assert shown in (APP / "digitsapp/server_app.py").read_text(encoding="utf-8")
    (tree,) = re.findall(r"```\n(flower_app\n.*?)```", README, flags=re.DOTALL)
    files = {path.name for path in [*APP.glob("*.*"), *APP.glob("digitsapp/*.py")]} - {"README.md", "__init__.py"}
    assert set(re.findall(r"[\w.]+\.(?:py|toml)", tree)) == files


COMMANDS = [shlex.split(line, comments=True) for line in re.findall(r"^\$ (.*)$", README, flags=re.MULTILINE)]


def options(command: list[str]) -> set[str]:
    return {word for word in command if word.startswith("--")}


@pytest.mark.parametrize("script", sorted({command[1] for command in COMMANDS if command[0] == "python"}))
def test_a_script_of_the_readme_has_the_options_shown(script: str) -> None:
    done = start(sys.executable, APP / script, "--help")
    assert done.returncode == 0, done.stderr
    shown = {option for command in COMMANDS if command[1] == script for option in options(command)}
    assert shown <= set(re.findall(r"--[\w-]+", done.stdout))


def test_flower_has_the_options_shown(tmp_path: Path) -> None:
    (command,) = (command for command in COMMANDS if command[0] == "flwr")
    assert options(command) <= set(re.findall(r"--[\w-]+", flwr("run", "--help", home=tmp_path)))
    overridden = re.findall(r"([\w-]+)=", command[command.index("--run-config") + 1])
    assert overridden
    assert set(overridden) <= set(SETTINGS["config"])
