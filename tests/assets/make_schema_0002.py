"""Make ``schema-0002.db``, a store as the release of checkpoints writes it, and ``schema-0002.json``, what it holds.

Made once, and kept as it is: every later release has to open it, upgrade it and load it byte for byte. Run it only to
see how the files came to be, with the release of that schema and in another folder::

    python tests/assets/make_schema_0002.py FOLDER
"""

import hashlib
import json
import math
import sys
from collections import Counter, OrderedDict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from recordstore import Array, ArrayRecord, Checkpoint, HistoryEntry, RecordInfo, RecordStore

WEIGHT = np.arange(6, dtype=np.float32).reshape(2, 3)

STATE = {
    "step": 2**70,
    "rate": 0.1,
    "text": "\0 and \N{GRINNING FACE}",
    "moments": [{"$array": "weight"}, {"$array": ""}],
    "nothing": [None, True, [], {}],
}


def moments() -> dict[str, Any]:
    """Return arrays of a state: under a name of the model, with the bytes of the model, raw, opaque and empty ones."""
    return {
        "weight": Array(WEIGHT / 7),
        "": Array(WEIGHT),
        "bfloat16": Array("bfloat16", [2], "torch.Tensor", b"\x80?\x00@"),
        "random \N{GRINNING FACE}": Array("uint8", [3], "bytes", b"\x00\xff\x00"),
        "no elements": Array(np.zeros((0, 3))),
    }


def history() -> list[HistoryEntry]:
    """Return entries with values of every kind, of rounds with and without a record."""
    numbers = {
        "counts": [3, -(2**53), 2**200],
        "loss": math.nan,
        "inf": [math.inf, -math.inf],
        "zero": -0.0,
        "none": [],
    }
    others = {
        "one": 1.0,
        "true": True,
        "bytes": b"\x00\xff",
        "pair": (1, (2.5, "x")),
        "set": {7},
        "frozen": frozenset({"x"}),
        "keys": {7: "int", None: {"$int": 1}, (1, 2): [{"a": None}]},
        "ordered": OrderedDict([("z", 1), ("a", 2)]),
        "counter": Counter({"b": 2}),
        "scalar": np.float32(0.1),
        "complex": np.complex128(1 - 2j),
        "\N{GRINNING FACE}": "\0",
    }
    return [HistoryEntry(0, "server", numbers), HistoryEntry(1, "train", others), HistoryEntry(7, "evaluate", {})]


HISTORY = {"elsewhere": [HistoryEntry(3, "privacy", {"epsilon": 0.5})], "golden": history()}


def records() -> list[tuple[ArrayRecord, Checkpoint | None, dict[str, Any]]]:
    """Return records, with a checkpoint and without, and what they are saved under."""
    numbers = {"loss": 0.5, "nan": math.nan}
    first = {"run": "golden", "round": 0, "metrics": numbers, "metadata": {"lr": [0.1]}, "tags": ["first"]}
    second = {"run": "golden", "round": 1, "metrics": {"accuracy": 0.25}, "history": HISTORY["golden"]}
    alone = ArrayRecord({"bfloat16": Array("bfloat16", [2], "torch.Tensor", b"\x80?\x00@")})
    return [
        (ArrayRecord({"weight": Array(WEIGHT)}), None, first),
        (
            ArrayRecord({"bias": Array(np.zeros(2, ">i8")), "weight": Array(WEIGHT)}),
            Checkpoint(STATE, moments()),
            second,
        ),
        (ArrayRecord(), Checkpoint(None, {}), {"run": "golden", "round": 2}),
        (alone, None, {"tags": ["alone"]}),
    ]


def spelled(value: Any) -> str:
    """Return a text that tells values and their types apart, the same with every version of Python and NumPy."""
    if isinstance(value, np.generic):
        return f"{value.dtype.str} {value.tobytes().hex()}"
    return f"ordered {list(value.items())}" if isinstance(value, OrderedDict) else repr(value)


def described(arrays: Iterable[tuple[str, Array]]) -> list[list[Any]]:
    """Return all that belongs to arrays, digests in place of their bytes."""
    return [
        [name, array.dtype, array.shape, array.stype, hashlib.sha256(array.data).hexdigest()] for name, array in arrays
    ]


def facts(info: RecordInfo) -> dict[str, Any]:
    """Return what a store tells of a record besides its arrays and its checkpoint."""
    plain = {name: getattr(info, name) for name in ("id", "run", "round", "metadata", "tags", "nbytes", "digest")}
    metrics = {name: spelled(number) for name, number in info.metrics.items()}
    return plain | {"created_at": info.created_at.isoformat(), "metrics": metrics}


def save(store: RecordStore, record: ArrayRecord, checkpoint: Checkpoint | None, options: Any) -> dict[str, Any]:
    """Save a record, and return what has to come out."""
    if checkpoint is None:
        return facts(store.info(store.save(record, **options))) | {"arrays": described(record.items())}
    kept = {"state": repr(checkpoint.state), "arrays": described(checkpoint.arrays.items())}
    saved = facts(store.info(store.save_checkpoint(record, checkpoint, **options)))
    return saved | {"arrays": described(record.items()), "checkpoint": kept}


def spelled_entry(entry: HistoryEntry) -> list[Any]:
    """Return an entry of the history, its values as texts."""
    return [entry.round, entry.source, {name: spelled(value) for name, value in entry.values.items()}]


def main(folder: Path) -> None:
    """Write both files."""
    with RecordStore(folder / "schema-0002.db") as store:
        store.delete(store.save([np.arange(1000)]))  # a gap in the ids, and free pages
        saved = [save(store, *record) for record in records()]
        store.add_history("elsewhere", HISTORY["elsewhere"])
    kept = {"records": saved, "history": {run: list(map(spelled_entry, of_run)) for run, of_run in HISTORY.items()}}
    (folder / "schema-0002.json").write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
