"""Federated averaging on handwritten digits, with every server round kept in a record store.

Ten clients hold a non-IID share of the 1,797 digits that ship inside scikit-learn. In each server round they train a
small CNN, the server averages their arrays (FedAvg) and saves the result. Kill it whenever you like and start it again:
it goes on after the last round that was saved, and ends with the same model, bit for bit::

    python examples/federated_digits.py --crash-at 12    # kills itself while round 12 is being saved
    python examples/federated_digits.py                  # goes on with round 12
"""

import argparse
import time
from collections import OrderedDict
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from crash import sigkill_before_commit
from sklearn.datasets import load_digits
from terminal import Progress, print_rounds
from torch.nn import functional

from recordstore import Array, ArrayRecord, RecordStore

LOCAL_EPOCHS = 2
BATCH_SIZE = 32
LEARNING_RATE = 0.1
TEST_EXAMPLES = 360
MIN_EXAMPLES = 5


@dataclass(frozen=True)
class Settings:
    """What decides the result of a run; saved with every round, so that a resume under other settings is refused."""

    clients: int
    alpha: float
    seed: int


class Examples(NamedTuple):
    """Images of shape (n, 1, 8, 8) with values in [0, 1], and their n labels."""

    images: torch.Tensor
    labels: torch.Tensor


def generator(*key: int) -> torch.Generator:
    """Return the random generator of one (seed, server round, client): what a resumed run draws is what was drawn."""
    return torch.Generator().manual_seed(int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0]))


def load_data(settings: Settings) -> tuple[list[Examples], Examples]:
    """Return the training examples of each client and the test examples of the server."""
    digits = load_digits()
    images = torch.tensor(digits.images / 16.0, dtype=torch.float32).unsqueeze(1)
    labels = torch.tensor(digits.target)
    order = torch.randperm(len(labels), generator=generator(settings.seed))
    test, train = order[:TEST_EXAMPLES], order[TEST_EXAMPLES:]
    shares = [train[share] for share in dirichlet_split(labels[train].numpy(), settings)]
    return [Examples(images[share], labels[share]) for share in shares], Examples(images[test], labels[test])


def dirichlet_split(labels: np.ndarray, settings: Settings) -> list[np.ndarray]:
    """Deal the examples of each class to the clients in Dirichlet(alpha) proportions (Hsu et al., arXiv:1909.06335).

    The smaller alpha is, the fewer classes a client sees. Drawn again until each client has some examples.
    """
    random = np.random.default_rng(settings.seed)
    for _ in range(1000):
        shares: list[list[np.ndarray]] = [[] for _ in range(settings.clients)]
        for label in np.unique(labels):
            members = random.permutation(np.flatnonzero(labels == label))
            proportions = random.dirichlet([settings.alpha] * settings.clients)
            cuts = (np.cumsum(proportions)[:-1] * len(members)).astype(int)
            for share, part in zip(shares, np.split(members, cuts), strict=True):
                share.append(part)
        split = [np.concatenate(share) for share in shares]
        if min(map(len, split)) >= MIN_EXAMPLES:
            return split
    raise SystemExit("no split gives every client enough examples: use fewer --clients or a larger --alpha")


def build_model() -> torch.nn.Module:
    """Return the CNN that clients and server share: 38,282 parameters, 153 kB."""
    return torch.nn.Sequential(
        OrderedDict[str, torch.nn.Module](
            conv1=torch.nn.Conv2d(1, 16, kernel_size=3, padding=1),
            relu1=torch.nn.ReLU(),
            conv2=torch.nn.Conv2d(16, 32, kernel_size=3, padding=1),
            relu2=torch.nn.ReLU(),
            pool=torch.nn.MaxPool2d(2),
            flatten=torch.nn.Flatten(),
            hidden=torch.nn.Linear(32 * 4 * 4, 64),
            relu3=torch.nn.ReLU(),
            classes=torch.nn.Linear(64, 10),
        )
    )


def model_with(arrays: ArrayRecord) -> torch.nn.Module:
    """Return the CNN with these arrays as its state."""
    model = build_model()
    model.load_state_dict(arrays.to_torch_state_dict())
    return model


def initial_arrays(seed: int) -> ArrayRecord:
    """Return the global model before the first server round."""
    torch.manual_seed(seed)
    return ArrayRecord(build_model().state_dict())


def train(arrays: ArrayRecord, examples: Examples, random: torch.Generator) -> tuple[ArrayRecord, dict[str, int]]:
    """Do what a client does in one server round: train the global model on its own examples."""
    model = model_with(arrays)
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE, momentum=0.9)
    for _ in range(LOCAL_EPOCHS):
        for batch in torch.randperm(len(examples.labels), generator=random).split(BATCH_SIZE):
            optimizer.zero_grad()
            functional.cross_entropy(model(examples.images[batch]), examples.labels[batch]).backward()
            optimizer.step()
    return ArrayRecord(model.state_dict()), {"num-examples": len(examples.labels)}


def aggregate(replies: list[tuple[ArrayRecord, dict[str, int]]]) -> ArrayRecord:
    """Return the mean of the clients' arrays, weighted by their numbers of examples (FedAvg)."""
    weights = [metrics["num-examples"] for _, metrics in replies]
    averaged = OrderedDict[str, Array]()
    for name in replies[0][0]:
        stack = np.stack([arrays[name].numpy() for arrays, _ in replies])
        averaged[name] = Array(np.average(stack, axis=0, weights=weights).astype(stack.dtype))
    return ArrayRecord(averaged)


@torch.no_grad()
def evaluate(arrays: ArrayRecord, examples: Examples) -> dict[str, float]:
    """Return the metrics of the global model on the server's test examples."""
    scores = model_with(arrays)(examples.images)
    accuracy = (scores.argmax(dim=1) == examples.labels).double().mean().item()
    return {"accuracy": accuracy, "loss": functional.cross_entropy(scores, examples.labels).item()}


class Server:
    """Runs the server rounds and saves the global model after each of them."""

    def __init__(self, store: RecordStore, run: str, settings: Settings) -> None:
        self.store, self.run, self.settings = store, run, settings
        self.clients, self.test = load_data(settings)
        self.saved, self.seconds_saving = 0, 0.0

    def start(self, rounds: int, crash_at: int | None) -> None:
        """Go on after the newest round in the store, or begin with round 0, the initial model."""
        first, arrays = self.resume()
        progress = Progress(rounds)
        for server_round in range(first, rounds + 1):
            began = time.perf_counter()
            if server_round > 0:
                arrays = self.train_round(server_round, arrays)
            metrics = evaluate(arrays, self.test)
            seconds = time.perf_counter() - began
            with sigkill_before_commit() if server_round == crash_at else nullcontext():
                self.save(server_round, arrays, metrics, seconds)
            progress.show(server_round, metrics)

    def resume(self) -> tuple[int, ArrayRecord]:
        """Return the server round to do next and the arrays that it starts from."""
        newest = self.store.latest(self.run)
        if newest is None or newest.round is None:
            return 0, initial_arrays(self.settings.seed)
        if newest.metadata["settings"] != vars(self.settings):
            raise SystemExit(f"run {self.run!r} began with {newest.metadata['settings']}: choose another --run")
        print(f"run {self.run!r}: found round {newest.round} in the store, going on after it")
        return newest.round + 1, self.store.load(newest)

    def train_round(self, server_round: int, arrays: ArrayRecord) -> ArrayRecord:
        """Let every client train, one after the other, and return the average of what they send."""
        seed = self.settings.seed
        randoms = [generator(seed, server_round, client) for client in range(len(self.clients))]
        return aggregate([train(arrays, *pair) for pair in zip(self.clients, randoms, strict=True)])

    def save(self, server_round: int, arrays: ArrayRecord, metrics: dict[str, float], seconds: float) -> None:
        """Save one server round; when this returns, it survives a kill, a crash and a power loss."""
        metadata: dict[str, Any] = {"settings": vars(self.settings), "seconds": round(seconds, 3)}
        began = time.perf_counter()
        self.store.save(arrays, run=self.run, round=server_round, metrics=metrics, metadata=metadata)
        self.seconds_saving += time.perf_counter() - began
        self.saved += 1


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="FedAvg on handwritten digits, saved round by round and resumable.")
    parser.add_argument("--db", default="digits.db", help="the record store (default: %(default)s)")
    parser.add_argument("--run", default="digits", help="the name of this federation in it (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=20, help="server rounds in all (default: %(default)s)")
    parser.add_argument("--clients", type=int, default=10, help="default: %(default)s")
    parser.add_argument("--alpha", type=float, default=0.3, help="of the Dirichlet split (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--crash-at", type=int, metavar="N", help="SIGKILL myself while round N is being saved")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(mode=True)
    settings = Settings(arguments.clients, arguments.alpha, arguments.seed)
    with RecordStore(arguments.db) as store:
        server = Server(store, arguments.run, settings)
        server.start(arguments.rounds, arguments.crash_at)
        print_rounds(store, arguments.db, arguments.run)
    print(f"{server.saved} rounds were saved in {server.seconds_saving:.2f} s")


if __name__ == "__main__":
    main()
