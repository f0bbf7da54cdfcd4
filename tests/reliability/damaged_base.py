"""The store that is damaged, and what has to come out of it."""

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from recordstore import Array, ArrayRecord, Checkpoint, HistoryEntry, RecordStore

Shown = list[tuple[str, str, list[int], str, bytes]]
"""All of a record, or of the arrays of a checkpoint: name, dtype, shape, stype and bytes, in their order."""

DRAFT = (
    "INSERT INTO record (state, created_at, writer, touched_at) VALUES ('writing', '2026-01-01 00:00:00.000000', 'w', '2099-01-01 00:00:00.000000')",
    "INSERT INTO blob (state, nbytes, head) VALUES ('writing', 40000, zeroblob(32))",
    "INSERT INTO array SELECT max(record.id), 0, 'x', 'uint8', '[40000]', 'raw', 40000, max(blob.id), '' FROM record, blob",
)
"""An unfinished save of another process."""


@dataclass
class Base:
    """A store, and what was ever saved in it: by id, also of the record that was deleted."""

    path: Path
    records: dict[int, Shown] = field(default_factory=dict)
    checkpoints: dict[int, tuple[Any, Shown]] = field(default_factory=dict)
    rounds: dict[str, int] = field(default_factory=dict)
    needs: int = 0
    """Bytes of memory that reading all of it takes."""


def shown(arrays: Mapping[str, Array]) -> Shown:
    """Return all that a record consists of."""
    return [(name, a.dtype, list(a.shape), a.stype, a.data) for name, a in arrays.items()]


def make_base(path: Path, seed: int) -> Base:
    """Make a store with records of every kind, gaps, free pages and an unfinished save."""
    base = Base(path)
    with RecordStore(path) as store:
        for number, (arrays, options) in enumerate(_records(np.random.default_rng(seed))):
            record = ArrayRecord({name: _array(value) for name, value in arrays.items()})
            state = options.pop("checkpoint", None)
            if state is None:
                id_ = store.save(record, **options)
            else:
                parts = {name: _array(value) for name, value in state.arrays.items()}
                id_ = store.save_checkpoint(record, Checkpoint(state.state, ArrayRecord(parts)), **options)
                base.checkpoints[id_] = (state.state, shown(parts))
            base.records[id_] = shown(record)
            if options.get("run") == "r":
                base.rounds[f"r@{options['round']}"] = id_
            if number == 2:
                store.delete(id_)
        store.gc(grace=0)
    with closing(sqlite3.connect(path)) as connection, connection:
        for statement in DRAFT:
            connection.execute(statement)
    path.with_name(f"{path.name}-journal").unlink(missing_ok=True)
    return base


def _array(value: Any) -> Array:
    return value if isinstance(value, Array) else Array(value)


def _records(noise: np.random.Generator) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    def some(nbytes: int) -> np.ndarray:
        return noise.integers(0, 256, nbytes, np.uint8)

    frozen = some(60_000).reshape(100, 600)
    weight = some(100_000).view(np.float32).reshape(250, 100)
    fortran = np.asfortranarray(some(24_000).reshape(20, 1200))
    history = [HistoryEntry(3, "train", {"loss": 0.5, "counts": (1, 2**70)}), HistoryEntry(2, "server", {"loss": 1})]
    state = {"step": [1, None, "x" * 1000], "lr": float(noise.random())}
    moments = {"moments": some(50_000), "step": np.array(int(noise.integers(1000)))}
    several: list[tuple[dict[str, Any], dict[str, Any]]] = [
        (
            {"bias": some(24).view(np.float64), "weight": weight, "frozen": frozen},
            {"run": "r", "round": 1, "metrics": {"loss": 0.5, "accuracy": 0.25}, "metadata": {"lr": [0.1, None]}},
        ),
        ({"frozen": frozen, "bias": some(9), "tied": frozen}, {"run": "r", "round": 2, "tags": ["best", "first"]}),
        ({"deleted": some(70_000), "small": some(100)}, {"run": "r", "round": 9}),
        (
            {
                "raw": Array("anything", [1, -1], "my.format", some(30_000).tobytes()),
                "half": Array("bfloat16", [20, 1000], "torch.Tensor", some(40_000).tobytes()),
                "fortran": fortran,
                "no bytes": Array("anything", [], "my.format", b""),
                "": np.zeros((0, 3)),
            },
            {"tags": ["lone"], "metrics": {"loss": float("nan")}},
        ),
        (
            {"own": some(300)},
            {
                "run": "r",
                "round": 3,
                "history": history,
                "checkpoint": Checkpoint(state, moments),
                "metrics": {"loss": 2},
            },
        ),
        ({}, {"run": "s/client", "metadata": "nothing"}),
    ]
    few = [({"x": some(50 + n)}, {"run": "many", "round": n, "metrics": {"loss": n}}) for n in range(4)]
    return several + few
