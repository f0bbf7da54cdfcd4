"""Every public call on a crafted file, in a process that may not take more memory than it is given."""

import resource
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np
from support import make_small, memory_used, say

from recordstore import Checkpoint, HistoryEntry, RecordStore, RecordStoreError

REFS: list[Any] = [1, 2, 3, -1, "r@latest", "r@t"]
SECONDS = 300
"""After which a call is taken for one that never ends."""

FORBIDDEN = ("exec", "import", "os.", "subprocess.", "pickle.", "ctypes.", "socket.", "sqlite3.enable_load_extension")
ALLOWED = ("os.listdir", "os.scandir", "os.link", "os.remove", "os.chmod", "os.rename", "os.truncate")
"""Events of the interpreter (https://docs.python.org/3/library/audit_events.html) that no file may cause."""

KEYS = [slice(0, 1), -1, slice(None), (slice(None, None, 7), 0)]


def read_arrays(store: RecordStore, ref: Any) -> None:
    for array in store.open(ref).values():
        repr(array)
        for read in (lambda: array.data, array.numpy, *(partial(array.__getitem__, key) for key in KEYS)):  # noqa: B023
            with suppress(RecordStoreError, ValueError, TypeError, IndexError, RuntimeError):  # as an Array in memory
                read()


def fill(store: RecordStore, ref: Any) -> None:
    shapes = {"w": (12_000,), "b": (3,), "tied": (12_000,), "0": (4, 5), "1": (12_000,)}
    store.load_into(
        ref, {name: np.zeros(shape, int if len(name) < 3 else float) for name, shape in shapes.items()}, strict=False
    )


READS: dict[str, Callable[[RecordStore, Any], Any]] = {
    "info": lambda store, ref: repr(store.info(ref)),
    "load": lambda store, ref: store.load(ref),
    "load some": lambda store, ref: store.load(ref, names=["b"]),
    "stream": lambda store, ref: [None for _ in store.stream(ref)],
    "open": read_arrays,
    "load_into": fill,
    "load_checkpoint": lambda store, ref: store.load_checkpoint(ref),
    "in": lambda store, ref: ref in store,
    "verify one": lambda store, ref: store.verify(ref),
}
OVERVIEWS: dict[str, Callable[[RecordStore], Any]] = {
    "records": lambda store: [repr(info) for info in store.records()],
    "newest first": lambda store: [repr(info) for info in store.records(run="r", newest_first=True)],
    "latest": lambda store: (store.latest(), store.latest("r")),
    "best": lambda store: (store.best("loss", "min"), store.best("loss", "max", run="r")),
    "runs": lambda store: store.runs(),
    "len and ids": lambda store: (len(store), list(store)),
    "history": lambda store: store.history("r"),
    "verify": lambda store: store.verify(),
}
WRITES: dict[str, Callable[[RecordStore], Any]] = {
    "save": lambda store: store.save(
        {"w": np.arange(12_000) * 0x9E3779B9, "b": np.ones(3)}, run="r", round=7, tags=["t"]
    ),
    "overwrite": lambda store: store.save({"b": np.ones(3)}, run="r", round=1, overwrite=True),
    "copy": lambda store: store.save(store.stream(2)),
    "save_async": lambda store: store.save_async([np.ones(5)], metrics={"loss": 1}).result(),
    "save_checkpoint": lambda store: store.save_checkpoint([np.ones(2)], Checkpoint([1], {}), run="r", round=8),
    "add_history": lambda store: store.add_history("r", [HistoryEntry(1, "train", {"x": 1})]),
    "swap_history": lambda store: store.swap_history("r", HistoryEntry(1, "train", {"x": 1}), {"x": 1}),
    "tag": lambda store: store.tag(2, "s"),
    "untag": lambda store: store.untag(3, "alone"),
    "delete": lambda store: store.delete(3),
    "delete another": lambda store: store.delete(1),
    "gc": lambda store: store.gc(grace=0),
    "backup": lambda store: store.backup(f"{store._database.target}.backup"),
    "compact": lambda store: store.compact(),
    "read the rest": lambda store: [store.load(ref) for ref in store],
}


class Watch:
    """What calls have come to, and what they must not come to."""

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()
        self.wrong: list[str] = []
        self._events: set[str] = set()
        self._on = False
        sys.addaudithook(self._hear)

    def _hear(self, event: str, _: Any) -> None:
        if not self._on or not event.startswith(FORBIDDEN) or event in ALLOWED:
            return
        if sys._getframe(1).f_globals["__name__"] != "sqlalchemy.util.langhelpers":  # which makes code of its own
            self._events.add(event)

    def attempt(self, what: str, call: Callable[[], Any]) -> None:
        """Make a call, which may raise an error of the package."""
        self._on = True
        try:
            call()
            self.outcomes["fine"] += 1
        except RecordStoreError as error:
            self.outcomes[type(error).__name__] += 1
        except BaseException as error:
            self.wrong.append(f"{what}: {type(error).__name__}: {error!s:.300}")
        finally:
            self._on = False
        if self._events:
            self.wrong.append(f"{what} did {sorted(self._events)}")
            self._events.clear()


def call_everything(path: str, watch: Watch) -> bool:
    """Make every call, and return whether the file could be opened."""
    try:
        store = RecordStore(path, timeout=1)
    except RecordStoreError as error:
        watch.outcomes[f"{type(error).__name__} at opening"] += 1
        return False
    with suppress(RecordStoreError), store:
        for ref in REFS:
            for what, read in READS.items():
                watch.attempt(f"{what} {ref}", lambda: read(store, ref))  # noqa: B023 - called at once
        for what, call in (OVERVIEWS | WRITES | OVERVIEWS).items():
            watch.attempt(what, lambda: call(store))  # noqa: B023
    return True


def use(paths: list[str], sizes: dict[str, float], room: int) -> None:
    """Make every call on each file, and tell what came of it; ``room`` is what this process may take, in bytes."""
    make_small(**sizes)
    watch = Watch()
    call_everything(paths[0], watch)  # imports what is imported late
    resource.setrlimit(resource.RLIMIT_AS, (room, room))
    for path in paths[1:]:
        watch.outcomes.clear()
        watch.wrong.clear()
        say(path)
        signal.alarm(SECONDS)
        used: list[int] = []
        with memory_used(used):
            is_open = call_everything(path, watch)
        signal.alarm(0)
        say({"opened": is_open, "used": used[0], "outcomes": watch.outcomes, "wrong": watch.wrong})


def use_many_arrays(path: str) -> None:
    with RecordStore(path) as store:
        calls: dict[str, Callable[[], Any]] = {
            "info": lambda: store.info(1).names[-1],
            "load": lambda: len(store.load(1)),
            "load one": lambda: len(store.load(1, names=["a7"])),
            "open": lambda: store.open(1)["a7"].numpy().tolist(),
            "stream": lambda: sum(1 for _ in store.stream(1)),
            "verify": lambda: bool(store.verify(1)),
            "delete": lambda: store.delete(1),
            "gc": lambda: store.gc(grace=0),
        }
        for what, call in calls.items():
            used: list[int] = []
            begin = time.perf_counter()
            with memory_used(used):
                call()
            say([what, used[0], time.perf_counter() - begin])
