"""A federation of arithmetic: four nodes that add what depends on the round and on themselves; a round takes a millisecond."""

import copy
import random
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid

try:
    from flwr.supercore.task_identity import TaskIdentity
except ImportError:  # older versions ask for no identity
    TaskIdentity = None

NODES = (11, 5, 7, 3)
FIELDS = ("train_metrics_clientapp", "evaluate_metrics_clientapp", "evaluate_metrics_serverapp")


def initial(*shape: int) -> ArrayRecord:
    return ArrayRecord({"w": _array(np.zeros(shape or (3, 2), np.float32)), "b": _array(np.ones(4))})


def _array(values: np.ndarray) -> Any:
    from flwr.app import Array

    return Array(values)


def evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord:
    """Return metrics of the global model, of every kind."""
    total = float(sum(array.numpy().sum() for array in arrays.values()))
    return MetricRecord(
        {
            "accuracy": np.tanh(total / 50).item(),
            "large": 2**63 + server_round,
            "nan": float("nan"),
            "list": [1.5],
            "no": [],
        }
    )


app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    config = message.content["config"]
    generator = np.random.default_rng((int(config["server-round"]), context.node_id))
    step = float(config.get("lr", 1.0))
    arrays = {
        name: _array((array.numpy() + step * generator.normal(size=array.shape)).astype(array.dtype))
        for name, array in message.content["arrays"].items()
    }
    metrics = {"num-examples": int(config.get("examples", context.node_id)), "loss": float(generator.random())}
    content = RecordDict({"arrays": ArrayRecord(arrays), "metrics": MetricRecord(metrics)})
    return Message(content, reply_to=message)


@app.evaluate()
def measure(message: Message, context: Context) -> Message:
    total = float(sum(array.numpy().sum() for array in message.content["arrays"].values()))
    metrics = MetricRecord({"num-examples": context.node_id, "total": total / context.node_id})
    return Message(RecordDict({"metrics": metrics}), reply_to=message)


class SmallGrid(Grid):
    """Hands messages to the ``ClientApp`` above and counts them; replies come by node, or shuffled by ``arrival``."""

    def __init__(self, arrival: random.Random | None = None) -> None:
        self.messages: list[tuple[str, int]] = []
        self._arrival = arrival
        if TaskIdentity is not None:
            TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1

    def set_run(self, run: Any) -> None:
        raise NotImplementedError

    @property
    def run(self) -> Any:
        raise NotImplementedError

    def create_message(self, *args: Any, **kwargs: Any) -> Message:
        raise NotImplementedError

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        raise NotImplementedError

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        raise NotImplementedError

    def get_node_ids(self) -> Iterable[int]:
        return list(NODES)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        replies = [self._reply(message) for message in sorted(messages, key=lambda sent: sent.metadata.dst_node_id)]
        if self._arrival is not None:
            self._arrival.shuffle(replies)
        return replies

    def _reply(self, message: Message) -> Message:
        self.messages.append((message.metadata.message_type, int(message.content["config"]["server-round"])))
        message.content = copy.deepcopy(message.content)
        message.metadata.__dict__["_message_id"] = str(len(self.messages))
        node = message.metadata.dst_node_id
        reply = app(message, Context(run_id=1, node_id=node, node_config={}, state=RecordDict(), run_config={}))
        assert not reply.has_error(), reply.error
        return reply


class Interrupted(Exception):  # noqa: N818 - what happens, not what is wrong
    """Ends a federation from within, as a bug in the user's code would; what happened before is durable."""


def interrupted_at(server_round: int, function: Callable[..., Any] = evaluate) -> Callable[..., Any]:
    """Return an ``evaluate_fn`` that fails in one round."""

    def failing(number: int, arrays: ArrayRecord) -> MetricRecord:
        if number == server_round:
            raise Interrupted
        return function(number, arrays)

    return failing


def start(checkpointer: Any, strategy: Any, **arguments: Any) -> Any:
    """Start or resume as a server process would: with the random state of a fresh one."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    defaults = {"grid": SmallGrid(), "initial_arrays": initial(), "num_rounds": 6, "evaluate_fn": evaluate}
    begin = strategy.start if checkpointer is None else lambda **given: checkpointer.start(strategy, **given)
    return begin(**{**defaults, **arguments})


def exact(result: Any) -> Any:
    """Return what a result holds, to the bit and with types."""
    arrays = [(name, array.dtype, tuple(array.shape), array.stype, array.data) for name, array in result.arrays.items()]
    return arrays, [{number: repr(dict(record)) for number, record in getattr(result, name).items()} for name in FIELDS]


def config(**values: Any) -> ConfigRecord:
    return ConfigRecord(values)
