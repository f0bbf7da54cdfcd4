"""Hooks into the strategies of the Message API (``flwr.serverapp.strategy``)."""

import inspect
import logging
from collections.abc import Callable, Iterable
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp.strategy import Strategy

from recordstore.flower.convert import StoredModel, to_flower
from recordstore.flower.options import Api
from recordstore.flower.session import Session

logger = logging.getLogger("recordstore")

MESSAGE_API = Api("flwr.serverapp", to_record=dict, from_record=to_flower)

Aggregate = tuple[ArrayRecord | None, MetricRecord | None]
Evaluate = Callable[[int, ArrayRecord], MetricRecord | None]


class MessageHooks:
    """What is called in place of the methods of a strategy.

    Committed rounds contact no client: nothing is configured, and what was aggregated comes from the store. So Flower's
    own loop, or one that the user wrote, runs over all rounds and comes out with the same results.
    """

    def __init__(self, session: Session, strategy: Strategy) -> None:
        self._session = session
        self._strategy = strategy
        self._commits_at_once = type(strategy).start is Strategy.start and "start" not in vars(strategy)
        if session.options.every > 1 and not self._commits_at_once:
            logger.warning(
                "%s has a start() of its own, and every=%d keeps the models of some rounds only: a start() that looks "
                "at the model of each round can be resumed with every=1 only",
                type(strategy).__name__,
                session.options.every,
            )
        self._original: dict[str, Callable[..., Any]] = {name: getattr(strategy, name) for name in self.methods()}

    def methods(self) -> dict[str, Callable[..., Any]]:
        """Return the replacements by the names of the methods."""
        return {
            "start": self.start,
            "configure_train": self.configure_train,
            "aggregate_train": self.aggregate_train,
            "configure_evaluate": self.configure_evaluate,
            "aggregate_evaluate": self.aggregate_evaluate,
        }

    def start(self, *args: Any, **kwargs: Any) -> Any:
        """Run all rounds, and commit the last one."""
        original = self._original["start"]
        bound = inspect.signature(original).bind(*args, **kwargs)
        bound.apply_defaults()
        arguments = _Arguments(bound)
        self._session.expect(arguments.get("initial_arrays"), arguments.get("num_rounds"))
        evaluate = arguments.get("evaluate_fn")
        # Flower's own start takes one that returns None for none; a user's may count on a metric in what it returns
        if evaluate is not None or (self._commits_at_once and "evaluate_fn" in arguments):

            def evaluate_fn(server_round: int, arrays: ArrayRecord) -> MetricRecord | None:
                return self.evaluate(evaluate, server_round, arrays)

            arguments["evaluate_fn"] = evaluate_fn
        try:
            result = original(*bound.args, **bound.kwargs)
        except BaseException:
            self._session.abandon()
            raise
        self._session.finish()
        return result

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Any, *more: Any, **named: Any
    ) -> Iterable[Message]:
        """Begin a live round."""
        if self._session.replays(server_round):
            if server_round == 1:
                self._session.expect(arrays)
            self._session.configs.replay("train", config)
            return []
        self._session.begin(server_round, arrays)
        self._session.configs.use("train", config)
        messages: Iterable[Message] = self._original["configure_train"](
            server_round, arrays, config, grid, *more, **named
        )
        return messages

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> Aggregate:
        """Aggregate replies in the order of the nodes; what comes of it is charged before anybody sees it."""
        if self._session.replays(server_round):
            return self._stored_model(server_round), self._metrics(server_round, "train")
        result: Aggregate = self._original["aggregate_train"](server_round, self._sorted(replies))
        self._session.aggregated(server_round, result[0])
        self._session.report("train", result[1])
        return result

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Any, *more: Any, **named: Any
    ) -> Iterable[Message]:
        """Configure the evaluation of a live round by clients."""
        if self._session.replays(server_round):
            self._session.configs.replay("evaluate", config)
            return []
        self._session.enter(server_round, arrays)
        self._session.configs.use("evaluate", config)
        messages: Iterable[Message] = self._original["configure_evaluate"](
            server_round, arrays, config, grid, *more, **named
        )
        return messages

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Aggregate replies in the order of the nodes."""
        if self._session.replays(server_round):
            stored: MetricRecord | None = self._metrics(server_round, "evaluate")
            return stored
        metrics: MetricRecord | None = self._original["aggregate_evaluate"](server_round, self._sorted(replies))
        self._session.report("evaluate", metrics)
        return metrics

    def evaluate(self, original: Evaluate | None, server_round: int, arrays: ArrayRecord) -> MetricRecord | None:
        """Evaluate the global model at the server: the last step of a round.

        A ``start`` that the user wrote may do more before the next round, such as to keep the best accuracy, which
        belongs to the state: its rounds are committed when the next one begins.
        """
        if self._session.replays(server_round):
            stored: MetricRecord | None = self._metrics(server_round, "server")
            return stored
        if server_round > 0:
            self._session.enter(server_round, arrays)
        metrics = None if original is None else original(server_round, arrays)
        self._session.report("server", metrics)
        if self._commits_at_once:
            if server_round == 0:
                self._session.initial(arrays)
            else:
                self._session.ended_with(arrays)
                self._session.complete()
        return metrics

    def _stored_model(self, server_round: int) -> ArrayRecord | None:
        """Return the model of a committed round; read only if a ``start`` that the user wrote looks at it."""
        session = self._session
        if not self._commits_at_once and not session.aggregates(server_round):
            return None
        if self._commits_at_once or server_round == session.last_replayed():
            model: ArrayRecord | None = session.replay_model(server_round)
            return model
        return StoredModel(lambda: session.load_model(server_round))

    def _metrics(self, server_round: int, source: str) -> Any:
        """Return what was reported: a dict, if it holds what Flower's records refuse."""
        values = self._session.stored(server_round, source)
        try:
            return None if values is None else MetricRecord(values)
        except TypeError:
            return values

    def _sorted(self, replies: Iterable[Message]) -> Iterable[Message]:
        """Return the replies in an order that does not depend on which node was faster: sums of floats do."""
        if not self._session.options.sort_replies:
            return replies
        return sorted(replies, key=lambda reply: reply.metadata.src_node_id)


class _Arguments:
    """The arguments of a ``start`` by name, those in the ``**kwargs`` of a user's own among them."""

    def __init__(self, bound: inspect.BoundArguments) -> None:
        self._homes: list[Any] = [bound.arguments]
        for name, parameter in bound.signature.parameters.items():
            if parameter.kind is parameter.VAR_KEYWORD:
                self._homes.append(bound.arguments.setdefault(name, {}))

    def __contains__(self, name: str) -> bool:
        return any(name in home for home in self._homes)

    def get(self, name: str) -> Any:
        """Return an argument, None if it was not given."""
        return next((home[name] for home in self._homes if name in home), None)

    def __setitem__(self, name: str, value: Any) -> None:
        next(home for home in self._homes if name in home)[name] = value
