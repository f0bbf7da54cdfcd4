"""R8 for database files: a crafted one runs no code, takes no more memory than it holds, and gets errors of ours."""

import shutil
import sqlite3
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from conftest import SMALL, Tell
from hostile_calls import use, use_many_arrays
from hostile_rows import FIRST, OF_B, ROWS, blob, executed, sealed
from support import Child, rows
from tampering import make_store, with_many_arrays
from trials import Trials

MIB = 1024 * 1024
ROOM = 4096 * MIB
SLACK = 96 * MIB
"""What saves and reads may take besides, whatever the file holds."""

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
Tamper = Callable[[Path], Any]

NAMED = [
    name
    for name in ROWS
    if " without a row" in name or "petabyte" in name or "itself" in name or '"$byte' in name or "<M8" in name
]
"""Those that are tried every time: each of them once broke something."""


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(tmp_path_factory.mktemp("template") / "store.db")


def used_by(template: Path, folder: Path, tampers: Iterable[tuple[str, Tamper]], times: float) -> dict[str, Any]:
    """Tamper with copies of a file, have a process make every call on each, and return what it told.

    It may take ``times`` as much memory as the file has bytes, and some.
    """
    paths = {str(folder / "untouched.db"): "untouched"}
    shutil.copy(template, next(iter(paths)))
    for number, (name, tamper) in enumerate(tampers):
        path = folder / f"{number}.db"
        shutil.copy(template, path)
        tamper(path)
        paths[str(path)] = name
    sizes = {path: Path(path).stat().st_size for path in paths}
    told: dict[str, Any] = {}
    with Child(use, list(paths), SMALL, ROOM) as child:
        for path, name in list(paths.items())[1:]:
            assert child.hear() == path
            told[name] = child.hear()
            told[name]["allowed"] = times * sizes[path] + SLACK
        child.finish()
    return told


def flaws_of(told: dict[str, Any]) -> dict[str, Any]:
    """Return what was wrong, by the names of the files."""
    found = {name: told["wrong"] for name, told in told.items() if told["wrong"]}
    return found | {
        name: f"{told['used'] / MIB:.0f} MiB" for name, told in told.items() if told["used"] > told["allowed"]
    }


@linux_only
def test_rows_that_no_store_would_write_get_errors_of_ours_and_take_no_memory(
    template: Path, memory_folder: Path, many: bool, tell: Tell
) -> None:
    chosen = {name: ROWS[name] for name in [*ROWS][:: 1 if many else 16] + NAMED}
    told = used_by(template, memory_folder, chosen.items(), 8)
    assert sum(told["opened"] for told in told.values()) > 0.9 * len(told)
    worst = max(told, key=lambda name: told[name]["used"])
    tell(f"rows that no store would write: {len(told)} files, at most {told[worst]['used'] / MIB:.0f} MiB: {worst}")
    assert flaws_of(told) == {}


def several(names: list[str]) -> Tamper:
    def tamper(path: Path) -> None:
        for name in names:
            with suppress(sqlite3.Error, ValueError):  # what one has done may be in the way of the next
                ROWS[name](path)

    return tamper


@linux_only
@pytest.mark.trials(8, 2000)
def test_several_such_rows_in_one_file_get_errors_of_ours_too(
    template: Path, memory_folder: Path, trials: Trials
) -> None:
    for some in batched(trials, 50):
        files = {}
        for number in some:
            dice = trials.dice(number)
            names = dice.sample(sorted(ROWS), dice.randint(2, 4))
            files[f"{number} {' and '.join(names)}"] = several(names)
        told = used_by(template, memory_folder, files.items(), 8)
        trials.counts.update(outcome for one in told.values() for outcome in one["outcomes"])
        for name, flaw in flaws_of(told).items():
            trials.fail(int(name.split()[0]), name, flaw)
        for file in memory_folder.iterdir():
            file.unlink()
    trials.conclude()


def batched(things: Iterable[Any], count: int) -> Iterator[list[Any]]:
    source = iter(things)
    while some := list(islice(source, count)):
        yield some


def huge(size: int) -> dict[str, Tamper]:
    """Texts and rows of so many bytes; a tenth of them where they become lists, which takes Python its time."""
    many = f"replace(hex(zeroblob({size // 2})), '0', 'n')"
    ones = f"'[' || replace(hex(zeroblob({size // 40})), '0', '1,') || '1]'"
    lists = f"'[' || replace(hex(zeroblob({size // 60})), '0', '[],') || '1]'"
    return {
        "a chunk of many bytes where ten are claimed": executed(
            f"UPDATE chunk SET data = zeroblob({2 * size}) WHERE blob_id = {blob('b')}",
            f"UPDATE blob SET nbytes = 10 WHERE {OF_B}",
        ),
        "a chunk of many bytes in an array of several": executed(
            f"UPDATE chunk SET data = zeroblob({2 * size}) WHERE blob_id = {blob('w')} AND seq = 2"
        ),
        "a long name": sealed(f"UPDATE array SET name = {many} WHERE {FIRST}"),
        "a long dtype": sealed(f"UPDATE array SET dtype = {many} WHERE {FIRST}"),
        "a long shape": sealed(f"UPDATE array SET shape = {ones} WHERE {FIRST}"),
        "a long run": sealed(f"UPDATE record SET run = {many} WHERE id = 1"),
        "a long tag": sealed(f"UPDATE tag SET name = {many} WHERE record_id = 1"),
        "a long metadata text": sealed(f"UPDATE record SET metadata = '\"' || {many} || '\"' WHERE id = 1"),
        "metadata of many lists": sealed(f"UPDATE record SET metadata = {lists} WHERE id = 1"),
        "a checkpoint of many lists": sealed(f"UPDATE record SET checkpoint = {lists} WHERE id = 2"),
        "a history of many lists": sealed(f"UPDATE history SET \"values\" = '{{\"x\":' || {lists} || '}}'"),
    }


JSON_TIMES = 40
"""A list of Python takes 56 bytes, and its place in another one 8: ``[],`` are three."""


@linux_only
def test_a_row_of_many_bytes_takes_a_multiple_of_them(
    template: Path, memory_folder: Path, many: bool, tell: Tell
) -> None:
    size = 100 * MIB if many else 2 * MIB
    told: dict[str, Any] = {}
    tampers = list(huge(size).items())
    for some in batched(tampers, 1 if many else len(tampers)):
        told |= used_by(template, memory_folder, some, 8)
        for file in memory_folder.iterdir():
            file.unlink()
    for name, one in told.items():
        one["allowed"] *= JSON_TIMES / 8 if "list" in name or "shape" in name else 1
        tell(f"a row of {size / MIB:.0f} MiB, {name}: {one['used'] / MIB:.0f} MiB, {one['outcomes']}")
    assert flaws_of(told) == {}


@linux_only
def test_a_record_of_many_arrays_is_read_and_deleted(
    template: Path, memory_folder: Path, many: bool, tell: Tell
) -> None:
    count = 1_000_000 if many else 10_000
    path = memory_folder / "many.db"
    shutil.copy(template, path)
    with_many_arrays(path, count)
    size = path.stat().st_size
    with Child(use_many_arrays, path) as child:
        for what, used, seconds in child.finish():
            tell(f"{count} arrays, {what}: {used / MIB:.0f} MiB, {used / size:.1f} times the file, {seconds:.1f} s")
            assert used < 40 * size + SLACK
    assert rows(path, "SELECT count(*) FROM array WHERE record_id = 1") == [(0,)]
