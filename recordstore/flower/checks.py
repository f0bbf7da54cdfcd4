"""Whether a training may go on from what is stored of its run."""

import logging
from collections.abc import Iterable

from recordstore.exceptions import InvalidTypeError, ResumeError
from recordstore.flower.codec import Encoder
from recordstore.flower.options import Options
from recordstore.flower.originals import has_state_dict
from recordstore.flower.past import SAME, Past
from recordstore.flower.state import StrategyState

logger = logging.getLogger("recordstore")


def check_extra_state(options: Options) -> None:
    """Refuse objects whose state cannot be kept, before the first round."""
    for name, one in options.extra_state.items():
        if not has_state_dict(one):
            raise InvalidTypeError(f"extra_state {name!r} has no state_dict() and load_state_dict()")
        Encoder().encode(one.state_dict(), f"extra_state {name!r}")


def check_resume(options: Options, past: Past | None, strategy: StrategyState, resume: str) -> None:
    """Say what is going to be resumed.

    Raises
    ------
    ResumeError
        That is not what was asked for, or the strategy is not the one that began the run.
    """
    run = options.run
    if past is None:
        if resume == "must":
            raise ResumeError(f"resume='must', and run {run!r} has no record to resume from")
        return
    if resume == "never":
        raise ResumeError(f"resume='never', and run {run!r} has rounds up to {past.last_round}: choose another run")
    names = options.extra_state.keys() ^ past.state.extra.keys()
    differences = strategy.differences(past.state.strategy)
    differences += [f"extra_state {name!r}: only one of stored and given" for name in sorted(names)]
    if differences:
        refuse(options, differences)
    logger.warning("Resuming run %r after round %d, from record %d", run, past.last_round, past.info.id)


def check_initial(options: Options, past: Past, names: Iterable[str], digest: str) -> None:
    """Compare the model that a training starts from with the one that the run began with.

    Raises
    ------
    ResumeError
        It is another one.
    """
    if digest == past.state.initial_digest:
        return
    stored, given = set(past.info.names), set(names)
    text = "the names are the same, and the values others than those that the run began with"
    if stored != given:
        text = f"other names, only stored: {sorted(stored - given)}, only given: {sorted(given - stored)}"
    refuse(options, [f"initial_arrays: {text}"])


def check_replay(options: Options, past: Past, digest: str) -> None:
    """Compare the model that the first live round begins with with the one that it began with the first time.

    Raises
    ------
    ResumeError
        It is another one: a ``start`` that the user wrote does not come to the same when its rounds are replayed.
    """
    expected = past.info.digest if past.state.next_digest == SAME else past.state.next_digest
    if digest != expected:
        text = (
            f"after round {past.last_round} its start() goes on with another model than the first time: committed "
            "rounds have no replies, and still start() has to call aggregate_train in each, and to go on with what "
            "that returns"
        )
        refuse(options, [text])


def refuse(options: Options, differences: list[str]) -> None:
    """Raise for differences between what is stored and what is given; with ``strict=False`` only warn of them."""
    text = "\n  ".join([f"run {options.run!r} was begun otherwise than it is to be resumed:", *differences])
    if options.strict:
        raise ResumeError(
            f"{text}\nGive a fresh strategy and the same initial model (seed it, if it is random); to start a new "
            "training choose another run=; to go on all the same use Checkpointer(..., strict=False)"
        )
    logger.warning("Resuming all the same (strict=False): %s", text)
