"""What the clients of the tests learn: a small network on handwritten digits, in NumPy; a round takes milliseconds.

Whatever a client draws comes from a generator of its own, made from the server round and its node id.
"""

from collections.abc import Mapping
from functools import cache
from typing import NamedTuple

import numpy as np

NODE_IDS = (3, 97, 2**31 + 5, 2**53 + 1, 2**62 + 11, 2**63 + 9, 2**63 + 2**40 + 1, 2**64 - 3)
"""As large as Flower's own, which neither a float nor a signed 64-bit integer holds."""

LEARNING_RATE = 0.3
BATCH_SIZE = 8
HIDDEN = 12
TRAIN_EXAMPLES, TEST_EXAMPLES = 480, 200
COUNTER = "batches"
"""The name of a 0-d array of integers, such as BatchNorm keeps."""

Weights = dict[str, np.ndarray]


class Examples(NamedTuple):
    images: np.ndarray
    labels: np.ndarray


@cache
def load_examples() -> tuple[dict[int, Examples], Examples]:
    """Return the examples of each node, of few classes each and not equally many, and those of the server."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images, labels = (digits.data / 16).astype(np.float32), digits.target
    random = np.random.default_rng(0)
    order = random.permutation(len(labels))
    train, test = order[:TRAIN_EXAMPLES], order[TRAIN_EXAMPLES : TRAIN_EXAMPLES + TEST_EXAMPLES]
    train = train[np.argsort(labels[train] + random.uniform(0, 3, len(train)))]
    sizes = np.linspace(1, 2, len(NODE_IDS))
    cuts = (np.cumsum(sizes / sizes.sum())[:-1] * len(train)).astype(int)
    shares = [Examples(images[part], labels[part]) for part in np.split(train, cuts)]
    return dict(zip(NODE_IDS, shares, strict=True)), Examples(images[test], labels[test])


def initial_weights(*, counter: bool) -> Weights:
    """Return the model before the first round."""
    random = np.random.default_rng(1)
    weights: Weights = {
        "hidden.weight": random.normal(0, 0.1, (64, HIDDEN)).astype(np.float32),
        "hidden.bias": np.zeros(HIDDEN, np.float32),
        "classes.weight": random.normal(0, 0.1, (HIDDEN, 10)).astype(np.float32),
        "classes.bias": np.zeros(10, np.float32),
    }
    return weights | ({COUNTER: np.array(0)} if counter else {})


def scores(weights: Weights, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the hidden layer and the log-probabilities of the classes."""
    hidden = np.tanh(images @ weights["hidden.weight"] + weights["hidden.bias"])
    logits = hidden @ weights["classes.weight"] + weights["classes.bias"]
    logits = logits - logits.max(axis=1, keepdims=True)
    return hidden, logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def gradients(weights: Weights, examples: Examples) -> Weights:
    hidden, log_probabilities = scores(weights, examples.images)
    error = np.exp(log_probabilities)
    error[np.arange(len(error)), examples.labels] -= 1
    error /= np.float32(len(error))
    inner = (error @ weights["classes.weight"].T) * (1 - hidden**2)
    return {
        "hidden.weight": examples.images.T @ inner,
        "hidden.bias": inner.sum(axis=0),
        "classes.weight": hidden.T @ error,
        "classes.bias": error.sum(axis=0),
    }


def as_float32(arrays: Mapping[str, np.ndarray]) -> Weights:
    """Return the trained arrays in the type that the clients compute in; some strategies turn it into float64."""
    return {name: array.astype(np.float32) for name, array in arrays.items() if name != COUNTER}


def train(arrays: Mapping[str, np.ndarray], node_id: int, server_round: int, proximal_mu: float) -> Weights:
    """Return what a client makes of the global model in one epoch."""
    images, labels = load_examples()[0][node_id]
    order = np.random.default_rng([server_round, node_id]).permutation(len(labels))
    start = as_float32(arrays)
    weights = dict(start)
    batches = [order[first : first + BATCH_SIZE] for first in range(0, len(order), BATCH_SIZE)]
    for batch in batches:
        for name, gradient in gradients(weights, Examples(images[batch], labels[batch])).items():
            pull = np.float32(proximal_mu) * (weights[name] - start[name])
            weights[name] = weights[name] - np.float32(LEARNING_RATE) * (gradient + pull)
    if COUNTER in arrays:
        weights[COUNTER] = np.array(int(arrays[COUNTER]) + len(batches))
    return weights


def loss_and_hits(arrays: Mapping[str, np.ndarray], examples: Examples) -> tuple[np.ndarray, np.ndarray]:
    """Return the loss of each example, and whether its class was found."""
    _, log_probabilities = scores(as_float32(arrays), examples.images)
    losses = -log_probabilities[np.arange(len(examples.labels)), examples.labels]
    return losses.astype(np.float64), log_probabilities.argmax(axis=1) == examples.labels


def draw_test_examples() -> Examples:
    """Return a part of the server's examples, drawn with NumPy's global generator as server code often does."""
    _, test = load_examples()
    part = np.random.permutation(len(test.labels))[: TEST_EXAMPLES // 2]  # noqa: NPY002
    return Examples(test.images[part], test.labels[part])
