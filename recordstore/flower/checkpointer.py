"""The checkpointer: what users put around a strategy."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

from flwr.server.strategy import Strategy as LegacyStrategy
from flwr.serverapp.strategy import Result, Strategy

from recordstore.exceptions import InvalidTypeError, InvalidValueError
from recordstore.flower.hooks import Hooks
from recordstore.flower.legacy import LEGACY_API, LegacyHooks
from recordstore.flower.message import MESSAGE_API, MessageHooks
from recordstore.flower.options import Options
from recordstore.flower.originals import has_state_dict
from recordstore.flower.session import Session
from recordstore.store import RecordStore
from recordstore.validation import check_bool, check_choice, check_int, check_run, check_text

Resume = Literal["auto", "must", "never"]


class Checkpointer:
    """Keeps each round of a Flower training in a store, and resumes it from there, bit for bit.

    **Committed.** A round is saved in one transaction: the global model, what the strategy remembers, configurations,
    random states and metrics. A server that is killed, at whatever moment, goes on after the last such round.

    **Replayed.** A resumed training runs over all rounds, and those that are committed are answered from the store: no
    client is contacted for them, and the ``Result`` has the metrics of all rounds.

    **Bit for bit.** The same model and metrics come out as without the interruption, as far as the clients do the same
    again: the server cannot restore what they keep to themselves, in ``Context.state`` or elsewhere.

    **Private.** Under differential privacy no model before noise is stored, no noise is used twice, and the budget that
    an accountant has spent is durable before the model leaves the strategy.

    Parameters
    ----------
    store
        Where; one store holds any number of runs.
    run
        Name of this training. The same name resumes it.
    every
        Save each ``every``-th round, and always the last; metrics are kept of all rounds.
    extra_state
        More objects that belong to the training and have ``state_dict()`` and ``load_state_dict()``, such as schedulers
        or early stopping: one object, a sequence of objects, or a mapping of names to objects.
    strict
        Refuse to resume with another class of strategy, other hyper-parameters or another initial model. False only
        warns of it.
    sort_replies
        Aggregate replies in the order of their nodes, not in that of their arrival: sums of floats depend on it.
    random_state
        Save and restore the state of Python's and NumPy's global random generators, by which clients are sampled.
        NumPy's stays untouched under differential privacy.
    ignore
        Names of attributes of the strategy that may differ and are left alone, such as a folder with the time in its
        name; ``"strategy.run_dir"`` is one of the strategy in the attribute ``strategy``.
    store_unnoised_state
        Store what a strategy inside a differential-privacy wrapper remembers, such as the moments of FedAdam, though it
        comes from aggregates without noise. Without it, such a strategy is refused.
    on_error
        ``"log"``: a save that fails, of a full disk for instance, is logged as an error, and tried again with the next
        round. ``"raise"``: it ends the training.

    Raises
    ------
    InvalidTypeError, InvalidValueError
        An argument is not what is described above.

    Examples
    --------
    >>> from recordstore import RecordStore
    >>> from recordstore.flower import Checkpointer
    >>> with RecordStore(":memory:") as store:
    ...     checkpointer = Checkpointer(store, run="mnist", every=5)
    """

    def __init__(
        self,
        store: RecordStore,
        run: str,
        every: int = 1,
        *,
        extra_state: Mapping[str, Any] | Iterable[Any] = (),
        ignore: Iterable[str] = (),
        strict: bool = True,
        sort_replies: bool = True,
        random_state: bool = True,
        store_unnoised_state: bool = False,
        on_error: Literal["log", "raise"] = "log",
    ) -> None:
        if not isinstance(store, RecordStore):
            raise InvalidTypeError(f"store must be a RecordStore, not {type(store).__name__}")
        name = check_run(run)
        if name is None:
            raise InvalidTypeError("run must be a str, not None")
        if check_int("every", every) < 1:
            raise InvalidValueError(f"every must be 1 or more, and is {every}")
        self._options = Options(
            store=store,
            run=name,
            every=int(every),
            extra_state=_by_name(extra_state),
            ignore=_check_names(ignore),
            strict=check_bool("strict", strict),
            sort_replies=check_bool("sort_replies", sort_replies),
            random_state=check_bool("random_state", random_state),
            store_unnoised_state=check_bool("store_unnoised_state", store_unnoised_state),
            on_error=check_choice("on_error", on_error, "log", "raise"),
        )

    def start(self, strategy: Strategy, *, resume: Resume = "auto", **arguments: Any) -> Result:
        """Run a strategy, from its first round or from where the store says that it was.

        Parameters
        ----------
        strategy
            A fresh one of the Message API, made as for the first start.
        resume
            ``"auto"`` starts or resumes, ``"must"`` refuses to start anew, and ``"never"`` refuses to resume.
        **arguments
            Of ``strategy.start``: ``grid``, ``initial_arrays``, ``num_rounds`` (all of them, those before an
            interruption too), ``evaluate_fn`` ...

        Returns
        -------
        flwr.serverapp.strategy.Result
            With all rounds since the first.

        Raises
        ------
        ResumeError
            The run was begun otherwise, or ``resume`` forbids what would be done.

        Examples
        --------
        ``strategy.start(grid, arrays, num_rounds=100)`` becomes::

            checkpointer.start(strategy, grid=grid, initial_arrays=arrays, num_rounds=100)
        """
        with self.attach(strategy, resume=resume):
            return strategy.start(**arguments)

    @contextmanager
    def attach(self, strategy: Strategy, *, resume: Resume = "auto") -> Iterator[None]:
        """Checkpoint a strategy whose ``start`` is called within the block, or that is driven there round by round.

        Parameters
        ----------
        strategy, resume
            As for :meth:`start`.

        Raises
        ------
        ResumeError
            As for :meth:`start`.

        Examples
        --------
        ::

            with checkpointer.attach(strategy):
                result = strategy.start(grid, arrays, num_rounds=100)
        """
        if not isinstance(strategy, Strategy):
            raise InvalidTypeError(
                f"strategy must be one of flwr.serverapp.strategy, not {type(strategy).__name__}; those of "
                "flwr.server.strategy are attached with legacy(components)"
            )
        session = Session(self._options, strategy, _check_resume(resume), MESSAGE_API)
        hooks = Hooks(strategy, MessageHooks(session, strategy).methods())
        hooks.install()
        try:
            yield
            session.close()
        finally:
            hooks.remove()

    def legacy(self, components: Any, *, resume: Resume = "auto") -> Any:
        """Checkpoint the strategy of a legacy app, for good.

        Parameters
        ----------
        components
            The ``ServerAppComponents`` that a ``server_fn`` is about to return, with a strategy.
        resume
            As for :meth:`start`.

        Returns
        -------
        ServerAppComponents
            The same object. Its ``History`` will have all rounds since the first.

        Raises
        ------
        ResumeError
            As for :meth:`start`.

        Examples
        --------
        ::

            def server_fn(context):
                components = ServerAppComponents(strategy=FedAdam(...), config=ServerConfig(num_rounds=100))
                return checkpointer.legacy(components)
        """
        server = getattr(components, "server", None)
        strategy = getattr(components if server is None else server, "strategy", None)  # as Flower chooses
        if not isinstance(strategy, LegacyStrategy):
            raise InvalidTypeError("components need a strategy of flwr.server.strategy")
        config = getattr(components, "config", None)
        session = Session(self._options, strategy, _check_resume(resume), LEGACY_API)
        session.expect(None, getattr(config, "num_rounds", 1))
        Hooks(strategy, LegacyHooks(session, strategy).methods()).install()
        return components


def _check_resume(resume: object) -> str:
    if not isinstance(resume, str) or resume not in {"auto", "must", "never"}:
        raise InvalidValueError(f"resume must be 'auto', 'must' or 'never', not {resume!r:.80}")
    return str(resume)


def _check_names(ignore: Iterable[str]) -> frozenset[str]:
    if isinstance(ignore, str) or not isinstance(ignore, Iterable):
        raise InvalidTypeError(f"ignore must be a sequence of names, not {type(ignore).__name__}")
    return frozenset(check_text("a name in ignore", name) for name in ignore)


def _by_name(extra_state: Mapping[str, Any] | Iterable[Any]) -> dict[str, Any]:
    if has_state_dict(extra_state):
        return {"0": extra_state}
    if isinstance(extra_state, Mapping):
        return {check_text("a name in extra_state", name, limit=200): one for name, one in extra_state.items()}
    if not isinstance(extra_state, Iterable):
        raise InvalidTypeError(
            f"extra_state must be a mapping of names to objects, or a sequence, not {type(extra_state).__name__}"
        )
    return {str(index): one for index, one in enumerate(extra_state)}
