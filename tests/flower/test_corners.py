"""Strategies and trainings at the edge of what Flower allows: nothing is lost in silence."""

import datetime as dt
import enum
import functools
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr_import import import_quietly

flower = import_quietly("recordstore.flower")
strategies = import_quietly("flwr.serverapp.strategy")

from flwr.app import MetricRecord  # noqa: E402
from small import Interrupted, SmallGrid, config, evaluate, exact, initial, interrupted_at, start  # noqa: E402

from recordstore import InvalidTypeError, InvalidValueError, RecordStore, ResumeError  # noqa: E402

Checkpointer = flower.Checkpointer


def resumed(store: RecordStore, make: Any, at: int = 4, **arguments: Any) -> Any:
    """Return the strategy and the result of a training that was interrupted in a round."""
    with pytest.raises(Interrupted):
        start(Checkpointer(store, "r"), make(), evaluate_fn=interrupted_at(at), **arguments)
    strategy = make()
    return strategy, start(Checkpointer(store, "r"), strategy, **arguments)


def test_an_attribute_that_becomes_none_is_kept(memory: RecordStore) -> None:
    class Warming(strategies.FedAvg):
        def __init__(self) -> None:
            super().__init__()
            self.warm: Any = np.ones(2)

        def aggregate_train(self, server_round: int, replies: Any) -> Any:
            arrays, metrics = super().aggregate_train(server_round, replies)
            metrics["warm"] = int(self.warm is not None)
            if server_round == 2:
                self.warm = None
            return arrays, metrics

    whole = exact(start(None, Warming()))
    strategy, result = resumed(memory, Warming)
    assert strategy.warm is None
    assert exact(result) == whole


class Holder:
    def __init__(self) -> None:
        self.inner = {"deep": [0]}


ODD: dict[str, Any] = {
    "deque": lambda number: deque([Path(f"{number}")]),
    "path": lambda number: Path(f"round-{number}"),
    "time": lambda number: dt.datetime(2026, 1, 1 + number, tzinfo=dt.UTC),
    "object in a dict": lambda number: {"x": dt.timedelta(number)},
}


@pytest.mark.parametrize("what", ODD)
def test_what_cannot_be_kept_is_reported_when_it_changes(
    memory: RecordStore, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    class Odd(strategies.FedAvg):
        def __init__(self) -> None:
            super().__init__()
            self.odd, self.same = ODD[what](0), ODD[what](0)

        def aggregate_train(self, server_round: int, replies: Any) -> Any:
            self.odd = ODD[what](server_round)
            return super().aggregate_train(server_round, replies)

    start(Checkpointer(memory, "r"), Odd())
    warnings = [record.getMessage() for record in caplog.records if record.name == "recordstore"]
    assert len(warnings) == 1
    assert "'odd' of the strategy has changed" in warnings[0]


@pytest.mark.parametrize(
    "wrap", [lambda inner: [inner], lambda inner: {"key": (inner,)}], ids=["list", "dict of tuple"]
)
def test_strategies_in_containers_are_found(memory: RecordStore, wrap: Any) -> None:
    class Ensemble(strategies.FedAvg):
        def __init__(self) -> None:
            super().__init__()
            self.parts = wrap(strategies.FedAdam())

        def inner(self) -> Any:
            return self.parts[0] if isinstance(self.parts, list) else self.parts["key"][0]

        def configure_train(self, server_round: int, arrays: Any, config: Any, grid: Any) -> Any:
            return self.inner().configure_train(server_round, arrays, config, grid)

        def aggregate_train(self, server_round: int, replies: Any) -> Any:
            return self.inner().aggregate_train(server_round, replies)

    whole = exact(start(None, Ensemble()))
    assert exact(resumed(memory, Ensemble)[1]) == whole


def test_a_private_strategy_in_a_list_is_private(memory: RecordStore) -> None:
    class Ensemble(strategies.FedAvg):
        def __init__(self) -> None:
            super().__init__()
            self.parts = [
                strategies.DifferentialPrivacyServerSideFixedClipping(
                    strategies.FedAvg(), noise_multiplier=0.5, clipping_norm=5.0, num_sampled_clients=4
                )
            ]

    start(Checkpointer(memory, "r"), Ensemble(), num_rounds=1)
    assert set(memory.load_checkpoint("r@1").state["random"]) == {"python"}


def test_an_evaluate_fn_among_keywords_is_found(memory: RecordStore) -> None:
    class Delegating(strategies.FedAvg):
        def start(self, grid: Any, initial_arrays: Any, **kwargs: Any) -> Any:
            return super().start(grid, initial_arrays, **kwargs)

    whole = exact(start(None, Delegating()))
    seen: list[int] = []

    def noting(server_round: int, arrays: Any) -> Any:
        seen.append(server_round)
        return evaluate(server_round, arrays)

    start(Checkpointer(memory, "r"), Delegating(), num_rounds=3)
    assert exact(start(Checkpointer(memory, "r"), Delegating(), evaluate_fn=noting)) == whole
    assert seen == [4, 5, 6]
    assert memory.best("accuracy", "max", run="r") is not None


def test_an_evaluate_fn_may_be_called_by_keywords(memory: RecordStore) -> None:
    class Named(strategies.FedAvg):
        def start(self, grid: Any, initial_arrays: Any, num_rounds: int = 3, *, evaluate_fn: Any, **_: Any) -> Any:
            return evaluate_fn(server_round=0, arrays=initial_arrays)

    assert start(Checkpointer(memory, "r"), Named())["accuracy"] == evaluate(0, initial())["accuracy"]


def test_a_round_that_is_tried_again_is_committed_once(memory: RecordStore) -> None:
    class Retrying(strategies.FedAvg):
        def start(self, grid: Any, initial_arrays: Any, num_rounds: int = 3, **_: Any) -> Any:
            result, arrays, settings = strategies.Result(), initial_arrays, config()
            for number in range(1, num_rounds + 1):
                for _attempt in range(2 if number == 2 else 1):
                    messages = self.configure_train(number, arrays, settings, grid)
                    replies = grid.send_and_receive(messages)
                new, result.train_metrics_clientapp[number] = self.aggregate_train(number, replies)
                result.arrays = arrays = new if new is not None else arrays
            return result

    whole = exact(start(None, Retrying(), num_rounds=4))
    assert exact(start(Checkpointer(memory, "r"), Retrying(), num_rounds=4)) == whole
    assert [info.round for info in memory.records()] == [0, 1, 2, 3, 4]


def test_a_second_start_within_one_attach_is_refused_in_words(memory: RecordStore) -> None:
    strategy = strategies.FedAvg()
    with Checkpointer(memory, "r").attach(strategy):
        strategy.start(SmallGrid(), initial(), 2)
        with pytest.raises(InvalidValueError, match="round 1 of run 'r' is committed already"):
            strategy.start(SmallGrid(), initial(), 2)


def test_one_configuration_for_training_and_evaluation_is_restored_once(memory: RecordStore) -> None:
    class Halving(strategies.FedAvg):
        def configure_train(self, server_round: int, arrays: Any, config: Any, grid: Any) -> Any:
            config["lr"] *= 0.5
            return super().configure_train(server_round, arrays, config, grid)

    def run(begin: Any) -> tuple[Any, float]:
        both = config(lr=1.0)
        return exact(begin(train_config=both, evaluate_config=both)), both["lr"]

    whole = run(lambda **given: start(None, Halving(), **given))
    start(Checkpointer(memory, "r"), Halving(), num_rounds=3, train_config=(one := config(lr=1.0)), evaluate_config=one)
    assert run(lambda **given: start(Checkpointer(memory, "r"), Halving(), **given)) == whole


def test_what_a_lost_attempt_has_reported_is_forgotten(memory: RecordStore) -> None:
    with pytest.raises(Interrupted):
        start(Checkpointer(memory, "r", every=3), strategies.FedAvg(), evaluate_fn=interrupted_at(6))
    assert {entry.round for entry in memory.history("r", source="evaluate")} == {1, 2, 3, 4, 5}

    class Blind(strategies.FedAvg):
        def configure_evaluate(self, *_: Any) -> Any:
            return []

    checkpointer = Checkpointer(memory, "r", every=3, strict=False)
    result = start(checkpointer, Blind(), evaluate_fn=None)
    again = start(checkpointer, Blind(), evaluate_fn=None)
    assert sorted(result.evaluate_metrics_clientapp) == sorted(again.evaluate_metrics_clientapp) == [1, 2, 3]
    assert {entry.round for entry in memory.history("r", source="server")} == {0, 1, 2, 3}


def test_a_number_of_rounds_may_be_one_of_numpy(memory: RecordStore) -> None:
    start(Checkpointer(memory, "r"), strategies.FedAvg(), num_rounds=4)
    result = start(Checkpointer(memory, "r"), strategies.FedAvg(), num_rounds=np.int64(2))
    assert result.arrays["w"].data == memory.load("r@2")["w"].data


def test_a_dict_that_no_record_of_flower_could_hold_comes_back_as_a_dict(
    memory: RecordStore, caplog: pytest.LogCaptureFixture
) -> None:
    def loose(number: int, arrays: Any) -> Any:
        return {"note": "x", "good": True, "loss": np.float32(0.5), "bad": object()}

    start(Checkpointer(memory, "r"), strategies.FedAvg(), evaluate_fn=loose, num_rounds=3)
    assert [info.round for info in memory.records()] == [0, 1, 2, 3]
    result = start(Checkpointer(memory, "r"), strategies.FedAvg(), evaluate_fn=loose, num_rounds=4)
    stored = result.evaluate_metrics_serverapp[2]
    assert stored == {"note": "x", "good": True, "loss": np.float32(0.5)}
    assert type(stored["loss"]) is np.float32
    assert "The metric 'bad' of 'server' is not kept" in caplog.text


def test_a_class_in_an_attribute_is_no_state(memory: RecordStore, torch: Any) -> None:
    class Modern(strategies.FedAvg):
        def __init__(self) -> None:
            super().__init__()
            self.kinds, self.kind, self.method = [torch.nn.Linear], torch.nn.Linear, str.join

    whole = exact(start(None, Modern()))
    assert exact(resumed(memory, Modern)[1]) == whole


def test_a_random_state_of_the_strategy_draws_on(memory: RecordStore) -> None:
    class Drawing(strategies.FedAvg):
        def __init__(self) -> None:
            super().__init__()
            self.generator = np.random.RandomState(3)

        def aggregate_train(self, server_round: int, replies: Any) -> Any:
            arrays, _ = super().aggregate_train(server_round, replies)
            return arrays, MetricRecord({"draw": self.generator.normal()})

    whole = exact(start(None, Drawing()))
    assert exact(resumed(memory, Drawing)[1]) == whole


def test_a_record_inside_a_private_wrapper_is_never_stored(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    before_noise: list[bytes] = []

    class Keeping(strategies.FedAvg):
        def aggregate_train(self, server_round: int, replies: Any) -> Any:
            arrays, metrics = super().aggregate_train(server_round, replies)
            self.last = arrays
            before_noise.extend(array.numpy().tobytes() for array in arrays.values())
            return arrays, metrics

    strategy = strategies.DifferentialPrivacyServerSideFixedClipping(
        Keeping(), noise_multiplier=0.5, clipping_norm=5.0, num_sampled_clients=4
    )
    with RecordStore(path) as store:
        start(Checkpointer(store, "r", store_unnoised_state=True), strategy)
    content = path.read_bytes()
    assert len(before_noise) == 12
    assert not any(model in content for model in before_noise)
    assert "'strategy.last' of the strategy has changed" in caplog.text


def test_attributes_in_slots_are_kept(memory: RecordStore) -> None:
    class Slotted(strategies.FedAvg):
        __slots__ = ("momentum",)

        def __init__(self) -> None:
            super().__init__()
            self.momentum = 0.0

        def aggregate_train(self, server_round: int, replies: Any) -> Any:
            arrays, metrics = super().aggregate_train(server_round, replies)
            self.momentum = metrics["momentum"] = self.momentum / 2 + metrics["loss"]
            return arrays, metrics

    whole = exact(start(None, Slotted()))
    assert exact(resumed(memory, Slotted)[1]) == whole


@dataclass
class Settings:
    rate: float
    kind: enum.Enum | None = None


class Kind(enum.Enum):
    ONE = 1
    TWO = 2


SETTINGS = {
    "dataclass": (Settings(0.1), Settings(0.2)),
    "enum in a dataclass": (Settings(0.1, Kind.ONE), Settings(0.1, Kind.TWO)),
    "enum": (Kind.ONE, Kind.TWO),
    "partial": (functools.partial(max, 1), functools.partial(max, 2)),
    "keyword of a partial": (functools.partial(max, key=len), functools.partial(max, key=abs)),
}


@pytest.mark.parametrize("what", SETTINGS)
def test_settings_in_objects_are_compared(memory: RecordStore, what: str) -> None:
    class Configured(strategies.FedAvg):
        def __init__(self, which: int) -> None:
            super().__init__()
            self.settings = SETTINGS[what][which]

    start(Checkpointer(memory, "r"), Configured(0), num_rounds=1)
    start(Checkpointer(memory, "r"), Configured(0), num_rounds=2)
    with pytest.raises(ResumeError, match=r"settings: .* stored, .* now"):
        start(Checkpointer(memory, "r"), Configured(1), num_rounds=3)


def test_a_wrapped_strategy_that_is_replaced_is_reported(memory: RecordStore, caplog: pytest.LogCaptureFixture) -> None:
    class Switching(strategies.FedAvg):
        def __init__(self) -> None:
            super().__init__()
            self.within = strategies.FedAvg()

        def aggregate_train(self, server_round: int, replies: Any) -> Any:
            if server_round == 2:
                self.within = strategies.FedAvg()
            return super().aggregate_train(server_round, replies)

    start(Checkpointer(memory, "r"), Switching())
    assert caplog.text.count("'wrapped strategies' of the strategy has changed") == 1


@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.parametrize("at", [1, 2, 3])
def test_a_round_that_failed_is_not_committed_by_leaving_the_block(memory: RecordStore, at: int, every: int) -> None:
    whole = exact(start(None, strategies.FedAdam()))
    strategy = strategies.FedAdam()
    with Checkpointer(memory, "r", every=every).attach(strategy), pytest.raises(Interrupted):
        start(None, strategy, evaluate_fn=interrupted_at(at))
    assert memory.latest("r").round == (at - 1) // every * every
    assert exact(start(Checkpointer(memory, "r"), strategies.FedAdam())) == whole


def test_a_round_of_an_own_loop_without_a_model_is_not_committed(memory: RecordStore) -> None:
    strategy, grid = strategies.FedAvg(), SmallGrid()
    with Checkpointer(memory, "r").attach(strategy):
        strategy.configure_train(1, initial(), config(), grid)
    assert memory.latest("r").round == 0


def test_a_container_that_holds_itself_is_no_obstacle(memory: RecordStore) -> None:
    class Looping(strategies.FedAvg):
        def __init__(self) -> None:
            super().__init__()
            self.loop: list[Any] = [strategies.FedAvg()]
            self.loop.append(self.loop)

    whole = exact(start(None, Looping()))
    assert exact(resumed(memory, Looping)[1]) == whole


def test_a_strategy_is_asked_for_its_state_once_a_commit(memory: RecordStore) -> None:
    asked: list[int] = []

    class Telling(strategies.FedAvg):
        def state_dict(self) -> dict[str, Any]:
            asked.append(1)
            return {}

        def load_state_dict(self, state: dict[str, Any]) -> None:
            raise NotImplementedError

    checkpointer = Checkpointer(memory, "r")
    with checkpointer.attach(strategy := Telling()):
        asked.clear()
        start(None, strategy, num_rounds=3)
    assert len(asked) == 4, "of the rounds 0 to 3"


def test_attributes_that_share_an_array_share_it_after_a_resume(memory: RecordStore) -> None:
    class Shared(strategies.FedAvg):
        def __init__(self) -> None:
            super().__init__()
            self.total = np.zeros(2)
            self.views = {"total": self.total}

        def aggregate_train(self, server_round: int, replies: Any) -> Any:
            arrays, metrics = super().aggregate_train(server_round, replies)
            self.total += server_round
            metrics["total"] = float(self.views["total"].sum())
            return arrays, metrics

    whole = exact(start(None, Shared()))
    strategy, result = resumed(memory, Shared)
    assert strategy.views["total"] is strategy.total
    assert exact(result) == whole


def test_a_strategy_that_keeps_its_own_state_is_not_reported(
    memory: RecordStore, caplog: pytest.LogCaptureFixture
) -> None:
    class Own(strategies.FedAvg):
        def __init__(self) -> None:
            super().__init__()
            self.odd = Path("round-0")

        def aggregate_train(self, server_round: int, replies: Any) -> Any:
            arrays, metrics = super().aggregate_train(server_round, replies)
            metrics["before"] = int(self.odd.name.removeprefix("round-"))
            self.odd = Path(f"round-{server_round}")
            return arrays, metrics

        def state_dict(self) -> dict[str, Any]:
            return {"odd": str(self.odd)}

        def load_state_dict(self, state: dict[str, Any]) -> None:
            self.odd = Path(state["odd"])

    whole = exact(start(None, Own()))
    assert exact(resumed(memory, Own)[1]) == whole
    assert "not part of the checkpoints" not in caplog.text


class Schedule:
    def __init__(self) -> None:
        self.state: dict[str, Any] = {"step": 0}

    def state_dict(self) -> dict[str, Any]:
        return dict(self.state)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.state = dict(state)


def test_one_object_may_be_given_as_the_extra_state(memory: RecordStore) -> None:
    one = Schedule()
    one.state["step"] = 3
    start(Checkpointer(memory, "r", extra_state=one), strategies.FedAvg(), num_rounds=2)
    other = Schedule()
    start(Checkpointer(memory, "r", extra_state=[other]), strategies.FedAvg(), num_rounds=3)
    assert other.state == {"step": 3}


@pytest.mark.parametrize("on_error", ["log", "raise"])
def test_extra_state_that_can_no_longer_be_kept_is_a_failed_save(
    memory: RecordStore, caplog: pytest.LogCaptureFixture, on_error: Any
) -> None:
    one = Schedule()

    def evaluating(server_round: int, arrays: Any) -> Any:
        one.state["odd"] = object() if server_round == 2 else server_round
        return evaluate(server_round, arrays)

    checkpointer = Checkpointer(memory, "r", extra_state=one, on_error=on_error)
    if on_error == "raise":
        with pytest.raises(InvalidTypeError, match=r"extra\.0 cannot be kept"):
            start(checkpointer, strategies.FedAvg(), num_rounds=3, evaluate_fn=evaluating)
        return
    start(checkpointer, strategies.FedAvg(), num_rounds=3, evaluate_fn=evaluating)
    assert [info.round for info in memory.records(run="r")] == [0, 1, 3]
    assert "Round 2 of run 'r' was not saved" in caplog.text
    assert {entry.round for entry in memory.history("r")} == {0, 1, 2, 3}, "the next save has made up for it"
