"""The model of a disk: what was synced is kept, of the rest every part can be lost, and nothing else can come out."""

import random
from collections.abc import Sequence

import pytest
from disk import SECTOR, Disk, Enter, Event, Leave, Move, Resize, Sync, SyncFolder, Write

ONES = b"\1" * SECTOR


def outcomes(*events: Event, ordered: bool, before: bytes = bytes(2 * SECTOR)) -> set[tuple[tuple[str, bytes], ...]]:
    """Return the folders that 500 power failures leave, of one with the file ``f``."""
    disk = Disk({"f": before})
    for event in events:
        disk.apply(event)
    left = (disk.without_power(random.Random(seed), ordered=ordered) for seed in range(500))
    return {tuple(sorted((name, bytes(content)) for name, content in files.items())) for files in left}


def contents_of_f(*events: Event, ordered: bool, before: bytes = bytes(2 * SECTOR)) -> set[bytes]:
    return {dict(folder)["f"] for folder in outcomes(*events, ordered=ordered, before=before)}


def names(*events: Event, ordered: bool) -> set[str]:
    return {" ".join(name for name, _ in folder) for folder in outcomes(*events, ordered=ordered)}


both = pytest.mark.parametrize("ordered", [False, True], ids=["any order", "ordered"])


@both
def test_what_was_synced_is_kept(ordered: bool) -> None:
    events: Sequence[Event] = (Write(0, 0, ONES), Resize(0, SECTOR), Enter("g", 1), Write(1, 0, b"x"), Sync(0), Sync(1))
    assert outcomes(*events, SyncFolder(), ordered=ordered) == {(("f", ONES), ("g", b"x"))}


@both
def test_any_sectors_of_a_write_can_be_lost(ordered: bool) -> None:
    zeros = bytes(SECTOR)
    expected = {zeros * 2, ONES * 2, zeros + ONES, ONES + zeros}
    assert contents_of_f(Write(0, 0, ONES * 2), ordered=ordered) == expected


@both
def test_a_sector_holds_what_it_held_after_one_of_the_writes(ordered: bool) -> None:
    found = contents_of_f(Write(0, 0, b"ab"), Write(0, 2, b"cd"), ordered=ordered)
    assert {content[:4] for content in found} == {bytes(4), b"ab\0\0", b"abcd"}
    assert {content[4:] for content in found} == {bytes(2 * SECTOR - 4)}


@both
def test_a_file_can_have_grown_without_the_data(ordered: bool) -> None:
    found = contents_of_f(Write(0, 0, ONES), ordered=ordered, before=b"")
    assert {b"", ONES, bytes(SECTOR)} <= found
    assert {len(content) for content in found} == {0, SECTOR}
    assert (found == {b"", ONES, bytes(SECTOR)}) == ordered, "else with random bytes too"


@both
def test_a_truncation_can_be_lost_and_what_follows_it_with_it(ordered: bool) -> None:
    found = contents_of_f(Resize(0, 0), Write(0, 0, ONES), ordered=ordered)
    old = bytes(2 * SECTOR)
    assert {b"", old, ONES, bytes(SECTOR)} <= found
    assert (ONES + bytes(SECTOR) in found) != ordered, "the new bytes among the old ones"


def test_the_name_of_a_synced_file_is_kept_by_a_journal_of_metadata_alone() -> None:
    events = Enter("g", 1), Write(1, 0, b"x"), Sync(1)
    assert names(*events, ordered=False) == {"f", "f g"}
    assert names(*events, ordered=True) == {"f g"}


@both
def test_a_name_can_come_back_until_the_folder_is_synced(ordered: bool) -> None:
    assert names(Leave("f"), ordered=ordered) == {"f", ""}
    assert names(Leave("f"), SyncFolder(), ordered=ordered) == {""}
    assert names(Move("f", "h", 0), ordered=ordered) == {"f", "h"}


def test_names_change_in_any_combination_unless_they_do_in_order() -> None:
    events = Enter("g", 1), Leave("f")
    assert names(*events, ordered=False) == {"", "f", "f g", "g"}
    assert names(*events, ordered=True) == {"f", "f g", "g"}


@both
def test_both_names_of_a_file_show_the_same_bytes(ordered: bool) -> None:
    found = outcomes(Enter("g", 0), SyncFolder(), Write(0, 0, ONES * 2), ordered=ordered)
    assert all(dict(folder)["f"] == dict(folder)["g"] for folder in found)
