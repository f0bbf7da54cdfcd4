"""Hooks into the strategies of the legacy API (``flwr.server.strategy``)."""

from collections.abc import Callable
from typing import Any

from flwr.common import (
    Code,
    EvaluateIns,
    EvaluateRes,
    FitIns,
    FitRes,
    Parameters,
    Scalar,
    Status,
)
from flwr.server.client_proxy import ClientProxy

from recordstore.flower.convert import from_parameters, to_parameters
from recordstore.flower.options import Api
from recordstore.flower.session import Session

LEGACY_API = Api("flwr.server", to_record=from_parameters, from_record=to_parameters)

Metrics = dict[str, Scalar]
_OK = Status(code=Code.OK, message="committed before")


class StoredClient(ClientProxy):
    """Stands for the clients of a committed round: Flower's server asks to aggregate only where there were some."""

    def fit(self, ins: FitIns, timeout: float | None, group_id: int | None) -> FitRes:  # noqa: ARG002
        """Return at once; what was aggregated is in the store."""
        return FitRes(status=_OK, parameters=ins.parameters, num_examples=0, metrics={})

    def evaluate(self, ins: EvaluateIns, timeout: float | None, group_id: int | None) -> EvaluateRes:  # noqa: ARG002
        """Return at once; what was aggregated is in the store."""
        return EvaluateRes(status=_OK, loss=0.0, num_examples=0, metrics={})

    def get_properties(self, ins: Any, timeout: float | None, group_id: int | None) -> Any:
        """Refuse: no round asks for it."""
        raise NotImplementedError

    def get_parameters(self, ins: Any, timeout: float | None, group_id: int | None) -> Any:
        """Refuse: no round asks for it."""
        raise NotImplementedError

    def reconnect(self, ins: Any, timeout: float | None, group_id: int | None) -> Any:
        """Refuse: no round asks for it."""
        raise NotImplementedError


class LegacyHooks:
    """What is called in place of the methods of a strategy.

    The server evaluates after the clients have trained, then lets clients evaluate: a round ends with the latter, or
    where no client was chosen for it.
    """

    def __init__(self, session: Session, strategy: Any) -> None:
        self._session = session
        self._original: dict[str, Callable[..., Any]] = {name: getattr(strategy, name) for name in self.methods()}

    def methods(self) -> dict[str, Callable[..., Any]]:
        """Return the replacements by the names of the methods."""
        return {
            "initialize_parameters": self.initialize_parameters,
            "configure_fit": self.configure_fit,
            "aggregate_fit": self.aggregate_fit,
            "configure_evaluate": self.configure_evaluate,
            "aggregate_evaluate": self.aggregate_evaluate,
            "evaluate": self.evaluate,
        }

    def initialize_parameters(self, client_manager: Any) -> Parameters | None:
        """Return the stored model: where a resumed one enters."""
        parameters: Parameters | None = self._original["initialize_parameters"](client_manager)
        self._session.expect(parameters)
        if self._session.past is None:
            return parameters
        self._session.restore_if_complete()
        stored: Parameters = self._session.load_model()
        return stored

    def configure_fit(self, server_round: int, parameters: Parameters, client_manager: Any) -> Any:
        """Begin a live round."""
        if self._session.replays(server_round):
            return self._stand_in(server_round, "train", FitIns(parameters, {}))
        self._session.begin(server_round, parameters)
        return self._original["configure_fit"](server_round, parameters, client_manager)

    def aggregate_fit(self, server_round: int, results: Any, failures: Any) -> tuple[Parameters | None, Metrics]:
        """Aggregate results in the order of the clients; what comes of it is charged before anybody sees it."""
        if self._session.replays(server_round):
            return None, self._session.stored(server_round, "train") or {}
        parameters, metrics = self._original["aggregate_fit"](server_round, self._sorted(results), failures)
        self._session.aggregated(server_round, parameters)
        self._session.report("train", metrics)
        return parameters, metrics

    def evaluate(self, server_round: int, parameters: Parameters) -> tuple[float, Metrics] | None:
        """Evaluate the global model at the server."""
        if self._session.replays(server_round):
            stored: tuple[float, Metrics] | None = self._stored_evaluation(server_round, "server")
            return stored
        result: tuple[float, Metrics] | None = self._original["evaluate"](server_round, parameters)
        self._report_evaluation("server", result)
        if server_round == 0:
            self._session.initial(parameters)
        return result

    def configure_evaluate(self, server_round: int, parameters: Parameters, client_manager: Any) -> Any:
        """Configure the evaluation of a live round by clients; without any, the round ends here."""
        if self._session.replays(server_round):
            return self._stand_in(server_round, "evaluate", EvaluateIns(parameters, {}))
        instructions = self._original["configure_evaluate"](server_round, parameters, client_manager)
        if not instructions:
            self._session.complete()
        return instructions

    def aggregate_evaluate(self, server_round: int, results: Any, failures: Any) -> tuple[float | None, Metrics]:
        """Aggregate results in the order of the clients: the last step of a round."""
        if self._session.replays(server_round):
            return self._stored_evaluation(server_round, "evaluate") or (None, {})
        result: tuple[float | None, Metrics] = self._original["aggregate_evaluate"](
            server_round, self._sorted(results), failures
        )
        self._report_evaluation("evaluate", result)
        self._session.complete()
        return result

    def _report_evaluation(self, source: str, result: tuple[float | None, Metrics] | None) -> None:
        if result is not None:
            self._session.report(source, result[1])
            self._session.report(f"{source}/loss", {"loss": result[0]})

    def _stored_evaluation(self, server_round: int, source: str) -> Any:
        metrics, loss = (self._session.stored(server_round, name) for name in (source, f"{source}/loss"))
        return None if metrics is None or loss is None else (loss["loss"], metrics)

    def _stand_in(self, server_round: int, source: str, instruction: FitIns | EvaluateIns) -> list[Any]:
        return [] if self._session.stored(server_round, source) is None else [(StoredClient("stored"), instruction)]

    def _sorted(self, results: Any) -> Any:
        """Return the results in an order that does not depend on which client was faster: sums of floats do."""
        if not self._session.options.sort_replies:
            return results
        return sorted(results, key=lambda result: result[0].cid)
