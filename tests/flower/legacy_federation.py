"""The same federation for ``flwr.server.strategy``: the real ``flwr.server.Server`` with clients in this process."""

from collections.abc import Callable
from typing import Any

import digits_task
import numpy as np
from configurations import ROUNDS, Legacy
from federation import SEED, reply_metrics, seed_process
from flwr.common import (
    Code,
    DisconnectRes,
    EvaluateIns,
    EvaluateRes,
    FitIns,
    FitRes,
    GetParametersIns,
    GetParametersRes,
    GetPropertiesIns,
    GetPropertiesRes,
    Parameters,
    ReconnectIns,
    Status,
    ndarrays_to_parameters,
    parameters_to_ndarrays,
)
from flwr.server import Server, ServerAppComponents, ServerConfig, SimpleClientManager
from flwr.server.client_proxy import ClientProxy
from outcomes import Outcome, of_history
from points import Points, watch_strategy

OK = Status(Code.OK, "")
WORKERS = 2

Attach = Callable[[ServerAppComponents], ServerAppComponents]


class LocalClient(ClientProxy):
    """A client in this process, which keeps nothing between two calls."""

    def __init__(self, node_id: int, names: list[str], points: Points) -> None:
        super().__init__(str(node_id))
        self.node_id = node_id
        self._names, self._points = names, points
        self._share = digits_task.load_examples()[0][node_id]

    def _weights(self, parameters: Parameters) -> digits_task.Weights:
        return dict(zip(self._names, parameters_to_ndarrays(parameters), strict=True))

    def fit(self, ins: FitIns, timeout: float | None, group_id: int | None) -> FitRes:
        server_round = int(ins.config["server-round"])
        self._points.server_round = server_round
        trained = digits_task.train(self._weights(ins.parameters), self.node_id, server_round, 0.0)
        self._points.happen("train")
        metrics = reply_metrics(*digits_task.loss_and_hits(trained, self._share), "train")
        parameters = ndarrays_to_parameters(list(trained.values()))
        return FitRes(OK, parameters, metrics.pop("num-examples"), scalars(metrics))

    def evaluate(self, ins: EvaluateIns, timeout: float | None, group_id: int | None) -> EvaluateRes:
        losses, hits = digits_task.loss_and_hits(self._weights(ins.parameters), self._share)
        self._points.happen("evaluate")
        metrics = reply_metrics(losses, hits, "eval")
        return EvaluateRes(OK, float(losses.mean()), metrics.pop("num-examples"), scalars(metrics))

    def reconnect(self, ins: ReconnectIns, timeout: float | None, group_id: int | None) -> DisconnectRes:
        return DisconnectRes("")

    def get_parameters(self, ins: GetParametersIns, timeout: float | None, group_id: int | None) -> GetParametersRes:
        raise NotImplementedError

    def get_properties(self, ins: GetPropertiesIns, timeout: float | None, group_id: int | None) -> GetPropertiesRes:
        raise NotImplementedError


def scalars(metrics: dict[str, Any]) -> dict[str, Any]:
    """Return the metrics that the legacy API can hold."""
    return {name: value for name, value in metrics.items() if not isinstance(value, list)}


def mean_metrics(replies: list[tuple[int, dict[str, Any]]]) -> dict[str, Any]:
    """Return the means of the clients' metrics, summed up in the order of the replies; and their number."""
    total = sum(examples for examples, _ in replies)
    names = replies[0][1]
    means = {name: sum(examples * metrics[name] for examples, metrics in replies) / total for name in names}
    return means | {"clients": len(replies), "note": f"{total} examples", "first": replies[0][0]}


def make_evaluate_fn(names: list[str], points: Points) -> Callable[..., tuple[float, dict[str, Any]]]:
    """Return the server's own evaluation, with a metric of every kind."""

    def evaluate(server_round: int, arrays: list[np.ndarray], config: Any) -> tuple[float, dict[str, Any]]:
        weights = dict(zip(names, arrays, strict=True))
        losses, hits = digits_task.loss_and_hits(weights, digits_task.draw_test_examples())
        points.happen("evaluate")
        metrics = {
            "accuracy": float(hits.mean()),
            "correct": int(hits.sum()),
            "large": 2**63 + server_round,
            "undefined": float("nan"),
            "good": bool(hits.mean() > 0.5),
            "note": f"round {server_round}",
            "hits": np.packbits(hits).tobytes(),
        }
        return float(losses.mean()), metrics

    return evaluate


def run_legacy_federation(
    configuration: Legacy, points: Points, attach: Attach = lambda same: same, seed: int | None = SEED
) -> Outcome:
    """Run all rounds and return what came out."""
    from flwr.server.server import init_defaults, run_fl

    weights = digits_task.initial_weights(counter=configuration.counter)
    names = list(weights)
    manager = SimpleClientManager()
    for node_id in digits_task.NODE_IDS:
        manager.register(LocalClient(node_id, names, points))
    strategy = configuration.build(
        initial_parameters=ndarrays_to_parameters(list(weights.values())),
        evaluate_fn=make_evaluate_fn(names, points),
        on_fit_config_fn=lambda server_round: {"server-round": server_round},
        fit_metrics_aggregation_fn=mean_metrics,
        evaluate_metrics_aggregation_fn=mean_metrics,
    )
    watch_strategy(strategy, "aggregate_fit", points)
    seed_process(seed)
    components = attach(
        ServerAppComponents(strategy=strategy, config=ServerConfig(num_rounds=ROUNDS), client_manager=manager)
    )
    server, config = init_defaults(
        server=components.server,
        config=components.config,
        strategy=components.strategy,
        client_manager=components.client_manager,
    )
    server.set_max_workers(WORKERS)
    assert isinstance(server, Server)
    history = run_fl(server, config)
    return of_history(history, server.parameters)
