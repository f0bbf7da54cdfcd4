"""What the checkpointer promises, on a federation of arithmetic; the kills of real ones are in ``test_resume.py``."""

import logging
import random
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr_import import import_quietly

flower = import_quietly("recordstore.flower")
strategies = import_quietly("flwr.serverapp.strategy")

from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord  # noqa: E402
from small import Interrupted, SmallGrid, config, evaluate, exact, initial, interrupted_at, start  # noqa: E402

from recordstore import (  # noqa: E402
    InvalidTypeError,
    InvalidValueError,
    RecordExistsError,
    RecordStore,
    ResumeError,
    StorageFullError,
)

Checkpointer = flower.Checkpointer


def adam(**options: Any) -> Any:
    return strategies.FedAdam(**{"fraction_train": 0.5, **options})


@pytest.fixture(scope="module")
def whole() -> Any:
    """The result of six rounds without an interruption or a checkpointer."""
    return exact(start(None, adam()))


def interrupt(checkpointer: Any, at: int, strategy: Any | None = None, **arguments: Any) -> None:
    with pytest.raises(Interrupted):
        start(checkpointer, strategy or adam(), evaluate_fn=interrupted_at(at), **arguments)


def test_a_run_without_interruption_is_as_without_a_checkpointer(memory: RecordStore, whole: Any) -> None:
    assert exact(start(Checkpointer(memory, "r"), adam())) == whole


@pytest.mark.parametrize("every", [1, 2, 4])
@pytest.mark.parametrize("at", [1, 2, 3, 5, 6])
def test_an_interrupted_run_ends_as_one_that_was_not(memory: RecordStore, whole: Any, every: int, at: int) -> None:
    interrupt(Checkpointer(memory, run="r", every=every), at)
    assert exact(start(Checkpointer(memory, run="r", every=every), adam())) == whole


def test_replies_that_come_in_another_order_make_no_difference(memory: RecordStore, whole: Any) -> None:
    arrival = random.Random(1)
    options = {"fraction_train": 1.0}
    ordered = exact(start(None, adam(**options)))
    assert exact(start(None, adam(**options), grid=SmallGrid(arrival))) != ordered, "floats are added in another order"
    assert exact(start(Checkpointer(memory, "r"), adam(**options), grid=SmallGrid(arrival))) == ordered
    unsorted = Checkpointer(memory, "unsorted", sort_replies=False)
    assert exact(start(unsorted, adam(**options), grid=SmallGrid(arrival))) != ordered


def test_committed_rounds_contact_no_client(memory: RecordStore) -> None:
    interrupt(Checkpointer(memory, "r"), 4)
    grid = SmallGrid()
    start(Checkpointer(memory, "r"), adam(), grid=grid)
    assert {number for _, number in grid.messages} == {4, 5, 6}


def test_a_run_that_is_complete_returns_its_result_and_contacts_no_client(memory: RecordStore, whole: Any) -> None:
    start(Checkpointer(memory, "r"), adam())
    grid, strategy = SmallGrid(), adam()
    assert exact(start(Checkpointer(memory, "r"), strategy, grid=grid)) == whole
    assert grid.messages == []
    assert strategy.m_t is not None, "the state of the end is restored"


def test_more_rounds_go_on_from_the_end(memory: RecordStore, whole: Any) -> None:
    start(Checkpointer(memory, "r"), adam(), num_rounds=3)
    assert exact(start(Checkpointer(memory, "r"), adam())) == whole
    shorter = start(Checkpointer(memory, "r"), adam(), num_rounds=3)
    assert sorted(shorter.train_metrics_clientapp) == [1, 2, 3]
    assert shorter.arrays["w"].data == memory.load("r@3")["w"].data


def test_a_round_is_published_with_its_state_and_history_in_one_transaction(path: Path, memory_folder: Path) -> None:
    """A copy of the file after each transaction holds whole rounds only."""
    file, seen = memory_folder / "store.db", []
    with RecordStore(file) as store:
        add = store._database.write

        def spying(*arguments: Any, **options: Any) -> Any:
            seen.append(rounds_of(file, memory_folder / "copy.db"))
            return add(*arguments, **options)

        store._database.write = spying
        start(Checkpointer(store, "r"), adam())
    assert seen[-1] == (5, 5, 5)
    assert all(record == history == state for record, history, state in seen)


def rounds_of(file: Path, copy: Path) -> tuple[int, ...]:
    shutil.copy(file, copy)
    queries = ("record", "history", "record WHERE checkpoint IS NOT NULL AND state = 'ready'")
    with sqlite3.connect(copy) as connection:
        return tuple(
            connection.execute(f"SELECT coalesce(max(round), -1) FROM {query}").fetchone()[0] for query in queries
        )


def test_metrics_are_found_by_best_and_kept_exactly_in_the_history(memory: RecordStore) -> None:
    result = start(Checkpointer(memory, "r", every=3), adam())
    best = memory.best("accuracy", "max", run="r")
    assert best is not None
    assert best.round == max((0, 3, 6), key=lambda number: result.evaluate_metrics_serverapp[number]["accuracy"])
    names = {"accuracy", "nan", "large", "train/loss", "evaluate/total"}
    assert set(memory.info("r@3").metrics) == names - {"large"} | (
        {"large"} if float(2**63 + 3) == 2**63 + 3 else set()
    )
    entries = memory.history("r")
    assert [entry.round for entry in entries if entry.source == "server"] == [0, 1, 2, 3, 4, 5, 6]
    for entry in entries:
        field = {"train": 0, "evaluate": 1, "server": 2}[entry.source]
        record = [result.train_metrics_clientapp, result.evaluate_metrics_clientapp, result.evaluate_metrics_serverapp]
        assert repr(entry.values) == repr(dict(record[field][entry.round]))


def test_the_history_outlives_pruned_records(memory: RecordStore, whole: Any) -> None:
    interrupt(Checkpointer(memory, "r"), 5)
    for info in list(memory.records(run="r"))[:-1]:
        memory.delete(info)
    memory.gc(grace=0)
    assert exact(start(Checkpointer(memory, "r"), adam())) == whole


def test_every_saves_each_nth_round_and_the_last(memory: RecordStore) -> None:
    start(Checkpointer(memory, "r", every=4), adam())
    assert [info.round for info in memory.records(run="r")] == [0, 4, 6]


def test_a_resume_is_warned_of_with_run_round_and_record(memory: RecordStore, caplog: pytest.LogCaptureFixture) -> None:
    interrupt(Checkpointer(memory, "r"), 3)
    assert not [record for record in caplog.records if record.name == "recordstore"]
    start(Checkpointer(memory, "r"), adam())
    (record,) = [record for record in caplog.records if record.name == "recordstore"]
    assert record.levelno == logging.WARNING
    assert record.getMessage() == f"Resuming run 'r' after round 2, from record {memory.info('r@2').id}"


def test_resume_must_and_never_are_strict(memory: RecordStore) -> None:
    with pytest.raises(ResumeError, match="'must', and run 'r' has no record"):
        start(Checkpointer(memory, "r"), adam(), resume="must")
    start(Checkpointer(memory, "r"), adam(), resume="never", num_rounds=1)
    with pytest.raises(ResumeError, match="'never', and run 'r' has rounds up to 1: choose another run"):
        start(Checkpointer(memory, "r"), adam(), resume="never")
    start(Checkpointer(memory, "r"), adam(), resume="must")
    assert memory.latest("r").round == 6


DIFFERENT = {
    "class": (lambda: strategies.FedYogi(fraction_train=0.5), "fedadam.FedAdam stored, .*fedyogi.FedYogi now"),
    "hyper-parameters": (lambda: adam(eta=0.5, tau=0.1), "eta: 0.1 stored, 0.5 now\n  tau: 0.001 stored, 0.1 now"),
    "function": (
        lambda: adam(train_metrics_aggr_fn=print),
        "train_metrics_aggr_fn: .*utils.aggregate_metricrecords stored, builtins.print now",
    ),
}


@pytest.mark.parametrize("what", DIFFERENT)
def test_another_strategy_is_refused_with_the_differences(memory: RecordStore, what: str) -> None:
    make, text = DIFFERENT[what]
    interrupt(Checkpointer(memory, "r"), 3)
    with pytest.raises(ResumeError, match=text) as refusal:
        start(Checkpointer(memory, "r"), make())
    assert "strict=False" in str(refusal.value)
    assert "choose another run=" in str(refusal.value)


def test_strict_false_goes_on_with_another_strategy(memory: RecordStore, caplog: pytest.LogCaptureFixture) -> None:
    interrupt(Checkpointer(memory, "r"), 3)
    result = start(Checkpointer(memory, "r", strict=False), adam(eta=0.5))
    assert sorted(result.train_metrics_clientapp) == [1, 2, 3, 4, 5, 6]
    assert "eta: 0.1 stored, 0.5 now" in caplog.text


INITIAL = {
    "other values": ({"w": np.ones((3, 2), np.float32), "b": np.ones(4)}, "the values others"),
    "other names": ({"w": np.zeros((3, 2), np.float32), "c": np.ones(4)}, r"only stored: \['b'\], only given: \['c'\]"),
}


@pytest.mark.parametrize("what", INITIAL)
def test_another_initial_model_is_refused_with_a_way_out(memory: RecordStore, what: str) -> None:
    arrays, text = INITIAL[what]
    interrupt(Checkpointer(memory, "r"), 2)
    other = ArrayRecord({name: Array(values) for name, values in arrays.items()})
    with pytest.raises(ResumeError, match=text):
        start(Checkpointer(memory, "r"), adam(), initial_arrays=other)
    assert start(Checkpointer(memory, "other"), adam(), initial_arrays=other, num_rounds=1) is not None


def test_a_used_strategy_is_not_taken_for_a_fresh_one(memory: RecordStore) -> None:
    strategy = adam()
    interrupt(Checkpointer(memory, "r"), 3, strategy)
    with pytest.raises(ResumeError, match=r"m_t: null stored(.*\n)*.*v_t: (.*\n)*Give a fresh strategy"):
        start(Checkpointer(memory, "r"), strategy)


def test_records_of_something_else_are_not_resumed(memory: RecordStore) -> None:
    memory.save(initial(), run="r", round=1)
    with pytest.raises(ResumeError, match=r"record 1 of run 'r' is no checkpoint.*another run name"):
        start(Checkpointer(memory, "r"), adam())


def halving() -> Any:
    class Halving(strategies.FedAvg):
        def configure_train(self, server_round: int, arrays: Any, config: ConfigRecord, grid: Any) -> Any:
            config["lr"] *= 0.5
            return super().configure_train(server_round, arrays, config, grid)

    Halving.__qualname__ = "Halving"
    return Halving()


def test_a_configuration_that_a_strategy_changes_is_restored_into_the_live_object(memory: RecordStore) -> None:
    expected = exact(start(None, halving(), train_config=config(lr=1.0, note=b"\x00" * 2000)))
    interrupt(Checkpointer(memory, "r"), 4, halving(), train_config=config(lr=1.0, note=b"\x00" * 2000))
    live = config(lr=1.0, note=b"\x00" * 2000)
    assert exact(start(Checkpointer(memory, "r"), halving(), train_config=live)) == expected
    assert live["lr"] == 0.5**6
    assert live["note"] == b"\x00" * 2000


class Plateau:
    """A scheduler as users write them, with PyTorch's protocol."""

    def __init__(self) -> None:
        self.best, self.bad, self.weights = float("-inf"), 0, {0: np.zeros(2)}

    def step(self, value: float) -> None:
        self.bad = 0 if value > self.best else self.bad + 1
        self.best, self.weights = max(value, self.best), {0: self.weights[0] + value}

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "bad": self.bad, "weights": self.weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best, self.bad, self.weights = state["best"], state["bad"], state["weights"]


def stepping(plateau: Plateau, at: int = -1) -> Callable[..., Any]:
    def evaluate_and_step(number: int, arrays: Any) -> Any:
        metrics = interrupted_at(at)(number, arrays)
        plateau.step(metrics["accuracy"])
        return metrics

    return evaluate_and_step


@pytest.mark.parametrize("wrap", [lambda plateau: {"plateau": plateau}, lambda plateau: [plateau]])
def test_extra_state_is_saved_and_restored(memory: RecordStore, wrap: Callable[[Plateau], Any]) -> None:
    whole, first, second = Plateau(), Plateau(), Plateau()
    start(None, adam(), evaluate_fn=stepping(whole))
    with pytest.raises(Interrupted):
        start(Checkpointer(memory, "r", extra_state=wrap(first)), adam(), evaluate_fn=stepping(first, at=4))
    start(Checkpointer(memory, "r", extra_state=wrap(second)), adam(), evaluate_fn=stepping(second))
    assert repr(second.state_dict()) == repr(whole.state_dict())
    with pytest.raises(ResumeError, match=r"extra_state '.*': only one of stored and given"):
        start(Checkpointer(memory, "r"), adam())


def test_a_scheduler_of_torch_is_extra_state(memory: RecordStore, torch: Any) -> None:
    def scheduler() -> Any:
        optimizer = torch.optim.Adam([torch.nn.Parameter(torch.ones(2))], lr=0.1)
        return torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones=[2, 4]), optimizer

    schedulers = [scheduler() for _ in range(3)]

    def step(which: int, at: int = -1) -> Callable[..., Any]:
        def function(number: int, arrays: Any) -> Any:
            metrics = interrupted_at(at)(number, arrays)
            schedule, optimizer = schedulers[which]
            optimizer.param_groups[0]["params"][0].grad = torch.full((2,), metrics["accuracy"])
            optimizer.step()
            schedule.step()
            return metrics

        return function

    def checkpointer(which: int) -> Any:
        schedule, optimizer = schedulers[which]
        return Checkpointer(memory, f"r{min(which, 1)}", extra_state={"schedule": schedule, "optimizer": optimizer})

    start(checkpointer(0), adam(), evaluate_fn=step(0))
    with pytest.raises(Interrupted):
        start(checkpointer(1), adam(), evaluate_fn=step(1, at=5))
    start(checkpointer(2), adam(), evaluate_fn=step(2))
    for one, other in zip(schedulers[0], schedulers[2], strict=True):
        assert repr(one.state_dict()) == repr(other.state_dict())


def test_state_that_cannot_be_kept_and_has_changed_is_reported_once(
    memory: RecordStore, caplog: pytest.LogCaptureFixture
) -> None:
    class Odd(strategies.FedAvg):
        def __init__(self) -> None:
            super().__init__()
            self.same, self.thing, self.things = object(), SmallGrid(), [SmallGrid()]

        def aggregate_train(self, server_round: int, replies: Any) -> Any:
            self.thing.messages.append(("changed", server_round))
            return super().aggregate_train(server_round, replies)

    start(Checkpointer(memory, "r"), Odd())
    warnings = [record.getMessage() for record in caplog.records if record.name == "recordstore"]
    assert len(warnings) == 1
    assert "'thing' of the strategy has changed" in warnings[0]
    assert "state_dict() and load_state_dict()" in warnings[0]


def test_a_strategy_that_tells_its_state_is_asked_for_it(memory: RecordStore) -> None:
    class Telling(strategies.FedAvg):
        def __init__(self) -> None:
            super().__init__()
            self.thing = SmallGrid()

        def aggregate_train(self, server_round: int, replies: Any) -> Any:
            self.thing.messages.append(("seen", server_round))
            return super().aggregate_train(server_round, replies)

        def state_dict(self) -> dict[str, Any]:
            return {"seen": list(self.thing.messages)}

        def load_state_dict(self, state: dict[str, Any]) -> None:
            self.thing.messages = state["seen"]

    Telling.__qualname__ = "Telling"
    interrupt(Checkpointer(memory, "r"), 4, Telling())
    strategy = Telling()
    start(Checkpointer(memory, "r"), strategy)
    assert strategy.thing.messages == [("seen", number) for number in range(1, 7)]


@pytest.fixture
def full(memory: RecordStore, monkeypatch: pytest.MonkeyPatch) -> Iterator[set[int]]:
    """Rounds whose save finds the disk full."""
    failing: set[int] = set()
    save = RecordStore.save_checkpoint

    def save_unless_full(self: RecordStore, *arguments: Any, **options: Any) -> int:
        if options["round"] in failing:
            raise StorageFullError("the disk is full")
        return save(self, *arguments, **options)

    monkeypatch.setattr(RecordStore, "save_checkpoint", save_unless_full)
    return failing


def test_a_save_that_fails_is_logged_and_tried_again_with_the_next_round(
    memory: RecordStore, full: set[int], whole: Any, caplog: pytest.LogCaptureFixture
) -> None:
    full |= {0, 2, 3, 4}
    assert exact(start(Checkpointer(memory, "r", every=2), adam())) == whole
    errors = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert [text[:26] for text in errors] == [f"Round {number} of run 'r' was not" for number in (0, 2, 3, 4)]
    assert [info.round for info in memory.records(run="r")] == [1, 5, 6]
    assert [entry.round for entry in memory.history("r", source="server")] == [0, 1, 2, 3, 4, 5, 6]
    full.clear()
    assert exact(start(Checkpointer(memory, "r"), adam())) == whole


def test_on_error_raise_ends_the_training(memory: RecordStore, full: set[int], whole: Any) -> None:
    full |= {3}
    with pytest.raises(StorageFullError):
        start(Checkpointer(memory, "r", on_error="raise"), adam())
    full.clear()
    assert exact(start(Checkpointer(memory, "r", on_error="raise"), adam())) == whole


def test_a_real_disk_limit_ends_no_federation(path: Path) -> None:
    expected = exact(start(None, adam(), initial_arrays=initial(300, 300)))
    with RecordStore(path) as store:

        def filling(number: int, arrays: Any) -> Any:
            with store._database._writers.connect() as connection:
                pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
                connection.exec_driver_sql(f"PRAGMA max_page_count={pages if number == 3 else 10**9}")
            return evaluate(number, arrays)

        checkpointer = Checkpointer(store, "r")
        assert exact(start(checkpointer, adam(), initial_arrays=initial(300, 300), evaluate_fn=filling)) == expected
        assert [info.round for info in store.records(run="r")] == [0, 1, 2, 4, 5, 6]


def test_two_processes_that_train_one_run_do_not_overwrite_each_other(memory: RecordStore) -> None:
    def other(number: int, arrays: Any) -> Any:
        if number == 3:
            memory.save(arrays, run="r", round=3)
        return evaluate(number, arrays)

    with pytest.raises(RecordExistsError):
        start(Checkpointer(memory, "r"), adam(), evaluate_fn=other)


def test_a_new_run_under_an_old_name_begins_with_an_empty_history(memory: RecordStore) -> None:
    start(Checkpointer(memory, "r"), adam())
    for info in list(memory.records(run="r")):
        memory.delete(info)
    start(Checkpointer(memory, "r"), adam(), num_rounds=2)
    assert {entry.round for entry in memory.history("r")} == {0, 1, 2}


def test_attach_serves_those_who_call_start_themselves(memory: RecordStore, whole: Any) -> None:
    strategy = adam()
    with pytest.raises(Interrupted), Checkpointer(memory, "r").attach(strategy):
        start(None, strategy, evaluate_fn=interrupted_at(4))
    assert "configure_train" not in vars(strategy), "the methods are put back"
    strategy = adam()
    with Checkpointer(memory, "r").attach(strategy):
        assert exact(start(None, strategy)) == whole
        with (
            pytest.raises(InvalidValueError, match="attached to this strategy already"),
            Checkpointer(memory, "r2").attach(strategy),
        ):
            pass
    assert "start" not in vars(strategy)


def test_a_loop_of_the_users_own_is_committed_round_by_round(memory: RecordStore) -> None:
    def loop(strategy: Any, grid: SmallGrid, rounds: int) -> Any:
        random.seed(0)
        arrays, settings = initial(), config()
        for number in range(1, rounds + 1):
            replies = grid.send_and_receive(strategy.configure_train(number, arrays, settings, grid))
            new, _ = strategy.aggregate_train(number, replies)
            arrays = arrays if new is None else new
        return [array.data for array in arrays.values()]

    whole, strategy = loop(adam(), SmallGrid(), 5), adam()
    with Checkpointer(memory, "r").attach(strategy):
        loop(strategy, SmallGrid(), 3)
    assert [info.round for info in memory.records(run="r")] == [0, 1, 2, 3]
    strategy, grid = adam(), SmallGrid()
    with Checkpointer(memory, "r").attach(strategy):
        assert loop(strategy, grid, 5) == whole
    assert {number for _, number in grid.messages} == {4, 5}


def test_without_an_evaluate_fn_rounds_are_committed_all_the_same(memory: RecordStore) -> None:
    whole = exact(start(None, adam(), evaluate_fn=None))
    assert exact(start(Checkpointer(memory, "r"), adam(), evaluate_fn=None, num_rounds=4)) != whole
    assert memory.latest("r").round == 4
    result = start(Checkpointer(memory, "r"), adam(), evaluate_fn=None)
    assert exact(result) == whole
    assert result.evaluate_metrics_serverapp == {}


def test_an_evaluation_that_returns_none_stays_none(memory: RecordStore) -> None:
    def sometimes(number: int, arrays: Any) -> Any:
        return None if number % 2 else evaluate(number, arrays)

    whole = exact(start(None, adam(), evaluate_fn=sometimes))
    start(Checkpointer(memory, "r"), adam(), evaluate_fn=sometimes, num_rounds=4)
    assert exact(start(Checkpointer(memory, "r"), adam(), evaluate_fn=sometimes)) == whole


def test_a_round_whose_aggregation_fails_keeps_the_model_before(memory: RecordStore) -> None:
    class Failing(strategies.FedAvg):
        def aggregate_train(self, server_round: int, replies: Any) -> Any:
            return (None, None) if server_round in {1, 2, 4} else super().aggregate_train(server_round, replies)

    Failing.__qualname__ = "Failing"
    for rounds in (1, 2, 4, 6):
        whole = start(None, Failing(), num_rounds=rounds)
        with RecordStore(":memory:") as store:
            start(Checkpointer(store, "r"), Failing(), num_rounds=max(1, rounds - 1))
            assert exact(start(Checkpointer(store, "r"), Failing(), num_rounds=rounds)) == exact(whole)
            assert exact(start(Checkpointer(store, "r"), Failing(), num_rounds=rounds)) == exact(whole)


def test_a_generator_of_the_strategy_goes_on_where_it_was(memory: RecordStore) -> None:
    class Drawing(strategies.FedAvg):
        def __init__(self) -> None:
            super().__init__()
            self.generator, self.other = np.random.default_rng(5), random.Random(5)

        def aggregate_train(self, server_round: int, replies: Any) -> Any:
            arrays, _ = super().aggregate_train(server_round, replies)
            return arrays, MetricRecord({"draw": self.generator.normal(), "other": self.other.random()})

    Drawing.__qualname__ = "Drawing"
    whole = exact(start(None, Drawing()))
    interrupt(Checkpointer(memory, "r"), 4, Drawing())
    assert exact(start(Checkpointer(memory, "r"), Drawing())) == whole


ARGUMENTS = [
    (InvalidTypeError, "store must be a RecordStore", lambda: Checkpointer("x.db", "r")),
    (InvalidTypeError, "run must be a str", lambda: Checkpointer(RecordStore(":memory:"), None)),
    (InvalidValueError, "run 'a@b'", lambda: Checkpointer(RecordStore(":memory:"), "a@b")),
    (InvalidValueError, "every must be 1 or more", lambda: Checkpointer(RecordStore(":memory:"), "r", 0)),
    (InvalidTypeError, "every must be an int", lambda: Checkpointer(RecordStore(":memory:"), "r", 1.5)),
    (InvalidTypeError, "extra_state", lambda: Checkpointer(RecordStore(":memory:"), "r", extra_state=5)),
    (InvalidValueError, "on_error", lambda: Checkpointer(RecordStore(":memory:"), "r", on_error="ignore")),
    (InvalidTypeError, "strict must be a bool", lambda: Checkpointer(RecordStore(":memory:"), "r", strict="no")),
    (InvalidValueError, "resume must be", lambda: Checkpointer(RecordStore(":memory:"), "r").start(adam(), resume="x")),
    (InvalidTypeError, "flwr.serverapp", lambda: Checkpointer(RecordStore(":memory:"), "r").start(object())),
    (
        InvalidTypeError,
        "extra_state 'x' has no state_dict",
        lambda: Checkpointer(RecordStore(":memory:"), "r", extra_state={"x": object()}).start(adam()),
    ),
]


@pytest.mark.parametrize(("error", "text", "call"), ARGUMENTS)
def test_a_wrong_argument_is_refused_in_words(error: type[Exception], text: str, call: Callable[[], Any]) -> None:
    with pytest.raises(error, match=text):
        call()
