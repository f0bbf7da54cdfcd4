"""What a file has to be like after its process was killed."""

import hashlib
import json
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kill_journals import MAGIC, head_of_journal
from oracle import Model, Plan, kind, seen, settled, shape, wrong_records
from support import ASSETS, HEAD, flaws, rows, sql_of

from recordstore import RecordStore, SchemaOutdatedError

Message = dict[str, Any]
Failures = Iterator[tuple[Any, ...]]


@dataclass
class Examination:
    """What a file has to hold, kill after kill."""

    path: Path
    counts: Counter[str]
    model: Model = field(default_factory=Model)
    last_id: int = 0

    def count_kill(self, said: list[Message]) -> None:
        """Note what a kill has hit; nothing has opened the file since."""
        count_journal(self.path, self.counts)
        plan = None
        for message in said:
            if "begin" in message:
                plan = message["begin"]
            else:
                self.counts[f"acknowledged: {kind(plan)}"] += 1
                plan = None
        self.counts[f"killed during: {kind(plan) if plan else 'opening, or between two operations'}"] += 1

    def after_kill(self, said: list[Message], *, read_only: bool) -> Failures:
        """Yield what is wrong with the file, and what it holds that it should not, or the other way round."""
        acknowledged, plan, backups = told(self.model, said)
        with RecordStore(self.path, read_only=read_only) as store:  # either has to roll back
            state = settled(acknowledged, plan, store, self.last_id)
            if state is None:
                yield "another state", shape(acknowledged), plan, seen(store)
                return
            yield from wrong_records(state, store)
            report = store.verify()
            if not report or report.records != len(state.records):
                yield "verify", report
        self.counts["done though not acknowledged"] += state is not acknowledged
        self.counts["left a draft"] += bool(rows(self.path, "SELECT 1 FROM record WHERE state = 'writing'"))
        in_flight = {plan["to"]: acknowledged} if plan and plan["do"] == "backup" else {}
        yield from self._wrong_backups(backups, in_flight)
        with RecordStore(self.path) as store:
            store.gc(grace=0)
            yield from wrong_records(state, store)
        yield from flaws(self.path).items()
        self.model, self.last_id = state, max([self.last_id, *state.records])

    def _wrong_backups(self, done: dict[str, Model], in_flight: dict[str, Model]) -> Failures:
        """Yield what is wrong with backups, and remove them: the one in flight is whole or not there."""
        files = sorted(map(str, self.path.parent.glob(f"{self.path.name}.backup-*")))
        found = {name for name in files if ".partial-" not in name}
        self.counts["backups left unfinished"] += len(files) - len(found)
        if not done.keys() <= found <= done.keys() | in_flight.keys():
            yield "other backups", found, done.keys(), in_flight.keys()
        for name, model in (done | in_flight).items():
            if name in found:
                self.counts["backups checked"] += 1
                with RecordStore(name, read_only=True) as copy:
                    if not copy.verify() or seen(copy) != shape(model):
                        yield "another backup", name, shape(model), seen(copy)
                    yield from wrong_records(model, copy)
        for name in files:
            Path(name).unlink()


def count_journal(path: Path, counts: Counter[str]) -> None:
    """Note whether a kill has left the journal of a transaction."""
    head = head_of_journal(path)
    counts["kills"] += 1
    counts["hit an open journal"] += bool(head)
    counts["hit while pages were overwritten"] += head == MAGIC


def told(model: Model, said: list[Message]) -> tuple[Model, Plan | None, dict[str, Model]]:
    """Return what the acknowledged operations lead to, the operation in flight, and the backups of what."""
    plan = None
    backups = {}
    for message in said:
        if "begin" in message:
            plan = message["begin"]
        elif plan is not None:
            model = model.after(plan, message["done"])
            if plan["do"] == "backup":
                backups[plan["to"]] = model
            plan = None
    return model, plan, backups


def after_killed_upgrade(path: Path, old: Path, counts: Counter[str], *, done: bool) -> Failures:
    """Yield what is wrong with a copy of an older file whose upgrade was killed, or had been acknowledged."""
    try:
        RecordStore(path).close()
        found = HEAD
    except SchemaOutdatedError:
        found = version_of(old)
    counts[f"of schema {found} then"] += 1
    if found != HEAD and (done or dump(path) != dump(old)):
        yield "not what it was", found, done
    if found == HEAD and sql_of(path) != sql_of(ASSETS / f"schema-{HEAD}.db"):
        yield "another schema", sql_of(path)
    with RecordStore(path, upgrade=True) as store:
        arrays = [described(store, id_) for id_ in store]
        if arrays != [expected["arrays"] for expected in kept_records(old)]:
            yield "other records", arrays
        if not store.verify():
            yield "verify", store.verify()
        store.gc(grace=0)
    yield from flaws(path).items()


def version_of(path: Path) -> str:
    """Return the schema that the name of a kept file tells."""
    return path.stem.removeprefix("schema-")


def dump(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as connection:
        return list(connection.iterdump())


def described(store: RecordStore, record_id: int) -> list[list[Any]]:
    """Return what the text beside a kept file tells of the arrays of a record."""
    return [
        [name, array.dtype, array.shape, array.stype, hashlib.sha256(array.data).hexdigest()]
        for name, array in store.stream(record_id)
    ]


def kept_records(old: Path) -> list[dict[str, Any]]:
    kept = json.loads(old.with_suffix(".json").read_text())
    return kept["records"] if isinstance(kept, dict) else kept
