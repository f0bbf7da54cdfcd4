"""What others must not see: files are for their owner alone, and a password in a target shows nowhere.

With the local variables of the frames too, as some tools show them: all but those of the caller, who has the password.
"""

import os
import stat
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from canaries import CANARY, all_logs, shown, shown_with_locals
from sqlalchemy import URL, Engine, event, make_url
from support import rows

from recordstore import InvalidValueError, RecordStore
from recordstore.__main__ import main

# Files


@pytest.fixture(params=[0, 0o777, 0o022], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


@contextmanager
def watched(folder: Path) -> Iterator[dict[str, int]]:
    """Note the permissions of all files in a folder at each statement and commit, by what follows the first dot."""
    modes: dict[str, int] = {}

    def look(*_: object) -> None:
        for entry in folder.iterdir():
            with suppress(FileNotFoundError):
                kind = entry.name.partition(".")[2].partition("partial")
                modes["".join(kind[:2])] = modes.get("".join(kind[:2]), 0) | stat.S_IMODE(entry.stat().st_mode)

    event.listen(Engine, "before_cursor_execute", look)
    event.listen(Engine, "commit", look)
    try:
        yield modes
        look()
    finally:
        event.remove(Engine, "before_cursor_execute", look)
        event.remove(Engine, "commit", look)


@pytest.mark.usefixtures("umask", "small")
def test_every_file_is_for_its_owner_alone_whatever_the_umask(memory_folder: Path) -> None:
    with watched(memory_folder) as modes, RecordStore(memory_folder / "store.db") as store:
        store.save({"x": np.arange(40_000)}, run="r", round=1)
        store.save({"x": np.arange(40_000) + 1}, run="r", round=1, overwrite=True)
        partial: list[Path] = []

        def look(_: Any) -> None:
            partial.extend(memory_folder.glob("*partial*"))
            modes["partial"] = modes.get("partial", 0) | stat.S_IMODE(partial[-1].stat().st_mode)

        store.backup(memory_folder / "copy.backup", progress=look)
        store.gc(grace=0)
        store.compact()
    assert modes == dict.fromkeys(["db", "db-journal", "backup", "partial"], 0o600)
    with RecordStore(memory_folder / "copy.backup") as store:
        store.save([np.ones(2)])
    assert {stat.S_IMODE(entry.stat().st_mode) for entry in memory_folder.iterdir()} == {0o600}


@pytest.mark.usefixtures("umask")
def test_the_files_of_a_write_ahead_log_are_for_the_owner_alone_too(path: Path) -> None:
    RecordStore(path).close()
    rows(path, "PRAGMA journal_mode=WAL")
    with watched(path.parent) as modes, RecordStore(path) as store:
        store.save([np.ones(2)])
    assert modes == {"db": 0o600, "db-wal": 0o600, "db-shm": 0o600} | (
        {"db-journal": 0o600} if "db-journal" in modes else {}
    )


# Passwords


TARGETS: list[Callable[[str], Any]] = [
    lambda secret: f"postgresql://me:{secret}@host/db",
    lambda secret: f"postgresql+psycopg2://{secret}@host:5432/db?sslmode=require",
    lambda secret: f"postgresql://host/db?user=me&password={secret}",
    lambda secret: f"postgresql://me:{secret}@host:port/db",
    lambda secret: f"postgresql://me:{secret}@[::1/db",
    lambda secret: f"mysql://me:{secret}@host/db",
    lambda secret: f"mysql+pymysql://host/db?passwd={secret}",
    lambda secret: f"sqlite://me:{secret}@host/store.db",
    lambda secret: f"sqlite://:{secret}@/store.db",
    lambda secret: f"sqlite+pysqlcipher://:{secret}@/store.db",
    lambda secret: f"sqlite:///store.db?key={secret}",
    lambda secret: f"sqlite:///file:store.db?key={secret}&uri=true",
    lambda secret: f"://me:{secret}@host",
    lambda secret: f"me:{secret}@://host",
    lambda secret: f"no such://me:{secret}@host/db",
    lambda secret: make_url(f"postgresql://me:{secret}@host/db?password={secret}"),
    lambda secret: make_url(f"sqlite:///store.db?key={secret}"),
    lambda secret: URL.create("mysql", "me", secret, "host", 1, "db", {"password": secret}),
    lambda secret: URL.create("sqlite", "me", secret, None, None, "store.db"),
]


@pytest.fixture
def logged() -> Iterator[list[str]]:
    with all_logs() as messages:
        yield messages


@pytest.mark.parametrize("number", range(len(TARGETS)))
def test_a_password_in_a_target_shows_nowhere(
    number: int, tmp_path: Path, logged: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    target = TARGETS[number](CANARY)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        with pytest.raises(InvalidValueError) as caught:
            RecordStore(target)
        if isinstance(target, str):
            assert main(["check", target]) == 1
    text = shown(caught.value) + shown_with_locals(caught.value) + repr(caught.value.__context__)
    everything = [text, *logged, *map(str, told), *capfd.readouterr()]
    assert [each for each in everything if CANARY in each] == []
    assert list(tmp_path.iterdir()) == []


def test_the_search_for_a_password_finds_one() -> None:
    def refuse(target: str) -> None:
        raise InvalidValueError("no")

    with pytest.raises(InvalidValueError) as caught:
        refuse(f"postgresql://me:{CANARY}@host/db")
    assert CANARY in shown_with_locals(caught.value)
    assert CANARY not in shown(caught.value)
    caught.value.add_note(CANARY)
    assert CANARY in shown(caught.value)


@pytest.mark.parametrize("make", TARGETS[:3])
def test_a_password_in_the_path_of_a_backup_shows_nowhere(
    make: Callable[[str], Any], memory: RecordStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidValueError) as caught:
        memory.backup(make(CANARY))
    assert CANARY not in shown(caught.value)
