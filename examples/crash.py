"""Die at the worst moment of a save, to show that nothing of it is seen afterwards."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Engine, event


@contextmanager
def sigkill_before_commit() -> Iterator[None]:
    """Send SIGKILL to this process between the chunk rows of a save and the COMMIT that publishes the record.

    No handler runs on SIGKILL and nothing is cleaned up: this is ``kill -9``. A record of up to 32 MiB is saved in one
    transaction, so the first COMMIT after a chunk row is the one that publishes it.
    """
    chunk_rows = 0

    def count(_connection: Connection, _cursor: Any, statement: str, *_: object) -> None:
        nonlocal chunk_rows
        chunk_rows += statement.startswith("INSERT INTO chunk")

    def kill(_connection: Connection) -> None:
        if chunk_rows:
            os.kill(os.getpid(), signal.SIGKILL)

    event.listen(Engine, "after_cursor_execute", count)
    event.listen(Engine, "commit", kill, insert=True)  # called before the COMMIT is sent
    yield
    raise SystemExit("--crash-at: the round was saved without a new chunk row, so there was nothing to interrupt")
