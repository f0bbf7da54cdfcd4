"""Ctrl-C in the middle of a save leaves the store usable, even for one who keeps the exception, as notebooks do."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import Engine, event
from support import flaws

from recordstore import RecordStore

STATEMENTS = ["INSERT INTO record", "INSERT INTO blob", "INSERT INTO array", "INSERT INTO chunk", "UPDATE record"]


@pytest.mark.parametrize("statement", STATEMENTS)
@pytest.mark.parametrize("moment", ["before_cursor_execute", "after_cursor_execute"])
def test_the_store_is_usable_after_an_interrupt(
    path: Path, statement: str, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    armed = True
    if statement.startswith("UPDATE"):  # which publishes a record of several batches
        monkeypatch.setattr("recordstore.constants.CHUNK_SIZE", 64)
        monkeypatch.setattr("recordstore.constants.BATCH_BYTES", 64)

    def interrupt(_connection: Any, _cursor: Any, sql: str, *_: Any) -> None:
        nonlocal armed
        if armed and sql.startswith(statement):
            armed = False
            raise KeyboardInterrupt

    with RecordStore(path, timeout=0.5) as store:
        store.save({"x": np.arange(3)}, run="a", round=0)
        record = {"x": np.arange(4)}
        event.listen(Engine, moment, interrupt)
        try:
            with pytest.raises(KeyboardInterrupt) as caught:
                store.save(record, run="a", round=1, keep_input=False)
        finally:
            event.remove(Engine, moment, interrupt)
        assert caught.tb is not None  # the traceback, with the cursor in one of its frames, is still alive
        assert record.keys() == {"x"}
        assert [info.round for info in store.records()] == [0]
        with closing(sqlite3.connect(path, timeout=0.5, isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            other.execute("ROLLBACK")
        store.save(record, run="a", round=1)
        assert [info.round for info in store.records()] == [0, 1]
    assert flaws(path) == {}
