"""What has to hold when an operation runs out of room, and when it does not."""

import os
import resource
import shutil
import subprocess
import traceback
from pathlib import Path
from typing import Any, Protocol

import pytest
from room_operations import KEPT, OPERATIONS, Operation, delete, saved
from sqlalchemy import Engine, event
from support import ASSETS, content, flaws, hear, make_small, rows, say

from recordstore import RecordStore, SchemaOutdatedError, StorageFullError, StoreAccessError, connection, constants

UNLIMITED = 2**30

FORMAT_CHUNK_SIZE = 960 * 1024
"""That of stores which were made outside of these tests."""


class Room(Protocol):
    """Something of which there may be little."""

    readable: bool
    """Whether a store can be read although a write has failed."""
    unit: str
    """What :func:`measure` counts it in."""

    def little(self, store: RecordStore | None, folder: Path, amount: int) -> None:
        """Let there be so much of it, and no more."""

    def plenty(self, store: RecordStore | None) -> None:
        """Let there be enough of it again."""


def prepare(name: str, folder: Path, bases: Path) -> RecordStore | None:
    """Put what an operation is tried on into an empty folder, and open it unless the operation does."""
    for file in folder.iterdir():
        file.unlink()
    path, on = folder / "store.db", OPERATIONS[name].on
    origins = {"store": bases / "store.db", "holes": bases / "holes.db", "schema 0001": ASSETS / "schema-0001.db"}
    if on in origins:
        shutil.copyfile(origins[on], path)
    return RecordStore(path) if on in {"store", "holes"} else None


def attempt(name: str, folder: Path, bases: Path, room: Room, amount: int) -> str | None:
    """Try an operation with little room, and if it fails again with plenty; return the error that it has failed with."""
    operation, path, failure = OPERATIONS[name], folder / "store.db", None
    store = prepare(name, folder, bases)
    try:
        room.little(store, folder, amount)
        try:
            operation.do(store, path)
        except (StorageFullError, StoreAccessError) as error:
            failure = type(error).__name__
            if room.readable:
                check_kept(store, path, operation)
        finally:
            room.plenty(store)
        if failure is not None:
            check_kept(store, path, operation)
            if operation.do is not delete or 2 in store:
                operation.do(store, path)
        store = store or RecordStore(path)
        assert operation.is_done(store, path)
        assert store.verify()
        store.gc(grace=0)
        if operation.on in {"store", "holes"}:
            assert_kept(store, [id_ for id_ in KEPT if id_ != operation.removes])
        assert flaws(path) == {}
    finally:
        if store is not None:
            store.close()
    return failure


def check_kept(store: RecordStore | None, path: Path, operation: Operation) -> None:
    """Check that an operation that has failed has left everything as it was, but for a delete that was done by then."""
    if store is not None:
        kept = [id_ for id_ in KEPT if id_ in store or operation.do is not delete or id_ != 2]
        assert_kept(store, kept)
        assert list(store) == kept
        assert [info.tags for info in store.records()] == [("kept",), *[()] * (len(kept) - 1)]
        assert store.load_checkpoint("r@3").state == {"step": 3}
        assert store.verify()
    elif operation.on == "schema 0001":
        assert rows(path, "PRAGMA user_version") == [(1,)]
        with pytest.raises(SchemaOutdatedError):
            RecordStore(path)


def assert_kept(store: RecordStore, ids: list[int]) -> None:
    assert {id_: content(store, id_) for id_ in ids} == {id_: saved(KEPT[id_]) for id_ in ids}


def measure(name: str, folder: Path, bases: Path) -> dict[str, int]:
    """Return what an operation takes at most: pages of the database, bytes of a file, and bytes of all."""
    store, path = prepare(name, folder, bases), folder / "store.db"
    before = {file.name: file.stat().st_size for file in folder.iterdir()}
    pages = rows(path, "PRAGMA page_count")[0][0] if path.exists() else 0
    peaks: list[tuple[int, int, int]] = []

    def look(connection: Any) -> None:
        raw = connection.connection.dbapi_connection
        count, size = (raw.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "page_size"))
        note(count, count * size)

    def note(count: int, nbytes: int) -> None:
        sizes = {file.name: file.stat().st_size for file in folder.iterdir()} | {path.name: nbytes}
        peaks.append((count - pages, max(sizes.values()), sum(sizes.values()) - sum(before.values())))

    event.listen(Engine, "commit", look)
    try:
        OPERATIONS[name].do(store, path)
    finally:
        event.remove(Engine, "commit", look)
    note(rows(path, "PRAGMA page_count")[0][0], path.stat().st_size)
    if store is not None:
        store.close()
    return dict(zip(("pages", "file", "bytes"), map(max, zip(*peaks, strict=True)), strict=True))


class Quota:
    """Pages of the database, as ``PRAGMA max_page_count`` limits them for each connection."""

    readable = True
    unit = "pages"

    def __init__(self) -> None:
        self._settings = connection.SETTINGS

    def little(self, store: RecordStore | None, folder: Path, amount: int) -> None:
        path = folder / "store.db"
        limit = max(1, amount + (rows(path, "PRAGMA page_count")[0][0] if path.exists() else 0))
        if store is None:
            connection.SETTINGS = (*self._settings, f"max_page_count={limit}")
        else:
            self._limit(store, limit)

    def plenty(self, store: RecordStore | None) -> None:
        connection.SETTINGS = self._settings
        if store is not None:
            self._limit(store, UNLIMITED)

    @staticmethod
    def _limit(store: RecordStore, pages: int) -> None:
        with store._database._writers.connect() as writer:
            writer.exec_driver_sql(f"PRAGMA max_page_count={pages}")


class FileSize:
    """Bytes of each file that a process writes to, as ``RLIMIT_FSIZE`` limits them.

    That limit is harder than a full disk: it refuses bytes behind it that are there, and thereby the rolling back of a
    commit that it has cut off. The journal stays until there is room, and nobody can read before.
    """

    readable = False
    unit = "file"

    def little(self, store: RecordStore | None, folder: Path, amount: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (amount, resource.RLIM_INFINITY))

    def plenty(self, store: RecordStore | None) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


class Disk:
    """Bytes of a small disk in memory, which a file takes but for those that are left."""

    readable = True
    unit = "bytes"

    def __init__(self, folder: Path) -> None:
        self._ballast = folder / "ballast"

    def little(self, store: RecordStore | None, folder: Path, amount: int) -> None:
        disk = os.statvfs(folder)
        taken = (disk.f_bavail - amount // disk.f_frsize) * disk.f_frsize
        with self._ballast.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, taken)

    def plenty(self, store: RecordStore | None) -> None:
        self._ballast.unlink()


DISK_SIZE = "16m"
MOUNT = ["mount", "-t", "tmpfs", "-o", f"size={DISK_SIZE}", "tmpfs"]


def work(folder: str, bases: str, kind: str, sizes: dict[str, float]) -> None:
    """Measure or try the operations that come, one after the other, in a process of their own."""
    make_small(**sizes)
    where = Path(folder)
    if kind == "disk":
        subprocess.run([*MOUNT, where], check=True)
    room = Disk(where) if kind == "disk" else FileSize()
    while (order := hear()) is not None:
        say(carry_out(*order, where, Path(bases), room))


def carry_out(name: str, amount: int | None, folder: Path, bases: Path, room: Any) -> Any:
    """Return what an operation takes, or how it went: the error that it has failed with, and what was wrong then."""
    small = constants.CHUNK_SIZE
    if OPERATIONS[name].on == "schema 0001":
        constants.CHUNK_SIZE = FORMAT_CHUNK_SIZE
    try:
        if amount is None:
            return measure(name, folder, bases)[room.unit]
        return [attempt(name, folder, bases, room, amount), None]
    except Exception:
        return [None, traceback.format_exc()[-3000:]]
    finally:
        constants.CHUNK_SIZE = small
