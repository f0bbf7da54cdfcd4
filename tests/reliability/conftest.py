"""Tests that try to break the promises of the store, in everyday numbers or, with ``--many``, in large ones."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for the modules beside this one

from trials import Trials

SEED = 20_261_125
Tell = Callable[[str], object]
HERE = Path(__file__).parent

SMALL: dict[str, Any] = {
    "CHUNK_SIZE": 16 * 1024,
    "BATCH_BYTES": 64 * 1024,
    "BATCH_ROWS": 40,
    "RING_CHUNKS": 6,
    "PAUSE_SECONDS": 0.0,
}
"""Sizes with which a record of some hundred kilobytes takes many batches."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.reliability)


@pytest.fixture
def many(request: pytest.FixtureRequest) -> bool:
    """Whether this is a run with ``--many``."""
    return request.config.option.many is not None


@pytest.fixture
def tell(request: pytest.FixtureRequest) -> Tell:
    """Have a text shown at the end of the run."""
    return lambda text: request.node.user_properties.append(("trials", text))


@pytest.fixture
def trials(request: pytest.FixtureRequest, tell: Tell) -> Trials:
    """As many trials as ``@pytest.mark.trials(everyday, many)`` says, from the seed of this run."""
    everyday, many = request.node.get_closest_marker("trials").args
    options = request.config.option
    seed = SEED if options.seed is None else options.seed
    share = options.many
    count = everyday if share is None else max(everyday, round(many * share))
    return Trials(request.node.name, seed, count, only=options.only, tell=tell)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sizes that children set with ``make_small(**SMALL)``."""
    for name, value in SMALL.items():
        monkeypatch.setattr(f"recordstore.constants.{name}", value)


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps in which a backup of a megabyte takes several."""
    monkeypatch.setattr("recordstore.backup.STEP_BYTES", 8 * 32768)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Where a backup goes."""
    return tmp_path / "copy.db"
