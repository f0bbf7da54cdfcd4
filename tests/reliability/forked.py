"""What the tests of forks save."""

from typing import Any

import numpy as np
from support import npy

from recordstore import RecordStore

SMALL: dict[str, Any] = {"CHUNK_SIZE": 4096, "BATCH_BYTES": 16_384, "RING_CHUNKS": 4}


def noise(seed: int, nbytes: int = 60_000) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, nbytes, np.uint8)


MODEL = {str(number): noise(number) for number in range(4)}


def content(store: RecordStore, ref: Any) -> dict[str, bytes]:
    return {name: array.data for name, array in store.load(ref).items()}


def npys(arrays: dict[str, np.ndarray]) -> dict[str, bytes]:
    return {name: npy(array) for name, array in arrays.items()}
