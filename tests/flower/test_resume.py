"""Federations that are killed and resumed end with the same bits as one that nothing interrupted."""

import importlib.util
import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from configurations import EVERY, ROUNDS
from kills import Bench, End, Job
from outcomes import differences
from points import PHASES, Point, increasing, spread

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the federations are forked")

FEW = ("FedAdam", "FedAvg, shuffled replies", "legacy FedAvgM")
"""The configurations that are killed a few times in every run of the tests."""

CHAIN = 6
STATEFUL = (
    "FedAvgM",
    "FedAdagrad",
    "FedAdam",
    "FedYogi",
    "DP adaptive, server side",
    "DP adaptive, client side",
    "FedXgbCyclic",
    "legacy FedAdagrad",
    "legacy FedAdam",
    "legacy FedYogi",
)
MIDDLE: Point = ("train", ROUNDS // 2 + 1, 0)
"""The first client that trains in the second half."""

STORE_PHASES = ("statement", "before COMMIT", "after COMMIT")


def cases(names: Iterable[str], *, few: bool = False) -> Any:
    """Give a test each configuration, all of them as slow ones, or a few of them not."""
    no_xgboost = pytest.mark.skipif(importlib.util.find_spec("xgboost") is None, reason="xgboost is not installed")
    params = []
    for name in names:
        slow = [] if few and name in FEW else [pytest.mark.slow]
        params.append(pytest.param(name, marks=[*slow, *([no_xgboost] if EVERY[name].trees else [])]))
    return pytest.mark.parametrize("name", params)


def calls_to_train(name: str, committed: int) -> list[int]:
    """Return the rounds of the calls to train after some rounds were committed."""
    return [number for number in range(max(committed, 0) + 1, ROUNDS + 1) for _ in range(EVERY[name].trained)]


def committed_after(point: Point, reference: End) -> set[int]:
    """Return which round may be the last one in the store after a kill at a point."""
    phase, server_round, _ = point
    if phase not in STORE_PHASES:
        return {server_round - 1}
    last = [other for other in reference.trace if other[:2] == ("after COMMIT", server_round)][-1]
    return {server_round} if point == last else {server_round - 1, server_round}


def flaws_of_resume(name: str, killed: End, resumed: End, reference: End) -> list[str]:
    """Return what is wrong with a federation that was killed and then resumed."""
    flaws = differences(reference.outcome, resumed.outcome)
    if resumed.committed not in committed_after(killed.killed_at, reference):
        flaws.append(f"round {resumed.committed} was the last in the store")
    if resumed.trained != calls_to_train(name, resumed.committed):
        flaws.append(f"clients trained in rounds {resumed.trained} after round {resumed.committed}")
    return flaws


def kill_and_resume(bench: Bench, name: str, point: Point, options: dict[str, Any] | None = None) -> tuple[End, End]:
    """Run a federation until it is killed, then again in a new process."""
    path, options = bench.new_store(), options or {}
    killed = bench.here.run(Job(name, path, kill_at=point, options=options))
    assert killed.killed_at == point, "the federation ended before it came there"
    resumed = bench.here.run(Job(name, path, options=options))
    Path(path).unlink()
    return killed, resumed


def examine(bench: Bench, name: str, points: list[Point]) -> None:
    """Kill and resume at each of the points, and print a line of the table."""
    reference = bench.reference(name)
    flaws, phases = {}, Counter[str]()
    for point in points:
        found = flaws_of_resume(name, *kill_and_resume(bench, name, point), reference)
        phases["commit" if point[0] in STORE_PHASES else point[0]] += 1
        if found:
            flaws[point] = found
    shares = ", ".join(f"{phase} {number}" for phase, number in phases.items())
    print(f"\n{name}: {len(points)} kills ({shares}), {len(points) - len(flaws)} equal", end="")
    assert flaws == {}


@cases(EVERY, few=True)
def test_what_is_compared_does_not_change_by_itself_and_changes_every_round(bench: Bench, name: str) -> None:
    reference = bench.reference(name)
    again = bench.here.run(Job(name, bench.new_store()))
    assert differences(reference.outcome, again.outcome) == []
    assert reference.trained == calls_to_train(name, -1)
    assert Counter(again.trace) == Counter(reference.trace)
    for losses in losses_by_round(reference):
        assert len(set(losses)) == len(losses) >= ROUNDS


def losses_by_round(end: End) -> list[list[str]]:
    """Return the losses that the clients saw in training and evaluation, and the server."""
    outcome = end.outcome
    if "server" in outcome:
        keys = {"train": "train_loss", "evaluate": "eval_loss", "server": "loss"}
        return [[metrics[key][1] for metrics in outcome[source].values()] for source, key in keys.items()]
    series = (
        outcome["metrics_distributed_fit"]["train_loss"],
        outcome["losses_distributed"],
        outcome["losses_centralized"],
    )
    return [[value for _, (_, value) in losses] for losses in series]


@cases((name for name, configuration in EVERY.items() if configuration.ordered), few=True)
def test_a_checkpointer_that_sorts_nothing_changes_nothing(bench: Bench, name: str) -> None:
    plain, again = bench.here.run(Job(name)), bench.there.run(Job(name))
    checkpointed = bench.here.run(Job(name, bench.new_store(), options={"sort_replies": False}))
    assert differences(plain.outcome, again.outcome) == []
    assert differences(plain.outcome, checkpointed.outcome) == []


def test_without_sorting_the_order_of_arrival_decides(bench: Bench) -> None:
    name = "FedAvg, shuffled replies"
    plain = bench.here.run(Job(name)), bench.there.run(Job(name))
    assert differences(plain[0].outcome["arrays"], plain[1].outcome["arrays"])
    unsorted = bench.here.run(Job(name, bench.new_store(), options={"sort_replies": False}))
    assert differences(bench.reference(name).outcome["arrays"], unsorted.outcome["arrays"])


@cases(FEW, few=True)
def test_a_few_kills(bench: Bench, name: str) -> None:
    examine(bench, name, spread(bench.reference(name).trace, dict.fromkeys(PHASES, 1)))


@cases(EVERY)
def test_kills_at_every_phase_of_the_rounds(bench: Bench, name: str, request: pytest.FixtureRequest) -> None:
    """At every eighth of the points, other ones for the next configuration; with ``--many`` at all of them."""
    points = spread(bench.reference(name).trace, {phase: 4 if phase in STORE_PHASES else 6 for phase in PHASES})
    assert len(points) >= 20
    assert {server_round for _, server_round, _ in points} == set(range(ROUNDS + 1))
    if request.config.option.many is None:
        points = points[[*EVERY].index(name) % 8 :: 8]
    examine(bench, name, points)


@cases(EVERY)
def test_one_store_whose_federation_is_killed_again_and_again(bench: Bench, name: str) -> None:
    reference, path = bench.reference(name), bench.new_store()
    for point in increasing(reference.trace, CHAIN):
        assert bench.here.run(Job(name, path, kill_at=point)).killed_at == point
    last = bench.here.run(Job(name, path))
    assert 0 < len(last.trained) < ROUNDS * EVERY[name].trained
    assert differences(reference.outcome, last.outcome) == []
    after = bench.here.run(Job(name, path))
    assert after.trace == []
    assert differences(reference.outcome, after.outcome) == []


@cases(["FedAdam", "legacy FedAdam"])
def test_kills_where_every_third_round_is_saved(bench: Bench, name: str) -> None:
    options = {"every": 3}
    uninterrupted = bench.there.run(Job(name, bench.new_store(), options=options))
    assert differences(bench.reference(name).outcome, uninterrupted.outcome) == []
    flaws, committed = {}, set()
    for point in spread(uninterrupted.trace, dict.fromkeys(PHASES, 4)):
        _, resumed = kill_and_resume(bench, name, point, options)
        committed.add(resumed.committed)
        found = differences(uninterrupted.outcome, resumed.outcome)
        if found or resumed.trained != calls_to_train(name, resumed.committed):
            flaws[point] = found, resumed.trained
    assert flaws == {}
    assert committed == {-1, 0, 3, ROUNDS}


def resumed_otherwise(bench: Bench, name: str, **otherwise: object) -> dict[str, list[str]]:
    """Return what differs, by its kind, if the second half runs in a new process that is to do something otherwise."""
    path = bench.new_store()
    bench.here.run(Job(name, path, kill_at=MIDDLE))
    resumed = bench.here.run(Job(name, path, **otherwise))
    assert resumed.trained == calls_to_train(name, ROUNDS // 2)
    outcome = bench.reference(name).outcome
    return {kind: differences(outcome[kind], resumed.outcome[kind]) for kind in outcome}


@cases(STATEFUL)
def test_without_the_strategy_s_state_another_model_comes_out(bench: Bench, name: str) -> None:
    assert resumed_otherwise(bench, name, restore=False)["arrays"]
    assert not any(resumed_otherwise(bench, name).values())


@cases([name for name in EVERY if name not in (*STATEFUL, "legacy FedAvgM")])
def test_the_other_strategies_have_no_state_that_matters(bench: Bench, name: str) -> None:
    assert not any(resumed_otherwise(bench, name, restore=False).values())


@pytest.mark.slow
def test_without_its_state_the_legacy_fedavgm_does_not_go_on(bench: Bench) -> None:
    with pytest.raises(AssertionError, match="Momentum should have been created on round 1"):
        resumed_otherwise(bench, "legacy FedAvgM", restore=False)


@pytest.mark.slow
def test_without_the_random_state_other_nodes_are_chosen(bench: Bench) -> None:
    assert resumed_otherwise(bench, "FedAvg, half of the nodes", options={"random_state": False})["arrays"]


@pytest.mark.slow
def test_without_the_random_state_the_server_evaluates_on_other_examples(bench: Bench) -> None:
    differing = resumed_otherwise(bench, "FedAvg", options={"random_state": False})
    assert [kind for kind, places in differing.items() if places] == ["server"]
