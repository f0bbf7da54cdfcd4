"""No byte of an array shows in a log, at whatever level, or in an error, wherever a call fails.

Of a traceback that shows local variables it may: some of them are the bytes.
"""

import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from canaries import CANARY, all_logs, forms, shown
from conftest import SMALL
from sqlalchemy import Engine, event
from support import rows

from recordstore import Checkpoint, RecordStore, RecordStoreError
from recordstore.forks import ForkSafeConnection

SECRET = CANARY.encode()
SMALL_ARRAY = np.frombuffer(SECRET, np.uint8)
LARGE_ARRAY = np.frombuffer(SECRET * 9_000, np.uint8)
OTHERS = {"l": LARGE_ARRAY[::-1].copy(), "s": np.frombuffer(SECRET * 2, np.uint8)}

OPERATIONS: dict[str, Callable[[RecordStore], Any]] = {
    "save": lambda store: store.save({"x": SMALL_ARRAY[:-1], "s": SMALL_ARRAY}, run="r", round=5),
    "large save": lambda store: store.save(
        {"x": LARGE_ARRAY[5:], "s": SMALL_ARRAY, "l": LARGE_ARRAY}, metrics={"m": 1}
    ),
    "overwrite": lambda store: store.save({"x": LARGE_ARRAY[7:]}, run="r", round=1, overwrite=True),
    "save in the background": lambda store: store.save_async({"x": LARGE_ARRAY[9:]}).result(),
    "checkpoint": lambda store: store.save_checkpoint(
        [SMALL_ARRAY], Checkpoint(1, {"m": LARGE_ARRAY[3:]}), run="r", round=6
    ),
    "load": lambda store: store.load(1),
    "stream": lambda store: list(store.stream(1)),
    "open": lambda store: [(array[2:5], array.data) for array in store.open(1).values()],
    "load_into": lambda store: store.load_into(1, {name: np.zeros_like(array) for name, array in OTHERS.items()}),
    "verify": lambda store: store.verify(),
    "delete": lambda store: store.delete(1),
    "gc": lambda store: store.gc(grace=0),
    "compact": lambda store: store.compact(),
}


@contextmanager
def failing_at(number: int) -> Iterator[None]:
    """Let the statement of this number, or the opening of a chunk, fail as a broken device does."""
    steps = count()
    open_blob = ForkSafeConnection.blobopen

    def step(*_: object) -> None:
        if next(steps) == number:
            error = sqlite3.OperationalError("simulated")
            error.sqlite_errorcode = sqlite3.SQLITE_FULL
            raise error

    def blobopen(self: ForkSafeConnection, *arguments: Any, **options: Any) -> sqlite3.Blob:
        step()
        return open_blob(self, *arguments, **options)

    event.listen(Engine, "before_cursor_execute", step)
    ForkSafeConnection.blobopen = blobopen
    try:
        yield
    finally:
        ForkSafeConnection.blobopen = open_blob
        event.remove(Engine, "before_cursor_execute", step)


@pytest.fixture
def logged() -> Iterator[list[str]]:
    with all_logs() as messages:
        yield messages


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("template") / "store.db"
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SMALL.items():
            patch.setattr(f"recordstore.constants.{name}", value)
        with RecordStore(path) as store:
            store.save(OTHERS, run="r", round=1)
            store.save([SMALL_ARRAY[::-1]])
    return path


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("what", OPERATIONS)
def test_a_call_that_fails_at_any_statement_tells_no_byte_of_an_array(
    template: Path, memory_folder: Path, logged: list[str], what: str
) -> None:
    texts = [form for part in (SECRET, SECRET[::-1]) for form in forms(part)]
    failed = 0
    for number in count():
        path = shutil.copy(template, memory_folder / "store.db")
        error = None
        with RecordStore(path) as store, failing_at(number):
            try:
                OPERATIONS[what](store)
            except RecordStoreError as caught:
                error = caught
        told = "\n".join(logged) + (shown(error) if error else "")
        assert "FROM" in told or "INSERT" in told, "the statements are logged"
        assert [text for text in texts if text in told] == [], (what, number)
        logged.clear()
        if error is None:
            break
        failed += 1
    print(f"\n{what}: failed {failed} times")
    assert failed > 1


def test_a_text_in_place_of_bytes_does_not_show_what_it_holds(template: Path, memory_folder: Path) -> None:
    path = shutil.copy(template, memory_folder / "store.db")
    rows(path, "UPDATE chunk SET data = CAST(CAST(? AS BLOB) || x'ff' AS TEXT)", SECRET)
    with RecordStore(path) as store:
        for call in (store.load, store.verify, lambda ref: list(store.stream(ref))):
            with suppress(RecordStoreError):
                told = repr(call(1))
                assert CANARY not in told
            with pytest.raises(RecordStoreError) as caught:
                store.load(1)
            assert CANARY not in shown(caught.value)
