"""Crafted database files, made of a real one with sqlite3 alone, whose digests fit what was changed."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import SMALL

from recordstore import Checkpoint, HistoryEntry, RecordStore
from recordstore.digest import array_digest, blob_digest, checkpoint_digest, chunk_digest, record_digest

PAGE = 32768
LARGE = np.arange(12_000) * 0x9E3779B9
"""Six chunks of 16 KiB."""

LONG = "0123456789" * 10_000
"""Three pages of an overflow chain."""


def make_store(path: Path) -> Path:
    """Make a store of three records, one of them a checkpoint, with everything that a record can have."""
    with pytest.MonkeyPatch.context() as patch, RecordStore(path) as store:
        for name, value in SMALL.items():
            patch.setattr(f"recordstore.constants.{name}", value)
        model = {"w": LARGE, "b": np.ones(3), "tied": LARGE}
        store.save(model, run="r", round=1, metrics={"loss": 0.5}, metadata={"note": "x"}, tags=["t"])
        checkpoint = Checkpoint({"step": 1}, {"m": LARGE[1:]})
        history = [HistoryEntry(1, "train", {"loss": 0.5})]
        store.save_checkpoint({"w": LARGE + 1, "b": np.ones(3)}, checkpoint, run="r", round=2, history=history)
        store.save([np.zeros((4, 5)), LARGE + 2], tags=["alone"], metadata=LONG)
    for leftover in path.parent.glob(f"{path.name}-*"):
        leftover.unlink()
    return path


@contextmanager
def opened(path: Path) -> Iterator[sqlite3.Connection]:
    """Give a connection that checks nothing, and commit."""
    with closing(sqlite3.connect(path)) as connection:
        connection.text_factory = lambda raw: raw.decode(errors="surrogateescape")
        for pragma in ("foreign_keys=OFF", "ignore_check_constraints=ON", "writable_schema=ON", "journal_mode=MEMORY"):
            connection.execute(f"PRAGMA {pragma}").fetchall()
        with connection:
            yield connection
        connection.execute("PRAGMA journal_mode=DELETE").fetchall()


def rewrite(connection: sqlite3.Connection, name: str, old: str, new: str) -> None:
    """Change the text of a table or an index as ``sqlite_schema`` has it, and nothing else."""
    ((text,),) = connection.execute("SELECT sql FROM sqlite_schema WHERE name = ?", [name]).fetchall()
    if old not in text:
        raise AssertionError(f"{old!r} is not in {text!r}")
    connection.execute("UPDATE sqlite_schema SET sql = ? WHERE name = ?", [text.replace(old, new, 1), name])
    _forget_schema(connection)


def _forget_schema(connection: sqlite3.Connection) -> None:
    ((number,),) = connection.execute("PRAGMA schema_version").fetchall()
    connection.execute(f"PRAGMA schema_version={number + 1}")


def without_index(path: Path, name: str, *statements: str) -> None:
    """Execute statements that leave an index as it is, which then tells of other rows than there are."""
    with opened(path) as connection:
        row = connection.execute("SELECT * FROM sqlite_schema WHERE name = ?", [name]).fetchone()
        connection.execute("DELETE FROM sqlite_schema WHERE name = ?", [name])
        _forget_schema(connection)
    with opened(path) as connection:
        for statement in statements:
            connection.execute(statement)
    with opened(path) as connection:
        connection.execute("INSERT INTO sqlite_schema VALUES (?, ?, ?, ?, ?)", row)
        _forget_schema(connection)


# What is not of the type that it should be has no digest; neither have two equal blobs


def reseal(connection: sqlite3.Connection) -> None:
    """Make all digests fit what the rows say now."""
    digests: dict[int, bytes] = {}
    for blob_id, nbytes in connection.execute("SELECT id, nbytes FROM blob").fetchall():
        with suppress(TypeError, OverflowError, AttributeError, sqlite3.IntegrityError):
            digests[blob_id] = _reseal_blob(connection, blob_id, nbytes)
    records = connection.execute("SELECT id, checkpoint FROM record").fetchall()
    for record_id, checkpoint in records:
        with suppress(TypeError, OverflowError, AttributeError, UnicodeEncodeError):
            _reseal_record(connection, record_id, checkpoint)


def _reseal_blob(connection: sqlite3.Connection, blob_id: int, nbytes: int) -> bytes:
    found = connection.execute("SELECT id, data FROM chunk WHERE blob_id = ? ORDER BY seq", [blob_id]).fetchall()
    chunks = [(chunk_digest(data), id_) for id_, data in found]
    connection.executemany("UPDATE chunk SET digest = ? WHERE id = ?", chunks)
    digest = blob_digest(nbytes, [digest for digest, _ in chunks])
    connection.execute(
        "UPDATE blob SET digest = ?, head = ? WHERE id = ?", [digest, chunks[0][0] if chunks else b"", blob_id]
    )
    return digest


def _reseal_record(connection: sqlite3.Connection, record_id: int, checkpoint: Any) -> None:
    arrays, parts = (_array_digests(connection, record_id, sign) for sign in ("=", "!="))
    digest = record_digest(arrays)
    count = len(arrays) // len(digest)
    connection.execute("UPDATE record SET digest = ?, array_count = ? WHERE id = ?", [digest, count, record_id])
    if checkpoint is not None:
        sealed = checkpoint_digest(digest, checkpoint, parts)
        connection.execute("UPDATE record SET checkpoint_digest = ? WHERE id = ?", [sealed, record_id])


def _array_digests(connection: sqlite3.Connection, record_id: int, sign: str) -> bytes:
    rows = connection.execute(
        "SELECT position, name, dtype, shape, stype, digest, part FROM array JOIN blob ON blob.id = blob_id "
        f"WHERE record_id = ? AND part {sign} '' ORDER BY position",
        [record_id],
    )
    return b"".join(array_digest(position, tuple(texts), digest, part) for position, *texts, digest, part in rows)


# Pages


def pages_of(path: Path) -> bytearray:
    return bytearray(path.read_bytes())


def u32(data: bytearray, at: int) -> int:
    return int.from_bytes(data[at : at + 4], "big")


def loop_overflow(path: Path) -> None:
    """Let an overflow page be followed by itself."""
    data = pages_of(path)
    for number in range(2, len(data) // PAGE + 1):
        at = (number - 1) * PAGE
        if u32(data, at) and data[at + 4 : at + 104].decode("latin-1") in LONG:
            data[at : at + 4] = number.to_bytes(4, "big")
            path.write_bytes(data)
            return
    raise AssertionError("no page of an overflow chain found")


def loop_tree(path: Path) -> None:
    """Let the root of the chunks be its own last child."""
    with closing(sqlite3.connect(path)) as connection:
        ((root,),) = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'chunk'").fetchall()
    data = pages_of(path)
    at = (root - 1) * PAGE
    if data[at] != 5:
        raise AssertionError("the chunks lie on one page")
    data[at + 8 : at + 12] = root.to_bytes(4, "big")
    path.write_bytes(data)


def loop_freelist(path: Path) -> None:
    """Let the list of free pages have one page, many times."""
    data = pages_of(path)
    page = len(data) // PAGE + 1
    data += page.to_bytes(4, "big") + bytes(PAGE - 4)
    data[28:32] = page.to_bytes(4, "big")
    data[32:40] = page.to_bytes(4, "big") + (2**31).to_bytes(4, "big")
    path.write_bytes(data)


def with_many_arrays(path: Path, count: int) -> None:
    """Give the first record so many arrays, all of the same few bytes."""
    with opened(path) as connection:
        ((blob_id, digest),) = connection.execute(
            "SELECT blob.id, digest FROM array JOIN blob ON blob.id = blob_id WHERE record_id = 1 AND name = 'b'"
        ).fetchall()
        shape = connection.execute("SELECT dtype, shape, stype, nbytes FROM array WHERE name = 'b'").fetchone()
        connection.execute("DELETE FROM array WHERE record_id = 1")
        rows = ((1, number, f"a{number}", *shape, blob_id) for number in range(count))
        columns = "record_id, position, name, dtype, shape, stype, nbytes, blob_id"
        connection.executemany(f"INSERT INTO array ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)
        arrays = b"".join(array_digest(number, (f"a{number}", *shape[:3]), digest) for number in range(count))
        connection.execute("UPDATE record SET array_count = ?, digest = ? WHERE id = 1", [count, record_digest(arrays)])


def under_other_schema(path: Path, change: Callable[[str, str | None], str | None], *statements: str) -> None:
    """Execute statements while tables have other texts; indexes whose text is empty meanwhile are not kept up to date."""
    with opened(path) as connection:
        before = connection.execute("SELECT rowid, * FROM sqlite_schema").fetchall()
        for rowid, _, _, table, _, sql in before:
            text = change(table, sql)
            if text == "":
                connection.execute("DELETE FROM sqlite_schema WHERE rowid = ?", [rowid])
            else:
                connection.execute("UPDATE sqlite_schema SET sql = ? WHERE rowid = ?", [text, rowid])
        _forget_schema(connection)
    with opened(path) as connection:
        for statement in statements:
            connection.execute(statement)
    with opened(path) as connection:
        connection.execute("DELETE FROM sqlite_schema")
        names = "rowid, type, name, tbl_name, rootpage, sql"
        connection.executemany(f"INSERT INTO sqlite_schema ({names}) VALUES (?, ?, ?, ?, ?, ?)", before)
        _forget_schema(connection)
