"""From schema 0001 to 0002 and back: no row is lost, whenever it is killed and however many rows there are.

The older files are the kept one of that release, and larger ones that plain sqlite3 makes of its schema.
"""

import hashlib
import json
import os
import random
import resource
import shutil
import signal
import sqlite3
import statistics
import sys
import time
from collections import Counter
from contextlib import closing
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import ASSETS, Child, flaws, hear, kill_before_statement, memory_used, migrate, npy, rows, say, sql_of

from recordstore import Checkpoint, HistoryEntry, RecordStore, StorageFullError, StoreAccessError
from recordstore.digest import array_digest, blob_digest, chunk_digest, record_digest

OLD, NEW = ASSETS / "schema-0001.db", ASSETS / "schema-0002.db"
KEPT = json.loads(OLD.with_suffix(".json").read_text())
MIB = 1024 * 1024

Rows = dict[str, list[str]]


def columns_of(path: Path) -> dict[str, list[str]]:
    """Return the names of the columns of each table, those of SQLite and Alembic included."""
    found: dict[str, list[str]] = {}
    for table, column in rows(
        path,
        "SELECT t.name, c.name FROM sqlite_schema t, pragma_table_info(t.name) c WHERE t.type = 'table' "
        "ORDER BY t.name, c.cid",
    ):
        found.setdefault(table, []).append(column)
    return found


COLUMNS = columns_of(OLD)


def content(path: Path, where: str = "true") -> Rows:
    """Return all rows of the columns that schema 0001 has; ``where`` selects those of arrays."""
    found = {}
    for table in COLUMNS.keys() - {"recordstore_version"}:
        listed = ", ".join(COLUMNS[table])
        condition = where if table == "array" else "true"
        order = ", ".join(str(number + 1) for number in range(len(COLUMNS[table])))
        found[table] = [
            repr(row) for row in rows(path, f"SELECT {listed} FROM {table} WHERE {condition} ORDER BY {order}")
        ]
    return found


def version(path: Path) -> str:
    ((number,), (text,)) = rows(path, "PRAGMA user_version") + rows(path, "SELECT version_num FROM recordstore_version")
    assert f"{number:04}" == text
    return str(text)


TIME = "'2026-01-01 00:00:00.000000'"
DRAFT = "INSERT INTO record (id, state, created_at, writer, touched_at"
BLOB = "INSERT INTO blob (id, state, nbytes, head) VALUES"
CHUNK = "INSERT INTO chunk (id, blob_id, seq, nbytes, digest, data) VALUES"
LEFTOVERS = (
    # what others leave behind that are killed at work, or are at it right now
    f"{DRAFT}) VALUES (20, 'writing', {TIME}, 'w', {TIME})",
    f"{DRAFT}, array_count, nbytes, digest) VALUES (21, 'deleting', {TIME}, 'w', {TIME}, 1, 2, zeroblob(32))",
    f"{BLOB} (50, 'writing', 2000000, zeroblob(32)), (51, 'dead', 3, zeroblob(32))",
    f"{CHUNK} (60, 50, 0, 2, zeroblob(32), 'ab'), (61, 51, 0, 3, zeroblob(32), 'abc')",
    "INSERT INTO array SELECT 20, 0, 'half', 'int8', '[2000000]', 'raw', 2000000, 50",
    "INSERT INTO array SELECT 20, 1, '', 'int8', '[2]', 'raw', nbytes, id FROM blob WHERE state = 'ready' LIMIT 1",
    "INSERT INTO array SELECT 21, 0, 'w', 'int8', '[2]', 'raw', nbytes, id FROM blob WHERE state = 'ready' LIMIT 1",
    "INSERT INTO metric VALUES (21, 'loss', NULL)",
    "UPDATE blob SET state = 'damaged' WHERE id = (SELECT max(blob_id) FROM array WHERE record_id = 2)",
    # the newest of all were removed: their ids are used up
    f"{DRAFT}) VALUES (1000, 'writing', '', 'w', '')",
    "DELETE FROM record WHERE id = 1000",
    f"{BLOB} (2000, 'dead', 0, zeroblob(32))",
    "DELETE FROM blob WHERE id = 2000",
    f"{CHUNK} (3000, 51, 9, 0, zeroblob(32), x'')",
    "DELETE FROM chunk WHERE id = 3000",
)
USED_UP = [("blob", 2000), ("chunk", 3000), ("record", 1000)]


@pytest.fixture
def old(path: Path) -> Path:
    """The kept file of schema 0001, with what is left over when writers die."""
    shutil.copy(OLD, path)
    with closing(sqlite3.connect(path)) as connection, connection:
        for statement in LEFTOVERS:
            connection.execute(statement)
    return path


def loaded(store: RecordStore, record_id: int) -> list[list[Any]]:
    return [
        [name, array.dtype, array.shape, array.stype, hashlib.sha256(array.data).hexdigest()]
        for name, array in store.stream(record_id)
    ]


def load_all(path: Path) -> list[list[list[Any]]]:
    """Upgrade a file as users do, and return the records it holds."""
    with RecordStore(path, upgrade=True) as store:
        return [loaded(store, record_id) for record_id in store]


@pytest.mark.parametrize("journal", ["delete", "wal"])
def test_an_upgrade_keeps_every_row_of_every_table(old: Path, journal: str) -> None:
    rows(old, f"PRAGMA journal_mode={journal}")
    before = content(old)
    assert len(before["array"]) == 26
    migrate(old, "0002")
    assert content(old) == before
    assert version(old) == "0002"
    assert rows(old, "PRAGMA journal_mode") == [(journal,)]
    assert rows(old, "SELECT DISTINCT part FROM array") == [("",)]
    assert rows(old, "SELECT DISTINCT checkpoint, checkpoint_digest FROM record") == [(None, None)]
    assert rows(old, "SELECT * FROM history") == []
    assert not {"damaged pages", "dangling references"} & flaws(old).keys()


def test_an_upgraded_file_has_the_schema_of_a_new_one_to_the_letter(old: Path) -> None:
    migrate(old, "0002")
    upgraded = sql_of(old)
    assert upgraded == sql_of(NEW)
    for table in ("array", "metric", "tag", "history"):
        assert upgraded["table", table].endswith("WITHOUT ROWID")
    for table in ("record", "blob", "chunk"):
        assert "AUTOINCREMENT" in upgraded["table", table]
    assert {name for kind, name in upgraded if kind == "index"} == {
        "ix_array_blob_id",
        "ix_blob_dead",
        "ix_blob_nbytes_head",
        "ix_metric_name_value",
        "ix_record_run_id",
        "ix_record_unfinished",
        "ix_tag_record_id",
        "uq_blob_ready_digest",
    }
    assert columns_of(old) == columns_of(NEW)


def test_an_upgraded_store_loads_and_sweeps_what_was_left_over(old: Path) -> None:
    assert load_all(old) == [expected["arrays"] for expected in KEPT]
    with RecordStore(old) as store:
        store.gc(grace=0)
        assert [loaded(store, record_id) for record_id in store] == [expected["arrays"] for expected in KEPT]
    assert flaws(old) == {}


def test_no_id_is_used_again_after_an_upgrade(old: Path) -> None:
    assert rows(old, "SELECT name, seq FROM sqlite_sequence ORDER BY name") == USED_UP
    migrate(old, "0002")
    assert rows(old, "SELECT name, seq FROM sqlite_sequence ORDER BY name") == USED_UP
    with RecordStore(old, upgrade=True) as store:
        assert store.save([np.arange(5000)]) == 1001
    assert rows(old, "SELECT max(id) FROM blob") == [(2001,)]
    assert rows(old, "SELECT max(id) FROM chunk") == [(3001,)]


def test_ids_are_not_used_again_if_the_newest_record_was_deleted_before_the_upgrade(path: Path) -> None:
    shutil.copy(OLD, path)
    (newest,) = rows(path, "SELECT seq FROM sqlite_sequence WHERE name = 'record'")
    for statement in ("DELETE FROM tag WHERE record_id = ?", "DELETE FROM record WHERE id = ?"):
        rows(path, statement, *newest)
    with RecordStore(path, upgrade=True) as store:
        assert store.save([]) == newest[0] + 1


# Kills


def make_old(path: Path, records: int, names: list[str]) -> None:
    """Make a file of schema 0001 with nothing but sqlite3: so many records of arrays that share one blob."""
    data = npy(np.arange(10))
    blob = blob_digest(len(data), [chunk_digest(data)])
    arrays = [(position, name, "int64", "[10]", "numpy.ndarray", len(data)) for position, name in enumerate(names)]
    digest = record_digest(b"".join(array_digest(row[0], row[1:5], blob) for row in arrays))
    time_ = "2026-01-01 00:00:00.000000"
    record = ("r", "ready", time_, len(names), len(names) * len(data), digest, "w", time_)
    with closing(sqlite3.connect(path)) as connection, connection:
        for setting in (
            "page_size=32768",
            "auto_vacuum=2",
            f"application_id={int.from_bytes(b'FLRS')}",
            "user_version=1",
        ):
            connection.execute(f"PRAGMA {setting}")
        for (sql,) in rows(OLD, "SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite_%'"):
            connection.execute(sql)
        connection.execute("INSERT INTO recordstore_version VALUES ('0001')")
        connection.execute("INSERT INTO blob VALUES (1, 'ready', ?, ?, ?)", (len(data), chunk_digest(data), blob))
        connection.execute("INSERT INTO chunk VALUES (1, 1, 0, ?, ?, ?)", (len(data), chunk_digest(data), data))
        connection.executemany(
            "INSERT INTO record (run, round, state, created_at, array_count, nbytes, digest, writer, touched_at) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            ((record[0], number, *record[1:]) for number in range(records)),
        )
        connection.executemany(
            "INSERT INTO array VALUES (?, ?, ?, ?, ?, ?, ?, 1)",
            ((number + 1, *row) for number in range(records) for row in arrays),
        )


def fork_upgraders(cache_kib: int, first: str) -> None:
    """Fork a process for each file that comes, which upgrades it, and kills itself before a statement if told to."""
    from recordstore import engine

    engine.WRITER_CACHE_KIB = cache_kib
    RecordStore(first, upgrade=True).close()  # imports what each of them needs
    while (task := hear()) is not None:
        path, number = task
        worker = os.fork()
        if not worker:
            if number is not None:
                kill_before_statement(number)
            RecordStore(path, upgrade=True).close()
            if number is None:
                say({"done": True})
                signal.pause()  # whoever kills it finds it
            os._exit(0)
        say({"pid": worker})
        say({"status": os.waitpid(worker, 0)[1]})


def twin_of(path: Path) -> Path:
    """Copy a file with its journal: opening either rolls back what a killed process left."""
    twin = path.with_name("twin.db")
    for suffix in ("", "-journal"):
        if Path(f"{path}{suffix}").exists():
            shutil.copy(f"{path}{suffix}", f"{twin}{suffix}")
        else:
            Path(f"{twin}{suffix}").unlink(missing_ok=True)
    return twin


def check_whole(path: Path, before: Rows) -> str:
    """Check with sqlite3 that a file is of one schema or the other and has all its rows; return the schema."""
    found = version(path)
    assert sql_of(path) == sql_of(OLD if found == "0001" else NEW)
    assert content(path) == before
    assert rows(path, "PRAGMA integrity_check") == [("ok",)]
    assert rows(path, "PRAGMA foreign_key_check") == []
    return found


forks_only = pytest.mark.skipif(not hasattr(os, "fork"), reason="the processes are forked")


@forks_only
@pytest.mark.slow
def test_a_kill_before_any_statement_of_an_upgrade_leaves_a_whole_file_of_one_schema(memory_folder: Path) -> None:
    path, first = memory_folder / "old.db", memory_folder / "first.db"
    shutil.copy(OLD, first)
    outcomes: Counter[str] = Counter()
    before = content(OLD)
    with Child(fork_upgraders, 40960, first) as process:
        for number in count():
            shutil.copy(OLD, path)
            process.say([str(path), number])
            process.hear()
            killed = os.WIFSIGNALED(process.hear()["status"])
            twin = twin_of(path)
            outcomes[check_whole(path, before)] += killed
            assert load_all(twin) == [expected["arrays"] for expected in KEPT]
            assert check_whole(twin, before) == "0002"
            if not killed:
                break
    print(f"\nkilled before each of {number} statements; left: {dict(outcomes)}")
    assert number > 30
    assert set(outcomes) == {"0001", "0002"}


KILLS = 30
ENOUGH = KILLS // 4
"""Kills of which the file has to show that it was being written."""
SEED = 20_261_124


def sampled(path: Path) -> list[list[Any]]:
    """Upgrade a file as users do, and return its first and its last record."""
    with RecordStore(path, upgrade=True) as store:
        return loaded(store, 1) + loaded(store, max(store))


def kill_after(process: Child, path: Path, seconds: float | None) -> bool:
    """Let a process upgrade a file, kill it after some time or once it is done, and return whether it was."""
    process.say([str(path), None])
    worker = process.hear()["pid"]
    messages = []
    if seconds is None:
        messages.append(process.hear())
    else:
        time.sleep(seconds)
    os.kill(worker, signal.SIGKILL)
    while "status" not in (message := process.hear()):
        messages.append(message)
    assert os.WTERMSIG(message["status"]) == signal.SIGKILL, "the worker died of something else"
    return messages == [{"done": True}]


def seconds_undisturbed(process: Child, original: Path, path: Path) -> float:
    shutil.copy(original, path)
    begin = time.monotonic()
    assert kill_after(process, path, None)
    return time.monotonic() - begin


def has_open_journal(path: Path) -> bool:
    journal = Path(f"{path}-journal")
    return journal.exists() and journal.stat().st_size > 0


@forks_only
@pytest.mark.slow
def test_a_kill_at_any_moment_of_an_upgrade_leaves_a_whole_file_of_one_schema(memory_folder: Path) -> None:
    """The page cache is so small that SQLite writes into the file long before the commit."""
    original, path, first = (memory_folder / name for name in ("original.db", "old.db", "first.db"))
    make_old(original, 100, [f"layers.{number}.weight" for number in range(300)])
    shutil.copy(original, first)
    before, bytes_before, dice = content(original), original.read_bytes(), random.Random(SEED)
    outcomes: Counter[str] = Counter()
    with Child(fork_upgraders, 256, first) as process:
        usual = statistics.median(seconds_undisturbed(process, original, path) for _ in range(5))
        expected = sampled(path)
        while outcomes["kills"] < KILLS or outcomes["files changed and rolled back"] < ENOUGH:
            assert outcomes["kills"] < 5 * KILLS  # on a machine whose speed changes it may take more of them
            outcomes["kills"] += 1
            shutil.copy(original, path)
            outcomes["done before"] += kill_after(process, path, dice.uniform(0, 1.3 * usual))
            outcomes["open journals"] += has_open_journal(path)
            half_way = has_open_journal(path) and path.read_bytes() != bytes_before
            twin = twin_of(path)
            found = check_whole(path, before)
            outcomes[found] += 1
            outcomes["files changed and rolled back"] += half_way and found == "0001"
            assert sampled(twin) == expected
            assert check_whole(twin, before) == "0002"
    print(f"\nseed {SEED}: moments within {usual:.2f} s; {dict(sorted(outcomes.items()))}")
    assert {"0001", "0002"} <= outcomes.keys()


# A full disk


def upgrade_with_little_room(path: str, limit: int) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        RecordStore(path, upgrade=True)
    except (StorageFullError, StoreAccessError) as error:
        say(type(error).__name__)


def test_an_upgrade_without_room_on_the_disk_leaves_the_file_as_it_was(path: Path) -> None:
    make_old(path, 20, [f"layers.{number}.weight" for number in range(500)])
    before, digest = content(path), hashlib.sha256(path.read_bytes()).hexdigest()
    with Child(upgrade_with_little_room, path, path.stat().st_size + 10 * 32768) as child:
        assert child.hear() in {"StorageFullError", "StoreAccessError"}
        child.finish()
    assert check_whole(path, before) == "0001"
    assert hashlib.sha256(path.read_bytes()).hexdigest() == digest
    migrate(path, "0002")
    assert check_whole(path, before) == "0002"


# Many rows

MANY = 1_000_000
ALLOWED = 96 * MIB
"""Twice the page cache of 40 MiB, which also bounds what an index is sorted in, and some."""


def measure_upgrade(path: str, small: str) -> None:
    RecordStore(small, upgrade=True).close()  # everything is imported, and has run once
    used: list[int] = []
    begin = time.monotonic()
    with memory_used(used):
        RecordStore(path, upgrade=True).close()
    say((time.monotonic() - begin, *used))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.slow
def test_a_million_arrays_are_upgraded_in_bounded_memory(tmp_path: Path) -> None:
    path, small = tmp_path / "many.db", tmp_path / "small.db"
    shutil.copy(OLD, small)
    names = [f"model.layers.{number // 10}.block.{number % 10}.weight" for number in range(1000)]
    make_old(path, MANY // len(names), names)
    size, before = path.stat().st_size, summary(path)
    with Child(measure_upgrade, path, small) as child:
        seconds, used = child.hear()
        child.finish()
    print(f"\n{MANY} arrays in {size / MIB:.0f} MiB, afterwards {path.stat().st_size / MIB:.0f} MiB: ", end="")
    print(f"upgraded in {seconds:.1f} s and {used / MIB:.1f} MiB")
    assert summary(path) == before
    assert sql_of(path) == sql_of(NEW)
    assert rows(path, "PRAGMA quick_check") == [("ok",)]
    with RecordStore(path, upgrade=True) as store:
        assert list(store.info("r@latest").names) == names
        assert len(store.load("r@0")) == len(names)
    assert used <= ALLOWED


def summary(path: Path) -> list[tuple[Any, ...]]:
    """Return what two tables of arrays do not share by accident."""
    sums = "count(*), sum(record_id), sum(position), sum(record_id * position), sum(length(name)), sum(nbytes)"
    return rows(path, f"SELECT {sums}, count(DISTINCT name), max(name), min(dtype), max(blob_id) FROM array")


# And back


@pytest.fixture
def new(path: Path) -> Path:
    """The kept file of schema 0002, and a checkpoint with history more."""
    shutil.copy(NEW, path)
    with RecordStore(path, upgrade=True) as store:
        model = {"w": np.ones(3), "big": np.arange(300_000.0)}
        moments = {"w": np.zeros(3), "alone": np.arange(400_000.0)}
        store.save_checkpoint(
            model, Checkpoint([1], moments), run="more", round=1, history=[HistoryEntry(1, "train", {"loss": 1})]
        )
        store.delete(store.save([np.arange(9)]))
    if version(path) != "0002":
        migrate(path, "0002")
    return path


def test_a_downgrade_keeps_the_arrays_of_the_records_and_drops_the_rest(new: Path) -> None:
    before = content(new, where="part = ''")
    migrate(new, "0001")
    assert check_whole(new, before) == "0001"
    assert columns_of(new) == COLUMNS
    assert len(before["array"]) == 6


def test_what_was_downgraded_upgrades_again_and_loads(new: Path) -> None:
    with RecordStore(new, upgrade=True) as store:
        expected = {record_id: (store.info(record_id), loaded(store, record_id)) for record_id in store}
    migrate(new, "0001")
    with RecordStore(new, upgrade=True) as store:
        assert {record_id: (store.info(record_id), loaded(store, record_id)) for record_id in store} == expected
        assert [store.load_checkpoint(record_id) for record_id in store] == [None] * len(expected)
        assert [store.history(run) for run in ("golden", "elsewhere", "more")] == [[], [], []]
        orphans = flaws(new)
        assert set(orphans) == {"blobs without an array"}, "those that only a state had"
        freed = store.gc(grace=0)
        assert freed.blobs == len(orphans["blobs without an array"])
        assert freed.nbytes > 3_200_000
    assert flaws(new) == {}


def test_a_downgrade_and_an_upgrade_of_an_older_file_change_nothing(old: Path) -> None:
    before = content(old)
    for revision in ("0002", "0001", "0002", "0001"):
        migrate(old, revision)
        assert check_whole(old, before) == revision
