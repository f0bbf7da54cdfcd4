"""That the places which ``breaks.py`` breaks are still there."""

import shutil
from pathlib import Path

import pytest
from breaks import BREAKS, ROOT, failed_tests


@pytest.mark.parametrize("name", BREAKS)
def test_a_break_can_be_made(tmp_path: Path, name: str) -> None:
    shutil.copytree(ROOT / "recordstore", tmp_path / "recordstore")
    for edit in BREAKS[name]:
        edit.apply(tmp_path)


def test_a_break_is_noticed() -> None:
    arguments = ["-n", "0", "--timeout=60", "tests/test_corruption.py", "-k", "flipped and several"]
    assert failed_tests([], arguments) == []
    assert failed_tests(BREAKS["skip the digest check"], arguments)
