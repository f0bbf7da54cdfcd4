"""A backup is the store of one moment, whole or not there, whatever others do meanwhile."""

import errno
import os
import resource
import signal
import sqlite3
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from copies import MEGABYTE, content, leftovers, noise
from support import Child, flaws, hear, rows, say

from recordstore import (
    InvalidValueError,
    Progress,
    RecordStore,
    SchemaOutdatedError,
    StorageFullError,
    StoreAccessError,
    backup,
)
from recordstore.__main__ import main


def test_a_backup_is_the_same_store(store: RecordStore, copy: Path) -> None:
    store.save({"x": noise(1)}, run="r", round=1, metrics={"loss": 0.5}, metadata={"lr": 0.1}, tags=["best"])
    store.save({"y": noise(2), "x": noise(1)}, run="r", round=2)
    store.delete("r@1")
    store.backup(copy)
    with RecordStore(copy) as other:
        assert content(other) == content(store)
        assert other.info("r@2") == store.info("r@2")
        assert other.verify()
        assert other.save({"z": noise(3)}) == 3
    assert len(store) == 1
    assert flaws(copy) == {}
    assert leftovers(copy.parent) == []


@pytest.mark.parametrize("umask", [0, 0o022, 0o777])
def test_a_backup_is_private_and_has_the_settings_of_its_store(file_store: RecordStore, copy: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        file_store.backup(copy)
    finally:
        os.umask(before)
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    for pragma, value in {"page_size": 32768, "auto_vacuum": 2, "application_id": int.from_bytes(b"FLRS")}.items():
        assert rows(copy, f"PRAGMA {pragma}") == [(value,)]


@pytest.mark.parametrize("kind", ["a file", "a store", "a folder", "the store itself"])
def test_a_backup_replaces_nothing(file_store: RecordStore, path: Path, copy: Path, kind: str) -> None:
    file_store.save({"x": np.ones(3)})
    match kind:
        case "a file":
            copy.write_text("precious")
        case "a store":
            RecordStore(copy).close()
        case "a folder":
            copy.mkdir()
        case _:
            copy = path
    before = copy.read_bytes() if copy.is_file() else None
    with pytest.raises(InvalidValueError, match="exists, and a backup replaces nothing"):
        file_store.backup(copy)
    assert (copy.read_bytes() if copy.is_file() else None) == before
    assert leftovers(copy.parent) == []
    assert file_store.verify()


def test_a_file_that_appears_in_the_middle_is_not_replaced_either(file_store: RecordStore, copy: Path) -> None:
    with pytest.raises(InvalidValueError, match="replaces nothing"):
        file_store.backup(copy, progress=lambda _: copy.write_text("precious"))
    assert copy.read_text() == "precious"
    assert leftovers(copy.parent) == []


def test_without_hard_links_the_copy_is_renamed(
    file_store: RecordStore, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    file_store.save({"x": noise(1)})
    file_store.backup(copy)
    with RecordStore(copy) as other:
        assert content(other) == content(file_store)
    with pytest.raises(InvalidValueError, match="replaces nothing"):
        file_store.backup(copy)
    copy.unlink()
    with pytest.raises(InvalidValueError, match="replaces nothing"):
        file_store.backup(copy, progress=lambda _: copy.write_text("precious"))
    assert copy.read_text() == "precious"


def test_an_error_of_the_progress_function_leaves_nothing(file_store: RecordStore, copy: Path) -> None:
    for error in (ValueError("enough"), OSError(errno.EIO, "enough"), KeyboardInterrupt("enough")):

        def stop(_: Progress, error: BaseException = error) -> None:
            raise error

        with pytest.raises(type(error), match="enough") as caught:
            file_store.backup(copy, progress=stop)
        assert caught.value is error
        assert list(copy.parent.glob("copy*")) == []
    assert file_store.save({"x": np.ones(2)}) == 1


def back_up_slowly(path: str, copy: str) -> None:
    backup.STEP_BYTES = 4 * 32768
    with RecordStore(path) as store:

        def wait(progress: Progress) -> None:
            say({"done": progress.done, "total": progress.total})
            hear()

        store.backup(copy, progress=wait)
    say({"done": "all"})


def test_a_backup_that_was_killed_is_not_taken_for_a_whole_one(path: Path, copy: Path) -> None:
    with RecordStore(path) as store:
        store.save({"x": noise(1, 2 * MEGABYTE)})
    for steps in (0, 3, 9):
        with Child(back_up_slowly, path, copy) as process:
            for _ in range(steps):
                process.hear()
                process.say("go on")
            process.hear()
            os.kill(process.pid, signal.SIGKILL)
        assert not copy.exists()
        (partial,) = leftovers(copy.parent)
        assert partial.startswith("copy.db.partial-")
        (copy.parent / partial).unlink()
    with RecordStore(path) as store:
        store.backup(copy)
        with RecordStore(copy) as other:
            assert content(other) == content(store)


def test_a_backup_is_on_the_disk_before_it_has_its_name(
    file_store: RecordStore, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, bool]] = []
    fsync, link = os.fsync, os.link

    def noted_fsync(descriptor: int) -> None:
        calls.append((Path(f"/proc/self/fd/{descriptor}").readlink().name, copy.exists()))
        fsync(descriptor)

    def noted_link(source: Any, target: Any) -> None:
        calls.append(("link", copy.exists()))
        link(source, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "link", noted_link)
    file_store.backup(copy)
    names = [(name.partition(".partial-")[0], there) for name, there in calls]
    assert names == [("copy.db", False), ("link", False), (copy.parent.name, True)]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("missing/copy.db", "create the folder"),
        ("store.db/copy.db", "Not a directory"),
        (f"{'n' * 256}", "File name too long"),
        ("/proc/copy.db", "cannot be created|cannot be opened"),
    ],
)
def test_a_place_where_nothing_can_be_made_is_a_clear_error(
    file_store: RecordStore, tmp_path: Path, name: str, reason: str
) -> None:
    with pytest.raises(StoreAccessError, match=reason):
        file_store.backup(tmp_path / name)
    assert leftovers(tmp_path) == []


def back_up_with_little_room(copy: str) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    with RecordStore(":memory:") as store:
        store.save({"x": noise(1, 2 * MEGABYTE)})
        resource.setrlimit(resource.RLIMIT_FSIZE, (MEGABYTE, MEGABYTE))
        try:
            store.backup(copy)
        except StoreAccessError as error:
            say(str(error))
        say(store.load(1).to_numpy_ndarrays()[0].tolist() == noise(1, 2 * MEGABYTE).tolist())
        say(store.save({"y": noise(2)}))


def test_an_io_error_of_the_copy_costs_a_store_in_memory_nothing(copy: Path) -> None:
    with Child(back_up_with_little_room, copy) as process:
        error, same, record = process.finish()
    assert "disk I/O error" in error
    assert same
    assert record == 2


def test_what_has_become_of_the_file_meanwhile_is_not_copied(path: Path, copy: Path) -> None:
    with RecordStore(path) as store:
        store.save([np.ones(3)])
        os.truncate(path, 0)
        with pytest.raises(SchemaOutdatedError):
            store.backup(copy)
    assert list(copy.parent.glob("copy*")) == []


@pytest.mark.parametrize(
    ("code", "error"),
    [(errno.ENOSPC, StorageFullError), (errno.EDQUOT, StorageFullError), (errno.EIO, StoreAccessError)],
)
@pytest.mark.parametrize("calls", [1, 2])
def test_a_copy_that_cannot_be_synced_has_no_name(
    file_store: RecordStore, copy: Path, monkeypatch: pytest.MonkeyPatch, code: int, error: type[Exception], calls: int
) -> None:
    """The first fsync is that of the file, the second one that of the folder."""
    fsync, left = os.fsync, [None] * calls

    def failing(descriptor: int) -> None:
        left.pop()
        if not left:
            raise OSError(code, os.strerror(code))
        fsync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", failing)
        with pytest.raises(error, match="cannot be written"):
            file_store.backup(copy)
    assert list(copy.parent.glob("copy*")) == []
    file_store.backup(copy)


def test_a_full_disk_is_named_with_the_copy(
    file_store: RecordStore, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file_store.save({"x": noise(1)})
    connect = sqlite3.connect

    def with_little_room(*arguments: Any, **options: Any) -> sqlite3.Connection:
        connection = connect(*arguments, **options)
        if "partial" in str(arguments[0]):
            connection.execute("PRAGMA max_page_count=3")
        return connection

    monkeypatch.setattr(sqlite3, "connect", with_little_room)
    with pytest.raises(StorageFullError, match=rf"copied to {copy}: no room left"):
        file_store.backup(copy)
    assert list(copy.parent.glob("copy*")) == []


def test_the_command_makes_a_backup(file_store: RecordStore, path: Path, copy: Path, capsys: Any) -> None:
    file_store.save({"x": noise(1)})
    assert main(["backup", str(path), str(copy)]) == 0
    assert capsys.readouterr().out == f"{copy}: a copy of {path}\n"
    with RecordStore(copy) as other:
        assert content(other) == content(file_store)
    assert main(["backup", str(path), str(copy)]) == 1
    assert "replaces nothing" in capsys.readouterr().err
