"""One training under a checkpointer: which rounds are answered from the store, and when the others are committed.

The hooks of :mod:`recordstore.flower.message` and :mod:`recordstore.flower.legacy` tell a session what Flower does; it
knows of neither API.
"""

from collections.abc import Mapping, MutableMapping
from numbers import Integral
from typing import Any

from recordstore.exceptions import InvalidValueError, ResumeError
from recordstore.flower.checks import check_extra_state, check_initial, check_resume
from recordstore.flower.committer import Committer, Outcome, keepable
from recordstore.flower.options import Api, Options
from recordstore.flower.past import Past, Values, find_past
from recordstore.flower.privacy import PrivacyBudget, is_private
from recordstore.flower.randomness import restore_random
from recordstore.flower.state import StrategyState, strategy_tree
from recordstore.identity import digest_of


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
        self._strategy = StrategyState(strategy, store_unnoised=options.store_unnoised_state)
        self._budget = PrivacyBudget(options.store, options.run, members)
        self.past = find_past(options.store, options.run, api.name)
        check_extra_state(options)
        check_resume(options, self.past, self._strategy, resume)
        self._budget.restore()
        digest = None if self.past is None else self.past.state["initial_digest"]
        self._done = -1 if self.past is None else self.past.last_round
        self._committer = Committer(
            options, api, self._strategy, private=self._private, initial_digest=digest, begun_at=self._done
        )
        self._begun = self._must_restore = self.past is not None
        self._end: int | None = None
        self._model: Any = None
        self._aggregated = False
        self._pending: int | None = None
        self._trained = False
        self._reports: dict[str, Values] = {}
        self._configs: dict[str, MutableMapping[str, Any]] = {}
        self._replayed_configs: dict[str, object] = {}
        self._stored_configs: dict[str, Any] = {}

    # What is stored

    def replays(self, round_: int) -> bool:
        """Return whether a round is committed already, and is to be answered from the store."""
        return self.past is not None and round_ <= self.past.last_round

    def stored(self, round_: int, source: str) -> Values | None:
        """Return what was reported of a committed round."""
        return None if self.past is None else self.past.values(round_, source)

    def replay_model(self, round_: int, *, always: bool = False) -> Any | None:
        """Return the model that a committed round has ended with, for Flower to go on with.

        The last one only, unless ``always``: it is all that matters to Flower's own loop.
        """
        last = self._last_replayed()
        if round_ != last and not always:
            return None
        try:
            model = self.load_model(round_)
        except ResumeError:
            if self.options.strict or round_ == last:
                raise
            return None
        return model if self._aggregated or round_ != last else None

    def load_model(self, round_: int | None = None) -> Any:
        """Return the model after a committed round, the last one that is asked for if none is named."""
        past = self._require_past()
        self._model = self._api.from_record(past.load(self._last_replayed() if round_ is None else round_))
        self._aggregated = bool(past.state["aggregated"])
        return self._model

    def _last_replayed(self) -> int:
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
        if initial is None:
            return
        record = self._api.to_record(initial)
        digest = digest_of(record)
        self._committer.begin(lambda: digest)
        if self.past is not None:
            check_initial(self.options, self.past, record, digest)

    def initial(self, model: Any) -> None:
        """Commit round 0, the initial model, unless the run has begun."""
        if not self._begun:
            self._begun = True
            self._model = model
            self._committer.begin(lambda: digest_of(self._api.to_record(model)))
            self._commit(0)

    def begin(self, round_: int, model: Any) -> None:
        """Commit what is left of the round before, and get ready for a live one; the same one again starts anew.

        Raises
        ------
        InvalidValueError
            The round is committed already.
        """
        if round_ <= self._done:
            raise InvalidValueError(
                f"round {round_} of run {self.options.run!r} is committed already, and cannot be trained again: for "
                "another start() attach the strategy anew"
            )
        if self._pending != round_:
            self.complete()
        self.initial(model)
        if self._model is None:
            self._model = model
        self._restore()
        self._reports = {}
        self._pending, self._trained = round_, False

    def configure(self, kind: str, config: MutableMapping[str, Any] | None) -> None:
        """Take the configuration of a live round, after putting back what earlier rounds have made of it."""
        if config is None:
            return
        known = any(config is live for live in self._configs.values())
        if kind in self._stored_configs and self._replayed_configs.get(kind) is config and not known:
            config.clear()
            config.update(self._stored_configs[kind])
        self._stored_configs.pop(kind, None)
        self._configs[kind] = config

    def replay_configure(self, kind: str, config: object) -> None:
        """Remember which object is the configuration of committed rounds: one made anew for each is not restored."""
        self._replayed_configs[kind] = config

    def report(self, source: str, values: Mapping[str, Any] | None) -> None:
        """Take what a source reports of the round in progress, as far as it can be kept."""
        if values is not None:
            self._reports[source] = keepable(source, values)

    def aggregated(self, round_: int, model: Any | None) -> None:
        """Take the model of a round; None keeps the one before. Charge the privacy budget before Flower has it."""
        self._budget.charge(round_)
        self._trained = True
        if model is not None:
            self._model, self._aggregated = model, True

    def complete(self) -> None:
        """Commit the round in progress, if there is one."""
        if self._pending is not None:
            round_, self._pending = self._pending, None
            self._commit(round_)

    def finish(self) -> None:
        """Commit what is left at the end of a training, and have the state of its end, if all was answered."""
        self.complete()
        self._committer.flush()
        self._restore()

    def close(self) -> None:
        """Commit what is left; a round that did not come as far as to its model was not trained."""
        if self._pending is not None and not self._trained:
            self.abandon()
        self.complete()
        self._committer.flush()

    def abandon(self) -> None:
        """Forget the round in progress, and what is not saved yet: the state is that of a round that has failed."""
        self._pending = None
        self._committer.abandon()

    def _commit(self, round_: int) -> None:
        self._done = round_
        outcome = Outcome(round_, self._model, self._aggregated, self._reports, self._configs)
        self._committer.commit(outcome, last=round_ == self._end)

    # Going on

    def _restore(self) -> None:
        """Put the state back, once: before the first live round, or at the end if there is none."""
        if not self._must_restore:
            return
        self._must_restore = False
        past = self._require_past()
        decoder = past.decoder
        self._restore_strategy(past.state["state"])
        for name, one in self.options.extra_state.items():
            if name in past.state["extra"]:
                one.load_state_dict(decoder.decode(past.state["extra"][name]))
        self._stored_configs = {kind: decoder.decode(data) for kind, data in past.state["configs"].items()}
        if self.options.random_state:
            restore_random(past.state["random"], decoder, private=self._private)
        past.release()

    def _restore_strategy(self, saved: dict[str, Any]) -> None:
        self._strategy.restore(saved, self._require_past().decoder)

    def _require_past(self) -> Past:
        if self.past is None:
            raise InvalidValueError("nothing is stored of this run")
        return self.past
