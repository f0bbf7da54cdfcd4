"""What must not be stored, or be used twice, where Flower adds noise for differential privacy."""

from collections.abc import Iterable
from typing import Any

from recordstore.exceptions import CorruptRecordError, ResumeError
from recordstore.flower.hooks import own_attributes
from recordstore.history import PRIVACY
from recordstore.info import HistoryEntry
from recordstore.store import RecordStore

BEFORE_NOISE = frozenset({"current_arrays", "current_weights", "initial_parameters"})
"""Attributes of strategies inside a wrapper that hold, or come to hold, the model before noise: never stored."""

OPTIMIZER_STATE = frozenset({"m_t", "v_t", "momentum_vector"})
"""Attributes of Flower's strategies that remember aggregates: inside a wrapper, those without noise."""

_WRAPPERS = ("DifferentialPrivacy", "DPFedAvg")
"""How the names of Flower's wrappers begin, in both of its APIs."""


def is_private(strategy: Any) -> bool:
    """Return whether a strategy adds noise for differential privacy, or is derived from one that does."""
    return any(
        kind.__module__.split(".")[0] == "flwr" and kind.__name__.startswith(_WRAPPERS)
        for kind in type(strategy).__mro__
    )


def is_accountant(value: object) -> bool:
    """Return whether an attribute counts what was spent of a privacy budget (flwr 1.41 and later)."""
    methods = (getattr(value, name, None) for name in ("compose", "state_dict", "load_state_dict"))
    return not isinstance(value, type) and all(map(callable, methods))


class PrivacyBudget:
    """What was spent of the budgets that the accountants of a strategy keep.

    The model of a round leaves the server before the round is committed. So what it costs is made durable first, apart
    from the checkpoints: a round that is lost stays charged, and one that is done again is charged again.

    Parameters
    ----------
    store, run
        Where the sum is kept: in one row of the history, of round 0.
    members
        The strategy and those that it wraps.
    """

    def __init__(self, store: RecordStore, run: str, members: Iterable[Any]) -> None:
        self._store = store
        self._run = run
        self._spent: dict[str, Any] | None = None
        self._accountants = {
            f"{index}.{name}": value
            for index, member in enumerate(members)
            for name, value in own_attributes(member).items()
            if is_accountant(value)
        }

    def charge(self, round_: int) -> None:
        """Make the budget that was spent up to now durable; whatever goes wrong is raised."""
        states = {name: accountant.state_dict() for name, accountant in self._accountants.items()}
        if states:
            spent = {"round": round_, "accountants": states}
            if not self._store.swap_history(self._run, HistoryEntry(0, PRIVACY, spent), self._spent):
                raise ResumeError(
                    f"another process spends the privacy budget of run {self._run!r}: end it, and start this one again"
                )
            self._spent = spent

    def restore(self) -> None:
        """Give the accountants what the run has spent.

        Raises
        ------
        ResumeError
            It was spent under other conditions, or by an accountant that the strategy lacks.
        """
        for entry in self._store.history(self._run, source=PRIVACY):
            self._spent = entry.values
            states = entry.values.get("accountants")
            if not isinstance(states, dict):
                raise CorruptRecordError(f"the privacy budget of run {self._run!r} is not what was written")
            for name, state in states.items():
                if name not in self._accountants:
                    raise ResumeError(
                        f"run {self._run!r} has spent a privacy budget, which the strategy has no accountant for: "
                        "give it the one that it began with, or choose another run= to start anew"
                    )
                counted = getattr(self._accountants[name], "num_releases", 0)
                try:
                    self._accountants[name].load_state_dict(state)
                except (ValueError, TypeError, LookupError, AttributeError) as error:
                    raise ResumeError(f"the privacy budget of run {self._run!r} cannot go on: {error}") from error
                if counted > getattr(self._accountants[name], "num_releases", 0):
                    raise ResumeError(
                        f"the accountant has counted {counted} releases, more than run {self._run!r} has stored: give "
                        "each run a fresh accountant of its own"
                    )
