"""Make ``schema-0001.db``, a store as the first release writes it, and ``schema-0001.json``, what has to come out of it.

Made once, and kept as it is: every later release has to open it, upgrade it and load it byte for byte. Run it only to
see how the files came to be, with the release of that schema and in another folder::

    python tests/assets/make_schema_0001.py FOLDER
"""

import hashlib
import json
import sys
from pathlib import Path

import numpy as np

from recordstore import Array, ArrayRecord, RecordStore


def records() -> list[tuple[ArrayRecord, dict[str, object]]]:
    """Return records of every kind, with what they are saved under."""
    first = {
        "weight": Array(np.arange(6, dtype=np.float32).reshape(2, 3)),
        "big endian": Array(np.arange(4, dtype=">i8")),
        "fortran": Array(np.asfortranarray(np.arange(12, dtype=np.int16).reshape(3, 4))),
        "scalar": Array(np.array(2.5)),
        "no elements": Array(np.zeros((0, 3))),
        "text \N{GRINNING FACE}": Array(np.array(["a", "\N{LATIN SMALL LETTER E WITH ACUTE}"])),
        "": Array(np.zeros(2, [("x", "<f8"), ("y", "u1", (3,))])),
        "bfloat16": Array("bfloat16", [2], "torch.Tensor", b"\x80?\x00@"),
        "opaque": Array("anything", [1, -1], "my.format", b"\x00\xff"),
        "no bytes": Array("anything", [], "my.format", b""),
        "two chunks": Array(np.full(300_000, 7, np.float32)),
    }
    second = first | {"tied": first["two chunks"], "weight": Array(np.ones((2, 3), np.float32))}
    numbers = {"loss": 0.5, "nan": float("nan"), "inf": float("inf"), "int": 3}
    return [
        (ArrayRecord(first), {"run": "golden", "round": 0, "metrics": numbers, "tags": ["best", "first"]}),
        (ArrayRecord(second), {"run": "golden", "round": 1, "metadata": {"lr": [0.1, None, 2**70], "text": "\0"}}),
        (ArrayRecord(), {"tags": ["empty"]}),
    ]


def main(folder: Path) -> None:
    """Write both files."""
    expected = []
    with RecordStore(folder / "schema-0001.db") as store:
        store.delete(store.save([np.arange(1000)]))  # a gap in the ids, and free pages
        for record, options in records():
            info = store.info(store.save(record, **options))
            arrays = [
                [name, array.dtype, array.shape, array.stype, hashlib.sha256(array.data).hexdigest()]
                for name, array in record.items()
            ]
            kept = {name: str(number) for name, number in info.metrics.items()}
            facts = {"id": info.id, "run": info.run, "round": info.round, "created_at": info.created_at.isoformat()}
            facts |= {"metrics": kept, "metadata": info.metadata, "tags": info.tags, "nbytes": info.nbytes}
            expected.append(facts | {"digest": info.digest, "arrays": arrays})
    (folder / "schema-0001.json").write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
