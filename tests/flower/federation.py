"""A whole federation in this process: real strategies, real ``ClientApp``s, real training, and no network.

Only the grid is a stand-in. It gives each client a copy of its message, as a network would.
"""

import copy
import os
import random
from collections.abc import Callable, Iterable
from importlib.metadata import version
from typing import Any

import digits_task
import numpy as np
from configurations import ROUNDS, Configuration
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp, mod
from flwr.serverapp import Grid
from outcomes import Outcome, of_result
from points import Points, watch_strategy

try:
    from flwr.supercore.task_identity import TaskIdentity
except ImportError:  # older versions ask for no identity
    TaskIdentity = None

FLWR = tuple(map(int, version("flwr").split(".")[:2]))
SEED = 7
RUN_ID = 1

Start = Callable[..., Any]
"""Runs a strategy: ``start(strategy, grid=..., ...)``."""


def seed_process(seed: int | None) -> None:
    """Seed the global generators once, when a process starts; without a seed as an interpreter does it by itself."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002


def seed_noise(server_round: int) -> None:
    """Make the noise of a round what it was; the checkpointer never brings the state of a noise generator back."""
    np.random.seed([SEED, server_round])  # noqa: NPY002


class LocalGrid(Grid):
    """Hands messages to a ``ClientApp`` in this process and returns the replies."""

    def __init__(self, app: ClientApp, points: Points, *, shuffled: bool, private: bool) -> None:
        self._app, self._points, self._private = app, points, private
        self._arrival = random.Random(os.urandom(8)) if shuffled else None
        self._run: Any = None

    def set_run(self, run: Any) -> None:
        self._run = run

    @property
    def run(self) -> Any:
        return self._run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        return Message(content, dst_node_id=dst_node_id, message_type=message_type, group_id=group_id, ttl=ttl)

    def get_node_ids(self) -> Iterable[int]:
        return list(digits_task.NODE_IDS)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        raise NotImplementedError

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        raise NotImplementedError

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        sent = list(messages)
        if sent and sent[0].metadata.message_type == "train":
            self._points.server_round = server_round_of(sent[0])
            if self._private:
                seed_noise(self._points.server_round)
        replies = [self._reply(message, number) for number, message in enumerate(sent)]
        if self._arrival is not None:
            self._arrival.shuffle(replies)
        return replies

    def _reply(self, message: Message, number: int) -> Message:
        message.content = copy.deepcopy(message.content)  # a strategy sends one object to all
        message.metadata.__dict__["_message_id"] = f"{message.metadata.message_type} {number}"
        context = Context(
            run_id=RUN_ID, node_id=message.metadata.dst_node_id, node_config={}, state=RecordDict(), run_config={}
        )
        reply = self._app(message, context)
        assert not reply.has_error(), reply.error
        return reply


def server_round_of(message: Message) -> int:
    return int(message.content["config"]["server-round"])


def reply_metrics(losses: np.ndarray, hits: np.ndarray, prefix: str) -> dict[str, Any]:
    """Return metrics of a client, a list among them."""
    return {
        "num-examples": len(losses),
        f"{prefix}_loss": float(losses.mean()),
        f"{prefix}_accuracy": float(hits.mean()),
        f"{prefix}_quartiles": np.quantile(losses, [0.25, 0.5, 0.75]).tolist(),
    }


def record_of(arrays: dict[str, np.ndarray]) -> ArrayRecord:
    return ArrayRecord({name: Array(array) for name, array in arrays.items()})


def numpy_arrays(record: ArrayRecord) -> dict[str, np.ndarray]:
    return {name: array.numpy() for name, array in record.items()}


class Digits:
    """The task for all strategies but those of XGBoost."""

    def __init__(self, configuration: Configuration) -> None:
        self.counter = configuration.counter and FLWR >= (1, 22)  # before, FedAdam fails on arrays without dimensions

    def initial_arrays(self) -> ArrayRecord:
        return record_of(digits_task.initial_weights(counter=self.counter))

    def train(self, record: ArrayRecord, node_id: int, config: ConfigRecord) -> ArrayRecord:
        proximal_mu = float(config.get("proximal-mu", 0.0))
        return record_of(digits_task.train(numpy_arrays(record), node_id, int(config["server-round"]), proximal_mu))

    def evaluate(self, record: ArrayRecord, examples: digits_task.Examples) -> tuple[np.ndarray, np.ndarray]:
        return digits_task.loss_and_hits(numpy_arrays(record), examples)


class Trees:
    """The task for the strategies of XGBoost, whose model is one array of bytes."""

    def __init__(self, configuration: Configuration) -> None:
        import trees_task

        self._task = trees_task
        self._bagging = configuration.strategy == "FedXgbBagging"

    def initial_arrays(self) -> ArrayRecord:
        return ArrayRecord([self._task.INITIAL])

    def train(self, record: ArrayRecord, node_id: int, config: ConfigRecord) -> ArrayRecord:
        model = record["0"].numpy()
        return ArrayRecord([self._task.train(model, node_id, int(config["server-round"]), bagging=self._bagging)])

    def evaluate(self, record: ArrayRecord, examples: digits_task.Examples) -> tuple[np.ndarray, np.ndarray]:
        return self._task.loss_and_hits(record["0"].numpy(), examples)


Task = Digits | Trees


def task_of(configuration: Configuration) -> Task:
    return (Trees if configuration.trees else Digits)(configuration)


def make_app(configuration: Configuration, task: Task, points: Points) -> ClientApp:
    """Return the clients. They keep nothing between two messages."""
    app = ClientApp()
    shares, _ = digits_task.load_examples()

    @app.train(mods=[getattr(mod, configuration.mod)] if configuration.mod else None)
    def train(message: Message, context: Context) -> Message:
        trained = task.train(message.content["arrays"], context.node_id, message.content["config"])
        points.happen("train")
        metrics = reply_metrics(*task.evaluate(trained, shares[context.node_id]), "train")
        content = RecordDict({"arrays": trained, "metrics": MetricRecord(metrics)})
        return Message(content, reply_to=message)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        measured = task.evaluate(message.content["arrays"], shares[context.node_id])
        points.happen("evaluate")
        return Message(RecordDict({"metrics": MetricRecord(reply_metrics(*measured, "eval"))}), reply_to=message)

    return app


def make_evaluate_fn(task: Task, points: Points) -> Callable[[int, ArrayRecord], MetricRecord]:
    """Return the server's own evaluation, with a metric of every kind."""

    def evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord:
        losses, hits = task.evaluate(arrays, digits_task.draw_test_examples())
        points.happen("evaluate")
        return MetricRecord(
            {
                "accuracy": float(hits.mean()),
                "loss": float(losses.mean()),
                "correct": int(hits.sum()),
                "large": 2**63 + server_round,
                "losses": losses[:5].tolist(),
                "ranks": np.argsort(losses)[:5].tolist(),
                "nothing": [],
                "undefined": float("nan"),
                "num-examples": len(losses),
            }
        )

    return evaluate


def start_plain(strategy: Any, **arguments: Any) -> Any:
    """Run a strategy without a checkpointer."""
    return strategy.start(**arguments)


def run_federation(
    configuration: Configuration, points: Points, start: Start = start_plain, seed: int | None = SEED
) -> Outcome:
    """Run all rounds and return what came out."""
    if TaskIdentity is not None:
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, RUN_ID, 1
    task = task_of(configuration)
    strategy = configuration.build()
    watch_strategy(strategy, "aggregate_train", points)
    app = make_app(configuration, task, points)
    grid = LocalGrid(app, points, shuffled=configuration.shuffled, private=bool(configuration.wrapper))
    seed_process(seed)
    result = start(
        strategy,
        grid=grid,
        initial_arrays=task.initial_arrays(),
        num_rounds=ROUNDS,
        train_config=ConfigRecord({"note": b"\x00\xff", "lr": digits_task.LEARNING_RATE}),
        evaluate_fn=make_evaluate_fn(task, points),
    )
    return of_result(result)
