"""What is stored of a run: the checkpoint to go on from, and the answers to all rounds up to it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from recordstore.array import Array
from recordstore.arrayrecord import ArrayRecord
from recordstore.exceptions import CorruptRecordError, RecordNotFoundError, ResumeError
from recordstore.info import RecordInfo
from recordstore.store import RecordStore

FORMAT = 1
"""Version of the layout of the state, which a checkpoint names."""

NOT_AGGREGATED = "not_aggregated"
"""The source, in the history, of rounds that have kept the model before: no client, or not enough of them, replied."""

SAME = "same"
"""Stands for the digest of the model that the next round begins with, if it is the one that was saved."""

Values = dict[str, Any]


@dataclass(frozen=True)
class SavedState:
    """What the JSON of a checkpoint says, as far as a resume needs it.

    Attributes
    ----------
    initial_digest
        Of the model that the run began with.
    next_digest
        Of the model that the next round begins with: a digest, ``SAME``, or None if it was not known.
    strategy
        Classes and hyper-parameters, see :meth:`StrategyState.describe`.
    strategy_state
        What has changed of it, by path and attribute.
    configs, begun
        Configurations by kind, as the round has left them, and as they were given.
    random, extra
        States of generators by name, and of the objects in ``extra_state``.
    """

    initial_digest: str
    next_digest: str | None
    strategy: list[dict[str, Any]]
    strategy_state: dict[str, dict[str, Any]]
    configs: dict[str, Any]
    begun: dict[str, Any]
    random: dict[str, Any]
    extra: dict[str, Any]


class Past:
    """The newest checkpoint of a run.

    Attributes
    ----------
    info
        Its record.
    last_round
        The round after which it was saved: up to here, a resumed run is answered from the store.
    state
        What the JSON of the checkpoint says.
    arrays
        Those that it refers to, by their names.
    """

    def __init__(self, store: RecordStore, run: str, info: RecordInfo, state: SavedState, arrays: Any) -> None:
        self._store = store
        self._run = run
        self.info = info
        self.last_round: int = info.round or 0
        self.state = state
        self.arrays: Mapping[str, Array] = arrays
        self._values = {
            (round_, source): values for round_, source, values in store.history(run) if round_ <= self.last_round
        }

    def values(self, round_: int, source: str) -> Values | None:
        """Return what was reported of a round, None if nothing was."""
        return self._values.get((round_, source))

    def has_aggregated(self, round_: int) -> bool:
        """Return whether a model came out of the aggregation of a round."""
        return (round_, NOT_AGGREGATED) not in self._values

    def ever_aggregated(self, round_: int) -> bool:
        """Return whether the model after a round has come out of any aggregation: else it is the initial one."""
        return any(self.has_aggregated(number) for number in range(1, round_ + 1))

    def release(self) -> None:
        """Let go of the arrays of the state, once it is restored: they may be twice as large as the model."""
        self.arrays = {}

    def load(self, round_: int) -> ArrayRecord:
        """Return the global model after a round.

        Raises
        ------
        ResumeError
            No record of this round is kept.
        """
        if not any(self.has_aggregated(later) for later in range(round_ + 1, self.last_round + 1)):
            return self._store.load(self.info)
        try:
            return self._store.load(f"{self._run}@{round_}")
        except RecordNotFoundError:
            raise ResumeError(
                f"the model of round {round_} of run {self._run!r} is asked for, and was not kept (deleted, or left "
                f"out by every=N): go on with num_rounds of {self.last_round} or more, and keep all rounds of a "
                "strategy whose start() looks at the model of each"
            ) from None


def find_past(store: RecordStore, run: str, api: str) -> Past | None:
    """Return what is stored of a run, None for a new one.

    Raises
    ------
    ResumeError
        The newest record of the run was saved by something else.
    CorruptRecordError
        The checkpoint is not what was written.
    """
    info = store.latest(run)
    if info is None:
        return None
    checkpoint = store.load_checkpoint(info)
    state = None if checkpoint is None else checkpoint.state
    if info.round is None or checkpoint is None or not isinstance(state, dict) or state.get("api") != api:
        raise ResumeError(
            f"record {info.id} of run {run!r} is no checkpoint of {api}: choose another run name for this training"
        )
    if type(state.get("format")) is not int or state["format"] != FORMAT:
        raise ResumeError(f"the checkpoint {info.id} of run {run!r} needs a newer recordstore: upgrade it")
    try:
        saved = _parse(state)
    except (LookupError, TypeError) as error:
        raise CorruptRecordError(f"the checkpoint {info.id} of run {run!r} cannot be understood: {error!r}") from error
    return Past(store, run, info, saved, checkpoint.arrays)


def _parse(state: dict[str, Any]) -> SavedState:
    members = [_expect(member, dict) for member in _expect(state["strategy"], list)]
    for member in members:
        _expect(member["path"], str), _expect(member["class"], str), _expect(member["hyperparameters"], dict)
    return SavedState(
        initial_digest=_expect(state["initial_digest"], str),
        next_digest=_expect(state["next_digest"], str | None),
        strategy=members,
        strategy_state={path: _expect(changed, dict) for path, changed in _expect(state["state"], dict).items()},
        configs=_expect(state["configs"], dict),
        begun=_expect(state["begun"], dict),
        random=_expect(state["random"], dict),
        extra=_expect(state["extra"], dict),
    )


def _expect(part: Any, kind: Any) -> Any:
    if not isinstance(part, kind):
        raise TypeError(f"{type(part).__name__} instead of {kind}")
    return part
