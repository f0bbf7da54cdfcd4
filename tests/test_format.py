"""The format: literal digests, computed here anew by the rules of docs/format.md, and a reader of three SQL statements."""

import re
import sqlite3
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from blake3 import blake3

from recordstore import CHUNK_SIZE, Array, ArrayRecord, Checkpoint, HistoryEntry, RecordStore, tagged

Query = Callable[..., list[tuple[Any, ...]]]

CHECKOUT = Path(__file__).parents[1]

TINY = ArrayRecord(
    {"w": Array("float32", [2, 1], "raw", b"12345678"), "\N{GREEK SMALL LETTER BETA}": Array("t", [], "", b"")}
)

CHUNK_DIGEST = "07d4aeb77798e9208b2131da4ef0aeac15022b421bac6af1305d311d13263ea3"
BLOB_DIGEST = "6d3d51cd89da13eee3f7247d117df53d68991805ee10ed9a05d85b0252e92c37"
RECORD_DIGEST = "b581596c81a7123bc2f427b00e280e380baa6a36587137d6de6a1e62a50e9389"
CHECKPOINT_DIGEST = "a22e5932623c99fa34ed8f9417921b8f831e8fe8c8f8dad9ded02a0aab12d96c"
EMPTY_CHECKPOINT_DIGEST = "de7d888a59b66172039bde7234e8a843aba0891409b1b29daf25a421ddedda04"
EMPTY_RECORD_DIGEST = "e54b4eaa196653973e8a322d74f4e3149c52db5a081d0efa1f8a2864f1dc2a39"


def u64(number: int) -> bytes:
    return struct.pack("<Q", number)


def text(value: str) -> bytes:
    return u64(len(value.encode("utf-8"))) + value.encode("utf-8")


def digest_of_blob(data: bytes) -> bytes:
    chunks = [data[start : start + 983_040] for start in range(0, len(data), 983_040)]
    body = u64(len(data)) + b"".join(blake3(chunk).digest() for chunk in chunks)
    return blake3(body, derive_key_context="recordstore schema 1 blob").digest()


def digest_of_record(arrays: list[tuple[str, str, str, str, bytes]]) -> bytes:
    digests = []
    for position, (name, dtype, shape, stype, data) in enumerate(arrays):
        body = u64(position) + text(name) + text(dtype) + text(shape) + text(stype) + digest_of_blob(data)
        digests.append(blake3(body, derive_key_context="recordstore schema 1 array").digest())
    body = u64(len(arrays)) + b"".join(digests)
    return blake3(body, derive_key_context="recordstore schema 1 record").digest()


def digest_of_checkpoint(
    record: str, state: str, first: int, arrays: list[tuple[str, str, str, str, str, bytes]]
) -> bytes:
    """``record`` is the digest of the record, ``first`` the number of its arrays: those of the checkpoint come behind."""
    digests = []
    for position, (part, name, dtype, shape, stype, data) in enumerate(arrays, first):
        body = u64(position) + text(part) + text(name) + text(dtype) + text(shape) + text(stype) + digest_of_blob(data)
        digests.append(blake3(body, derive_key_context="recordstore schema 2 array").digest())
    body = bytes.fromhex(record) + text(state) + u64(len(arrays)) + b"".join(digests)
    return blake3(body, derive_key_context="recordstore schema 2 checkpoint").digest()


def test_blake3_is_that_of_its_specification() -> None:
    """From https://github.com/BLAKE3-team/BLAKE3/blob/master/test_vectors/test_vectors.json, for inputs of 0 and 1 byte."""
    assert blake3(b"").hexdigest() == "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
    assert blake3(b"\0").hexdigest() == "2d3adedff11b61f14c886e35afa036736dcd87a74d27b5c1510225d0f592e213"


def test_a_tiny_record_has_the_digests_that_it_always_had(file_store: RecordStore, query: Query) -> None:
    info = file_store.info(file_store.save(TINY))
    arrays = [("w", "float32", "[2,1]", "raw", b"12345678"), ("\u03b2", "t", "[]", "", b"")]
    assert digest_of_record(arrays).hex() == RECORD_DIGEST == info.digest
    assert digest_of_blob(b"12345678").hex() == BLOB_DIGEST
    assert blake3(b"12345678").hexdigest() == CHUNK_DIGEST
    assert query("SELECT hex(digest), hex(head), nbytes FROM blob ORDER BY nbytes DESC") == [
        (BLOB_DIGEST.upper(), CHUNK_DIGEST.upper(), 8),
        (digest_of_blob(b"").hex().upper(), blake3(b"").hexdigest().upper(), 0),
    ]
    assert query("SELECT hex(digest), nbytes, seq, data FROM chunk") == [(CHUNK_DIGEST.upper(), 8, 0, b"12345678")]
    assert query("SELECT hex(digest), nbytes, array_count FROM record") == [(RECORD_DIGEST.upper(), 8, 2)]
    assert file_store.info(file_store.save([])).digest == EMPTY_RECORD_DIGEST == digest_of_record([]).hex()


PARTS = {"w": Array("float32", [2, 1], "raw", b"87654321"), "": Array("\N{GREEK SMALL LETTER BETA}", [0], "", b"")}


def test_a_tiny_checkpoint_has_the_digest_that_it_always_had(file_store: RecordStore, query: Query) -> None:
    state = {"a": [1, 0.5, "\N{GREEK SMALL LETTER BETA}"]}
    file_store.save_checkpoint(TINY, Checkpoint(state, PARTS), run="r", round=1)
    file_store.save_checkpoint([], Checkpoint(None, {}), run="r", round=2)
    arrays = [("state", "w", "float32", "[2,1]", "raw", b"87654321"), ("state", "", "\u03b2", "[0]", "", b"")]
    digest = digest_of_checkpoint(RECORD_DIGEST, '{"a":[1,0.5,"\\u03b2"]}', 2, arrays).hex()
    empty = digest_of_checkpoint(EMPTY_RECORD_DIGEST, "null", 0, []).hex()
    assert (digest, empty) == (CHECKPOINT_DIGEST, EMPTY_CHECKPOINT_DIGEST)
    assert query("SELECT checkpoint, hex(checkpoint_digest), hex(digest), array_count, nbytes FROM record") == [
        ('{"a":[1,0.5,"\\u03b2"]}', CHECKPOINT_DIGEST.upper(), RECORD_DIGEST.upper(), 2, 8),
        ("null", EMPTY_CHECKPOINT_DIGEST.upper(), EMPTY_RECORD_DIGEST.upper(), 0, 0),
    ]
    assert query("SELECT position, part, name FROM array WHERE record_id = 1 ORDER BY position") == [
        (0, "", "w"),
        (1, "", "\u03b2"),
        (2, "state", "w"),
        (3, "state", ""),
    ]


def test_a_record_of_several_chunks_has_the_digest_of_the_specification(file_store: RecordStore, query: Query) -> None:
    assert CHUNK_SIZE == 983_040, "part of the format, for ever"
    data = np.random.default_rng(1).bytes(2 * CHUNK_SIZE + 5)
    info = file_store.info(file_store.save({"large": Array("t", [3], "raw", data)}))
    assert info.digest == digest_of_record([("large", "t", "[3]", "raw", data)]).hex()
    assert query("SELECT seq, nbytes, length(data) FROM chunk ORDER BY seq") == [
        (0, CHUNK_SIZE, CHUNK_SIZE),
        (1, CHUNK_SIZE, CHUNK_SIZE),
        (2, 5, 5),
    ]
    assert query("SELECT data FROM chunk ORDER BY seq")[1] == (data[CHUNK_SIZE : 2 * CHUNK_SIZE],)


CHANGES: dict[str, ArrayRecord] = {
    "name": ArrayRecord({"v": Array("f", [2], "raw", b"ab")}),
    "dtype": ArrayRecord({"w": Array("g", [2], "raw", b"ab")}),
    "shape": ArrayRecord({"w": Array("f", [1, 2], "raw", b"ab")}),
    "stype": ArrayRecord({"w": Array("f", [2], "row", b"ab")}),
    "bytes": ArrayRecord({"w": Array("f", [2], "raw", b"ac")}),
    "text moved to the next field": ArrayRecord({"wf": Array("", [2], "raw", b"ab")}),
    "one array more": ArrayRecord({"w": Array("f", [2], "raw", b"ab"), "": Array("", [], "", b"")}),
}


@pytest.mark.parametrize("what", CHANGES)
def test_the_digest_of_a_record_depends_on_all_that_it_covers(memory: RecordStore, what: str) -> None:
    plain = memory.save(ArrayRecord({"w": Array("f", [2], "raw", b"ab")}))
    assert memory.info(memory.save(CHANGES[what])).digest != memory.info(plain).digest


def test_the_rows_of_a_record_are_those_of_the_specification(file_store: RecordStore, query: Query) -> None:
    file_store.save(TINY, run="r", round=2, metrics={"m": 1}, metadata={"a": [1, "\u03b2"]}, tags=["t"])
    ((*columns, created, touched),) = query(
        "SELECT id, run, round, state, metadata, array_count, nbytes, length(writer), created_at, touched_at FROM record"
    )
    assert columns == [1, "r", 2, "ready", '{"a":[1,"\\u03b2"]}', 2, 8, 32]
    for time in (created, touched):
        assert query(
            "SELECT ? GLOB '[12][0-9][0-9][0-9]-[01][0-9]-[0-3][0-9] [0-2][0-9]:[0-5][0-9]:[0-5][0-9].*'", time
        ) == [(1,)]
        assert abs(query("SELECT unixepoch('now') - unixepoch(?)", time)[0][0]) < 3600, "in UTC"
    assert query("SELECT * FROM metric") == [(1, "m", 1.0)]
    assert query("SELECT * FROM tag") == [("r", "t", 1)]
    assert query("SELECT position, name, dtype, shape, stype, nbytes FROM array ORDER BY position") == [
        (0, "w", "float32", "[2,1]", "raw", 8),
        (1, "\u03b2", "t", "[]", "", 0),
    ]
    assert query("SELECT DISTINCT state FROM blob") == [("ready",)]
    file_store.save([], tags=["t"])
    assert query("SELECT run, name FROM tag ORDER BY run") == [("", "t"), ("r", "t")]


READER = """
import io, sqlite3, sys
import numpy as np

file = sqlite3.connect(sys.argv[1])
record, count = file.execute(
    "SELECT id, array_count FROM record WHERE state = 'ready' AND run = ? AND round = ?", ("mnist", 3)).fetchone()
arrays = file.execute("SELECT name, blob_id FROM array WHERE record_id = ? ORDER BY position", (record,)).fetchall()
for name, blob in arrays:
    chunks = file.execute("SELECT data FROM chunk WHERE blob_id = ? ORDER BY seq", (blob,))
    array = np.load(io.BytesIO(b"".join(data for data, in chunks)))
    print(name, array.dtype.str, array.shape, array.sum(), array.flags.f_contiguous)
file.close()
if len(arrays) != count or "recordstore" in sys.modules:
    sys.exit("not so")
"""


def test_three_sql_statements_read_a_record_back_without_this_package(path: Path) -> None:
    record = {
        "b": np.arange(400_000.0).reshape(-1, 2),
        "a": np.asfortranarray(np.ones((2, 3), ">f4")),
        "0d": np.array(7),
    }
    with RecordStore(path) as store:
        store.save([np.zeros(3)], run="mnist", round=2)
        store.save(record, run="mnist", round=3)
    done = subprocess.run(
        [sys.executable, "-c", READER, path], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "b <f8 (200000, 2) 79999800000.0 False",
        "a >f4 (2, 3) 6.0 True",
        "0d <i8 () 7 True",
    ]


def test_a_store_is_one_plain_sqlite_file(path: Path) -> None:
    with RecordStore(path) as store:
        store.save(TINY)
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
    connection.close()
    assert {entry.name for entry in path.parent.iterdir() if entry.stat().st_size} == {"store.db"}


CHECKER = """
import json, sqlite3, struct, sys
from blake3 import blake3

file = sqlite3.connect(sys.argv[1])
u64 = lambda number: struct.pack("<Q", number)
text = lambda value: u64(len(value.encode())) + value.encode()
keyed = lambda kind, body: blake3(body, derive_key_context="recordstore schema " + kind).digest()

def require(fact):
    if not fact:
        sys.exit("not so")

def blob(number, nbytes):
    chunks = [data for data, in file.execute("SELECT data FROM chunk WHERE blob_id = ? ORDER BY seq", (number,))]
    require(sum(map(len, chunks)) == nbytes)
    return keyed("1 blob", u64(nbytes) + b"".join(blake3(chunk).digest() for chunk in chunks))

def digests(record, condition):
    rows = file.execute("SELECT position, part, name, dtype, shape, stype, blob_id, blob.nbytes FROM array "
        "JOIN blob ON blob.id = blob_id WHERE record_id = ? AND " + condition + " ORDER BY position", (record,))
    found = []
    for position, part, *texts, number, nbytes in rows.fetchall():
        texts = [part, *texts] if part else texts
        kind = "2 array" if part else "1 array"
        found.append(keyed(kind, u64(position) + b"".join(map(text, texts)) + blob(number, nbytes)))
    return u64(len(found)) + b"".join(found)

def value(data):
    if isinstance(data, list):
        return [value(item) for item in data]
    if not isinstance(data, dict):
        return data
    tag = next(iter(data), "")
    if len(data) != 1 or not tag.startswith("$"):
        return {key: value(item) for key, item in data.items()}
    return {"$int": lambda digits: int(digits, 16), "$float": float}[tag](data[tag])

records = file.execute("SELECT id, round, digest, checkpoint, checkpoint_digest FROM record WHERE state = 'ready'")
for record, round_, digest, checkpoint, of_checkpoint in records.fetchall():
    require(keyed("1 record", digests(record, "part = ''")) == digest)
    if checkpoint is not None:
        require(keyed("2 checkpoint", digest + text(checkpoint) + digests(record, "part != ''")) == of_checkpoint)
    print(round_, checkpoint and json.loads(checkpoint))
for run, round_, source, values in file.execute('SELECT run, round, source, "values" FROM history'):
    print(run, round_, source, value(json.loads(values)))
file.close()
require("recordstore" not in sys.modules)
"""


def check(path: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", CHECKER, path], capture_output=True, text=True, timeout=120, check=False
    )


def test_checkpoints_and_history_are_verified_and_read_without_this_package(path: Path, query: Query) -> None:
    large = {"m": np.arange(400_000.0), "v": np.ones(3)}
    history = [HistoryEntry(1, "train", {"loss": float("nan"), "counts": [3, 2**70, []], "inf": float("-inf")})]
    with RecordStore(path) as store:
        store.save(large, run="r", round=0)
        store.save_checkpoint(
            [np.ones(3)], Checkpoint({"step": [7, "\u03b2"]}, large), run="r", round=1, history=history
        )
        store.save_checkpoint(large, Checkpoint([], {}), run="r", round=2)
    done = check(path)
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "0 None",
        "1 {'step': [7, '\u03b2']}",
        "2 []",
        "r 1 train {'loss': nan, 'counts': [3, 1180591620717411303424, []], 'inf': -inf}",
    ]
    query("UPDATE array SET part = 'other' WHERE part = 'state' AND name = 'v'")
    assert "not so" in check(path).stderr


def test_each_tag_that_is_written_is_in_the_specification() -> None:
    specified = set(re.findall(r"`(\$\w+)`", (CHECKOUT / "docs/format.md").read_text(encoding="utf-8")))
    assert {*tagged._LEAVES, *tagged._MAKERS} <= specified
    sources = [path.read_text(encoding="utf-8") for path in (CHECKOUT / "recordstore").rglob("*.py")]
    written = {tag for source in sources for tag in re.findall(r'"(\$\w+)"', source)}
    assert written - specified == {"$missing"}, "which only a comparison knows"
    assert len(specified) > 15
