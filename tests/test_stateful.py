"""A store against a dict: any sequence of saves, overwrites, deletes, tags, sweeps and reopenings tells the same."""

import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from recordstore import AmbiguousReferenceError, RecordExistsError, RecordNotFoundError, RecordStore

RUNS = st.sampled_from([None, "a", "b"])
ROUNDS = st.none() | st.integers(0, 3)
TAGS = st.lists(st.sampled_from(["best", "good"]), max_size=2)
METRICS = st.none() | st.sampled_from([0.5, 1.0, 2.0, float("nan"), float("-inf")])
ARRAYS = st.lists(st.tuples(st.sampled_from("wxyz"), st.integers(0, 3), st.integers(0, 400)), max_size=4)
"""Names, values and lengths: few, so that records share bytes."""


@dataclass
class Expected:
    """What the dict knows of a record."""

    run: str | None
    round: int | None
    arrays: dict[str, np.ndarray]
    metric: float | None
    tags: set[str] = field(default_factory=set)


class StoreAgainstDict(RuleBasedStateMachine):
    @initialize(memory=st.booleans())
    def open(self, memory: bool) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.target = ":memory:" if memory else str(self.folder / "store.db")
        self.store = RecordStore(self.target)
        self.model: dict[int, Expected] = {}
        self.last = 0

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.close()
            shutil.rmtree(self.folder)

    def pick(self, data: st.DataObject) -> int:
        return data.draw(st.sampled_from(sorted(self.model)), label="record")

    def set_tag(self, record_id: int, tag: str) -> None:
        for other in self.model.values():
            if other.run == self.model[record_id].run:
                other.tags.discard(tag)
        self.model[record_id].tags.add(tag)

    @rule(
        arrays=ARRAYS, run=RUNS, number=ROUNDS, metric=METRICS, tags=TAGS, overwrite=st.booleans(), lazy=st.booleans()
    )
    def save(
        self,
        arrays: Any,
        run: str | None,
        number: int | None,
        metric: float | None,
        tags: list[str],
        overwrite: bool,
        lazy: bool,
    ) -> None:
        number = None if run is None else number
        given = {name: np.full(length, value, np.float32) for name, value, length in arrays}
        same = [
            key for key, known in self.model.items() if number is not None and (known.run, known.round) == (run, number)
        ]
        options: dict[str, Any] = {"run": run, "round": number, "tags": tags, "overwrite": overwrite}
        options["metrics"] = {} if metric is None else {"m": metric}
        if same and not overwrite:
            with pytest.raises(RecordExistsError):
                self.store.save(given, **options)
            return
        record_id = self.store.save(iter(given.items()) if lazy else given, **options)
        assert record_id > self.last, "an id is never used twice"
        self.last = record_id
        self.model[record_id] = Expected(run, number, given, metric)
        for key in same:
            self.model[record_id].tags |= self.model.pop(key).tags
        for tag in tags:
            self.set_tag(record_id, tag)

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        record_id = self.pick(data)
        self.store.delete(record_id)
        del self.model[record_id]
        with pytest.raises(RecordNotFoundError):
            self.store.delete(record_id)

    @precondition(lambda self: self.model)
    @rule(data=st.data(), tag=st.sampled_from(["best", "good"]))
    def tag(self, data: st.DataObject, tag: str) -> None:
        record_id = self.pick(data)
        self.store.tag(record_id, tag)
        self.set_tag(record_id, tag)

    @precondition(lambda self: self.model)
    @rule(data=st.data(), tag=st.sampled_from(["best", "good"]))
    def untag(self, data: st.DataObject, tag: str) -> None:
        record_id = self.pick(data)
        if tag in self.model[record_id].tags:
            self.store.untag(record_id, tag)
            self.model[record_id].tags.discard(tag)
        else:
            with pytest.raises(RecordNotFoundError):
                self.store.untag(record_id, tag)

    @rule()
    def gc(self) -> None:
        self.store.gc(grace=0)
        assert self.store.gc(grace=0) == (0, 0, 0)

    @precondition(lambda self: self.target != ":memory:")
    @rule()
    def reopen(self) -> None:
        self.store.close()
        self.store = RecordStore(self.target)

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def load(self, data: st.DataObject) -> None:
        record_id = self.pick(data)
        expected = self.model[record_id].arrays
        loaded = self.store.load(record_id)
        assert list(loaded) == list(expected)
        for name, array in loaded.items():
            np.testing.assert_array_equal(array.numpy(), expected[name], strict=True)

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def copy(self, data: st.DataObject) -> None:
        record_id = self.pick(data)
        self.last = self.store.save(self.store.stream(record_id))
        self.model[self.last] = Expected(None, None, self.model[record_id].arrays, None)
        assert self.store.info(self.last).digest == self.store.info(record_id).digest

    @rule(tag=st.sampled_from(["best", "good"]))
    def find_by_tag(self, tag: str) -> None:
        tagged = {known.run: key for key, known in self.model.items() if tag in known.tags}
        for run in ("a", "b"):
            assert (f"{run}@{tag}" in self.store) == (run in tagged)
        if None in tagged or len(tagged) == 1:
            assert self.store.info(tag).id == tagged.get(None, next(iter(tagged.values())))
        else:
            with pytest.raises(AmbiguousReferenceError if tagged else RecordNotFoundError):
                self.store.info(tag)

    @rule(run=RUNS)
    def latest(self, run: str | None) -> None:
        mine = [
            (-1 if run is None or known.round is None else known.round, key)
            for key, known in self.model.items()
            if run in {None, known.run}
        ]
        latest = self.store.latest(run)
        assert (latest and latest.id) == (max(mine)[1] if mine else None)

    @rule(run=RUNS, mode=st.sampled_from(["max", "min"]))
    def best(self, run: str | None, mode: str) -> None:
        sign = 1 if mode == "max" else -1
        mine = [
            (sign * known.metric, -key)
            for key, known in self.model.items()
            if run in {None, known.run} and known.metric is not None
        ]
        numbers = [item for item in mine if item[0] == item[0]]
        best = self.store.best("m", mode, run=run)  # type: ignore[arg-type]
        assert (best and best.id) == (-max(numbers)[1] if numbers else None)

    @invariant()
    def the_store_lists_what_the_dict_holds(self) -> None:
        if not hasattr(self, "store"):
            return
        infos = list(self.store.records())
        assert [info.id for info in infos] == sorted(self.model) == list(self.store)
        assert len(self.store) == len(self.model)
        for info in infos:
            known = self.model[info.id]
            assert (info.run, info.round, info.tags) == (known.run, known.round, tuple(sorted(known.tags)))
            assert info.names == tuple(known.arrays)
        runs = {known.run for known in self.model.values()} - {None}
        assert {run.run: run.records for run in self.store.runs()} == {
            run: sum(known.run == run for known in self.model.values()) for run in runs
        }


class StoreOfManyBatchesAgainstDict(StoreAgainstDict):
    """The same with chunks and batches so small that every save takes several transactions."""

    @initialize()
    def shrink(self) -> None:
        self.patch = pytest.MonkeyPatch()
        for name, number in {"CHUNK_SIZE": 256, "BATCH_BYTES": 512, "BATCH_ROWS": 4, "RING_CHUNKS": 2}.items():
            self.patch.setattr(f"recordstore.constants.{name}", number)

    def teardown(self) -> None:
        super().teardown()
        if hasattr(self, "patch"):
            self.patch.undo()


TestStoreAgainstDict = StoreAgainstDict.TestCase
TestStoreAgainstDict.settings = settings(max_examples=25, stateful_step_count=30, deadline=None)
TestStoreOfManyBatchesAgainstDict = StoreOfManyBatchesAgainstDict.TestCase
TestStoreOfManyBatchesAgainstDict.settings = settings(max_examples=15, stateful_step_count=20, deadline=None)
