"""Starts that users write, and models and configurations that they change on the way: resumed, or refused in words."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from flwr_import import import_quietly

flower = import_quietly("recordstore.flower")
strategies = import_quietly("flwr.serverapp.strategy")

from flwr.app import Array, ArrayRecord, Message, MetricRecord  # noqa: E402
from small import FIELDS, Interrupted, SmallGrid, config, evaluate, exact, interrupted_at, start  # noqa: E402

from recordstore import InvalidValueError, RecordStore, ResumeError  # noqa: E402

Checkpointer = flower.Checkpointer


def interrupt(store: RecordStore, strategy: Any, at: int, function: Any = evaluate, **arguments: Any) -> None:
    with pytest.raises(Interrupted):
        start(Checkpointer(store, "r"), strategy, **arguments, evaluate_fn=interrupted_at(at, function))


def warnings(caplog: pytest.LogCaptureFixture, about: str) -> list[str]:
    texts = [record.getMessage() for record in caplog.records if record.name == "recordstore"]
    return [text for text in texts if about in text]


# Configurations


class RatesGrid(SmallGrid):
    """Notes the learning rate that clients are told in each round of training."""

    def __init__(self) -> None:
        super().__init__()
        self.rates: dict[int, Any] = {}

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        sent = list(messages)
        for message in sent:
            if message.metadata.message_type == "train":
                settings = message.content["config"]
                self.rates[int(settings["server-round"])] = settings.get("lr")
        return super().send_and_receive(sent, timeout=timeout)


@pytest.mark.parametrize(("first", "second"), [({"lr": 1.0}, {"lr": 0.1}), (None, {"lr": 0.1}), ({"lr": 1.0}, None)])
def test_another_configuration_is_refused_or_taken(
    memory: RecordStore, caplog: pytest.LogCaptureFixture, first: Any, second: Any
) -> None:
    given = [None if values is None else config(**values) for values in (first, second, second)]
    interrupt(memory, strategies.FedAvg(), 3, train_config=given[0])
    grid = RatesGrid()
    with pytest.raises(ResumeError, match="train_config"):
        start(Checkpointer(memory, "r"), strategies.FedAvg(), train_config=given[1], grid=grid)
    assert grid.messages == []
    start(Checkpointer(memory, "r", strict=False), strategies.FedAvg(), train_config=given[2], grid=grid)
    assert len(warnings(caplog, "train_config")) == 1
    assert grid.rates == dict.fromkeys([3, 4, 5, 6], (second or {}).get("lr"))


class Halving(strategies.FedAvg):
    def configure_train(self, server_round: int, arrays: Any, config: Any, grid: Any) -> Any:
        config["lr"] *= 0.5
        return super().configure_train(server_round, arrays, config, grid)


@pytest.mark.parametrize("at", [1, 2, 4, 6])
def test_a_configuration_that_changes_on_the_way_goes_on(memory: RecordStore, at: int) -> None:
    whole = exact(start(None, Halving(), train_config=config(lr=1.0)))
    interrupt(memory, Halving(), at, train_config=config(lr=1.0))
    for live in ({number: 0.5**number for number in range(at, 7)}, {}):
        grid = RatesGrid()
        assert exact(start(Checkpointer(memory, "r"), Halving(), train_config=config(lr=1.0), grid=grid)) == whole
        assert grid.rates == live


# Models that are changed in their place


def halve(server_round: int, arrays: Any) -> None:
    if server_round % 2:
        arrays["w"] = Array(arrays["w"].numpy() * np.float32(0.5))


class HalvesBefore(strategies.FedAvg):
    def configure_evaluate(self, server_round: int, arrays: Any, config: Any, grid: Any) -> Any:
        halve(server_round, arrays)
        return super().configure_evaluate(server_round, arrays, config, grid)


class HalvesAfter(strategies.FedAvg):
    def aggregate_train(self, server_round: int, replies: Any) -> Any:
        self.current, metrics = super().aggregate_train(server_round, replies)
        return self.current, metrics

    def aggregate_evaluate(self, server_round: int, replies: Any) -> Any:
        halve(server_round, self.current)
        return super().aggregate_evaluate(server_round, replies)


def halving(server_round: int, arrays: Any) -> MetricRecord:
    halve(server_round, arrays)
    return evaluate(server_round, arrays)


@pytest.mark.parametrize("at", [2, 3, 4, 6])
@pytest.mark.parametrize(
    ("make", "function"), [(HalvesBefore, evaluate), (HalvesAfter, evaluate), (strategies.FedAvg, halving)]
)
def test_a_model_that_is_changed_after_its_aggregation_is_saved_as_it_is_used(
    memory: RecordStore, make: Any, function: Any, at: int
) -> None:
    whole = exact(start(None, make(), evaluate_fn=function, num_rounds=7))
    interrupt(memory, make(), at, function)
    for _ in range(2):
        result = start(Checkpointer(memory, "r"), make(), evaluate_fn=function, num_rounds=7)
        assert exact(result) == whole
    stored = memory.load("r@latest")
    assert {name: array.data for name, array in stored.items()} == {
        name: array.data for name, array in result.arrays.items()
    }


# Starts of the user's own


@dataclass
class Training:
    """What the rounds of a start share, and the steps of which they consist."""

    strategy: Any
    grid: Any
    result: Any
    evaluate_fn: Callable[[int, ArrayRecord], MetricRecord]
    stop: int | None
    settings: Any

    def ask(self, number: int) -> Any:
        return self.grid.send_and_receive(
            self.strategy.configure_train(number, self.result.arrays, self.settings, self.grid)
        )

    def train(self, number: int) -> None:
        found, metrics = self.strategy.aggregate_train(number, self.ask(number))
        self.result.arrays = self.result.arrays if found is None else found
        self.result.train_metrics_clientapp[number] = metrics

    def evaluate(self, number: int) -> None:
        messages = self.strategy.configure_evaluate(number, self.result.arrays, self.settings, self.grid)
        metrics = self.strategy.aggregate_evaluate(number, self.grid.send_and_receive(messages))
        self.result.evaluate_metrics_clientapp[number] = metrics

    def measure(self, number: int) -> None:
        self.result.evaluate_metrics_serverapp[number] = self.evaluate_fn(number, self.result.arrays)


class Loop(strategies.FedAvg):
    """Trains, evaluates and measures in each round, unless those derived from it do otherwise."""

    first = 1

    def start(self, grid: Any, initial_arrays: Any, num_rounds: int, evaluate_fn: Any, stop: int | None = None) -> Any:
        training = Training(self, grid, strategies.Result(), evaluate_fn, stop, config(lr=1.0))
        training.result.arrays = initial_arrays
        for number in range(self.first, num_rounds + 1):
            if self.round(number, training):
                break
        return training.result

    def round(self, number: int, training: Training) -> bool:
        """Return whether it was enough."""
        training.train(number)
        training.evaluate(number)
        training.measure(number)
        return number == training.stop


class Rarely(Loop):
    """Trains in every second round, and evaluates in all of them."""

    def round(self, number: int, training: Training) -> bool:
        if number % 2:
            training.train(number)
        training.evaluate(number)
        training.measure(number)
        return False


class Early(Loop):
    """Evaluates before it trains."""

    def round(self, number: int, training: Training) -> bool:
        training.evaluate(number)
        training.measure(number)
        training.train(number)
        return False


class OnlyMeasures(Loop):
    """Trains in every third round; in the others only the server evaluates."""

    def round(self, number: int, training: Training) -> bool:
        if number % 3 == 1:
            training.train(number)
        training.measure(number)
        return False


@pytest.mark.parametrize("at", [2, 3, 4, 5, 6])
@pytest.mark.parametrize("make", [Loop, Rarely, Early, OnlyMeasures])
def test_reports_belong_to_the_round_that_made_them(memory: RecordStore, make: Any, at: int) -> None:
    whole = start(None, make())
    interrupt(memory, make(), at)
    for _ in range(2):
        assert exact(start(Checkpointer(memory, "r"), make())) == exact(whole)
        for source, field in zip(("train", "evaluate", "server"), FIELDS, strict=True):
            stored = {entry.round: entry.values for entry in memory.history("r") if entry.source == source}
            assert repr(stored) == repr({number: dict(record) for number, record in getattr(whole, field).items()})


def test_a_run_that_ends_early_by_itself_comes_to_the_same_end(memory: RecordStore) -> None:
    whole = exact(start(Checkpointer(memory, "r"), Loop(), num_rounds=20, stop=4))
    grid = SmallGrid()
    assert exact(start(Checkpointer(memory, "r"), Loop(), num_rounds=20, stop=4, grid=grid)) == whole
    assert grid.messages == []


class Breaks(Loop):
    """Ends a round before its aggregation."""

    def round(self, number: int, training: Training) -> bool:
        if number == training.stop:
            training.ask(number)
            return True
        return super().round(number, training)


@pytest.mark.parametrize("stop", [1, 3])
def test_a_round_that_was_not_aggregated_is_not_committed(memory: RecordStore, stop: int) -> None:
    whole = exact(start(None, Breaks()))
    start(Checkpointer(memory, "r"), Breaks(), num_rounds=4, stop=stop)
    assert memory.latest("r").round == stop - 1
    assert all(entry.round < stop for entry in memory.history("r"))
    grid = SmallGrid()
    assert exact(start(Checkpointer(memory, "r"), Breaks(), grid=grid)) == whole
    assert {number for _, number in grid.messages} == set(range(stop, 7))


class FromZero(Loop):
    first = 0


def test_rounds_that_are_counted_from_zero_are_refused(memory: RecordStore) -> None:
    grid = SmallGrid()
    with pytest.raises(InvalidValueError, match="counted from 1"):
        start(Checkpointer(memory, "r"), FromZero(), grid=grid)
    assert grid.messages == []
    assert len(memory) == 0


class Again(Loop):
    """Aggregates, in its second round, in one more way."""

    again = "train"

    def round(self, number: int, training: Training) -> bool:
        if number == 2 and self.again == "train":
            training.train(number)
        elif number == 2:
            replies = list(training.ask(number)) if self.again == "aggregate" else []
            self.aggregate_train(number, replies)
            self.aggregate_train(number, replies)
        return super().round(number, training)


@pytest.mark.parametrize(("again", "times"), [("train", 1), ("aggregate", 1), ("nothing", 0)])
def test_two_models_in_one_round_are_warned_of(
    memory: RecordStore, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, again: str, times: int
) -> None:
    monkeypatch.setattr(Again, "again", again)
    start(Checkpointer(memory, "r"), Again(), num_rounds=3)
    assert len(warnings(caplog, "models")) == times
