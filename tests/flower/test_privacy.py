"""Differential privacy: nothing before noise is stored, no noise is used twice, and no release goes uncounted."""

import json
import os
import signal
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import Child, hear, say

sys.path.insert(0, str(Path(__file__).parent))  # a child imports this file alone

from flwr_import import import_quietly

flower = import_quietly("recordstore.flower")
strategies = import_quietly("flwr.serverapp.strategy")

from points import Points, watch_stores, watch_strategy  # noqa: E402
from small import Interrupted, SmallGrid, config, exact, initial, interrupted_at, start  # noqa: E402

from recordstore import InvalidValueError, RecordStore, ResumeError, StorageFullError  # noqa: E402

Checkpointer = flower.Checkpointer

ROUNDS = 5
KILLED_IN = 3
NEW = hasattr(strategies, "FedAvgM")  # older versions have fewer strategies
SAMPLED = {"num_sampled_clients": 4, "noise_multiplier": 0.5}
WRAPPERS: dict[str, Callable[[Any], Any]] = {
    "fixed, server side": lambda inner: strategies.DifferentialPrivacyServerSideFixedClipping(
        inner, clipping_norm=5.0, **SAMPLED
    ),
    "fixed, client side": lambda inner: strategies.DifferentialPrivacyClientSideFixedClipping(
        inner, clipping_norm=5.0, **SAMPLED
    ),
    "adaptive, server side": lambda inner: strategies.DifferentialPrivacyServerSideAdaptiveClipping(
        inner, clipped_count_stddev=2.0, **SAMPLED
    ),
}
WRAPPERS = {name: make for name, make in WRAPPERS.items() if "adaptive" not in name or NEW}


def accountant() -> Any:
    pytest.importorskip("dp_accounting", reason="dp-accounting is not installed")
    accounting = import_quietly("flwr.supercore.privacy_accounting")
    rdp = import_quietly("flwr.supercore.privacy_accounting.rdp_accountant")
    settings = accounting.PrivacyConfig(
        target_delta=1e-5,
        population_size=4,
        neighboring_relation=accounting.NeighboringRelation.ADD_OR_REMOVE_ONE,
        sampling_method=accounting.SamplingMethod.NO_AMPLIFICATION,
        max_epsilon=None,
    )
    return rdp.RdpAccountant(settings)


def accounted() -> Any:
    return strategies.DifferentialPrivacyServerSideFixedClipping(
        strategies.FedAvg(), clipping_norm=5.0, accountant=accountant(), **SAMPLED
    )


def start_accounted(checkpointer: Any, strategy: Any, **arguments: Any) -> Any:
    """Start with clients of equal weight, which accounting asks for."""
    return start(checkpointer, strategy, **{"num_rounds": ROUNDS, "train_config": config(examples=7), **arguments})


# Kills at every point of a round


class WatchedGrid(SmallGrid):
    """Counts what happens, and writes down each release: a model that clients get to see after its aggregation."""

    def __init__(self, points: Points, releases: Path) -> None:
        super().__init__()
        self._points, self._releases = points, releases

    def send_and_receive(self, messages: Any, *, timeout: float | None = None) -> Any:
        sent = list(messages)
        for message in sent[:1]:
            self._points.server_round = int(message.content["config"]["server-round"])
            if message.metadata.message_type == "evaluate":
                with self._releases.open("a") as file:
                    file.write(f"{self._points.server_round}\n")
        for message in sent:
            self._points.happen(message.metadata.message_type)
        return super().send_and_receive(sent, timeout=timeout)


def serve() -> None:
    """Fork a process for each training that is asked for."""
    accountant()  # imports what takes a second
    while (job := hear()) is not None:
        worker = os.fork()
        if not worker:
            train(**job)
            os._exit(0)
        say({"status": os.waitpid(worker, 0)[1]})


def train(path: str, releases: str, kill_at: list[Any] | None) -> None:
    points = Points(None if kill_at is None else tuple(kill_at))
    strategy = accounted()
    watch_strategy(strategy, "aggregate_train", points)
    watch_stores(points)
    with RecordStore(path) as store:
        start_accounted(Checkpointer(store, "r"), strategy, grid=WatchedGrid(points, Path(releases)))
    say({"trace": points.trace, "counted": strategy.privacy_spent().num_releases})


class Trainings:
    """The process that forks the trainings."""

    def __init__(self, folder: Path) -> None:
        self._child, self._folder = Child(serve), folder

    def run(self, name: str, kill_at: Any = None) -> dict[str, Any]:
        """Run a training in a new process, and return what it said."""
        self._child.say({"path": str(self.file(name)), "releases": str(self.log(name)), "kill_at": kill_at})
        said: dict[str, Any] = {}
        while "status" not in said:
            said |= self._child.hear()
        killed = os.WIFSIGNALED(said["status"]) and os.WTERMSIG(said["status"]) == signal.SIGKILL
        assert killed == (kill_at is not None), said
        assert killed or said["status"] == 0
        return said

    def file(self, name: str) -> Path:
        return self._folder / f"{name}.db"

    def log(self, name: str) -> Path:
        return self._folder / f"{name}.log"

    def released(self, name: str) -> int:
        return len(self.log(name).read_text().splitlines()) if self.log(name).exists() else 0

    def stored(self, name: str) -> int:
        """Return how many releases the file counts, as plain sqlite3 finds them."""
        with closing(sqlite3.connect(self.file(name))) as connection:
            rows = connection.execute(
                "SELECT \"values\" FROM history WHERE run = 'r' AND source = 'privacy'"
            ).fetchall()
        assert len(rows) <= 1
        return sum(
            composition["count"]
            for (text,) in rows
            for state in json.loads(text)["accountants"].values()
            for composition in state["compositions"]
        )

    def close(self) -> None:
        self._child.__exit__(None, None, None)


def test_after_a_kill_at_any_point_of_a_round_no_release_is_uncounted(memory_folder: Path) -> None:
    accountant()
    trainings = Trainings(memory_folder)
    whole = trainings.run("whole")
    assert whole["counted"] == trainings.released("whole") == trainings.stored("whole") == ROUNDS
    points = [point for point in whole["trace"] if point[1] == KILLED_IN]
    charged_twice = 0
    for number, point in enumerate(points):
        name = f"killed-{number}"
        trainings.run(name, point)
        assert trainings.stored(name) >= trainings.released(name), point
        resumed = trainings.run(name)
        assert resumed["counted"] == trainings.stored(name)
        assert ROUNDS + 1 >= resumed["counted"] >= max(trainings.released(name), ROUNDS), point
        charged_twice += resumed["counted"] > ROUNDS
    trainings.close()
    print(f"{len(points)} kills in round {KILLED_IN}, {charged_twice} of them after its release was charged")
    assert {point[0] for point in points} >= {"train", "aggregate", "evaluate", "statement", "before COMMIT"}
    assert 0 < charged_twice < len(points)


def test_killed_again_and_again_every_release_is_counted(memory_folder: Path) -> None:
    accountant()
    trainings = Trainings(memory_folder)
    for server_round in (1, 2, 2, 3, 3, 3, 5):
        trainings.run("chain", ["evaluate", server_round, 0])
        assert trainings.stored("chain") == trainings.released("chain")
    assert trainings.run("chain")["counted"] == trainings.released("chain") == ROUNDS + 7
    trainings.close()


# The budget


def test_a_budget_that_cannot_be_made_durable_ends_the_training(
    memory: RecordStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise StorageFullError("the disk is full")

    grid = SmallGrid()
    monkeypatch.setattr(memory, "swap_history", full)
    with pytest.raises(StorageFullError):
        start_accounted(Checkpointer(memory, "r", on_error="log"), accounted(), grid=grid)
    assert {kind for kind, _ in grid.messages} == {"train"}, "no client saw the model"


def test_what_was_spent_is_known_before_the_first_live_round(memory: RecordStore) -> None:
    start_accounted(Checkpointer(memory, "r"), accounted(), num_rounds=3)
    strategy = accounted()
    with Checkpointer(memory, "r").attach(strategy):
        assert strategy.privacy_spent().num_releases == 3
        assert strategy.privacy_spent().epsilon > accounted().privacy_spent().epsilon


def test_a_later_run_of_the_same_name_goes_on_from_what_was_spent(memory: RecordStore) -> None:
    start_accounted(Checkpointer(memory, "r"), accounted(), num_rounds=3)
    for info in list(memory.records(run="r")):
        memory.delete(info)
    strategy = accounted()
    start_accounted(Checkpointer(memory, "r"), strategy, num_rounds=2)
    assert strategy.privacy_spent().num_releases == 5
    assert {entry.round for entry in memory.history("r", source="train")} == {1, 2}


def test_a_strategy_without_the_accountant_is_refused(memory: RecordStore) -> None:
    start_accounted(Checkpointer(memory, "r"), accounted(), num_rounds=1)
    with pytest.raises(ResumeError, match="no accountant"):
        start_accounted(Checkpointer(memory, "r", strict=False), WRAPPERS["fixed, server side"](strategies.FedAvg()))


def test_an_accountant_of_other_settings_is_refused(memory: RecordStore) -> None:
    start_accounted(Checkpointer(memory, "r"), accounted(), num_rounds=1)
    strategy = accounted()
    strategy.accountant._config = replace(strategy.accountant.config, target_delta=1e-3)
    with pytest.raises(ResumeError, match="privacy budget of run 'r' cannot go on"):
        start_accounted(Checkpointer(memory, "r", strict=False), strategy)


def test_two_servers_of_one_run_do_not_count_their_releases_once(memory: RecordStore) -> None:
    start_accounted(Checkpointer(memory, "r"), accounted(), num_rounds=1)
    one, other = accounted(), accounted()
    with Checkpointer(memory, "r").attach(one), Checkpointer(memory, "r").attach(other):
        one.start(SmallGrid(), initial(), 2, train_config=config(examples=7))
        grid = SmallGrid()
        with pytest.raises(ResumeError, match="another process spends the privacy budget of run 'r'"):
            other.start(grid, initial(), 2, train_config=config(examples=7))
    assert {kind for kind, _ in grid.messages} == {"train"}, "no client saw the second model"
    assert one.privacy_spent().num_releases == 2


def test_an_accountant_that_has_counted_more_is_not_set_back(memory: RecordStore) -> None:
    strategy = accounted()
    start_accounted(Checkpointer(memory, "r"), strategy, num_rounds=2)
    other = accounted()
    other.accountant.load_state_dict(strategy.accountant.state_dict())
    start_accounted(Checkpointer(memory, "other"), other, num_rounds=1)
    used = accounted()
    used.accountant.load_state_dict(other.accountant.state_dict())
    with pytest.raises(ResumeError, match=r"has counted 3 releases, more than run 'r' has stored"):
        start_accounted(Checkpointer(memory, "r"), used)


# What is stored


class Spy:
    """Remembers what the strategy within the wrapper has aggregated: the models before noise."""

    def __init__(self, kind: type) -> None:
        self.before_noise: list[bytes] = []
        spy = self

        class Spied(kind):  # type: ignore[misc]
            def aggregate_train(self, server_round: int, replies: Any) -> Any:
                arrays, metrics = super().aggregate_train(server_round, replies)
                spy.before_noise += [array.numpy().tobytes() for array in arrays.values()]
                return arrays, metrics

        Spied.__qualname__ = kind.__qualname__
        self.kind = Spied


INNER = {
    "FedAvg": {},
    "FedAdam": {},
    **({"FedAvgM": {"server_momentum": 0.9}} if NEW else {}),
}


@pytest.mark.parametrize("inner", INNER)
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_no_stored_byte_is_of_a_model_before_noise(path: Path, wrapper: str, inner: str) -> None:
    spy = Spy(getattr(strategies, inner))
    with RecordStore(path) as store:
        checkpointer = Checkpointer(store, "r", store_unnoised_state=inner != "FedAvg")
        start(checkpointer, WRAPPERS[wrapper](spy.kind(**INNER[inner])), initial_arrays=initial(40, 30))
        stored = [array.numpy().tobytes() for info in store.records() for array in store.load(info).values()]
    assert len(spy.before_noise) == 2 * 6
    content = path.read_bytes()
    assert all(model in content for model in stored if len(model) > 4000), "the search would find them"
    assert not any(model in content for model in spy.before_noise if len(model) > 4000)
    assert not any(model in content for model in spy.before_noise)


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_strategy_that_remembers_what_has_no_noise_is_refused(memory: RecordStore, wrapper: str) -> None:
    with pytest.raises(InvalidValueError, match=r"FedAdam inside.*m_t, v_t.*store_unnoised_state=True"):
        start(Checkpointer(memory, "r"), WRAPPERS[wrapper](strategies.FedAdam()))

    class Remembering(strategies.FedAvg):
        def aggregate_train(self, server_round: int, replies: Any) -> Any:
            arrays, metrics = super().aggregate_train(server_round, replies)
            self.norm = float(arrays["w"].numpy().sum())
            return arrays, metrics

    with pytest.raises(InvalidValueError, match=r"strategy\.norm changed inside.*store_unnoised_state=True"):
        start(Checkpointer(memory, "r"), WRAPPERS[wrapper](Remembering()))
    assert [info.round for info in memory.records()] == [0]


def noise_of_round(number: int, arrays: Any) -> Any:
    """Seed the noise of the next round, as the test has to: nobody else brings it back."""
    np.random.seed(number)  # noqa: NPY002
    return interrupted_at(-1)(number, arrays)


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_stateful_strategy_within_resumes_if_that_is_allowed(memory: RecordStore, wrapper: str) -> None:
    def start_one(checkpointer: Any, at: int = -1) -> Any:
        strategy = WRAPPERS[wrapper](strategies.FedAdam(fraction_train=1.0))
        return start(checkpointer, strategy, evaluate_fn=interrupted_at(at, noise_of_round))

    def checkpointer(store: RecordStore) -> Any:
        return Checkpointer(store, "r", store_unnoised_state=True)

    with RecordStore(":memory:") as other:
        whole = exact(start_one(checkpointer(other)))
    with pytest.raises(Interrupted):
        start_one(checkpointer(memory), at=4)
    strategy = WRAPPERS[wrapper](strategies.FedAdam(fraction_train=1.0))
    with checkpointer(memory).attach(strategy):
        np.random.seed(3)  # noqa: NPY002 - as after round 3
        resumed = strategy.start(SmallGrid(), initial(), 6, evaluate_fn=noise_of_round)
    assert exact(resumed) == whole


def test_the_state_of_the_noise_is_neither_stored_nor_restored(memory: RecordStore) -> None:
    wrap = WRAPPERS["fixed, server side"]
    with pytest.raises(Interrupted):
        start(Checkpointer(memory, "r"), wrap(strategies.FedAvg()), evaluate_fn=interrupted_at(3))
    checkpoint = memory.load_checkpoint("r@latest")
    assert set(checkpoint.state["random"]) == {"python"}
    assert not [name for name in checkpoint.arrays if "random" in name]
    with pytest.raises(Interrupted):
        start(Checkpointer(memory, "open"), strategies.FedAvg(), evaluate_fn=interrupted_at(3))
    assert set(memory.load_checkpoint("open@latest").state["random"]) == {"python", "numpy"}


def test_the_noise_after_a_resume_is_that_of_the_process(memory: RecordStore) -> None:
    def resumed_with(seed: int) -> Any:
        strategy = WRAPPERS["fixed, server side"](strategies.FedAvg())
        with RecordStore(":memory:") as store:
            with pytest.raises(Interrupted):
                start(Checkpointer(store, "r"), WRAPPERS["fixed, server side"](strategies.FedAvg()), evaluate_fn=stop)
            with Checkpointer(store, "r").attach(strategy):
                np.random.seed(seed)  # noqa: NPY002
                return exact(strategy.start(SmallGrid(), initial(), 4))

    stop = interrupted_at(3)
    assert resumed_with(98) == resumed_with(98)
    assert resumed_with(98) != resumed_with(99)


def test_a_generator_of_a_private_strategy_is_not_kept(memory: RecordStore, caplog: pytest.LogCaptureFixture) -> None:
    strategy = WRAPPERS["fixed, server side"](strategies.FedAvg())
    strategy.generator = np.random.default_rng(0)
    strategy.configure_evaluate = lambda *arguments: strategy.generator.normal() and []
    start(Checkpointer(memory, "r"), strategy)
    assert "'generator' of the strategy has changed" in caplog.text
    assert "$Generator" not in json.dumps(memory.load_checkpoint("r@latest").state["state"])
