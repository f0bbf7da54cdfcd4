"""The README: its code runs from top to bottom and prints what it shows, its commands work, its links lead somewhere."""

import contextlib
import importlib.util
import io
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from flwr_import import import_quietly

from recordstore import RecordStore, exceptions

CHECKOUT = Path(__file__).parents[1]
README = (CHECKOUT / "README.md").read_text(encoding="utf-8")
MISSING = [library for library in ("torch", "flwr") if importlib.util.find_spec(library) is None]


class Block(NamedTuple):
    line: int
    language: str
    text: str


def blocks() -> list[Block]:
    fences = re.finditer(r"^```(\w*)\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)
    return [Block(README.count("\n", 0, fence.start(2)), fence[1], fence[2]) for fence in fences]


def needs_missing(block: Block) -> bool:
    return any(re.search(rf"^(import|from) {library}\b", block.text, flags=re.MULTILINE) for library in MISSING)


def run_python(block: Block, names: dict[str, Any]) -> str:
    """Execute a block as a part of the README, so that a traceback shows its line there."""
    printed = io.StringIO()
    code = compile("\n" * block.line + block.text, "README.md", "exec")
    with contextlib.redirect_stdout(printed):
        exec(code, names)
    return printed.getvalue()


def run_console(block: Block) -> str:
    """Run the recordstore commands of a block and return what a terminal would show."""
    shown = []
    for command in re.findall(r"^\$ python -m recordstore (.*)$", block.text, flags=re.MULTILINE):
        argv = [sys.executable, "-m", "recordstore", *shlex.split(command)]
        done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True, timeout=60)
        shown.append(f"$ python -m recordstore {command}\n{done.stdout}")
    return "".join(shown)


@pytest.fixture
def flower(monkeypatch: pytest.MonkeyPatch) -> None:
    """Import Flower beforehand, quietly: what its dependencies warn of is not our concern."""
    if "flwr" not in MISSING:
        monkeypatch.syspath_prepend(str(CHECKOUT / "tests/flower"))
        import_quietly("recordstore.flower")


def start_app(app: Any) -> list[int]:
    """Run a server app twice, with clients in this process; return the rounds that they were contacted in."""
    from flwr.app import Context, RecordDict
    from small import SmallGrid

    grid = SmallGrid()
    for _ in range(2):
        app(grid, Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config={}))
    return sorted({number for _, number in grid.messages})


@pytest.mark.usefixtures("flower")
def test_the_code_prints_what_the_readme_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "__main__"}
    all_blocks = blocks()
    tried = 0
    for block, after in zip(all_blocks, [*all_blocks[1:], Block(0, "", "")], strict=True):
        if block.language == "python" and not needs_missing(block):
            shown = after.text if after.language == "text" else ""
            assert run_python(block, names) == shown, f"README.md, line {block.line}"
            if "@app.main()" in block.text:
                assert start_app(names["app"]) == [1, 2, 3, 4, 5]
        elif block.language == "console" and "$ python -m recordstore" in block.text:
            assert run_console(block) == block.text, f"README.md, line {block.line}"
        else:
            continue
        tried += 1
    assert tried == 11 - len(MISSING)
    if "flwr" not in MISSING:
        with RecordStore("federation.db") as store:
            assert [info.round for info in store.records(run="mnist")] == [0, 1, 2, 3, 4, 5]


def test_the_section_on_flower_is_short() -> None:
    section = README.split("\n## With Flower\n")[1].split("\n## ")[0]
    assert len(section.splitlines()) <= 25


def test_the_first_screen_shows_commands_code_and_output() -> None:
    first = README[: README.index("\n## ")]
    assert [block.language for block in blocks()[:3]] == ["console", "python", "text"]
    assert len(first.splitlines()) <= 45
    assert len([line for line in blocks()[1].text.splitlines() if line]) == 8
    assert len(re.findall(r"^- \*\*.*?\(tests/[\w/]+\.py\)", first, flags=re.MULTILINE | re.DOTALL)) == 3


def test_the_tree_of_errors_is_that_of_the_package() -> None:
    (tree,) = [block.text for block in blocks() if block.text.startswith("RecordStoreError\n")]
    docstring = exceptions.__doc__ or ""
    assert "".join(f"    {line}\n" for line in tree.splitlines()) in docstring


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\((?!https?:)([^)#]+)", README))))
def test_a_link_leads_to_a_file(target: str) -> None:
    assert (CHECKOUT / target).is_file()


@pytest.mark.parametrize("script", sorted(set(re.findall(r"\bscripts/\w+", README)) | {".ci/run"}))
def test_a_command_is_there(script: str) -> None:
    path = CHECKOUT / script
    assert path.read_text(encoding="utf-8").startswith("#!/usr/bin/env bash\n")
    assert script == ".ci/run" or os.access(path, os.X_OK)
