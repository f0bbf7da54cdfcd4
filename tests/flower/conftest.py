"""What the tests with Flower share."""

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for the helper modules

from kills import ENVIRONMENT, Bench, End, Federations

from recordstore import RecordStore


@pytest.fixture(scope="session")
def interpreters(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Federations, Federations]]:
    """Two interpreters that fork federations, for the second to know nothing of the first, addresses and hashes too."""
    for package in ("flwr", "sklearn"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (ENVIRONMENT | {"FLWR_HOME": str(tmp_path_factory.mktemp("flower"))}).items():
            patch.setenv(name, value)
        with Federations() as first, Federations() as second:
            yield first, second


@pytest.fixture(scope="session")
def references() -> dict[str, End]:
    """The uninterrupted federations with a checkpointer, by the names of their configurations."""
    return {}


@pytest.fixture
def bench(memory_folder: Path, interpreters: tuple[Federations, Federations], references: dict[str, End]) -> Bench:
    """Where federations run, are killed and are resumed."""
    RecordStore(memory_folder / Bench.EMPTY).close()
    return Bench(memory_folder, *interpreters, references)
