"""Checkpoints and bit-exact resume for the strategies of Flower; needs the extra ``flower``.

One line around a strategy of any kind, of today's Message API or of the legacy one::

    from recordstore import RecordStore
    from recordstore.flower import Checkpointer

    with RecordStore("checkpoints.db") as store:
        checkpointer = Checkpointer(store, run="mnist")
        result = checkpointer.start(strategy, grid=grid, initial_arrays=arrays, num_rounds=100, evaluate_fn=evaluate)
"""

from recordstore.flower.checkpointer import Checkpointer
from recordstore.flower.convert import from_flower, to_flower

__all__ = ["Checkpointer", "from_flower", "to_flower"]
