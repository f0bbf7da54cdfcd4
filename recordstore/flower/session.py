"""One training under a checkpointer: which rounds are answered from the store, and when the others are committed.

The hooks of :mod:`recordstore.flower.message` and :mod:`recordstore.flower.legacy` tell a session what Flower does; it
knows of neither API.
"""

import logging
from collections.abc import Mapping
from numbers import Integral
from typing import Any

from recordstore.exceptions import InvalidValueError
from recordstore.flower.checks import check_extra_state, check_initial, check_replay, check_resume, refuse
from recordstore.flower.committer import Committer, Outcome, keepable
from recordstore.flower.configs import Configs
from recordstore.flower.decoder import Decoder
from recordstore.flower.options import Api, Options
from recordstore.flower.past import NOT_AGGREGATED, SAME, Past, Values, find_past
from recordstore.flower.privacy import PrivacyBudget, is_private
from recordstore.flower.randomness import restore_random
from recordstore.flower.state import StrategyState, strategy_tree
from recordstore.identity import digest_of

logger = logging.getLogger("recordstore")


class Session:
    """A strategy, attached.

    Parameters
    ----------
    options
        Of the checkpointer.
    strategy
        The outermost one.
    resume
        ``"auto"``, ``"must"`` or ``"never"``.
    api
        Which the strategy belongs to.
    """

    def __init__(self, options: Options, strategy: Any, resume: str, api: Api) -> None:
        self.options = options
        self._api = api
        members = [member for _, member in strategy_tree(strategy)]
        self._private = any(map(is_private, members))
        self._strategy = StrategyState(strategy, store_unnoised=options.store_unnoised_state, ignore=options.ignore)
        self._budget = PrivacyBudget(options.store, options.run, members)
        self.past = find_past(options.store, options.run, api.name)
        check_extra_state(options)
        check_resume(options, self.past, self._strategy, resume)
        self._budget.restore()
        digest = None if self.past is None else self.past.state.initial_digest
        self._done = -1 if self.past is None else self.past.last_round
        self._committer = Committer(
            options, api, self._strategy, private=self._private, initial_digest=digest, begun_at=self._done
        )
        self._begun = self._must_restore = self.past is not None
        self._initial_known = False
        self._end: int | None = None
        self._model: Any = None
        self._pending: int | None = None
        self._configured = self._trained = self._aggregated = self._warned_of_several = False
        self._reports: dict[str, Values] = {}
        begun = {} if self.past is None else self.past.state.begun
        self.configs = Configs(lambda differences: refuse(options, differences), begun)

    # What is stored

    def replays(self, round_: int) -> bool:
        """Return whether a round is committed already, and is to be answered from the store."""
        return self.past is not None and round_ <= self.past.last_round

    def stored(self, round_: int, source: str) -> Values | None:
        """Return what was reported of a committed round."""
        return None if self.past is None else self.past.values(round_, source)

    def replay_model(self, round_: int) -> Any | None:
        """Return the model that the last committed round has ended with, None for the others.

        It is all that matters to Flower's own loop, which keeps the model before where there is none.
        """
        if round_ != self.last_replayed() or not self._require_past().ever_aggregated(round_):
            return None
        return self.load_model()

    def aggregates(self, round_: int) -> bool:
        """Return whether a model came out of the aggregation of a committed round."""
        return self._require_past().has_aggregated(round_)

    def load_model(self, round_: int | None = None) -> Any:
        """Return the model after a committed round, the last one that is asked for if none is named."""
        record = self._require_past().load(self.last_replayed() if round_ is None else round_)
        if round_ is None:
            self._model = record
        return self._api.from_record(record)

    def restore_if_complete(self) -> None:
        """Put the state of the end back, if all rounds that are asked for are committed."""
        if self._end is not None and self.replays(self._end):
            self._restore()

    def last_replayed(self) -> int:
        """Return the last committed round that is asked for."""
        last = self._require_past().last_round
        return last if self._end is None else min(last, self._end)

    # What Flower does

    def expect(self, initial: Any | None, rounds: object = None) -> None:
        """Learn what a training starts from, and how many rounds it is to have.

        Raises
        ------
        ResumeError
            The run began with another model.
        """
        if isinstance(rounds, Integral):
            self._end = int(rounds)
        if initial is None or self._initial_known:
            return
        self._initial_known = True
        record = self._api.to_record(initial)
        digest = digest_of(record)
        self._committer.begin(lambda: digest)
        if self.past is not None:
            check_initial(self.options, self.past, record, digest)

    def initial(self, model: Any) -> None:
        """Commit round 0, the initial model, unless the run has begun."""
        if not self._begun:
            self._begun = True
            self._model = self._api.to_record(model)
            self._committer.begin(lambda: digest_of(self._model))
            self._commit(0, model)

    def begin(self, round_: int, model: Any) -> None:
        """Commit what is left of the round before, and get ready for a live one; the same one again starts anew.

        Raises
        ------
        InvalidValueError
            The round is committed already, or is no number of a round.
        """
        if round_ < 1:
            raise InvalidValueError(f"rounds are counted from 1, as Flower does, and start() trains round {round_}")
        if round_ <= self._done:
            raise InvalidValueError(
                f"round {round_} of run {self.options.run!r} is committed already, and cannot be trained again: for "
                "another start() attach the strategy anew"
            )
        if self._done <= 0:
            self.expect(model)
        if self._pending != round_:
            self.complete(model)
        self.initial(model)
        if self._must_restore:
            self._check_replay(model)
        if self._model is None:
            self._model = self._api.to_record(model)
        self._restore()
        if self._pending == round_ and self._aggregated:
            self._warn_of_several()
        if self._pending != round_ or self._configured:
            self._reports = {}
        self._pending, self._configured, self._trained, self._aggregated = round_, True, False, False

    def enter(self, round_: int, model: Any) -> None:
        """Begin a live round that has not begun: one that only evaluates, or evaluates before it trains."""
        if round_ > self._done and round_ != self._pending:
            self.begin(round_, model)
            self._configured = False

    def report(self, source: str, values: Mapping[str, Any] | None) -> None:
        """Take what a source reports of the round in progress, as far as it can be kept."""
        if values is not None:
            self._reports[source] = keepable(source, values)

    def aggregated(self, round_: int, model: Any | None) -> None:
        """Take the model of a round; None keeps the one before. Charge the privacy budget before Flower has it."""
        self._budget.charge(round_)
        self._trained = True
        if model is not None:
            if self._aggregated:
                self._warn_of_several()
            self._model, self._aggregated = self._api.to_record(model), True

    def ended_with(self, model: Any) -> None:
        """Take the model that Flower goes on with after a round, for it may have been changed in its place."""
        self._model = self._api.to_record(model)

    def complete(self, next_model: Any | None = None) -> None:
        """Commit the round in progress, if there is one; the next one may be known to begin with another model."""
        if self._pending is not None:
            round_, self._pending = self._pending, None
            self._commit(round_, next_model)

    def finish(self) -> None:
        """Commit what is left at the end of a training, and have the state of its end, if all was answered."""
        self.close()
        self._restore()
        if self._done < 0:
            text = "Nothing of run %r was saved: start() has called neither configure_train nor evaluate_fn"
            logger.warning(text, self.options.run)

    def close(self) -> None:
        """Commit what is left; a round that did not come as far as to a model or a report was not trained."""
        if self._pending is not None and not (self._trained or self._reports):
            self.abandon()
        self.complete()
        self._committer.flush()

    def abandon(self) -> None:
        """Forget the round in progress, and what is not saved yet: the state is that of a round that has failed."""
        self._pending = None
        self._committer.abandon()

    def _warn_of_several(self) -> None:
        if not self._warned_of_several:
            self._warned_of_several = True
            text = "Round %d of run %r has several models: only the last one is saved, and comes back in a resume"
            logger.warning(text, self._pending, self.options.run)

    def _commit(self, round_: int, next_model: Any | None = None) -> None:
        self._done = round_
        if round_ and not self._aggregated:
            self._reports[NOT_AGGREGATED] = {}
        next_digest = None if next_model is None else self._digest_next(next_model)
        outcome = Outcome(round_, self._model, next_digest, self._reports, self.configs)
        self._committer.commit(outcome, last=round_ == self._end)

    def _digest_next(self, model: Any) -> str:
        """Return the digest of the model that a ``start`` goes on with, ``SAME`` for the one that is committed."""
        record = self._api.to_record(model)
        pairs = zip(record.items(), self._model.items(), strict=False)
        same = len(record) == len(self._model) and all(one[0] == two[0] and one[1] is two[1] for one, two in pairs)
        return SAME if same else digest_of(record)

    def _check_replay(self, model: Any) -> None:
        """Compare what the replay has come to with what the rounds had come to before the interruption."""
        past = self._require_past()
        if past.state.next_digest is not None:
            check_replay(self.options, past, digest_of(self._api.to_record(model)))

    # Going on

    def _restore(self) -> None:
        """Put the state back, once: before the first live round, or at the end if there is none."""
        if not self._must_restore:
            return
        self._must_restore = False
        past = self._require_past()
        decoder, state = Decoder(past.arrays, self._strategy.originals), past.state
        self.configs.restore({kind: decoder.decode(data) for kind, data in state.configs.items()})
        extra = {name: decoder.decode(data) for name, data in state.extra.items()}
        self._strategy.restore(state.strategy_state, decoder)
        for name, one in self.options.extra_state.items():
            if name in extra:
                one.load_state_dict(extra[name])
        if self.options.random_state:
            restore_random(state.random, decoder, private=self._private)
        past.release()

    def _require_past(self) -> Past:
        if self.past is None:
            raise InvalidValueError("nothing is stored of this run")
        return self.past
