"""Committed rounds that a ``start`` of the user's own goes through again: to the same end, or to a clear error."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from flwr_import import import_quietly

flower = import_quietly("recordstore.flower")
strategies = import_quietly("flwr.serverapp.strategy")
convert = import_quietly("recordstore.flower.convert")

from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord  # noqa: E402
from small import Interrupted, SmallGrid, config, evaluate, exact, initial, interrupted_at, start  # noqa: E402

from recordstore import Checkpoint, CorruptRecordError, RecordStore, RecordStoreError, ResumeError  # noqa: E402

Checkpointer = flower.Checkpointer


class Loop(strategies.FedAvg):
    """A ``start`` of its own; what it does with the model of a round is left to those derived from it."""

    def start(self, grid: Any, model: Any = None, num_rounds: int = 3, **arguments: Any) -> Any:
        given = arguments.get("initial_arrays")
        result, arrays, settings = strategies.Result(), model if given is None else given, config(lr=1.0)
        for number in range(1, num_rounds + 1):
            replies = grid.send_and_receive(self.configure_train(number, arrays, settings, grid))
            arrays = self.after(number, arrays, replies, result)
            result.arrays = arrays
            if arguments.get("evaluate_fn") is not None:
                result.evaluate_metrics_serverapp[number] = arguments["evaluate_fn"](number, arrays)
        return result

    def after(self, number: int, arrays: Any, replies: Any, result: Any) -> Any:
        found, result.train_metrics_clientapp[number] = self.aggregate_train(number, replies)
        return arrays if found is None else found


class LooksAtReplies(Loop):
    def after(self, number: int, arrays: Any, replies: Any, result: Any) -> Any:
        return super().after(number, arrays, replies, result) if list(replies) else arrays


def interrupt(store: RecordStore, strategy: Any, at: int = 4, **arguments: Any) -> None:
    """Train up to a round."""
    with pytest.raises(Interrupted):
        start(
            Checkpointer(store, "r", **arguments.pop("options", {})),
            strategy,
            **arguments | {"evaluate_fn": interrupted_at(at)},
        )


def test_a_start_that_skips_rounds_without_replies_is_refused(
    memory: RecordStore, caplog: pytest.LogCaptureFixture
) -> None:
    interrupt(memory, LooksAtReplies())
    grid = SmallGrid()
    with pytest.raises(
        ResumeError, match=r"after round 3 its start\(\) goes on with another model than the first time"
    ):
        start(Checkpointer(memory, "r"), LooksAtReplies(), grid=grid)
    assert grid.messages == [], "no client has trained from the wrong model"
    start(Checkpointer(memory, "r", strict=False), LooksAtReplies(), grid=grid)
    assert "goes on with another model" in caplog.text


def test_a_start_that_changes_the_model_in_its_place_is_resumed(memory: RecordStore) -> None:
    class Clips(Loop):
        def after(self, number: int, arrays: Any, replies: Any, result: Any) -> Any:
            arrays = super().after(number, arrays, replies, result)
            for name, array in arrays.items():
                arrays[name] = Array(array.numpy() * 0.5)
            return arrays

    Clips.__qualname__ = "Clips"
    whole = exact(start(None, Clips()))
    interrupt(memory, Clips())
    assert exact(start(Checkpointer(memory, "r"), Clips())) == whole


@pytest.mark.parametrize("rounds", [0, 3], ids=["after the initial model", "after three rounds"])
def test_the_initial_model_is_compared_whatever_it_is_called(memory: RecordStore, rounds: int) -> None:
    begin = {"initial_arrays": None, "model": initial()}
    interrupt(memory, Loop(), at=rounds + 1, **begin)
    other = ArrayRecord({**initial(), "b": Array(np.zeros(4))})
    grid = SmallGrid()
    with pytest.raises(ResumeError, match="initial_arrays: the names are the same, and the values others"):
        start(Checkpointer(memory, "r"), Loop(), grid=grid, **begin | {"model": other})
    assert grid.messages == []
    whole = exact(start(None, Loop(), **begin))
    assert exact(start(Checkpointer(memory, "r"), Loop(), **begin)) == whole


class Fails(Loop):
    """Has no model in some rounds, and says so."""

    failing: tuple[int, ...] = (2, 4)

    def aggregate_train(self, server_round: int, replies: Any) -> Any:
        found, metrics = super().aggregate_train(server_round, replies)
        return (None if server_round in self.failing else found), metrics

    def after(self, number: int, arrays: Any, replies: Any, result: Any) -> Any:
        found, _ = self.aggregate_train(number, replies)
        result.train_metrics_clientapp[number] = MetricRecord({"failed": int(found is None)})
        return arrays if found is None else found


@pytest.mark.parametrize("at", [2, 3, 4, 5, 6])
def test_a_start_sees_which_rounds_have_failed(memory: RecordStore, at: int) -> None:
    whole = exact(start(None, Fails()))
    interrupt(memory, Fails(), at=at)
    assert exact(start(Checkpointer(memory, "r"), Fails())) == whole


def test_a_run_that_only_failed_goes_on_from_the_initial_model(memory: RecordStore) -> None:
    class AllFail(Fails):
        failing = (1, 2, 3)

    AllFail.__qualname__ = "AllFail"
    whole = exact(start(None, AllFail()))
    interrupt(memory, AllFail())
    assert exact(start(Checkpointer(memory, "r"), AllFail())) == whole


class Extended(strategies.FedAdam):
    """Calls Flower's own loop, and never looks at the model of a round."""

    def start(self, *args: Any, **kwargs: Any) -> Any:
        return super().start(*args, **kwargs)


@pytest.mark.parametrize("at", [3, 4, 5, 6])
def test_a_start_that_calls_flowers_own_needs_no_record_but_the_last(memory: RecordStore, at: int) -> None:
    whole = exact(start(None, Extended()))
    interrupt(memory, Extended(), at=at, options={"every": 2})
    kept = memory.latest("r").id
    for info in list(memory.records(run="r")):
        if info.id != kept:
            memory.delete(info)
    assert exact(start(Checkpointer(memory, "r", every=2), Extended())) == whole


def counting(load: Callable[[], Any]) -> tuple[Any, list[int]]:
    calls: list[int] = []

    def counted() -> Any:
        calls.append(1)
        return load()

    return convert.StoredModel(counted), calls


USES: dict[str, Callable[[Any], Any]] = {
    "len": len,
    "item": lambda record: record["w"].data,
    "in": lambda record: "w" in record,
    "list": list,
    "items": lambda record: [(name, array.data) for name, array in record.items()],
    "equal": lambda record: record == initial(),
    "repr": repr,
    "copy": lambda record: dict(copy.copy(record)) == dict(initial()),
    "deepcopy": lambda record: dict(copy.deepcopy(record)) == dict(initial()),
    "pickle": lambda record: dict(pickle.loads(pickle.dumps(record))) == dict(initial()),
    "to_numpy": lambda record: [array.tolist() for array in record.to_numpy_ndarrays()],
    "id": lambda record: record.object_id,
    "attributes": lambda record: sorted(vars(record)),
}


@pytest.mark.parametrize("use", USES)
def test_a_stored_model_is_read_when_it_is_used(use: str) -> None:
    record, calls = counting(initial)
    assert isinstance(record, ArrayRecord)
    assert record is not None
    assert calls == []
    assert USES[use](record) == USES[use](initial())
    assert USES[use](record) == USES[use](initial())
    assert calls == [1]
    assert type(record) is ArrayRecord


def test_a_stored_model_can_be_written_to() -> None:
    record, calls = counting(initial)
    record["new"] = initial()["w"]
    del record["b"]
    assert (list(record), calls) == (["w", "new"], [1])


def test_what_is_raised_by_reading_comes_out(memory: RecordStore) -> None:
    def missing() -> Any:
        raise ResumeError("not kept")

    record = convert.StoredModel(missing)
    for _ in range(2):
        with pytest.raises(ResumeError, match="not kept"):
            len(record)


def test_a_start_that_trains_nothing_is_told_so(memory: RecordStore, caplog: pytest.LogCaptureFixture) -> None:
    class Idle(strategies.FedAvg):
        def start(self, *args: Any, **kwargs: Any) -> Any:
            return None

    assert Checkpointer(memory, "r").start(Idle()) is None
    assert "Nothing of run 'r' was saved" in caplog.text


def test_methods_with_arguments_of_their_own_get_them(memory: RecordStore) -> None:
    seen = []

    class More(strategies.FedAvg):
        def configure_train(self, *args: Any, **kwargs: Any) -> Any:
            seen.append((args[4:], kwargs))
            return super().configure_train(*args[:4])

        def start(self, grid: Any, initial_arrays: Any, **kwargs: Any) -> Any:
            settings = ConfigRecord()
            replies = grid.send_and_receive(self.configure_train(1, initial_arrays, settings, grid, "extra", name=7))
            return self.aggregate_train(1, replies)

    start(Checkpointer(memory, "r"), More())
    assert seen == [(("extra",), {"name": 7})]
    assert memory.latest("r").round == 1


VALUES = [None, 5, "text", [], {}, [5], {"": 5}, {"x": {"$array": 1}}, True]


@pytest.mark.parametrize(
    "field",
    ["format", "strategy", "state", "configs", "random", "extra", "initial_digest", "next_digest", "api"],
)
def test_a_checkpoint_of_another_layout_is_refused_in_our_words(memory: RecordStore, field: str) -> None:
    """Its digest holds, so that nothing but the layout is wrong: as a later version, or somebody else, might write."""
    interrupt(memory, strategies.FedAdam(), at=3)
    stored = memory.load_checkpoint("r@latest")
    variants = [{**stored.state, field: value} for value in VALUES] + [
        {name: value for name, value in stored.state.items() if name != field}
    ]
    for number, state in enumerate(variants):
        copied = memory.save_checkpoint(memory.load("r@2"), Checkpoint(state, stored.arrays), run="copy", round=2)
        try:
            start(Checkpointer(memory, "copy"), strategies.FedAdam(), num_rounds=3)
        except RecordStoreError:
            pass  # any of ours; what else is raised fails the test
        else:
            assert field in {"next_digest", "extra", "configs", "random", "state"}, (number, state[field])
        for info in list(memory.records(run="copy")):
            memory.delete(info)
        assert copied not in memory


@pytest.mark.parametrize("name", ["__class__", "start", "configure_train"])
def test_a_checkpoint_cannot_replace_methods(memory: RecordStore, name: str) -> None:
    interrupt(memory, strategies.FedAdam(), at=3)
    stored = memory.load_checkpoint("r@latest")
    state = copy.deepcopy(stored.state)
    state["state"][""][name] = 5
    memory.save_checkpoint(memory.load("r@2"), Checkpoint(state, stored.arrays), run="copy", round=2)
    with pytest.raises(CorruptRecordError, match=f"sets {name}"):
        start(Checkpointer(memory, "copy"), strategies.FedAdam(), num_rounds=3, evaluate_fn=evaluate)


def test_an_initial_model_that_its_evaluation_changes_is_noticed(memory: RecordStore) -> None:
    def clipping(server_round: int, arrays: Any) -> Any:
        if server_round == 0:
            arrays["w"] = Array(arrays["w"].numpy() + 1)
        return interrupted_at(1)(server_round, arrays)

    with pytest.raises(Interrupted):
        start(Checkpointer(memory, "r"), strategies.FedAvg(), evaluate_fn=clipping)
    grid = SmallGrid()
    with pytest.raises(ResumeError, match="after round 0 its start"):
        start(Checkpointer(memory, "r"), strategies.FedAvg(), evaluate_fn=evaluate, grid=grid)
    assert grid.messages == []
