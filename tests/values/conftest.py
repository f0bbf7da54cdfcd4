"""What the tests of the value types share: the libraries that may be missing."""

from __future__ import annotations

import os
import sys
import warnings
from importlib import import_module
from types import ModuleType, SimpleNamespace

import pytest

PLACES = ["flwr.app", "flwr.common", "flwr.common.record"]


@pytest.fixture(scope="session")
def torch() -> ModuleType:
    return pytest.importorskip("torch", reason="torch is not installed")


@pytest.fixture(scope="session")
def flower(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """The installed Flower: its version, Array, ArrayRecord, their modules and the type of its shapes."""
    os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
    os.environ["FLWR_DISABLE_UPDATE_CHECK"] = "1"
    os.environ["FLWR_HOME"] = str(tmp_path_factory.mktemp("flower"))
    with warnings.catch_warnings():
        # Its import uses names that click and others deprecate; nothing that happens later is ignored.
        warnings.simplefilter("ignore", DeprecationWarning)
        pytest.importorskip("flwr", reason="flwr is not installed")
        version = import_module("importlib.metadata").version("flwr")
        place = next(place for place in map(import_or_none, PLACES) if hasattr(place, "ArrayRecord"))
    release = tuple(int(part) for part in version.split(".")[:2])
    return SimpleNamespace(
        version=version,
        Array=place.Array,
        ArrayRecord=place.ArrayRecord,
        record_module=sys.modules[place.ArrayRecord.__module__],
        shape=tuple if release >= (1, 19) else list,
    )


def import_or_none(name: str) -> ModuleType | None:
    try:
        return import_module(name)
    except ImportError:
        return None


@pytest.fixture
def without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch", raising=False)


@pytest.fixture
def stand_in_torch(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A torch that has nothing but ``Tensor`` and ``from_numpy``."""

    class Tensor:
        def __init__(self, array: object) -> None:
            self.array = array
            self.calls: list[str] = []

        def detach(self) -> Tensor:
            self.calls.append("detach")
            return self

        def cpu(self) -> Tensor:
            self.calls.append("cpu")
            return self

        def numpy(self) -> object:
            self.calls.append("numpy")
            return self.array

    module = ModuleType("torch")
    module.Tensor = Tensor
    module.from_numpy = Tensor
    monkeypatch.setitem(sys.modules, "torch", module)
    return module
