"""What the tests of backups share."""

from pathlib import Path

import numpy as np

from recordstore import RecordStore

MEGABYTE = 1_000_000


def noise(seed: int, nbytes: int = MEGABYTE) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, nbytes, np.uint8)


def content(store: RecordStore) -> dict[int, dict[str, bytes]]:
    return {id_: {name: array.data for name, array in store.load(id_).items()} for id_ in store}


def leftovers(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if "partial" in entry.name)
