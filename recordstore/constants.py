"""The fixed numbers and names that the rest of the package shares."""

from typing import Self

GC_THRESHOLD = 200_000_000
"""Bytes released by a ``keep_input=False`` call after which ``gc.collect()`` runs, as in Flower."""

CHUNK_SIZE = 960 * 1024
"""Bytes in one chunk row, the last chunk of a blob excepted.

Part of the file format: the digest of a blob depends on it. It stays under the 1 MB that distributed SQL
engines advise for a value and is a multiple of the size of every dtype.
"""

BATCH_BYTES = 24 * 1024 * 1024
"""Bytes of chunks that one write transaction inserts or deletes at most."""

BATCH_ROWS = 5_000
"""Rows that one write transaction inserts or deletes at most."""

RING_CHUNKS = 26
"""Chunks of mutable input (ndarrays, tensors) that exist as copies at any one time during a save.

They bound its batches too. Fewer would make more commits, each of which writes some pages besides; more, together with
the pages of a batch that wait for their commit, would take more than 64 MiB.
"""

PAUSE_SECONDS = 0.002
"""Rest between two transactions of one call, in which another writer gets the lock: without it a second one starves."""

PAUSE_EVERY_SECONDS = 0.1
"""How long batches may follow each other without that rest, which so takes 2 % of the time at most."""


class SType:
    """Serialization types of an :class:`~recordstore.Array`; a namespace that cannot be instantiated."""

    NUMPY = "numpy.ndarray"
    """The bytes that ``numpy.save`` writes."""

    TORCH = "torch.Tensor"
    """Raw contiguous little-endian bytes of a tensor whose dtype NumPy lacks."""

    def __new__(cls) -> Self:
        """Refuse to make an instance."""
        raise TypeError(f"{cls.__name__} cannot be instantiated.")


def chunk_count(nbytes: int) -> int:
    """Return the number of chunks that bytes make."""
    return max(0, -(-nbytes // CHUNK_SIZE))
