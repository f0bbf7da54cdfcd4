"""Checkpoints of a run: a record with the state to go on from it, and the history of all rounds.

What adapters to a framework build on, such as :mod:`recordstore.flower`.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

from recordstore.arrayrecord import ArrayRecord
from recordstore.catalog import Catalog
from recordstore.drafts import Draft
from recordstore.exceptions import CorruptRecordError, InvalidTypeError
from recordstore.handle import SHARE_STEPS
from recordstore.history import HistoryRepository, HistoryText
from recordstore.info import HistoryEntry, RecordInfo
from recordstore.inputs import Input
from recordstore.listing import Listing, open_checkpoint
from recordstore.reader import Reader
from recordstore.refs import parse_ref
from recordstore.snapshot import Snapshot
from recordstore.tagged import dumps
from recordstore.validation import check_int, check_json, check_metrics, check_round, check_run, check_text
from recordstore.writer import Writer

STATE = "state"
"""The part of a record that holds the arrays of its checkpoint."""


@dataclass(frozen=True)
class Checkpoint:
    """What it takes to go on from a record, besides its arrays.

    Attributes
    ----------
    state
        Anything that equals its own JSON round trip.
    arrays
        Arrays that the state refers to by their names. Saved, they may be ndarrays or tensors too; loaded, they are an
        :class:`~recordstore.ArrayRecord`.
    """

    state: Any
    arrays: Mapping[str, Any]


class RoundKeeper(Catalog):
    """The part of a store that keeps what it takes to go on with a run."""

    def save_checkpoint(
        self,
        record: Any,
        checkpoint: Checkpoint,
        *,
        run: str,
        round: int,  # noqa: A002 - the word of the field
        metrics: Mapping[str, float] | None = None,
        history: Iterable[HistoryEntry] = (),
        forget_after: int | None = None,
    ) -> int:
        """Save the record of a round together with the state to go on from it, all visible at once or not at all.

        Parameters
        ----------
        record, run, round, metrics
            As for :meth:`RecordStore.save`; the input is left as it is.
        checkpoint
            The state. ``load``, ``stream``, ``info`` and the digest of the record do not concern it.
        history
            What was reported of this round and of earlier ones; an entry of the same round and source is replaced.
        forget_after
            Remove from the history what it has of later rounds than this, before ``history`` is written: what a lost
            attempt has left, or with -1 another run of this name. A privacy budget stays spent.

        Returns
        -------
        int
            The id of the record.

        Examples
        --------
        >>> import numpy as np
        >>> from recordstore import Checkpoint, RecordStore
        >>> with RecordStore(":memory:") as store:
        ...     moments = {"m": np.full(2, 0.1)}
        ...     record_id = store.save_checkpoint([np.ones(2)], Checkpoint({"step": 7}, moments), run="mnist", round=1)
        ...     checkpoint = store.load_checkpoint("mnist@1")
        >>> checkpoint.state, checkpoint.arrays["m"].numpy()
        ({'step': 7}, array([0.1, 0.1]))
        """
        self._check_writable()
        if not isinstance(checkpoint, Checkpoint):
            raise InvalidTypeError(f"checkpoint must be a Checkpoint, not {type(checkpoint).__name__}")
        name = _require_run(run)
        draft = Draft(
            run=name,
            round=_require_round(round, name),
            metrics=check_metrics(metrics),
            checkpoint=check_json("the state of a checkpoint", checkpoint.state),
            history=_encode_history(history),
            forget_after=_check_forget(forget_after),
        )
        return self._write(draft, Input(record, keep=True), Input(checkpoint.arrays, keep=True, part=STATE))

    def load_checkpoint(self, ref: int | str | RecordInfo) -> Checkpoint | None:
        """Return the state that was saved with a record, verified; None for a record that is no checkpoint.

        Raises
        ------
        RecordNotFoundError
            There is no such record, or it was deleted while it was being read.
        CorruptRecordError
            What is stored is not what was saved.
        """
        self._check_usable()
        found = open_checkpoint(self._database, parse_ref(ref))
        if found is None:
            return None
        text, listing = found
        return Checkpoint(_parse(text, listing), ArrayRecord(dict(self._reader().arrays(listing))))

    def history(self, run: str, *, source: str | None = None) -> list[HistoryEntry]:
        """Return what was reported of the rounds of a run, in their order, of rounds without a record too.

        Parameters
        ----------
        run
            Name of the run.
        source
            ``"server"``, ``"train"`` or ``"evaluate"``: the metrics of these; ``"server/loss"`` or ``"evaluate/loss"``:
            a loss that came apart from the metrics; ``"privacy"``: what is spent of a privacy budget. None for all.

        Examples
        --------
        >>> from recordstore import HistoryEntry, RecordStore
        >>> with RecordStore(":memory:") as store:
        ...     store.add_history("mnist", [HistoryEntry(1, "train", {"loss": 0.5, "counts": [3, 2**70]})])
        ...     store.history("mnist")
        [HistoryEntry(round=1, source='train', values={'loss': 0.5, 'counts': [3, 1180591620717411303424]})]
        """
        self._check_usable()
        name, of_source = _require_run(run), None if source is None else check_text("source", source)
        with self._database.read() as connection:
            return HistoryRepository(connection).of(name, of_source)

    def add_history(self, run: str, entries: Iterable[HistoryEntry], *, forget_after: int | None = None) -> None:
        """Write what was reported of rounds, durably; an entry of the same round and source is replaced.

        Parameters
        ----------
        run, entries, forget_after
            As for :meth:`save_checkpoint`, where the entries are called ``history``.

        Raises
        ------
        InvalidTypeError, InvalidValueError
            A value is something else than a number, text, bytes, None or lists, tuples and dicts of them.
        """
        self._check_writable()
        name, checked, after = _require_run(run), _encode_history(entries), _check_forget(forget_after)
        with self._database.write() as session:
            history = HistoryRepository(session.connection())
            if after is not None:
                history.forget(name, after=after)
            history.add(name, checked)

    def swap_history(self, run: str, entry: HistoryEntry, expected: Mapping[str, Any] | None) -> bool:
        """Replace an entry of the history, unless another process was faster.

        Parameters
        ----------
        run, entry
            What to write.
        expected
            The values that are there now, of the same round and source; None for no such entry.

        Returns
        -------
        bool
            False if something else is there: then nothing was written.

        Examples
        --------
        >>> from recordstore import HistoryEntry, RecordStore
        >>> with RecordStore(":memory:") as store:
        ...     first = store.swap_history("mnist", HistoryEntry(0, "count", {"n": 1}), None)
        ...     second = store.swap_history("mnist", HistoryEntry(0, "count", {"n": 2}), None)
        >>> first, second
        (True, False)
        """
        self._check_writable()
        name, checked = _require_run(run), _encode_entry(entry)
        before = None if expected is None else dumps(dict(expected))
        with self._database.write() as session:
            history = HistoryRepository(session.connection())
            if history.text(name, checked[0], checked[1]) != before:
                return False
            history.add(name, [checked])
        return True

    def _write(self, draft: Draft, *sources: Input | Snapshot) -> int:
        """Save the entries of sources, one behind the other, as one record; empty the sources that ask for it.

        What was handed to the background before comes first: records get their ids in the order of the calls.
        """
        self._background.settle()
        writer = Writer(self._database, self._pool, draft)
        entries = chain.from_iterable(source.entries() for source in sources)  # which holds none of them
        try:
            record_id = writer.save(entries, lazy=any(source.lazy for source in sources))
        finally:
            if writer.left_over:
                self._sweep_share(SHARE_STEPS)
        for source in sources:
            source.release()
        return record_id

    def _reader(self) -> Reader:
        return Reader(self._database, self._pool)


def _require_run(run: object) -> str:
    name = check_run(run)
    if name is None:
        raise InvalidTypeError("run must be a str, not None")
    return name


def _require_round(round_: object, run: str) -> int:
    number = check_round(round_, run)
    if number is None:
        raise InvalidTypeError("round must be an int, not None")
    return number


def _check_forget(round_: object) -> int | None:
    return None if round_ is None else check_int("forget_after", round_)


def _encode_history(entries: Any) -> tuple[HistoryText, ...]:
    if isinstance(entries, str) or not isinstance(entries, Iterable):
        raise InvalidTypeError(f"history must be a sequence of HistoryEntry, not {type(entries).__name__}")
    return tuple(_encode_entry(entry) for entry in entries)


def _encode_entry(entry: Any) -> HistoryText:
    if not isinstance(entry, tuple) or len(entry) != len(HistoryEntry._fields):
        raise InvalidTypeError(f"an entry of the history must be a HistoryEntry, not {type(entry).__name__}")
    round_, source, values = entry
    if not isinstance(values, Mapping):
        raise InvalidTypeError(f"the values of an entry of the history must be a mapping, not {type(values).__name__}")
    return _require_round(round_, "any"), check_text("source", source), dumps(dict(values))


def _parse(text: str, listing: Listing) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise CorruptRecordError(f"the checkpoint of record {listing.record_id} is no JSON") from None
