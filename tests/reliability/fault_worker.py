"""The processes that kill themselves at a chosen point of an operation."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest import mock

from fault_hook import FAULTS, hooked, killing
from fault_operations import OPERATIONS, RECOVERY, SPILLING, TINY, Operation, patched
from support import hear, say

from recordstore import RecordStore


def fork_performers() -> None:
    """Fork a process for each order that comes: an operation, a file, a point, and whether pages spill."""
    import alembic.command  # noqa: F401 - once, for the upgrades

    with patched(TINY), hooked():
        while (order := hear()) is not None:
            performer = os.fork()
            if not performer:
                perform(*order)
                os._exit(0)
            say({"status": os.waitpid(performer, 0)[1]})


def perform(name: str, path: str, number: int | None, spilling: bool) -> None:
    """Do one thing to a file, and say so, unless this process is killed first."""
    operation = OPERATIONS.get(name, RECOVERY)
    with ExitStack() as stack:
        if spilling:
            stack.enter_context(patched(SPILLING))
        subject = stack.enter_context(opened(operation, Path(path)))
        with FAULTS.armed(number, killing, reads=False):
            operation.act(subject, dict(operation.given))
            say({"done": len(FAULTS.seen)})


@contextmanager
def opened(operation: Operation, path: Path) -> Iterator[RecordStore | Path]:
    """Open the store that an operation is done with; nothing is left to do but what it does itself."""
    if operation.opens:
        yield path
        return
    with mock.patch("recordstore.handle.SHARE_STEPS", 0):
        store = RecordStore(path)
    with store:
        yield store
