"""Each public call of a store that has a record 1."""

from collections.abc import Callable

import numpy as np

from recordstore import Checkpoint, HistoryEntry, RecordStore

ONE = {"x": np.ones(3)}

CALLS: dict[str, Callable[[RecordStore], object]] = {
    "save": lambda store: store.save(ONE),
    "save_async": lambda store: store.save_async(ONE),
    "save_checkpoint": lambda store: store.save_checkpoint(ONE, Checkpoint(1, ONE), run="c", round=1),
    "load": lambda store: store.load(1),
    "load_into": lambda store: store.load_into(1, ONE),
    "load_checkpoint": lambda store: store.load_checkpoint(1),
    "stream": lambda store: store.stream(1),
    "open": lambda store: store.open(1),
    "info": lambda store: store.info(1),
    "records": lambda store: store.records(),
    "latest": lambda store: store.latest(),
    "best": lambda store: store.best("m", "max"),
    "runs": lambda store: store.runs(),
    "tag": lambda store: store.tag(1, "t"),
    "untag": lambda store: store.untag(1, "t"),
    "delete": lambda store: store.delete(1),
    "gc": lambda store: store.gc(grace=0),
    "compact": lambda store: store.compact(),
    "verify": lambda store: store.verify(),
    "backup": lambda store: store.backup("copy.db"),
    "history": lambda store: store.history("r"),
    "add_history": lambda store: store.add_history("r", [HistoryEntry(1, "s", {})]),
    "swap_history": lambda store: store.swap_history("r", HistoryEntry(1, "s", {}), None),
    "wait": lambda store: store.wait(),
    "close": lambda store: store.close(),
    "__enter__": lambda store: store.__enter__(),
    "__getitem__": lambda store: store[1],
    "__contains__": lambda store: 1 in store,
    "__iter__": iter,
    "__len__": len,
}
