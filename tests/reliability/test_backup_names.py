"""What a backup can be called; a name that is taken, or that SQLite uses itself, is refused before anything is made."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import rows

from recordstore import InvalidTypeError, InvalidValueError, RecordStore, StoreAccessError


@pytest.mark.parametrize("name", ["n" * 247, "ü" * 123])
def test_the_longest_name_that_a_store_can_have_will_do(file_store: RecordStore, tmp_path: Path, name: str) -> None:
    """A system takes 255 bytes, of which the journal beside it needs eight."""
    file_store.save([np.ones(3)])
    file_store.backup(tmp_path / name)
    assert sorted(entry.name for entry in tmp_path.iterdir() if entry.name[0] in "nü") == [name]
    with RecordStore(tmp_path / name) as copy:
        assert copy.save([np.ones(4)]) == 2
    longer = tmp_path / f"{name}nn"
    with pytest.raises(StoreAccessError, match="File name too long"):
        file_store.backup(longer)
    with pytest.raises(StoreAccessError, match="File name too long"):
        RecordStore(longer)
    assert not longer.exists()


def test_a_link_that_leads_nowhere_is_something_too(file_store: RecordStore, tmp_path: Path, copy: Path) -> None:
    copy.symlink_to(tmp_path / "elsewhere.db")
    with pytest.raises(InvalidValueError, match="replaces nothing"):
        file_store.backup(copy)
    assert copy.is_symlink()
    assert not (tmp_path / "elsewhere.db").exists()


def test_a_link_on_the_way_is_followed_before_the_folder_above_it(
    file_store: RecordStore, tmp_path: Path, copy: Path
) -> None:
    (tmp_path / "far" / "deep").mkdir(parents=True)
    (tmp_path / "far" / "taken").symlink_to("nowhere")
    (tmp_path / "link").symlink_to("far/deep")
    with pytest.raises(InvalidValueError, match="far/taken exists"):
        file_store.backup(tmp_path / "link" / ".." / "taken")
    assert not (tmp_path / "taken").exists()


@pytest.mark.parametrize("name", ["dangling", "missing/../dangling", "dangling/", "dangling/.", "new/", "new/..", "."])
def test_no_spelling_of_a_name_leads_elsewhere(file_store: RecordStore, tmp_path: Path, name: str) -> None:
    (tmp_path / "dangling").symlink_to("elsewhere.db")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(InvalidValueError):
        file_store.backup(f"{tmp_path}/{name}")
    assert sorted(tmp_path.iterdir()) == before


def test_a_relative_name_is_one_in_the_current_folder(
    file_store: RecordStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path / "sub")
    file_store.backup("one.db")
    file_store.backup("../two.db")
    assert rows(tmp_path / "sub" / "one.db", "PRAGMA quick_check") == [("ok",)]
    assert rows(tmp_path / "two.db", "PRAGMA quick_check") == [("ok",)]


@pytest.mark.parametrize("suffix", ["-journal", "-wal", "-shm"])
def test_what_sqlite_would_take_for_a_part_of_the_copy_is_refused(
    file_store: RecordStore, path: Path, copy: Path, suffix: str
) -> None:
    beside = Path(f"{copy}{suffix}")
    beside.write_bytes(b"of another store")
    with pytest.raises(InvalidValueError, match=f"{suffix} exists"):
        file_store.backup(copy)
    assert beside.read_bytes() == b"of another store"
    assert not copy.exists()
    link = copy.with_name("link")
    link.symlink_to(path.parent, target_is_directory=True)
    with pytest.raises(InvalidValueError, match="uses for files beside a database"):
        file_store.backup(link / f"{path.name}{suffix}")


@pytest.mark.parametrize("suffix", ["-journal", "-wal", "-shm"])
def test_a_name_that_sqlite_uses_beside_a_database_is_refused(
    file_store: RecordStore, tmp_path: Path, suffix: str
) -> None:
    """Whoever opens that database has SQLite remove it; one that is there already can be opened."""
    name = tmp_path / f"other.db{suffix}"
    for call in (file_store.backup, RecordStore):
        with pytest.raises(InvalidValueError, match="uses for files beside a database"):
            call(name)
        assert not name.exists()
    file_store.backup(tmp_path / "copy.db")
    (tmp_path / "copy.db").rename(name)
    with RecordStore(name) as store:
        assert store.save([np.ones(3)]) == 1


@pytest.mark.parametrize("path_", [7, b"copy.db", None])
def test_what_is_no_path_is_refused(memory: RecordStore, path_: Any) -> None:
    with pytest.raises(InvalidTypeError, match="path must be a text path"):
        memory.backup(path_)


@pytest.mark.parametrize("path_", ["", ":memory:", "sqlite:///copy.db", "a\0b"])
def test_what_is_no_new_file_is_refused(memory: RecordStore, path_: str) -> None:
    with pytest.raises(InvalidValueError):
        memory.backup(path_)
