"""The federations of the tests, as data: nothing of Flower is imported before one of them is built."""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from digits_task import LEARNING_RATE, NODE_IDS

ROUNDS = 6
NODES = len(NODE_IDS)


@dataclass(frozen=True)
class Configuration:
    """A strategy of ``flwr.serverapp``, within a wrapper for differential privacy if there is one, and its clients."""

    strategy: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    wrapper: str = ""
    wrapper_arguments: Mapping[str, Any] = field(default_factory=dict)
    mod: str = ""
    counter: bool = False
    """Whether the model holds an integer too, which not every strategy bears."""

    shuffled: bool = False
    """Whether replies come in another order each time, as from a network."""

    trained: int = NODES
    """How many nodes train in a round."""

    @property
    def trees(self) -> bool:
        return self.strategy.startswith("FedXgb")

    @property
    def ordered(self) -> bool:
        """Whether two runs agree although nothing sorts the replies."""
        return not self.shuffled

    def build(self) -> Any:
        """Return a fresh strategy."""
        strategies = importlib.import_module("flwr.serverapp.strategy")
        strategy = getattr(strategies, self.strategy)(**self.arguments)
        return getattr(strategies, self.wrapper)(strategy, **self.wrapper_arguments) if self.wrapper else strategy


@dataclass(frozen=True)
class Legacy:
    """A strategy of ``flwr.server.strategy``."""

    strategy: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    counter: bool = False
    trained: int = NODES
    trees: bool = False
    ordered: bool = False  # Server.fit walks a set of futures

    def build(self, **arguments: Any) -> Any:
        """Return a fresh strategy."""
        strategies = importlib.import_module("flwr.server.strategy")
        return getattr(strategies, self.strategy)(**self.arguments, **arguments)


MOMENTUM = {"server_momentum": 0.9, "server_learning_rate": 0.5}
ADAGRAD = {"eta": 0.05, "tau": 1e-3}
ADAM = {"eta": 0.02, "beta_1": 0.9, "beta_2": 0.99, "tau": 1e-3}
FIXED = {"noise_multiplier": 0.2, "clipping_norm": 0.5, "num_sampled_clients": NODES}
ADAPTIVE = {"noise_multiplier": 0.2, "num_sampled_clients": NODES, "initial_clipping_norm": 0.3}
PRIVACY = "DifferentialPrivacy"

CONFIGURATIONS = {
    "FedAvg": Configuration("FedAvg", counter=True),
    "FedAvgM": Configuration("FedAvgM", MOMENTUM, counter=True),
    "FedAdagrad": Configuration("FedAdagrad", ADAGRAD, counter=True),
    "FedAdam": Configuration("FedAdam", ADAM, counter=True),
    "FedYogi": Configuration("FedYogi", ADAM, counter=True),
    "QFedAvg": Configuration("QFedAvg", {"client_learning_rate": LEARNING_RATE, "q": 0.3}),
    "FedProx": Configuration("FedProx", {"proximal_mu": 0.5}, counter=True),
    "FedMedian": Configuration("FedMedian", counter=True),
    "FedTrimmedAvg": Configuration("FedTrimmedAvg", {"beta": 0.2}, counter=True),
    "Krum": Configuration("Krum", {"num_malicious_nodes": 1}, counter=True),
    "MultiKrum": Configuration("MultiKrum", {"num_malicious_nodes": 1, "num_nodes_to_select": 3}, counter=True),
    "Bulyan": Configuration("Bulyan", {"num_malicious_nodes": 1}, counter=True),
    "DP fixed, server side": Configuration("FedAvg", {}, f"{PRIVACY}ServerSideFixedClipping", FIXED),
    "DP fixed, client side": Configuration(
        "FedAvg", {}, f"{PRIVACY}ClientSideFixedClipping", FIXED, mod="fixedclipping_mod"
    ),
    "DP adaptive, server side": Configuration("FedAvg", {}, f"{PRIVACY}ServerSideAdaptiveClipping", ADAPTIVE),
    "DP adaptive, client side": Configuration(
        "FedAvg", {}, f"{PRIVACY}ClientSideAdaptiveClipping", ADAPTIVE, mod="adaptiveclipping_mod"
    ),
    "FedXgbBagging": Configuration("FedXgbBagging"),
    "FedXgbCyclic": Configuration("FedXgbCyclic", trained=1),
    "FedAvg, half of the nodes": Configuration("FedAvg", {"fraction_train": 0.5}, counter=True, trained=NODES // 2),
    "FedAvg, shuffled replies": Configuration("FedAvg", counter=True, shuffled=True),
}

LEGACY = {
    "legacy FedAvg": Legacy("FedAvg", counter=True),
    "legacy FedAvgM": Legacy("FedAvgM", MOMENTUM),
    "legacy FedAdagrad": Legacy("FedAdagrad", ADAGRAD),
    "legacy FedAdam": Legacy("FedAdam", ADAM),
    "legacy FedYogi": Legacy("FedYogi", ADAM),
}

EVERY: dict[str, Configuration | Legacy] = {**CONFIGURATIONS, **LEGACY}
