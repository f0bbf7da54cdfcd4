"""How the rounds of a training get into the store, and what happens if one does not."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from recordstore import __version__
from recordstore.exceptions import (
    ForkError,
    InvalidTypeError,
    InvalidValueError,
    ReadOnlyStoreError,
    RecordExistsError,
    RecordStoreError,
    StoreClosedError,
)
from recordstore.flower.codec import Encoder
from recordstore.flower.configs import Configs
from recordstore.flower.options import Api, Options
from recordstore.flower.past import FORMAT, Values
from recordstore.flower.randomness import save_random
from recordstore.flower.state import StrategyState, UnnoisedStateError
from recordstore.info import HistoryEntry
from recordstore.rounds import Checkpoint
from recordstore.store import RecordStore
from recordstore.tagged import dumps
from recordstore.validation import check_metrics

logger = logging.getLogger("recordstore")

PREFIXES = {"train": "train/", "evaluate/loss": "evaluate/", "evaluate": "evaluate/", "server/loss": "", "server": ""}
"""Under which names the metrics of each source are saved with a record; the last one wins."""

FATAL = (RecordExistsError, ReadOnlyStoreError, StoreClosedError, ForkError, UnnoisedStateError)
"""Failures of a save that no later round mends: another process trains the same run, or nothing can ever be saved."""


@dataclass(frozen=True)
class Outcome:
    """What a round has ended with.

    Attributes
    ----------
    round
        Its number, 0 for the initial model.
    model
        The global model, as a record.
    next_digest
        Digest of the model that the next round begins with, ``SAME`` if it is this one, None if that is not known.
    reports
        Metrics by source.
    configs
        The configurations, as the round has left them and as they were given.
    """

    round: int
    model: Any
    next_digest: str | None
    reports: Mapping[str, Values]
    configs: Configs


class Committer:
    """Writes what rounds have ended with.

    Parameters
    ----------
    options
        Of the checkpointer.
    api
        Of the strategy.
    strategy
        What to ask for its state.
    private
        Whether the strategy adds noise for differential privacy.
    initial_digest
        Digest of the model that the run began with; None for a new run.
    begun_at
        The last round that is committed, -1 for a new run: what the history has beyond it came from an attempt that is
        lost, or from another run of this name.
    """

    def __init__(
        self,
        options: Options,
        api: Api,
        strategy: StrategyState,
        *,
        private: bool,
        initial_digest: str | None,
        begun_at: int,
    ) -> None:
        self._options = options
        self._api = api
        self._strategy = strategy
        self._private = private
        self._initial_digest = initial_digest
        self._forget_after: int | None = begun_at
        self._backlog: list[HistoryEntry] = []
        self._unsaved: Outcome | None = None
        self._due = False

    def begin(self, digest: Callable[[], str]) -> None:
        """Learn the digest of the model that a new run begins with, if it is not known yet."""
        if self._initial_digest is None:
            self._initial_digest = digest()

    def commit(self, outcome: Outcome, *, last: bool) -> None:
        """Make a round durable: its record with the state and the history, or the history alone."""
        reports = sorted(outcome.reports.items())
        self._backlog += [HistoryEntry(outcome.round, source, values) for source, values in reports]
        self._unsaved = outcome
        if self._due or last or outcome.round % self._options.every == 0:
            self._save(outcome)
        else:
            self._try(outcome.round, lambda: self._add_history(self._options.store, self._options.run))

    def flush(self) -> None:
        """Save the record of the newest round, if only its history was written."""
        if self._unsaved is not None:
            self._save(self._unsaved)

    def abandon(self) -> None:
        """Leave the newest round unsaved: the strategy has gone on, and its state is not that of the round any more."""
        self._unsaved = None

    def _save(self, outcome: Outcome) -> None:
        saved = self._try(
            outcome.round,
            lambda: self._options.store.save_checkpoint(
                outcome.model,
                self._checkpoint(outcome),
                run=self._options.run,
                round=outcome.round,
                metrics=_scalars(outcome.reports),
                history=self._backlog,
                forget_after=self._forget_after,
            ),
        )
        self._due = not saved
        if saved:
            self._unsaved = None

    def _add_history(self, store: RecordStore, run: str) -> None:
        store.add_history(run, self._backlog, forget_after=self._forget_after)

    def _try(self, round_: int, write: Callable[[], object]) -> bool:
        """Write, and return whether that succeeded; a failure does not end the federation, unless that is wanted."""
        try:
            write()
        except RecordExistsError as error:
            raise RecordExistsError(
                f"round {round_} of run {self._options.run!r} is stored already: does another process train this run?"
            ) from error
        except FATAL:
            raise
        except RecordStoreError:
            if self._options.on_error == "raise":
                raise
            text = "Round %d of run %r was not saved; the training goes on, and the next save is to make up for it"
            logger.exception(text, round_, self._options.run)
            return False
        self._backlog, self._forget_after = [], None
        return True

    def _checkpoint(self, outcome: Outcome) -> Checkpoint:
        """Return the state as it is now."""
        options, encoder = self._options, Encoder(private=self._private, originals=self._strategy.originals)
        configs, extra = outcome.configs.live.items(), options.extra_state.items()
        state = {
            "format": FORMAT,
            "api": self._api.name,
            "flwr": _flwr_version(),
            "recordstore": __version__,
            "initial_digest": self._initial_digest,
            "next_digest": outcome.next_digest,
            "strategy": self._strategy.describe(),
            "state": self._strategy.capture(encoder),
            "configs": {kind: encoder.encode(dict(config), f"{kind}_config") for kind, config in configs},
            "begun": outcome.configs.begun,
            "random": save_random(encoder, private=self._private) if options.random_state else {},
            "extra": {name: encoder.encode(one.state_dict(), f"extra.{name}") for name, one in extra},
        }
        return Checkpoint(state, encoder.arrays)


def keepable(source: str, values: Any) -> Values:
    """Return those of reported values that the history can hold, and warn of the others."""
    if not isinstance(values, Mapping):
        logger.warning("What %r reported is no mapping, and is not kept: %s", source, type(values).__name__)
        return {}
    kept = {}
    for name, value in values.items():
        try:
            dumps({name: value})
        except InvalidTypeError as error:
            logger.warning("The metric %r of %r is not kept: %s", name, source, error)
        else:
            kept[name] = value
    return kept


@cache
def _flwr_version() -> str:
    try:
        return version("flwr")
    except PackageNotFoundError:
        return version("flwr-nightly")


def _scalars(reports: Mapping[str, Values]) -> dict[str, float]:
    """Return the metrics that ``RecordStore.best`` can compare; the history has the others too."""
    found: dict[str, float] = {}
    for source, prefix in PREFIXES.items():
        for name, value in reports.get(source, {}).items():
            try:
                found |= check_metrics({f"{prefix}{name}": value})
            except (InvalidTypeError, InvalidValueError):
                continue
    return found
