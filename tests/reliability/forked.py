"""What the tests of forks save."""

from typing import Any

import numpy as np
from support import noise, npy

SMALL: dict[str, Any] = {"CHUNK_SIZE": 4096, "BATCH_BYTES": 16_384, "RING_CHUNKS": 4}


MODEL = {str(number): noise(number) for number in range(4)}


def npys(arrays: dict[str, np.ndarray]) -> dict[str, bytes]:
    return {name: npy(array) for name, array in arrays.items()}
