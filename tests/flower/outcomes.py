"""What a federation ended with, as JSON that keeps every bit."""

import hashlib
from collections.abc import Mapping
from typing import Any

Outcome = dict[str, Any]


def exact(value: Any) -> Any:
    """Return a metric with its type; floats as ``float.hex`` writes them."""
    if isinstance(value, list):
        return ["list", *map(exact, value)]
    return [type(value).__name__, value.hex() if isinstance(value, float) else repr(value)]


def exact_metrics(by_round: Mapping[int, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    return {str(number): {key: exact(value) for key, value in record.items()} for number, record in by_round.items()}


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def of_result(result: Any) -> Outcome:
    """Return the outcome of the Message API, a ``Result``."""
    return {
        "arrays": [
            [name, array.dtype, list(array.shape), array.stype, digest(array.data)]
            for name, array in result.arrays.items()
        ],
        "train": exact_metrics(result.train_metrics_clientapp),
        "evaluate": exact_metrics(result.evaluate_metrics_clientapp),
        "server": exact_metrics(result.evaluate_metrics_serverapp),
    }


def of_history(history: Any, parameters: Any) -> Outcome:
    """Return the outcome of the legacy API, a ``History`` and the parameters that the server ended with."""
    series = {
        name: {
            key: [[number, exact(value)] for number, value in values] for key, values in getattr(history, name).items()
        }
        for name in ("metrics_distributed_fit", "metrics_distributed", "metrics_centralized")
    }
    losses = {
        name: [[number, exact(value)] for number, value in getattr(history, name)]
        for name in ("losses_distributed", "losses_centralized")
    }
    tensors = [[parameters.tensor_type, digest(tensor)] for tensor in parameters.tensors]
    return {"arrays": tensors, **losses, **series}


def differences(expected: Any, found: Any, where: str = "") -> list[str]:
    """Return the places at which two outcomes differ."""
    if isinstance(expected, dict) and isinstance(found, dict) and list(expected) == list(found):
        return [text for key in expected for text in differences(expected[key], found[key], f"{where}/{key}")]
    if isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        pairs = enumerate(zip(expected, found, strict=True))
        return [text for index, pair in pairs for text in differences(*pair, f"{where}/{index}")]
    return [] if expected == found else [f"{where}: {found!r} instead of {expected!r}"]
