"""What a strategy remembers: it is kept and put back in its place, or it is said that it is not."""

import itertools
import logging
import os
import random
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr_import import import_quietly
from kills import ENVIRONMENT

flower = import_quietly("recordstore.flower")
strategies = import_quietly("flwr.serverapp.strategy")

from flwr.app import MetricRecord  # noqa: E402
from small import Interrupted, SmallGrid, exact, interrupted_at, start  # noqa: E402

from recordstore import RecordStore, ResumeError  # noqa: E402

Checkpointer, FedAdam, normal = flower.Checkpointer, strategies.FedAdam, np.random.Generator.normal
AT = pytest.mark.parametrize("at", [2, 4, 6])


def made(build: Callable[[], dict[str, Any]], step: Callable[[Any, int], Any] = lambda self, number: None) -> type:
    """Return a strategy with attributes of its own, which reports in each round what a step makes of them."""

    class Made(strategies.FedAvg):
        def __init__(self) -> None:
            super().__init__()
            vars(self).update(build())

        def aggregate_train(self, server_round: int, replies: Any) -> Any:
            arrays, metrics = super().aggregate_train(server_round, replies)
            trace = step(self, server_round)
            return arrays, metrics if trace is None else MetricRecord({**metrics, "trace": trace})

    return Made


def interrupt(store: RecordStore, strategy: Any, at: int, **options: Any) -> None:
    with pytest.raises(Interrupted):
        start(Checkpointer(store, "r", **options), strategy, evaluate_fn=interrupted_at(at))


def resumed(store: RecordStore, make: Callable[[], Any], at: int) -> Any:
    """Return a strategy that has gone on after an interruption, to the end of one that was not interrupted."""
    whole = exact(start(None, make()))
    interrupt(store, make(), at)
    strategy = make()
    assert exact(start(Checkpointer(store, "r"), strategy)) == whole
    return strategy


def reports(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the attributes that were said not to be kept."""
    texts = [record.getMessage() for record in caplog.records if record.name == "recordstore"]
    return [text.split("'")[1] for text in texts if "not part of the checkpoints" in text]


class Counter:
    """Tells its state and takes it back, if it has the same name."""

    def __init__(self, value: int = 0, name: str = "count") -> None:
        self.value, self.name = value, name

    def up(self) -> int:
        self.value += 1
        return self.value

    def state_dict(self) -> dict[str, int]:
        return {self.name: self.value}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.value = state[self.name]


@pytest.mark.parametrize("at", [3, 5])
@pytest.mark.parametrize("first", [lambda: None, Counter], ids=["created", "replaced"])
def test_an_object_that_comes_later_is_reported_and_begins_anew(
    memory: RecordStore, caplog: pytest.LogCaptureFixture, first: Any, at: int
) -> None:
    def step(self: Any, number: int) -> int:
        self.late = Counter(100) if number == 2 else self.late or Counter()
        return self.late.up()

    make = made(lambda: {"late": first()}, step)
    interrupt(memory, make(), at)
    assert reports(caplog) == ["late"]
    result = start(Checkpointer(memory, "r"), make())
    traces = [metrics["trace"] for metrics in result.train_metrics_clientapp.values()]
    assert traces == [1, 101, 102, 103][: at - 1] + [1, 2, 3, 4][: 7 - at]


def test_an_object_that_does_not_take_its_state_is_named(memory: RecordStore) -> None:
    interrupt(memory, made(lambda: {"inner": Counter(name="one")}, lambda self, _: self.inner.up())(), 3)
    grid = SmallGrid()
    with pytest.raises(ResumeError, match=r"inner\b.*other"):
        start(Checkpointer(memory, "r"), made(lambda: {"inner": Counter(name="other")})(), grid=grid)
    assert grid.messages == []


def parameter(torch: Any) -> dict[str, Any]:
    p = torch.nn.Parameter(torch.zeros(3, 2))
    return {"p": p, "optimizer": torch.optim.Adam([p], lr=0.1)}


def tensors(torch: Any) -> dict[str, Any]:
    p = [torch.zeros(3, 2, requires_grad=True)]
    return {"optimizer": torch.optim.SGD(p, lr=0.1, momentum=0.9), "p": p}


@AT
@pytest.mark.parametrize("build", [parameter, tensors])
def test_an_optimizer_goes_on_with_the_tensors_of_the_strategy(
    memory: RecordStore, caplog: pytest.LogCaptureFixture, torch: Any, build: Any, at: int
) -> None:
    def step(self: Any, number: int) -> float:
        held = self.optimizer.param_groups[0]["params"][0]
        held.grad = torch.full_like(held, number)
        self.optimizer.step()
        return sum(float(part.detach().sum()) for part in self.p)

    strategy = resumed(memory, made(lambda: build(torch), step), at)
    own = strategy.p[0] if build is tensors else strategy.p
    assert strategy.optimizer.param_groups[0]["params"][0] is own
    assert reports(caplog) == []


def views() -> dict[str, Any]:
    flat = np.zeros(6)
    return {"above": flat[:3], "flat": flat, "w": flat.reshape(3, 2)}


def change_views(self: Any, number: int) -> float:
    self.flat += number
    self.w *= 1.5
    self.above -= 1
    return float(self.flat.sum())


def drawing(generator: Any, take: Callable[[Any], Any]) -> dict[str, Any]:
    return {"draw": take(generator), "generator": generator}


def draw(self: Any, number: int) -> float:
    return float(self.draw())


def nested() -> dict[str, Any]:
    inner = made(lambda: {"generator": np.random.default_rng(3)})()
    return {"generator": inner.generator, "inner": inner}


SHARED: dict[str, tuple[Any, Any]] = {
    "views": (views, change_views),
    "nested": (nested, lambda self, _: [self.generator.normal(), self.inner.generator.normal()]),
    "Generator": (lambda: drawing(np.random.default_rng(3), lambda generator: generator.normal), draw),
    "RandomState": (lambda: drawing(np.random.RandomState(3), lambda generator: generator.normal), draw),
    "Random": (lambda: drawing(random.Random(3), lambda generator: generator.random), draw),
    "partial": (lambda: drawing(np.random.default_rng(3), lambda generator: partial(normal, generator)), draw),
}


@AT
@pytest.mark.parametrize("what", SHARED)
def test_what_others_hold_on_to_stays_the_same_object(memory: RecordStore, what: str, at: int) -> None:
    resumed(memory, made(*SHARED[what]), at)


@AT
def test_a_generator_of_torch_stays_the_same_object(memory: RecordStore, torch: Any, at: int) -> None:
    def take(generator: Any) -> Any:
        return partial(torch.randn, (), generator=generator)

    resumed(memory, made(lambda: drawing(torch.Generator().manual_seed(3), take), draw), at)


@AT
def test_an_attribute_that_was_bound_anew_leaves_the_old_object_alone(memory: RecordStore, at: int) -> None:
    def build() -> dict[str, Any]:
        base, generator = np.zeros(2), np.random.default_rng(3)
        return {"base": base, "cur": base, "generator": generator, "other": generator}

    def step(self: Any, number: int) -> list[float]:
        self.cur = self.cur + number
        if number == 2:
            self.other = np.random.default_rng(7)
        return [*self.cur.tolist(), self.other.normal(), self.generator.normal()]

    strategy = resumed(memory, made(build, step), at)
    assert strategy.base.tolist() == [0, 0]


class Box:
    def __init__(self, value: Any = 0) -> None:
        self.value = value


class Slotted:
    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0


@dataclass
class Data:
    value: Any


def up(box: Any) -> None:
    box.value += 1  # in place, if it is an array


CHANGING: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "object in objects": (lambda: Box(Box(Box())), lambda odd: up(odd.value.value)),
    "object in a dict": (lambda: {"a": Box()}, lambda odd: up(odd["a"])),
    "object in a dataclass": (lambda: Data(Box()), lambda odd: up(odd.value)),
    "array in an object": (lambda: {"a": Box(Box(np.zeros(2)))}, lambda odd: up(odd["a"].value)),
    "slots": (Slotted, up),
    "slots in a list": (lambda: [Slotted()], lambda odd: up(odd[0])),
    "strategy in an object": (lambda: Box(FedAdam()), lambda odd: vars(odd.value).update(m_t={"w": np.ones(2)})),
    "iterator": (lambda: iter([1, 2, 3, 4]), next),
    "cycle": (lambda: itertools.cycle([1, 2]), next),
    "generator": (lambda: (0.5**number for number in range(9)), next),
}


@pytest.mark.parametrize("what", CHANGING)
def test_a_change_is_reported_however_deep_it_is(
    memory: RecordStore, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    build, change = CHANGING[what]
    make = made(lambda: {"odd": build(), "same": [Box(Box()), Slotted()]}, lambda self, _: change(self.odd))
    start(Checkpointer(memory, "r"), make(), num_rounds=3)
    assert reports(caplog) == ["odd"]


MODULES: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    "dict": (lambda nn: {"ema": nn.Linear(2, 1)}, lambda odd: odd["ema"]),
    "tuple": (lambda nn: (0, nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))), lambda odd: odd[1]),
    "object": (lambda nn: Box(nn.Linear(2, 1)), lambda odd: odd.value),
    "object in a list": (lambda nn: [Box(nn.Sequential(nn.Linear(2, 1)))], lambda odd: odd[0].value),
}


@pytest.mark.parametrize("what", MODULES)
def test_a_module_is_kept_or_reported(
    memory: RecordStore, caplog: pytest.LogCaptureFixture, torch: Any, what: str
) -> None:
    build, find = MODULES[what]

    def both() -> dict[str, Any]:
        torch.manual_seed(0)
        return {"odd": build(torch.nn), "same": build(torch.nn)}

    def step(self: Any, number: int) -> float:
        return sum(float(p.data.add_(number).sum()) for p in find(self.odd).parameters())

    make = made(both, step)
    whole = exact(start(None, make()))
    interrupt(memory, make(), 4)
    assert reports(caplog) == (["odd"] if "object" in what else [])
    assert (exact(start(Checkpointer(memory, "r"), make())) == whole) is ("object" not in what)


def test_what_does_not_change_is_not_reported(
    memory: RecordStore, caplog: pytest.LogCaptureFixture, path: Path
) -> None:
    def build() -> dict[str, Any]:
        tools = {"logger": logging.getLogger("tools"), "lock": threading.RLock(), "box": Box(Box())}
        return {"log": log, "lock": threading.Lock(), "tools": tools, "holder": Box(tools)}

    def step(self: Any, number: int) -> None:
        with self.lock, self.tools["lock"]:
            self.log.write("line")
            self.tools["logger"].info("round %d", number)

    with path.with_suffix(".log").open("w") as log:
        start(Checkpointer(memory, "r"), made(build, step)(), num_rounds=3)
    assert reports(caplog) == []


def count_steps(parts: Any) -> int:
    parts["step"] += 1
    return parts["step"]


def add_ones(parts: Any) -> int:
    parts[0][1][:] += 1
    return int(parts[0][1].sum())


MIXED: dict[str, tuple[Any, ...]] = {
    "dict": (lambda: {"strategy": FedAdam(), "step": 0}, lambda parts: parts["strategy"], count_steps),
    "tuple in a dict": (lambda: {0: (FedAdam(), np.zeros(2, int))}, lambda parts: parts[0][0], add_ones),
}


@AT
@pytest.mark.parametrize("what", MIXED)
def test_what_lies_beside_a_strategy_is_kept_as_it_is(
    memory: RecordStore, caplog: pytest.LogCaptureFixture, what: str, at: int
) -> None:
    build, find, count = MIXED[what]
    inner: list[Any] = []

    def parts() -> dict[str, Any]:
        both = build()
        inner.append(find(both))
        return {"parts": both, "inner": inner[-1]}

    def step(self: Any, number: int) -> list[float]:
        find(self.parts).tau += number
        return [self.inner.tau, float(count(self.parts))]

    strategy = resumed(memory, made(parts, step), at)
    assert find(strategy.parts) is strategy.inner is inner[-1]
    assert reports(caplog) == []


NAMES = """
import functools
from recordstore.flower.codec import Fingerprint
names = {f"name {number}" for number in range(50)}
value = {"names": names, "deep": (frozenset([frozenset(names), 1]), functools.partial(max, names))}
print(Fingerprint().encode_whole(value["names"], ""), Fingerprint().encode_whole(value["deep"], ""))
"""


def test_settings_are_the_same_whatever_the_order_of_a_set(memory: RecordStore, tmp_path: Path) -> None:
    assert list({8, 0}) != list({0, 8})
    for rounds, ids in enumerate(({8, 0}, {0, 8}), 1):
        start(Checkpointer(memory, "r"), made(lambda ids=ids: {"ids": ids})(), num_rounds=rounds)
    texts = set()
    for seed in ("1", "2"):
        paths = {"PYTHONPATH": str(Path(flower.__file__).parents[2]), "FLWR_HOME": str(tmp_path)}
        environment = {**os.environ, **ENVIRONMENT, **paths, "PYTHONHASHSEED": seed}
        command = [sys.executable, "-W", "ignore", "-c", NAMES]
        texts.add(subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True).stdout)
    assert len(texts) == 1
    assert b"name 49" in texts.pop()
