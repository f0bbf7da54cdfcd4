"""Whether a damaged store keeps its promises, whatever one does with it."""

import random
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
from damaged_base import Base, shown
from support import rows

from recordstore import (
    Array,
    ArrayRecord,
    Checkpoint,
    HistoryEntry,
    RecordInfo,
    RecordStore,
    RecordStoreError,
    RunInfo,
    StoreBusyError,
)

ENDLESS = 1000
"""Records that no listing of a store with a dozen of them ever has."""

NOTHING = object()


class Use:
    """The calls of a store on a damaged copy of a base; ``problems`` are the promises that were broken."""

    def __init__(self, store: RecordStore, base: Base, dice: random.Random) -> None:
        self.store = store
        self.base = base
        self.records = dict(base.records)
        self.dice = dice
        self.problems: list[tuple[Any, ...]] = []
        self.error: RecordStoreError | None = None
        self.succeeded: Counter[str] = Counter()
        self.sound: set[int] = set()

    def call(self, what: str, function: Callable[[], Any]) -> Any:
        """Return what comes of a call, NOTHING if it raises an error that is documented."""
        try:
            found = function()
        except RecordStoreError as error:
            self.error = error
            if isinstance(error, StoreBusyError):
                self.problems.append((what, "waits for a lock that nobody else can have", str(error)))
            return NOTHING
        except Exception as error:
            self.problems.append((what, "an undocumented error", f"{type(error).__name__}: {error!s:.200}"))
            return NOTHING
        self.succeeded[what] += 1
        return found

    def ids(self) -> list[int] | None:
        """Return the ids that the store lists, None if it cannot."""
        found = self.call("ids", lambda: list(islice(self.store, ENDLESS)))
        if found is NOTHING:
            return None
        if len(found) == ENDLESS or not all(type(id_) is int for id_ in found):
            self.problems.append(("ids", "wrong", found[:20]))
        return found

    def readable(self, ids: Sequence[int]) -> set[int]:
        """Return the records all of which can be read; what comes must be what was saved."""
        return {id_ for id_ in ids if self._read(id_)}

    def look_around(self, ids: Sequence[int]) -> None:
        """Call all that reads; each must return what was saved, or something of the right type where it cannot know."""
        for id_ in self.dice.sample(ids, min(len(ids), 2)):
            self._stream(id_)
            self._open(id_)
            self._load_into(id_)
        for ref in (*self.base.rounds, "r@latest", "latest", "lone", "r@best", "s/client@latest"):
            self._look_up(ref)
        self._overview()

    def save(self, id_: int) -> int | None:
        """Save again what was saved as a record, whose bytes may be damaged by now; return the new id."""
        record = ArrayRecord({name: Array(*fields) for name, *fields in self.records[id_]})
        saved = self.call("save", lambda: self.store.save(record, run="later"))
        if saved is NOTHING:
            return None
        self.records[saved] = self.records[id_]
        return int(saved)

    def _read(self, id_: int) -> bool:
        loaded = self.call("load", lambda: self.store.load(id_))
        if loaded is not NOTHING and shown(loaded) != self.records.get(id_, []):
            self.problems.append(("load", "other bytes", id_))
        checkpoint = self.call("load_checkpoint", lambda: self.store.load_checkpoint(id_))
        if checkpoint is not NOTHING and _state(checkpoint) != self.base.checkpoints.get(id_):
            self.problems.append(("load_checkpoint", "another state", id_))
        info = self.call("info", lambda: self.store.info(id_))
        if info is not NOTHING and not _is_info(info):
            self.problems.append(("info", "wrong type", info))
        return NOTHING not in (loaded, checkpoint, info)

    def _stream(self, id_: int) -> None:
        read: list[tuple[str, Any]] = []

        def stream() -> None:
            read.extend(self.store.stream(id_))

        self.call("stream", stream)
        pieces = [shown({name: array})[0] for name, array in read]
        if pieces != self.records.get(id_, [])[: len(pieces)]:
            self.problems.append(("stream", "other bytes", id_))

    def _open(self, id_: int) -> None:
        stored = self.call("open", lambda: self.store.open(id_))
        if stored is NOTHING:
            return
        saved = {name: (name, *fields) for name, *fields in self.records.get(id_, [])}
        if list(stored) != list(saved):
            self.problems.append(("open", "other names", id_))
            return
        for name, (_, dtype, shape, stype, data) in saved.items():
            array = self.call("open", partial(stored.__getitem__, name))
            if array is NOTHING:
                continue
            if (array.dtype, list(array.shape), array.stype) != (dtype, shape, stype):
                self.problems.append(("open", "other fields", id_, name))
            elif self.call("data", partial(getattr, array, "data")) not in (NOTHING, data):
                self.problems.append(("data", "other bytes", id_, name))
            elif stype == "numpy.ndarray" and shape and shape[0]:
                self._slice(id_, array, Array(dtype, shape, stype, data).numpy())

    def _slice(self, id_: int, array: Any, whole: np.ndarray) -> None:
        start = self.dice.randrange(len(whole))
        stop = self.dice.randrange(start, len(whole)) + 1
        part = self.call("slice", lambda: array[start:stop])
        if part is not NOTHING and not _equal(part, whole[start:stop]):
            self.problems.append(("slice", "other bytes", id_, array.name))

    def _load_into(self, id_: int) -> None:
        saved = [fields for fields in self.records.get(id_, []) if fields[3] == "numpy.ndarray"]
        target = {name: np.full(shape, 7, dtype) for name, dtype, shape, _, _ in saved}
        if self.call("load_into", lambda: self.store.load_into(id_, target, strict=False)) is NOTHING:
            return
        for fields in saved:
            if not _equal(target[fields[0]], Array(*fields[1:]).numpy()):
                self.problems.append(("load_into", "other bytes", id_, fields[0]))

    def _look_up(self, ref: str) -> None:
        """Find a record by its round, which must be the one whose row says so, or by what no digest covers."""
        loaded = self.call(ref, lambda: self.store.load(ref))
        if loaded is NOTHING:
            return
        run, number = ref.split("@") if "@" in ref else ("", "")
        ids = list(self.records)
        if number.isdigit():
            table = "SELECT id FROM record NOT INDEXED WHERE run || '' = ? AND round + 0 = ?"
            ids = [self.base.rounds[ref]]
            with suppress(Exception):
                ids += [id_ for (id_,) in rows(self.store._database.target.path, table, run, int(number))]
        if shown(loaded) not in [self.records.get(id_, []) for id_ in ids]:
            self.problems.append((ref, "the bytes of another record"))

    def _overview(self) -> None:
        store = self.store
        self._all("records", RecordInfo, lambda: islice(store.records(), ENDLESS))
        self._all("records of a run", RecordInfo, lambda: islice(store.records(run="r", newest_first=True), ENDLESS))
        self._all("latest", RecordInfo, lambda: [store.latest(), store.latest("many")])
        self._all("best", RecordInfo, lambda: [store.best("loss", "min"), store.best("loss", "max", run="r")])
        self._all("runs", RunInfo, store.runs)
        self._all("history", HistoryEntry, lambda: store.history("r"))
        self._all("len", int, lambda: [len(store)])
        self._all("in", bool, lambda: [ref in store for ref in (1, 5, "r@best")])

    def _all(self, what: str, kind: type, function: Callable[[], Any]) -> None:
        found = self.call(what, lambda: list(function()))
        if found is not NOTHING and (len(found) == ENDLESS or not all(_is_right(item, kind) for item in found)):
            self.problems.append((what, "wrong", found[:20]))


def _equal(one: np.ndarray, other: np.ndarray) -> bool:
    return (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes())


def _state(checkpoint: Checkpoint | None) -> tuple[Any, Any] | None:
    return None if checkpoint is None else (checkpoint.state, shown(checkpoint.arrays))


def _is_right(item: Any, kind: type) -> bool:
    match item:
        case None:
            return kind is RecordInfo  # there is none
        case RecordInfo():
            return kind is RecordInfo and _is_info(item)
        case RunInfo(run, count, last):
            return kind is RunInfo and [type(run), type(count)] == [str, int] and (last is None or type(last) is int)
        case HistoryEntry(number, source, values):
            return kind is HistoryEntry and [type(number), type(source), type(values)] == [int, str, dict]
        case _:
            return type(item) is kind


def _is_info(info: RecordInfo) -> bool:
    return (
        [type(info.id), type(info.created_at), type(info.nbytes), type(info.digest)] == [int, datetime, int, str]
        and (info.run is None or type(info.run) is str)
        and (info.round is None or type(info.round) is int)
        and {*map(type, info.names), *map(type, info.tags), *map(type, info.metrics)} <= {str}
        and {*map(type, info.metrics.values())} <= {float}
    )
