"""Texts with which SQL could be meant, in every argument of every call that takes one."""

from pathlib import Path

import numpy as np
import pytest
from support import rows, sql_of

from recordstore import (
    Array,
    ArrayRecord,
    Checkpoint,
    HistoryEntry,
    InvalidValueError,
    RecordNotFoundError,
    RecordStore,
)

NASTY = [
    "'; DROP TABLE record; --",
    '"; DELETE FROM chunk; --',
    "%",
    "_",
    "a%",
    "a_",
    "\\",
    "\\'",
    "''",
    "[a]",
    "?1",
    "$run",
    "`",
]


@pytest.mark.parametrize("text", [*NASTY, "\0", "a\0'; DROP TABLE tag; --", "\ud800"], ids=ascii)
def test_a_text_that_sql_could_understand_is_kept_and_found_to_the_letter_or_refused(path: Path, text: str) -> None:
    like = text.replace("%", "xx").replace("_", "x")
    with RecordStore(path) as store:
        before = sql_of(path)
        store.save({"axx": np.ones(1)}, run="axx", round=1, metrics={"axx": 1}, tags=["axx"])
        if text.isprintable() or text == "\\":
            check_kept(store, text, like)
        else:
            check_refused(store, text)
    assert sql_of(path) == before
    assert rows(path, "PRAGMA integrity_check") == [("ok",)]


def check_kept(store: RecordStore, text: str, like: str) -> None:
    """Give a text wherever a call takes one, and look for it again."""
    entry = HistoryEntry(1, text, {text: text})
    saved = {text: Array(text, [1], text, text.encode())}
    record_id = store.save(saved, run=text, round=1, metrics={text: 2}, metadata={text: text}, tags=[text])
    second = store.save_checkpoint([], Checkpoint({text: text}, {text: np.ones(1)}), run=text, round=2, history=[entry])
    for ref in (record_id, f"{text}@1", f"{text}@{text}", text):
        assert store.load(ref, names=[text]) == ArrayRecord(saved)
    info = store.info(record_id)
    assert (info.run, info.tags, info.names, info.metrics, info.metadata) == (
        text,
        (text,),
        (text,),
        {text: 2},
        {text: text},
    )
    assert store.best(text, "min", run=text).id == record_id
    assert [found.id for found in store.records(run=text)] == [record_id, second]
    assert store.latest(text).id == second
    assert store.history(text, source=text) == [entry]
    assert store.swap_history(text, entry, {text: text})
    assert store.load_checkpoint(second).arrays[text].numpy().tolist() == [1]
    assert list(store.load_into(record_id, {}, strict=False, prefix=text)) == [[], [""]]
    if like != text:
        assert store.latest(like) is None or store.latest(like).run == like
        assert store.best(like, "min") is None or like in store.best(like, "min").metrics
    store.untag(f"{text}@{text}", text)
    store.tag(second, text)
    assert store.info(text).id == second
    store.delete(f"{text}@1")
    assert [info.run for info in store.records()] == ["axx", text]


def check_refused(store: RecordStore, text: str) -> None:
    """Give a text that no database holds wherever a call takes one."""
    entry, checkpoint = HistoryEntry(1, text, {}), Checkpoint({}, {})
    values = InvalidValueError
    for call, error in {
        (lambda: store.save({"x": Array(text, [1], "s", b"")}), values),
        (lambda: store.save({"x": Array("d", [1], text, b"")}), values),
        (lambda: store.save_async([], run=text), values),
        (lambda: store.save_checkpoint([], checkpoint, run=text, round=1), values),
        (lambda: store.save_checkpoint([], Checkpoint({}, {text: np.ones(1)}), run="r", round=1), values),
        (lambda: store.save_checkpoint([], checkpoint, run="r", round=1, history=[entry]), values),
        (lambda: store.add_history(text, []), values),
        (lambda: store.add_history("r", [entry]), values),
        (lambda: store.swap_history("r", entry, None), values),
        (lambda: store.history(text), values),
        (lambda: store.history("r", source=text), values),
        (lambda: store.load_into(1, {}, prefix=text), values),
        (lambda: store.best("m", "max", run=text), values),
        (lambda: store.load(f"{text}@1"), RecordNotFoundError),
        (lambda: store.info(f"axx@{text}"), RecordNotFoundError),
        (lambda: store.delete(text), RecordNotFoundError),
        (lambda: store.verify(text), RecordNotFoundError),
        (lambda: store.backup(f"{store._database.target}{text}"), values),
        (lambda: RecordStore(f"{store._database.target}{text}"), values),
    }:
        with pytest.raises(error):
            call()
    assert list(store) == [1]
    saved = store.save([], metadata={text: text})  # JSON escapes what a text of the database cannot hold
    assert store.info(saved).metadata == {text: text}
    store.delete(saved)
