"""The legacy interface, on a federation of arithmetic run by Flower's own server."""

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from flwr_import import import_quietly

flower = import_quietly("recordstore.flower")
strategies = import_quietly("flwr.server.strategy")

from flwr.common import (  # noqa: E402
    Code,
    DisconnectRes,
    EvaluateRes,
    FitRes,
    GetParametersRes,
    Parameters,
    Status,
    ndarrays_to_parameters,
    parameters_to_ndarrays,
)
from flwr.server import Server, ServerAppComponents, ServerConfig, SimpleClientManager  # noqa: E402
from flwr.server.client_proxy import ClientProxy  # noqa: E402
from flwr.server.server import init_defaults, run_fl  # noqa: E402
from small import Interrupted  # noqa: E402

from recordstore import InvalidTypeError, InvalidValueError, RecordStore, ResumeError  # noqa: E402

Checkpointer = flower.Checkpointer
OK = Status(Code.OK, "")
CLIENTS = ("9", "11", "5", "7")


class Client(ClientProxy):
    """Adds what depends on the round and on itself, and remembers which rounds it was asked in."""

    def __init__(self, cid: str, asked: list[int]) -> None:
        super().__init__(cid)
        self.node_id = int(cid)
        self._asked = asked

    def fit(self, ins: Any, timeout: float | None, group_id: int | None) -> FitRes:
        number = int(ins.config["round"])
        self._asked.append(number)
        generator = np.random.default_rng((number, self.node_id))
        arrays = [array + generator.normal(size=array.shape) for array in parameters_to_ndarrays(ins.parameters)]
        return FitRes(OK, ndarrays_to_parameters(arrays), self.node_id, {"loss": float(generator.random())})

    def evaluate(self, ins: Any, timeout: float | None, group_id: int | None) -> EvaluateRes:
        total = float(sum(array.sum() for array in parameters_to_ndarrays(ins.parameters)))
        return EvaluateRes(OK, total / self.node_id, self.node_id, {"total": total})

    def get_parameters(self, ins: Any, timeout: float | None, group_id: int | None) -> GetParametersRes:
        self._asked.append(0)
        return GetParametersRes(OK, initial())

    def get_properties(self, ins: Any, timeout: float | None, group_id: int | None) -> Any:
        raise NotImplementedError

    def reconnect(self, ins: Any, timeout: float | None, group_id: int | None) -> DisconnectRes:
        return DisconnectRes("")


def initial() -> Parameters:
    return ndarrays_to_parameters([np.zeros((2, 3)), np.ones(2)])


def mean(replies: list[tuple[int, dict[str, Any]]]) -> dict[str, Any]:
    return {"mean": sum(sum(metrics.values()) for _, metrics in replies) / len(replies), "note": "x", "raw": b"\xff"}


def evaluate(number: int, arrays: list[np.ndarray], config: Any) -> tuple[float, dict[str, Any]] | None:
    if number in FAIL_IN:
        raise Interrupted
    return float(sum(array.sum() for array in arrays)), {"accuracy": number / 10, "nan": float("nan")}


FAIL_IN: set[int] = set()


@pytest.fixture(autouse=True)
def _never_fail() -> Iterator[None]:
    FAIL_IN.clear()
    yield
    FAIL_IN.clear()


def adam(**options: Any) -> Any:
    defaults = {"initial_parameters": initial(), "fraction_fit": 0.5, "evaluate_fn": evaluate}
    functions = {"fit_metrics_aggregation_fn": mean, "evaluate_metrics_aggregation_fn": mean}
    return strategies.FedAdam(
        **{**defaults, **functions, "on_fit_config_fn": lambda number: {"round": number}, **options}
    )


def run(strategy: Any, checkpointer: Any = None, *, rounds: int = 5, **options: Any) -> tuple[Any, list[int]]:
    """Run a server with the random state of a new process; return what it ended with, and when clients were asked."""
    random.seed(0)
    asked: list[int] = []
    manager = SimpleClientManager()
    for cid in CLIENTS:
        manager.register(Client(cid, asked))
    components = ServerAppComponents(strategy=strategy, config=ServerConfig(rounds), client_manager=manager)
    if checkpointer is not None:
        assert checkpointer.legacy(components, **options) is components
    server, config = init_defaults(None, components.config, components.strategy, components.client_manager)
    server.set_max_workers(1)
    history = run_fl(server, config)
    return (repr(vars(history)), server.parameters), asked


@pytest.fixture(scope="module")
def whole() -> Any:
    with RecordStore(":memory:") as store:
        return run(adam(), Checkpointer(store, "r"))[0]


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("at", [1, 2, 4, 5])
def test_an_interrupted_run_ends_as_one_that_was_not(memory: RecordStore, whole: Any, every: int, at: int) -> None:
    FAIL_IN.add(at)
    with pytest.raises(Interrupted):
        run(adam(), Checkpointer(memory, "r", every=every))
    FAIL_IN.clear()
    last = memory.latest("r").round
    assert last == (at - 1) // every * every
    ended, asked = run(adam(), Checkpointer(memory, "r", every=every))
    assert ended == whole
    assert sorted(set(asked)) == list(range(last + 1, 6)), "committed rounds ask nobody"


def test_replies_are_sorted_by_client_unless_that_is_not_wanted(memory: RecordStore) -> None:
    orders: dict[str, list[list[int]]] = {}

    def noting(run_name: str) -> Any:
        def note(replies: list[tuple[int, dict[str, Any]]]) -> dict[str, Any]:
            orders.setdefault(run_name, []).append([examples for examples, _ in replies])
            return {}

        return adam(fraction_fit=1.0, fit_metrics_aggregation_fn=note)

    run(noting("sorted"), Checkpointer(memory, "sorted"))
    run(noting("unsorted"), Checkpointer(memory, "unsorted", sort_replies=False))
    assert orders["sorted"] == [[11, 5, 7, 9]] * 5, "by the text of the cid"
    assert all(sorted(order) == [5, 7, 9, 11] for order in orders["unsorted"])


def test_a_run_that_is_complete_asks_nobody(memory: RecordStore, whole: Any) -> None:
    run(adam(), Checkpointer(memory, "r"))
    assert run(adam(), Checkpointer(memory, "r")) == (whole, [])


def test_the_strategy_of_a_complete_run_is_as_it_was_at_the_end(memory: RecordStore) -> None:
    ended, again = adam(), adam()
    run(ended, Checkpointer(memory, "r"))
    run(again, Checkpointer(memory, "r"))
    assert [array.tolist() for array in again.m_t] == [array.tolist() for array in ended.m_t]


def test_the_model_of_a_client_is_asked_for_once(memory: RecordStore) -> None:
    def average(**options: Any) -> Any:
        return strategies.FedAvg(evaluate_fn=evaluate, on_fit_config_fn=lambda number: {"round": number}, **options)

    with RecordStore(":memory:") as other:
        ended, asked = run(average(), Checkpointer(other, "r"))
    assert asked.count(0) == 1
    run(average(), Checkpointer(memory, "r"), rounds=3)
    resumed, asked = run(average(), Checkpointer(memory, "r"))
    assert resumed == ended
    assert 0 not in asked


@pytest.mark.parametrize("missing", ["evaluate_fn", "fraction_evaluate", "both"])
def test_rounds_without_an_evaluation_are_committed_too(memory: RecordStore, missing: str) -> None:
    options: dict[str, Any] = {}
    if missing in {"evaluate_fn", "both"}:
        options["evaluate_fn"] = None
    if missing in {"fraction_evaluate", "both"}:
        options |= {"fraction_evaluate": 0.0, "min_evaluate_clients": 0}
    with RecordStore(":memory:") as other:
        ended, _ = run(adam(**options), Checkpointer(other, "r"))
    run(adam(**options), Checkpointer(memory, "r"), rounds=3)
    assert memory.latest("r").round == 3
    assert run(adam(**options), Checkpointer(memory, "r"))[0] == ended


def test_losses_and_metrics_are_found_by_best_and_in_the_history(memory: RecordStore) -> None:
    run(adam(), Checkpointer(memory, "r"))
    info = memory.info("r@5")
    assert {"loss", "accuracy", "nan", "train/mean", "evaluate/loss", "evaluate/mean"} == set(info.metrics)
    assert memory.best("accuracy", "max", run="r").round == 5
    sources = {entry.source for entry in memory.history("r")}
    assert sources == {"train", "evaluate", "evaluate/loss", "server", "server/loss"}
    assert list(memory.load("r@0")) == ["0", "1"]
    assert memory.load("r@0")["0"].numpy().tolist() == [[0, 0, 0], [0, 0, 0]]


def test_another_initial_model_is_refused(memory: RecordStore) -> None:
    run(adam(), Checkpointer(memory, "r"), rounds=2)
    other = ndarrays_to_parameters([np.ones((2, 3)), np.ones(2)])
    with pytest.raises(ResumeError, match="initial_parameters"):
        run(adam(initial_parameters=other), Checkpointer(memory, "r"))


def private(inner: Any) -> Any:
    return strategies.DifferentialPrivacyServerSideFixedClipping(
        inner, noise_multiplier=0.5, clipping_norm=5.0, num_sampled_clients=4
    )


def test_a_private_training_is_resumed_and_makes_noise_of_its_own(memory: RecordStore) -> None:
    options = {"initial_parameters": initial(), "on_fit_config_fn": lambda number: {"round": number}}
    run(private(strategies.FedAvg(**options)), Checkpointer(memory, "r"), rounds=3)
    assert set(memory.load_checkpoint("r@3").state["random"]) == {"python"}
    (_, parameters), asked = run(private(strategies.FedAvg(**options)), Checkpointer(memory, "r"))
    assert sorted(set(asked)) == [4, 5]
    assert [array.data for array in memory.load("r@5").values()] == parameters.tensors


def test_a_strategy_that_goes_on_from_its_model_before_noise_is_refused(memory: RecordStore) -> None:
    inner = strategies.FedAvgM(initial_parameters=initial(), server_momentum=0.9)
    with pytest.raises(InvalidValueError, match=r"FedAvgM inside.*cannot be resumed"):
        run(private(inner), Checkpointer(memory, "r", store_unnoised_state=True))
    with pytest.raises(InvalidValueError, match=r"FedAdam inside.*store_unnoised_state=True"):
        run(private(adam()), Checkpointer(memory, "r"))


def test_the_strategy_of_a_given_server_is_attached(memory: RecordStore) -> None:
    server = Server(client_manager=SimpleClientManager(), strategy=adam())
    components = ServerAppComponents(server=server)
    assert Checkpointer(memory, "r").legacy(components) is components
    assert "configure_fit" in vars(server.strategy)


def test_a_run_of_the_other_interface_is_not_resumed(memory: RecordStore) -> None:
    run(adam(), Checkpointer(memory, "r"), rounds=1)
    new = import_quietly("flwr.serverapp.strategy")
    with pytest.raises(ResumeError, match=r"no checkpoint of flwr\.serverapp"):
        Checkpointer(memory, "r").start(new.FedAdam())


@pytest.mark.parametrize("components", [ServerAppComponents(), object()], ids=["no strategy", "no components"])
def test_components_without_a_strategy_are_refused(memory: RecordStore, components: Any) -> None:
    with pytest.raises(InvalidTypeError, match=r"components need a strategy of flwr\.server\.strategy"):
        Checkpointer(memory, "r").legacy(components)
