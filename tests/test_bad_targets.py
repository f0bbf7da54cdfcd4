"""What a bad target or option gets, and a store that must not be used any more; the files stay as they are."""

import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recordstore import (
    InvalidTypeError,
    InvalidValueError,
    NotARecordStoreError,
    ReadOnlyStoreError,
    RecordStore,
    RecordStoreError,
    StoreAccessError,
)

ONE = {"x": np.ones(3)}

OPTIONS: list[tuple[dict[str, Any], type[RecordStoreError], str]] = [
    ({"timeout": "1"}, InvalidTypeError, "timeout must be a number of seconds, not str"),
    ({"timeout": True}, InvalidTypeError, "timeout must be a number of seconds, not bool"),
    ({"timeout": None}, InvalidTypeError, "timeout must be a number of seconds, not NoneType"),
    ({"timeout": -1}, InvalidValueError, "timeout must be between 0 and"),
    ({"timeout": float("nan")}, InvalidValueError, "timeout must be between 0 and"),
    ({"timeout": float("inf")}, InvalidValueError, "timeout must be between 0 and"),
    ({"upgrade": 1}, InvalidTypeError, "upgrade must be a bool, not int"),
    ({"read_only": "yes"}, InvalidTypeError, "read_only must be a bool, not str"),
    ({"journal_mode": "delete"}, InvalidValueError, "journal_mode must be 'truncate' or 'wal', not 'delete'"),
    ({"journal_mode": ["wal"]}, RecordStoreError, "journal_mode must be"),
    ({"journal_mode": "truncate", "read_only": True}, InvalidValueError, "opened without read_only=True"),
]


@pytest.mark.parametrize(("options", "error", "says"), OPTIONS, ids=str)
def test_a_bad_option_is_refused_before_a_file_is_created(
    path: Path, options: dict[str, Any], error: type[RecordStoreError], says: str
) -> None:
    with pytest.raises(error, match=says):
        RecordStore(path, **options)
    assert not path.exists()


@pytest.mark.parametrize("options", [{"read_only": True}, {"journal_mode": "truncate"}])
def test_a_database_in_memory_has_no_file_that_options_could_be_for(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidValueError):
        RecordStore(":memory:", **options)


TARGETS: list[tuple[Any, type[RecordStoreError], str]] = [
    (None, InvalidTypeError, "target must be a path, ':memory:' or a URL, not NoneType"),
    (1, InvalidTypeError, "not int"),
    (b"store.db", InvalidTypeError, "not bytes"),
    ("", InvalidValueError, "not empty"),
    ("a\0b", InvalidValueError, "without NUL"),
    ("postgresql://me:secret@host/db", InvalidValueError, "postgresql database is not supported"),
    ("sqlite:///store.db?mode=ro", InvalidValueError, "options in the URL are not supported"),
    ("me:secret@://", InvalidValueError, "no valid URL"),
]


@pytest.mark.parametrize(("target", "error", "says"), TARGETS, ids=ascii)
def test_a_target_that_is_none_is_refused_without_telling_its_password(
    target: Any, error: type[RecordStoreError], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=says) as caught:
        RecordStore(target)
    assert "secret" not in f"{caught.value} {caught.value.__cause__}"
    assert list(tmp_path.iterdir()) == []


def test_a_path_like_object_of_bytes_is_refused(tmp_path: Path) -> None:
    class Bytes:
        def __fspath__(self) -> bytes:
            return os.fsencode(tmp_path / "store.db")

    with pytest.raises(InvalidTypeError, match="fsdecode"):
        RecordStore(Bytes())  # type: ignore[arg-type]


@pytest.mark.parametrize("read_only", [False, True])
def test_a_folder_is_refused(tmp_path: Path, read_only: bool) -> None:
    with pytest.raises(NotARecordStoreError, match="is a folder; give the path of a database file") as caught:
        RecordStore(tmp_path, read_only=read_only)
    assert isinstance(caught.value, ValueError)
    assert list(tmp_path.iterdir()) == []


def test_what_is_neither_a_file_nor_a_folder_is_refused(path: Path) -> None:
    os.mkfifo(path)
    with pytest.raises(NotARecordStoreError, match="is no regular file"):
        RecordStore(path)
    with pytest.raises(NotARecordStoreError, match="is no regular file"):
        RecordStore("/dev/null")


@pytest.mark.parametrize("suffix", ["-journal", "-wal", "-shm"])
def test_what_lies_beside_a_file_is_a_file_too(path: Path, suffix: str) -> None:
    """SQLite would wait for ever for somebody to write to a pipe."""
    RecordStore(path).close()
    beside = Path(f"{path}{suffix}")
    beside.unlink(missing_ok=True)
    os.mkfifo(beside)
    with pytest.raises(NotARecordStoreError, match=f"{suffix} is no regular file"):
        RecordStore(path)


@pytest.mark.parametrize("suffix", ["-journal", "-wal", "-shm"])
def test_a_new_store_destroys_nothing_that_lies_beside_its_name(path: Path, suffix: str) -> None:
    """SQLite would take it for a part of the new database: what is left of another one, or a store of this name."""
    beside = Path(f"{path}{suffix}")
    beside.write_bytes(b"a model")
    with pytest.raises(StoreAccessError, match="move it away first"):
        RecordStore(path)
    assert not path.exists()
    assert beside.read_bytes() == b"a model"
    beside.write_bytes(b"")  # as a store leaves behind that is removed without it
    with RecordStore(path) as store:
        assert store.load(store.save(ONE))["x"].numpy().tolist() == [1, 1, 1]


def test_a_path_in_a_missing_folder_names_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "missing"
    with pytest.raises(StoreAccessError, match=f"create the folder {folder} first") as caught:
        RecordStore(folder / "store.db")
    assert isinstance(caught.value, OSError)
    assert not folder.exists()


def test_a_path_below_a_file_is_refused(path: Path) -> None:
    path.write_bytes(b"")
    with pytest.raises(StoreAccessError, match="cannot be opened"):
        RecordStore(path / "store.db")


def test_a_missing_file_is_not_created_for_reading(path: Path) -> None:
    with pytest.raises(StoreAccessError, match="does not exist"):
        RecordStore(path, read_only=True)
    assert not path.exists()
    path.touch()
    with pytest.raises(NotARecordStoreError, match="is empty"):
        RecordStore(path, read_only=True)
    assert path.read_bytes() == b""


def test_a_file_that_cannot_be_created_says_why(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(StoreAccessError, match=r"cannot be created: Permission denied; choose a folder you can write"):
        RecordStore(path)


@pytest.fixture
def forbidden() -> Iterator[Path]:
    """A folder that this process may read and not write to."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with RecordStore(folder / "store.db") as store:
            store.save(ONE)
        for leftover in folder.glob("*-journal"):
            leftover.unlink()
        (folder / "store.db").chmod(0o444)
        folder.chmod(0o555)
        user = os.geteuid()
        if user == 0:
            os.seteuid(65534)  # root may write everywhere
        try:
            yield folder
        finally:
            os.seteuid(user)
            folder.chmod(0o755)


def test_a_read_only_folder_is_refused_for_writing_and_welcome_for_reading(forbidden: Path) -> None:
    with pytest.raises(StoreAccessError, match="cannot be created: Permission denied; choose a folder"):
        RecordStore(forbidden / "new.db")
    before = (forbidden / "store.db").read_bytes()
    with RecordStore(forbidden / "store.db", read_only=True) as store:
        assert store.load(1)["x"].numpy().tolist() == [1, 1, 1]
    with pytest.raises(ReadOnlyStoreError, match="read-only"), RecordStore(forbidden / "store.db") as store:
        store.save(ONE)
    assert (forbidden / "store.db").read_bytes() == before
    assert [entry.name for entry in forbidden.iterdir()] == ["store.db"]


def test_a_link_to_a_missing_file_creates_the_file_behind_it(tmp_path: Path) -> None:
    link = tmp_path / "link.db"
    link.symlink_to(tmp_path / "target.db")
    with RecordStore(link) as store:
        store.save(ONE)
    assert link.is_symlink()
    with RecordStore(tmp_path / "target.db", read_only=True) as store:
        assert len(store) == 1
    link.unlink()
    link.symlink_to(tmp_path / "missing" / "target.db")
    with pytest.raises(StoreAccessError):
        RecordStore(link)


@pytest.mark.parametrize("name", [b"\xff.db", b"caf\xe9.db"])
def test_a_name_that_is_no_utf_8_works_or_is_refused_before_a_file_is_made(tmp_path: Path, name: bytes) -> None:
    path = tmp_path / os.fsdecode(name)
    try:
        store = RecordStore(path)
    except InvalidValueError:
        assert list(tmp_path.iterdir()) == []
    else:
        with store:
            assert store.save(ONE) == 1
        assert path.is_file()


def test_a_name_that_no_file_can_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordStoreError):
        RecordStore(tmp_path / "\ud800.db")
    with pytest.raises(StoreAccessError):
        RecordStore(tmp_path / ("x" * 300))
    assert list(tmp_path.iterdir()) == []
