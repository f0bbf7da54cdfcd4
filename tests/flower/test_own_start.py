"""Strategies that users write: with a ``start`` of their own, with attributes nobody knows, around another strategy."""

import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr_import import import_quietly

flower = import_quietly("recordstore.flower")
strategies = import_quietly("flwr.serverapp.strategy")

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord  # noqa: E402
from small import Interrupted, SmallGrid, config, evaluate, exact, initial, interrupted_at, start  # noqa: E402

from recordstore import RecordStore, ResumeError  # noqa: E402

Checkpointer = flower.Checkpointer
Events = list[tuple[Any, ...]]


class Tutorial(strategies.FedAdagrad):
    """In the manner of Flower's tutorial: keeps the best model, and halves the learning rate every other round."""

    def __init__(self, folder: Path | None = None) -> None:
        super().__init__()
        self.folder = folder
        self.events: Events = []

    def configure_train(self, server_round: int, arrays: Any, config: ConfigRecord, grid: Any) -> Iterable[Message]:
        if server_round % 2 == 0:
            config["lr"] *= 0.5
        self.note("lr", server_round, config["lr"])
        return super().configure_train(server_round, arrays, config, grid)

    def note(self, *event: Any) -> None:
        EVENTS.append(event)

    def keep_if_best(self, server_round: int, accuracy: float, arrays: ArrayRecord) -> None:
        if accuracy > self.best_accuracy:
            self.best_accuracy, self.best_round = accuracy, server_round
            self.note("best", server_round, accuracy, arrays["w"].data)

    def start(
        self,
        grid: Any,
        initial_arrays: ArrayRecord,
        num_rounds: int = 3,
        timeout: float = 3600,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,
        evaluate_fn: Callable[[int, ArrayRecord], MetricRecord | None] | None = None,
    ) -> Any:
        self.best_accuracy, self.best_round = -1.0, -1
        train_config, evaluate_config = train_config or config(lr=1.0), evaluate_config or ConfigRecord()
        result, arrays = strategies.Result(), initial_arrays
        if evaluate_fn:
            result.evaluate_metrics_serverapp[0] = evaluate_fn(0, initial_arrays)
        for number in range(1, num_rounds + 1):
            replies = grid.send_and_receive(messages=self.configure_train(number, arrays, train_config, grid))
            arrays, metrics = self.aggregate_train(number, replies)
            result.arrays, result.train_metrics_clientapp[number] = arrays, metrics
            replies = grid.send_and_receive(messages=self.configure_evaluate(number, arrays, evaluate_config, grid))
            result.evaluate_metrics_clientapp[number] = self.aggregate_evaluate(number, replies)
            if evaluate_fn:
                metrics = evaluate_fn(number, arrays)
                result.evaluate_metrics_serverapp[number] = metrics
                self.keep_if_best(number, metrics["accuracy"], arrays)
        return result


EVENTS: Events = []


def rising(number: int, arrays: Any) -> MetricRecord:
    """Return an accuracy with bests in the rounds 1, 2, 4 and 6."""
    return MetricRecord({"accuracy": [0.0, 0.1, 0.3, 0.2, 0.4, 0.35, 0.5][number]})


def events(run: Callable[[], Any]) -> tuple[Any, Events]:
    EVENTS.clear()
    return run(), list(EVENTS)


@pytest.mark.parametrize("at", [2, 3, 4, 5, 6])
def test_the_tutorials_strategy_reports_a_best_where_the_uninterrupted_run_did(memory: RecordStore, at: int) -> None:
    whole, expected = events(lambda: start(None, Tutorial(), evaluate_fn=rising))
    assert [event[1] for event in expected if event[0] == "best"] == [1, 2, 4, 6]
    with pytest.raises(Interrupted):
        start(Checkpointer(memory, "r"), Tutorial(), evaluate_fn=interrupted_at(at, rising))
    strategy = Tutorial()
    resumed, seen = events(lambda: start(Checkpointer(memory, "r"), strategy, evaluate_fn=rising))
    assert exact(resumed) == exact(whole)
    assert [event for event in seen if event[0] == "best"] == [event for event in expected if event[0] == "best"]
    assert [event for event in seen if event[0] == "lr"] == [
        event for event in expected if event[0] == "lr" and event[1] >= at
    ], "live rounds only, with their true numbers and rates"
    assert (strategy.best_accuracy, strategy.best_round) == (0.5, 6)


def test_what_start_does_after_the_evaluation_belongs_to_the_round(memory: RecordStore) -> None:
    """The best of round 4 is found after its evaluation has returned, and is part of what is saved of round 4."""
    with pytest.raises(Interrupted):
        start(Checkpointer(memory, "r"), Tutorial(), evaluate_fn=interrupted_at(5, rising))
    assert memory.load_checkpoint("r@4").state["state"][""]["best_round"] == 4


def test_arrays_that_were_pruned_are_missed_in_words(memory: RecordStore) -> None:
    with pytest.raises(Interrupted):
        start(Checkpointer(memory, "r"), Tutorial(), evaluate_fn=interrupted_at(5, rising))
    memory.delete("r@2")
    with pytest.raises(
        ResumeError, match=r"round 2 of run 'r' is asked for, and was not kept.*num_rounds of 4 or more"
    ):
        start(Checkpointer(memory, "r"), Tutorial(), evaluate_fn=rising)
    with pytest.raises(ResumeError, match="round 2"):
        start(Checkpointer(memory, "r"), Tutorial(), evaluate_fn=rising)


def test_every_with_a_start_of_ones_own_is_warned_of(memory: RecordStore, caplog: pytest.LogCaptureFixture) -> None:
    start(Checkpointer(memory, "r", every=2), Tutorial(), evaluate_fn=rising)
    assert [record.getMessage()[:60] for record in caplog.records if record.name == "recordstore"] == [
        "Tutorial has a start() of its own, and every=2 keeps the mod"
    ]


class Early(strategies.FedAvg):
    """Never evaluates at the server, and stops when it has had enough."""

    def start(self, grid: Any, initial_arrays: Any, num_rounds: int = 3, **kwargs: Any) -> Any:
        result, arrays, settings = strategies.Result(), initial_arrays, ConfigRecord()
        for number in range(1, num_rounds + 1):
            replies = grid.send_and_receive(self.configure_train(number, arrays, settings, grid))
            arrays, metrics = self.aggregate_train(number, replies)
            result.arrays, result.train_metrics_clientapp[number] = arrays, metrics
            if number == 5:
                break
        return result


def test_a_strategy_that_never_evaluates_is_committed_round_by_round(memory: RecordStore) -> None:
    whole = exact(start(None, Early(), num_rounds=20))
    start(Checkpointer(memory, "r"), Early(), num_rounds=3)
    assert [info.round for info in memory.records(run="r")] == [0, 1, 2, 3]
    grid = SmallGrid()
    assert exact(start(Checkpointer(memory, "r"), Early(), num_rounds=20, grid=grid)) == whole
    assert [number for _, number in grid.messages] == [4] * 4 + [5] * 4
    assert memory.latest("r").round == 5


def test_a_training_that_stops_early_saves_its_last_round(memory: RecordStore) -> None:
    result = start(Checkpointer(memory, "r", every=3), Early(), num_rounds=20)
    assert [info.round for info in memory.records(run="r")] == [0, 3, 5]
    info = memory.latest("r")
    assert info.metrics["train/loss"] == result.train_metrics_clientapp[5]["loss"]


def test_a_start_that_builds_a_configuration_for_each_round_keeps_it(memory: RecordStore) -> None:
    class Scheduled(strategies.FedAvg):
        def start(self, grid: Any, initial_arrays: Any, num_rounds: int = 3, **kwargs: Any) -> Any:
            result, arrays = strategies.Result(), initial_arrays
            for number in range(1, num_rounds + 1):
                replies = grid.send_and_receive(self.configure_train(number, arrays, config(lr=1 / number), grid))
                arrays, result.train_metrics_clientapp[number] = self.aggregate_train(number, replies)
                result.arrays = arrays
            return result

    Scheduled.__qualname__ = "Scheduled"
    whole = exact(start(None, Scheduled()))
    start(Checkpointer(memory, "r"), Scheduled(), num_rounds=3)
    assert exact(start(Checkpointer(memory, "r"), Scheduled())) == whole


def test_a_start_that_calls_that_of_flower_is_resumed(memory: RecordStore) -> None:
    class Extended(strategies.FedAvg):
        def start(self, *args: Any, **kwargs: Any) -> Any:
            result = super().start(*args, **kwargs)
            result.train_metrics_clientapp[99] = MetricRecord({"end": 1})
            return result

    Extended.__qualname__ = "Extended"
    whole = exact(start(None, Extended()))
    with pytest.raises(Interrupted):
        start(Checkpointer(memory, "r"), Extended(), evaluate_fn=interrupted_at(4))
    assert exact(start(Checkpointer(memory, "r"), Extended())) == whole


class Remembering(strategies.FedAvg):
    """Has attributes that nobody has heard of, in all kinds of containers."""

    def __init__(self) -> None:
        super().__init__()
        self.control = np.zeros((3, 2), np.float32)
        self.seen: dict[int, Any] = {}
        self.tail: list[np.ndarray] = []
        self.sum = np.float32(0)
        self.flags = {"even"}
        self.pair: tuple[Any, ...] = (0, None)

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> Any:
        arrays, metrics = super().aggregate_train(server_round, replies)
        weights = arrays["w"].numpy()
        self.control += weights * 0.5
        self.seen[server_round] = {"total": float(weights.sum()), "raw": weights.tobytes(), "record": arrays}
        self.tail = [*self.tail[-2:], weights[:2].T]  # in Fortran order
        self.sum += np.float32(weights.sum())
        self.flags = {"odd" if server_round % 2 else "even", "known"}
        self.pair = (server_round, weights[0, 0])
        metrics["trace"] = [float(self.sum), float(self.control.sum()), float(len(self.seen)), float(self.pair[1])]
        metrics["trace"] += [float(part.sum()) for part in self.tail]
        return arrays, metrics


def test_attributes_that_nobody_knows_are_restored(memory: RecordStore, caplog: pytest.LogCaptureFixture) -> None:
    expected = Remembering()
    whole = exact(start(None, expected))
    with pytest.raises(Interrupted):
        start(Checkpointer(memory, "r"), Remembering(), evaluate_fn=interrupted_at(4))
    strategy = Remembering()
    assert exact(start(Checkpointer(memory, "r"), strategy)) == whole
    for name in ("flags", "pair"):
        assert repr(getattr(strategy, name)) == repr(getattr(expected, name))
    assert type(strategy.sum) is np.float32
    assert list(strategy.seen) == [1, 2, 3, 4, 5, 6]
    assert strategy.seen[2]["raw"] == expected.seen[2]["raw"]
    assert dict(strategy.seen[2]["record"]) == dict(expected.seen[2]["record"])
    strategy.control += 1  # a restored array can be written to
    assert "not part of the checkpoints" not in caplog.text


class Wrapper(strategies.Strategy):
    """A wrapper as users write them, which knows the strategy within by a name of its own."""

    def __init__(self, inner: Any) -> None:
        self.within = inner
        self.count = 0

    def summary(self) -> None:
        self.within.summary()

    def configure_train(self, server_round: int, arrays: Any, config: Any, grid: Any) -> Iterable[Message]:
        return self.within.configure_train(server_round, arrays, config, grid)

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> Any:
        self.count += 1
        arrays, metrics = self.within.aggregate_train(server_round, replies)
        metrics["count"] = self.count
        return arrays, metrics

    def configure_evaluate(self, server_round: int, arrays: Any, config: Any, grid: Any) -> Iterable[Message]:
        return self.within.configure_evaluate(server_round, arrays, config, grid)

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> Any:
        return self.within.aggregate_evaluate(server_round, replies)


def test_the_strategy_within_a_wrapper_is_restored_too(memory: RecordStore) -> None:
    def make(**options: Any) -> Any:
        return Wrapper(Wrapper(strategies.FedAdam(**options)))

    whole = exact(start(None, make()))
    with pytest.raises(Interrupted):
        start(Checkpointer(memory, "r"), make(), evaluate_fn=interrupted_at(4))
    assert exact(start(Checkpointer(memory, "r"), make())) == whole
    with pytest.raises(ResumeError, match=r"within\.within\.eta: 0\.1 stored, 0\.2 now"):
        start(Checkpointer(memory, "r"), make(eta=0.2))
    with pytest.raises(ResumeError, match=r"within\.within: .*FedAdam stored, nothing now"):
        start(Checkpointer(memory, "r"), Wrapper(strategies.FedAdam()))


def test_an_attribute_that_was_deleted_is_missing_again(memory: RecordStore) -> None:
    class Dropping(strategies.FedAvg):
        def __init__(self) -> None:
            super().__init__()
            self.warm_up = [np.ones(2)]

        def aggregate_train(self, server_round: int, replies: Any) -> Any:
            arrays, metrics = super().aggregate_train(server_round, replies)
            metrics["warm"] = int(hasattr(self, "warm_up"))
            if server_round == 2:
                del self.warm_up
            return arrays, metrics

    Dropping.__qualname__ = "Dropping"
    whole = exact(start(None, Dropping()))
    with pytest.raises(Interrupted):
        start(Checkpointer(memory, "r"), Dropping(), evaluate_fn=interrupted_at(4))
    assert exact(start(Checkpointer(memory, "r"), Dropping())) == whole


def test_flower_logs_true_round_numbers(memory: RecordStore, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(Interrupted):
        start(Checkpointer(memory, "r"), strategies.FedAvg(), evaluate_fn=interrupted_at(4, evaluate))
    caplog.clear()
    caplog.set_level(logging.INFO, logger="flwr")
    start(Checkpointer(memory, "r"), strategies.FedAvg(), initial_arrays=initial())
    rounds = [record.getMessage() for record in caplog.records if record.getMessage().startswith("[ROUND")]
    assert rounds == [f"[ROUND {number}/6]" for number in range(1, 7)]
