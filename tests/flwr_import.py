"""How the tests import Flower: without telemetry, update checks and the warnings of what it depends on."""

import importlib
import importlib.util
import tempfile
import warnings
from types import ModuleType

import pytest

FLWR = importlib.util.find_spec("flwr") is not None


def import_quietly(name: str) -> ModuleType:
    """Import Flower, or what imports it, without the warnings of what it depends on; skip where it is missing."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings(), tempfile.TemporaryDirectory() as home:
        patch.setenv("FLWR_TELEMETRY_ENABLED", "0")
        patch.setenv("FLWR_DISABLE_UPDATE_CHECK", "1")
        patch.setenv("FLWR_HOME", home)
        warnings.simplefilter("ignore")
        pytest.importorskip("flwr", reason="flwr is not installed")
        return importlib.import_module(name)
