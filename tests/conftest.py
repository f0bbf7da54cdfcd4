"""What the tests of the store share."""

import hashlib
import sqlite3
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from recordstore import RecordStore

sys.path.insert(0, str(Path(__file__).parent))  # for support.py

Query = Callable[..., list[tuple[Any, ...]]]


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("reliability")
    group.addoption("--seed", type=int, help="of the random trials of tests/reliability")
    group.addoption("--only", type=int, metavar="TRIAL", help="repeat one trial")
    group.addoption(
        "--many",
        type=float,
        nargs="?",
        const=1.0,
        metavar="SHARE",
        help="try as often as docs/reliability.md says, or a share of it; in tests/flower, kill at every point",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Measure the coverage of the quick tests alone: those that repeat something take twice as long with it.

    Those of reliability/ go where others have been.
    """
    if config.getoption("no_cov", default=False):  # pytest-cov cannot pause what --no-cov has not begun
        return
    for item in items:
        is_property = getattr(getattr(item, "obj", None), "is_hypothesis_test", False)
        if is_property or any(item.get_closest_marker(name) for name in ("reliability", "slow")):
            item.add_marker(pytest.mark.no_cover)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Show what the random tests have tried, whichever process it was in."""
    reports = [report for outcome in ("passed", "failed") for report in terminalreporter.getreports(outcome)]
    told = [text for report in reports for name, text in report.user_properties if name == "trials"]
    if told:
        terminalreporter.section("trials")
        terminalreporter.write_line("\n".join(sorted(told)))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


@pytest.fixture
def memory_folder() -> Iterator[Path]:
    """A folder on a disk in memory, where there is one, for tests that commit hundreds of times."""
    disk = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=disk if disk.is_dir() else None) as folder:
        yield Path(folder)


@pytest.fixture(params=["file", "memory"])
def store(request: pytest.FixtureRequest, path: Path) -> Iterator[RecordStore]:
    """An empty store of each kind."""
    with RecordStore(path if request.param == "file" else ":memory:") as opened:
        yield opened


@pytest.fixture
def memory() -> Iterator[RecordStore]:
    """An empty store in memory, for what does not depend on where it lies."""
    with RecordStore(":memory:") as opened:
        yield opened


@pytest.fixture
def file_store(path: Path) -> Iterator[RecordStore]:
    """An empty store in the file ``path``."""
    with RecordStore(path) as opened:
        yield opened


@pytest.fixture
def query(path: Path) -> Query:
    """Ask the file ``path`` with nothing but sqlite3: the store is not its own witness."""

    def ask(sql: str, *parameters: object) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(path)) as connection, connection:
            return connection.execute(sql, parameters).fetchall()

    return ask


@pytest.fixture
def fingerprint(path: Path) -> Callable[[], str]:
    """Return the SHA-256 of the file ``path``; not during a transaction, whose locks closing the file would drop."""
    return lambda: hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="session")
def torch() -> ModuleType:
    return pytest.importorskip("torch", reason="torch is not installed")


@pytest.fixture(scope="session")
def flwr_app() -> ModuleType:
    """Today's Flower."""
    from flwr_import import import_quietly

    return import_quietly("flwr.app")
