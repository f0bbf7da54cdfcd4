"""What the clients of the two strategies for XGBoost learn: whether a digit is odd, with real boosting."""

from typing import Any

import numpy as np
import xgboost
from digits_task import Examples, load_examples

PARAMETERS = {"objective": "binary:logistic", "max_depth": 3, "eta": 0.3, "nthread": 1, "tree_method": "exact"}
INITIAL = np.array([], np.uint8)
"""The model before the first round, as in Flower's own example."""


def matrix(examples: Examples) -> Any:
    return xgboost.DMatrix(examples.images, label=examples.labels % 2, nthread=1)


def booster(model: np.ndarray) -> Any:
    """Return the trees that the bytes in an array hold."""
    loaded = xgboost.Booster(PARAMETERS)
    loaded.load_model(bytearray(model.tobytes()))
    return loaded


def train(model: np.ndarray, node_id: int, server_round: int, *, bagging: bool) -> np.ndarray:
    """Return the model with one tree more, or that tree alone for bagging."""
    examples = load_examples()[0][node_id]
    drawn = np.random.default_rng([server_round, node_id]).integers(0, len(examples.labels), len(examples.labels))
    data = matrix(Examples(examples.images[drawn], examples.labels[drawn]))
    if not model.size:
        trained = xgboost.train(PARAMETERS, data, num_boost_round=1)
    else:
        trained = booster(model)
        trained.update(data, trained.num_boosted_rounds())
        if bagging:
            trained = trained[trained.num_boosted_rounds() - 1 :]
    return np.frombuffer(bytes(trained.save_raw("json")), np.uint8)


def loss_and_hits(model: np.ndarray, examples: Examples) -> tuple[np.ndarray, np.ndarray]:
    """Return the loss of each example, and whether it was found to be odd or even."""
    odd = examples.labels % 2
    found = booster(model).predict(matrix(examples)) if model.size else np.full(len(odd), 0.5)
    likely = np.clip(np.where(odd, found, 1 - found).astype(np.float64), 1e-6, None)
    return -np.log(likely), (found > 0.5) == odd
