"""Every operation of a store, on a small file that gives it something to do, and all that a store shows."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
from fault_look import copy_of, path_of
from support import HEAD, migrate, noise, npy, rows

from recordstore import Checkpoint, HistoryEntry, RecordStore
from recordstore.connection import SETTINGS

Arrays = dict[str, np.ndarray]
Act = Callable[[Any, Arrays], object]

TINY: dict[str, Any] = {
    "recordstore.constants.CHUNK_SIZE": 8 * 1024,
    "recordstore.constants.BATCH_BYTES": 32 * 1024,
    "recordstore.constants.BATCH_ROWS": 10,
    "recordstore.constants.RING_CHUNKS": 4,
    "recordstore.constants.PAUSE_SECONDS": 0.0,
    "recordstore.blobs.IN_PLACE_BYTES": 4 * 1024,
    "recordstore.spans.SPAN_CHUNKS": 3,
    "recordstore.backup.STEP_BYTES": 128 * 1024,
    "recordstore.compaction.STEP_BYTES": 64 * 1024,
    "recordstore.inputs.gc": SimpleNamespace(collect=int),  # which takes longer than all the rest
}
"""Sizes with which a record of a hundred kilobytes goes all ways there are: in place or not, in batches or not."""

SPILLING: dict[str, Any] = {
    "recordstore.connection.SETTINGS": [text.replace("cache_spill=OFF", "cache_spill=1") for text in SETTINGS],
    "recordstore.engine.WRITER_CACHE_KIB": 64,
}
"""Settings with which pages are overwritten long before the commit, so that a kill at any statement has to be undone."""


FROZEN = noise(1, 40_000)
OLD: Arrays = {"frozen": FROZEN, "head": noise(2, 30_000), "bias": noise(3, 50)}
MODEL: Arrays = {"own": noise(4, 60_000), "frozen": FROZEN, "tied": noise(4, 60_000), "bias": noise(5, 100)}
"""A part of it is stored already, and another one comes twice."""
FEW: Arrays = {"bias": noise(6, 100), "scale": noise(7, 9_000)}
MOMENTS: Arrays = {"m": noise(8, 20_000), "v": FROZEN}


@contextmanager
def patched(values: dict[str, Any]) -> Iterator[None]:
    with ExitStack() as stack:
        for name, value in values.items():
            stack.enter_context(mock.patch(name, value))
        yield


# The files


def fill(store: RecordStore) -> None:
    store.save(OLD, run="r", round=0, tags=["best"], metrics={"loss": 1.5})
    store.save({"frozen": FROZEN, "extra": noise(9, 20_000)}, tags=["kept"])
    store.save({"bias": noise(10, 64)}, run="r", round=1, metadata={"rate": [0.1]})
    entries = [HistoryEntry(number, "train", {"loss": 0.5}) for number in range(3)]
    store.save_checkpoint(FEW, Checkpoint({"step": 1}, {"m": noise(11, 12_000)}), run="c", round=0, history=entries)


def leave_over(store: RecordStore) -> None:
    """Leave a hidden record, and a draft whose writer was killed long ago."""

    def cut_off() -> Iterator[tuple[str, np.ndarray]]:
        yield "a", noise(12, 70_000)
        yield "b", noise(13, 9_000)
        raise ZeroDivisionError

    with mock.patch("recordstore.upkeep.DELETE_STEPS", 0):
        store.delete(store.save({str(number): noise(20 + number, 9_000) for number in range(12)}))
    with mock.patch("recordstore.writer.Writer._abandon"), suppress(ZeroDivisionError):
        store.save(cut_off())
    long_ago = "2026-01-01 00:00:00.000000"
    rows(path_of(store), "UPDATE record SET touched_at = ? WHERE state = 'writing'", long_ago)


def free_pages(store: RecordStore) -> None:
    record_id = store.save({"x": noise(40, 400_000)})
    store.save({"y": noise(41, 50_000)}, run="r", round=2)
    store.delete(record_id)
    store.gc(grace=0)


def damage(store: RecordStore) -> None:
    """Flip a bit in the last chunk of an array."""
    where = "id = (SELECT max(chunk.id) FROM chunk JOIN array USING (blob_id) WHERE name = 'head')"
    ((stored,),) = rows(path_of(store), f"SELECT data FROM chunk WHERE {where}")
    rows(path_of(store), f"UPDATE chunk SET data = ? WHERE {where}", bytes([stored[0] ^ 1]) + stored[1:])


STAGES: dict[str, Callable[[RecordStore], object]] = {
    "filled": lambda store: None,
    "leftovers": leave_over,
    "free pages": free_pages,
    "damaged": damage,
}


def make_stages(folder: Path) -> None:
    """Make a file for each stage, and one of each older schema."""
    for name, prepare in STAGES.items():
        with RecordStore(folder / name) as store:
            fill(store)
            prepare(store)
    for number in range(1, int(HEAD)):
        with RecordStore(folder / f"{number:04}") as store:
            fill(store)
        migrate(folder / f"{number:04}", f"{number:04}")


# The operations


def bytes_of(items: Any) -> list[tuple[str, bytes]]:
    return [(name, npy(value) if isinstance(value, np.ndarray) else value.data) for name, value in items]


@dataclass(frozen=True)
class Operation:
    """Something to do with a store, or with a path if opening it is what is done.

    ``given`` is handed over, and has to be as it was if that fails. ``tries`` is true for what may return without
    having done all: another call does the rest.
    """

    act: Act
    stage: str = "filled"
    given: Arrays = field(default_factory=dict)
    opens: bool = False
    tries: bool = False


def save_async(store: RecordStore, given: Arrays) -> None:
    handle = store.save_async(given, run="r", round=9, tags=["best"], keep_input=False)
    try:
        handle.result()
    except BaseException:
        given.update(handle.record)
        raise


def save_checkpoint(store: RecordStore, given: Arrays) -> None:
    entries = [HistoryEntry(1, "train", {"loss": 0.25}), HistoryEntry(1, "evaluate", {"loss": 0.75})]
    store.save_checkpoint(
        given, Checkpoint({"step": 2}, MOMENTS), run="c", round=1, metrics={"m": 1}, history=entries, forget_after=0
    )


def load_into(store: RecordStore, given: Arrays) -> None:
    target = {name: np.zeros_like(array) for name, array in OLD.items()}
    store.load_into("r@0", target)
    assert all(np.array_equal(target[name], array) for name, array in OLD.items())


def load(store: RecordStore, given: Arrays) -> None:
    assert bytes_of(store.load("r@0").items()) == bytes_of(OLD.items())


def stream(store: RecordStore, given: Arrays) -> None:
    assert bytes_of(store.stream("r@0")) == bytes_of(OLD.items())


def verify(store: RecordStore, given: Arrays) -> None:
    report = store.verify()
    assert [(found.record_id, found.array) for found in report.damaged] == [(1, "head")]


def add_history(store: RecordStore, given: Arrays) -> None:
    store.add_history("c", [HistoryEntry(1, "server", {"loss": 2})], forget_after=1)


def open_and_collect(path: Path, given: Arrays) -> None:
    with RecordStore(path, upgrade=True) as store:
        store.gc(grace=0)


def open_only(path: Path, given: Arrays) -> None:
    RecordStore(path, upgrade=True).close()


OPERATIONS: dict[str, Operation] = {
    "save in one transaction": Operation(
        lambda store, given: store.save(given, run="r", round=9, tags=["best"], metrics={"m": 2}, keep_input=False),
        given=FEW,
    ),
    "save in batches": Operation(
        lambda store, given: store.save(given, run="r", round=9, tags=["best", "new"], keep_input=False), given=MODEL
    ),
    "save_async": Operation(save_async, given=MODEL),
    "save_checkpoint": Operation(save_checkpoint, given=MODEL),
    "overwrite": Operation(
        lambda store, given: store.save(given, run="r", round=0, overwrite=True, keep_input=False), given=MODEL
    ),
    "tag": Operation(lambda store, given: store.tag("r@1", "best")),
    "untag": Operation(lambda store, given: store.untag("r@0", "best")),
    "delete": Operation(lambda store, given: store.delete("r@0")),
    "gc": Operation(lambda store, given: store.gc(grace=0), "leftovers"),
    "compact": Operation(lambda store, given: store.compact(), "free pages"),
    "verify": Operation(verify, "damaged", tries=True),
    "backup": Operation(lambda store, given: store.backup(copy_of(path_of(store)))),
    "load": Operation(load),
    "load_into": Operation(load_into),
    "stream": Operation(stream),
    "add_history": Operation(add_history),
    "open": Operation(open_only, "leftovers", opens=True),
    "create": Operation(open_only, "", opens=True),
    **{f"upgrade from {n:04}": Operation(open_only, f"{n:04}", opens=True) for n in range(1, int(HEAD))},
}

RECOVERY = Operation(open_and_collect, "leftovers", opens=True)
