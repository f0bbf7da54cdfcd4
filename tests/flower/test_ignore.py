"""Attributes that are others in each server process, and are left alone by name."""

from pathlib import Path
from typing import Any

import pytest
from flwr_import import import_quietly

flower = import_quietly("recordstore.flower")
strategies = import_quietly("flwr.serverapp.strategy")

from small import exact, start  # noqa: E402
from test_state import interrupt, made, reports  # noqa: E402

from recordstore import InvalidTypeError, RecordStore, ResumeError  # noqa: E402

Checkpointer, FedAdam = flower.Checkpointer, strategies.FedAdam


def dated(number: int) -> Any:
    """Return a strategy around another one, with attributes that differ from one server process to the next."""

    def step(self: Any, server_round: int) -> None:
        self.run_dir, self.t0 = Path(self.run_dir, "sub"), self.t0 + 1
        self.strategy.run_dir = self.run_dir

    strategy = made(lambda: {"run_dir": f"{number}", "t0": number, "strategy": FedAdam()}, step)()
    strategy.strategy.run_dir = strategy.run_dir
    return strategy


BOTH = ("run_dir", "t0")


@pytest.mark.parametrize("at", [2, 4, 6])
@pytest.mark.parametrize("first", [BOTH, ()], ids=["from the beginning", "from the resume"])
def test_attributes_to_ignore_are_left_alone(
    memory: RecordStore, caplog: pytest.LogCaptureFixture, first: Any, at: int
) -> None:
    interrupt(memory, dated(1), at, ignore=first)
    told = reports(caplog)
    assert told == ([] if first else ["run_dir", "strategy.run_dir"])
    strategy = dated(2)
    assert exact(start(Checkpointer(memory, "r", ignore=BOTH), strategy)) == exact(start(None, dated(1)))
    assert strategy.t0 == 2 + 7 - at, "counted from its own beginning"
    assert strategy.strategy.run_dir == strategy.run_dir == Path("2", *["sub"] * (7 - at))
    assert reports(caplog) == told
    state = memory.load_checkpoint("r@latest").state
    assert not [name for changed in state["state"].values() for name in changed if name in BOTH]


def test_attributes_that_differ_are_named_unless_they_are_ignored(memory: RecordStore) -> None:
    interrupt(memory, dated(1), 3)
    different = {
        (): {"run_dir", "strategy.run_dir", "t0"},
        ("t0",): {"run_dir", "strategy.run_dir"},
        ("strategy.run_dir",): {"run_dir", "t0"},
        ("run_dir",): {"t0"},
    }
    for ignore, names in different.items():
        with pytest.raises(ResumeError) as caught:
            start(Checkpointer(memory, "r", ignore=ignore), dated(2))
        lines = [line.strip() for line in str(caught.value).splitlines() if " stored, " in line]
        assert {line.split(":")[0] for line in lines} == names


@pytest.mark.parametrize("ignore", ["run_dir", b"run_dir", ["run_dir", 1], [None], 5])
def test_names_to_ignore_are_texts_in_a_sequence(memory: RecordStore, ignore: Any) -> None:
    with pytest.raises(InvalidTypeError, match="ignore"):
        Checkpointer(memory, "r", ignore=ignore)
