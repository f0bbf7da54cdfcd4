"""What is stored of a run: the checkpoint to go on from, and the answers to all rounds up to it."""

from typing import Any

from recordstore.arrayrecord import ArrayRecord
from recordstore.exceptions import RecordNotFoundError, ResumeError
from recordstore.flower.codec import Decoder
from recordstore.info import RecordInfo
from recordstore.rounds import Checkpoint
from recordstore.store import RecordStore

FORMAT = 1
"""Version of the layout of the state, which a checkpoint names."""

Values = dict[str, Any]


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
    """

    def __init__(self, store: RecordStore, run: str, info: RecordInfo, checkpoint: Checkpoint) -> None:
        self._store = store
        self._run = run
        self.info = info
        self.last_round: int = info.round or 0
        self.state: dict[str, Any] = checkpoint.state
        self.decoder = Decoder(checkpoint.arrays)
        self._values = {
            (round_, source): values for round_, source, values in store.history(run) if round_ <= self.last_round
        }

    def values(self, round_: int, source: str) -> Values | None:
        """Return what was reported of a round, None if nothing was."""
        return self._values.get((round_, source))

    def release(self) -> None:
        """Let go of the arrays of the state, once it is restored: they may be twice as large as the model."""
        self.decoder = Decoder({})

    def load(self, round_: int) -> ArrayRecord:
        """Return the global model after a round.

        Raises
        ------
        ResumeError
            No record of this round is kept.
        """
        if round_ == self.last_round:
            return self._store.load(self.info)
        try:
            return self._store.load(f"{self._run}@{round_}")
        except RecordNotFoundError:
            raise ResumeError(
                f"the model of round {round_} of run {self._run!r} is asked for and was not kept (deleted, or left out "
                "by every=N): keep all rounds of a strategy with a start() of its own, or go on with strict=False"
            ) from None


def find_past(store: RecordStore, run: str, api: str) -> Past | None:
    """Return what is stored of a run, None for a new one.

    Raises
    ------
    ResumeError
        The newest record of the run was saved by something else.
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
    if state.get("format") != FORMAT:
        raise ResumeError(f"the checkpoint {info.id} of run {run!r} needs a newer recordstore: upgrade it")
    return Past(store, run, info, checkpoint)
