"""Rows that no store would write, by name: what each does to a file that tampering.make_store has made."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hostile_json import JSONS, TAGGED
from tampering import loop_freelist, loop_overflow, loop_tree, opened, reseal, under_other_schema

Tamper = Callable[[Path], Any]


def executed(*statements: str) -> Tamper:
    """Execute statements, and leave the digests as they are."""

    def tamper(path: Path) -> None:
        with opened(path) as connection:
            for statement in statements:
                connection.execute(statement)

    return tamper


def sealed(*statements: str) -> Tamper:
    """Execute statements, and let the digests fit."""

    def tamper(path: Path) -> None:
        executed(*statements)(path)
        with opened(path) as connection:
            reseal(connection)

    return tamper


def set_to(column: str, value: object, where: str = "id = 1", *, fitting: bool = True) -> Tamper:
    """Set a column, given as ``table.column``, also to NULL where there must be none."""
    table, name = column.split(".")

    def tamper(path: Path) -> None:
        if value is None:
            statement = f'UPDATE "{table}" SET "{name}" = NULL WHERE {where}'
            under_other_schema(path, lambda _, sql: sql and sql.replace(" NOT NULL", ""), statement)
        with opened(path) as connection:
            if value is not None:
                connection.execute(f'UPDATE "{table}" SET "{name}" = ? WHERE {where}', [value])
            if fitting:
                reseal(connection)

    return tamper


def stale(*statements: str) -> Tamper:
    """Execute statements on the tables alone, and leave all indexes as they are."""

    def without_indexes(table: str, sql: str | None) -> str | None:
        if table == "recordstore_version":
            return sql
        if sql is None or " INDEX " in sql:
            return ""
        return re.sub(r",\s*CONSTRAINT uq_\w+ UNIQUE \([^)]*\)", "", sql)

    def tamper(path: Path) -> None:
        under_other_schema(path, without_indexes, *statements)

    return tamper


def blob(name: str, record_id: int = 1) -> str:
    return f"(SELECT blob_id FROM array WHERE record_id = {record_id} AND name = '{name}')"


FIRST = "record_id = 1 AND position = 1"
OF_B, OF_W = f"id = {blob('b')}", f"id = {blob('w')}"
CHUNK_OF_B, CHUNKS_OF_W = f"blob_id = {blob('b')}", f"blob_id = {blob('w')}"
THIRD = f"{CHUNKS_OF_W} AND seq = 3"
NUMBERS = [2**62, -(2**62), -1, 0, "7", "x", b"7", 1.5, None]
IDS = [2**63 - 1, -(2**63), -5]
TEXTS = [7, b"\xff", None, "a\0b", "", "'; DROP TABLE record; --"]
TIMES = [7, "now", b"", "0000-00-00 00:00:00", "9999-12-31 23:59:59.999999", None]

COLUMNS: list[tuple[str, list[Any], str]] = [
    ("record.id", IDS, "id = 3"),
    ("record.run", TEXTS, "id = 1"),
    ("record.round", NUMBERS, "id = 1"),
    ("record.state", ["READY", b"ready", "ready\0", "writing", "deleting", 7], "id = 1"),
    ("record.created_at", TIMES, "id = 1"),
    ("record.touched_at", TIMES, "id = 1"),
    ("record.nbytes", NUMBERS, "id = 1"),
    ("record.writer", [None, 7], "id = 1"),
    ("record.checkpoint", [7, b"{}", "a\0b", ""], "id = 1"),
    ("array.record_id", [-1, 2**62, "x"], FIRST),
    ("array.position", [-1, 2**62, "x", 1.5, b"7"], FIRST),
    ("array.name", TEXTS, FIRST),
    ("array.dtype", [*TEXTS, "object", "os.system"], FIRST),
    ("array.shape", [*TEXTS, "[1e9]", "[true]", "{}", "[4611686018427387904]", "[-3]", f"[{2**64}]", "[[3]]"], FIRST),
    ("array.stype", [*TEXTS, "torch.Tensor", "pickle"], FIRST),
    ("array.nbytes", NUMBERS, FIRST),
    ("array.nbytes", [2**62, 10], "record_id = 1 AND name = 'w'"),
    ("array.blob_id", [-1, 2**62, "x", 2, 3], FIRST),
    ("array.part", [*TEXTS, "state"], FIRST),
    ("blob.id", IDS, OF_B),
    ("blob.state", ["READY", b"ready", "writing", "dead", 7], OF_B),
    ("blob.nbytes", NUMBERS, OF_B),
    ("blob.nbytes", NUMBERS, OF_W),
    ("blob.head", [7, "x", b"", None], OF_W),
    ("chunk.id", [*IDS, 0], CHUNK_OF_B),
    ("chunk.blob_id", [-1, 2**62, "x"], CHUNK_OF_B),
    ("chunk.blob_id", [-1, 2], THIRD),
    ("chunk.seq", NUMBERS, CHUNK_OF_B),
    ("chunk.seq", [2**62, -1, 7, "x", b"7", None], THIRD),
    ("chunk.nbytes", NUMBERS, THIRD),
    ("chunk.data", [7, None, "text", "", b"", b"x" * 70_000], CHUNK_OF_B),
    ("chunk.data", [7, None, "text", b"", b"x" * 70_000], THIRD),
    ("metric.name", TEXTS[:2] + TEXTS[3:], "record_id = 1"),
    ("metric.value", ["x", b"7", float("inf"), 2**62, None], "record_id = 1"),
    ("tag.run", [7, b"\xff", "a\0b", ""], "record_id = 1"),
    ("tag.name", [7, b"\xff", "a\0b", "", "latest", "1"], "record_id = 1"),
    ("tag.record_id", [-1, 99, "x", 2**62], "record_id = 1"),
    ("history.round", [2**62, -1, "x", b"7", 1.5], "true"),
    ("history.source", [7, b"\xff", "a\0b", ""], "true"),
    ("history.values", TEXTS, "true"),
    ("sqlite_sequence.seq", [-1, 2**63 - 1, "x", 1.5, None], "name IN ('record', 'chunk', 'blob')"),
]
UNSEALED: list[tuple[str, list[Any], str]] = [
    ("record.digest", [*TEXTS, b"x" * 32], "id = 1"),
    ("record.array_count", NUMBERS, "id = 1"),
    ("record.checkpoint_digest", [*TEXTS, b"x" * 32], "id = 2"),
    ("blob.digest", [*TEXTS, b"x" * 32], OF_W),
    ("chunk.digest", [*TEXTS, b"x" * 32], THIRD),
]

BAD_UTF8 = "CAST(x'61ff62' AS TEXT)"

ROWS: dict[str, Tamper] = {
    **{
        f"{number}: {name} {value!r:.30}": set_to(name, value, where)
        for number, (name, values, where) in enumerate(COLUMNS)
        for value in values
    },
    **{
        f"{name} {value!r:.30}, not sealed": set_to(name, value, where, fitting=False)
        for name, values, where in UNSEALED
        for value in values
    },
    "a run that is no UTF-8": sealed(f"UPDATE record SET run = {BAD_UTF8}"),
    "metadata that are no UTF-8": sealed(f"UPDATE record SET metadata = {BAD_UTF8}"),
    "a checkpoint that is no UTF-8": sealed(f"UPDATE record SET checkpoint = {BAD_UTF8} WHERE id = 2"),
    "a name that is no UTF-8": sealed(f"UPDATE array SET name = {BAD_UTF8} WHERE {FIRST}"),
    "a shape that is no UTF-8": sealed(f"UPDATE array SET shape = {BAD_UTF8} WHERE {FIRST}"),
    "a metric that is no UTF-8": sealed(f"UPDATE metric SET name = {BAD_UTF8}"),
    "a tag that is no UTF-8": sealed(f"UPDATE tag SET name = {BAD_UTF8}, run = {BAD_UTF8} WHERE record_id = 1"),
    "a history that is no UTF-8": sealed(f'UPDATE history SET source = {BAD_UTF8}, "values" = {BAD_UTF8}'),
    "a surrogate in a name": sealed(f"UPDATE array SET name = CAST(x'eda080' AS TEXT) WHERE {FIRST}"),
    "arrays of other records": sealed(f"UPDATE array SET blob_id = {blob('0', 3)} WHERE record_id < 3"),
    "arrays that all are one": sealed(f"UPDATE array SET blob_id = {blob('b')}"),
    "chunks of other blobs": sealed(f"UPDATE chunk SET blob_id = {blob('b')}, seq = seq + 10 WHERE {CHUNKS_OF_W}"),
    "chunks that go in a circle": sealed(
        f"UPDATE chunk SET seq = seq + 1000 WHERE {CHUNKS_OF_W}",
        f"UPDATE chunk SET seq = (seq - 997) % 6 WHERE {CHUNKS_OF_W}",
    ),
    "a claim of many chunks": sealed(
        f"UPDATE blob SET nbytes = {2**50} WHERE {OF_W}",
        f"UPDATE array SET nbytes = {2**50}, shape = '[{2**50}]', dtype = 'uint8' WHERE record_id = 1 AND name = 'w'",
    ),
    "two chunks of one number": stale(
        "INSERT INTO chunk (blob_id, seq, nbytes, digest, data) SELECT blob_id, seq, nbytes, digest, data FROM chunk WHERE seq = 1"
    ),
    "two records of one round": stale("UPDATE record SET run = 'r', round = 1"),
    "indexes that tell of rows that went": stale(
        "DELETE FROM chunk WHERE seq = 2", "DELETE FROM blob WHERE id = 2", "DELETE FROM record WHERE id = 3"
    ),
    "indexes that do not tell of the states": stale(
        "UPDATE record SET state = 'deleting' WHERE id = 1", "UPDATE blob SET state = 'dead' WHERE id = 1"
    ),
    "no rows": executed(
        *(f"DELETE FROM {table}" for table in ("chunk", "blob", "array", "metric", "tag", "history", "record"))
    ),
    "an overflow chain that leads to itself": loop_overflow,
    "a tree that leads to itself": loop_tree,
    "a list of free pages that leads to itself": loop_freelist,
}


def phantom(table: str, state: str) -> Tamper:
    """Leave an entry in the index of what is to be swept, whose row is gone."""
    columns = {
        "record": (
            "id, state, created_at, writer, touched_at",
            f"99, '{state}', '2026-01-01 00:00:00', 'w', '2026-01-01 00:00:00'",
        ),
        "blob": ("id, state, nbytes, head", f"99, '{state}', 1, x''"),
    }[table]

    def tamper(path: Path) -> None:
        with opened(path) as connection:
            connection.execute(f"INSERT INTO {table} ({columns[0]}) VALUES ({columns[1]})")
        stale(f"DELETE FROM {table} WHERE id = 99")(path)

    return tamper


ROWS |= {
    "an unfinished record without a row": phantom("record", "deleting"),
    "a dead blob without a row": phantom("blob", "dead"),
}

for number, text in enumerate(JSONS):
    ROWS[f"metadata {number} {text:.20}"] = set_to("record.metadata", text)
    ROWS[f"shape {number} {text:.20}"] = set_to("array.shape", text, FIRST)
    ROWS[f"checkpoint {number} {text:.20}"] = set_to("record.checkpoint", text, "id = 2")
for number, text in enumerate(JSONS + TAGGED):
    ROWS[f"history {number} {text:.20}"] = set_to("history.values", f'{{"x":{text}}}', "true")


def claim_in_header(path: Path) -> None:
    """Let the header of an array, its shape and its length claim 1 PB; the digests of its six chunks fit."""
    with opened(path) as connection:
        ((id_, data),) = connection.execute(f"SELECT id, data FROM chunk WHERE {CHUNKS_OF_W} AND seq = 0").fetchall()
        head = data[:128].replace(b"(12000,)", f"({2**47},)".encode())
        spaces = len(head) - 128
        head = head.replace(b" " * spaces + b"\n", b"\n")
        connection.execute("UPDATE chunk SET data = ? WHERE id = ?", [head + data[128:], id_])
        connection.execute(f"UPDATE blob SET nbytes = {2**50 + 128} WHERE {OF_W}")
        where = "record_id = 1 AND name IN ('w', 'tied')"
        connection.execute(f"UPDATE array SET nbytes = {2**50 + 128}, shape = '[{2**47}]' WHERE {where}")
        reseal(connection)


ROWS["a header that claims a petabyte, with digests that fit"] = claim_in_header
