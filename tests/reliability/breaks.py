"""Breaks the library on purpose, and shows which tests notice; run by hand::

    .venv/bin/python tests/reliability/breaks.py [--only NAME] [PYTEST ARGUMENTS...]

Each break is made in a copy of the repository, in which the tests then run: it ends with 1 if one of them stays
unnoticed. ``test_breaks.py`` sees to it that the places are still there.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
TESTS = ["tests", "-m", "not slow or reliability"]
INTERRUPTED = 2
"""What pytest ends with after ``--maxfail``."""

SELF = "--ignore=tests/reliability/test_breaks.py"


class Edit(NamedTuple):
    """A place in a file, which is there once, and what it becomes."""

    file: str
    old: str
    new: str

    def apply(self, root: Path) -> None:
        """Make the change; a ValueError if the place is not there."""
        path = root / self.file
        text = path.read_text()
        if text.count(self.old) != 1:
            raise ValueError(f"{self.file} has {text.count(self.old)} times, not once: {self.old!r}")
        path.write_text(text.replace(self.old, self.new))


BREAKS: dict[str, list[Edit]] = {
    "skip the digest check": [
        Edit("recordstore/assembly.py", "        if found != digest:\n", "        if False:\n"),
        Edit("recordstore/reader.py", "        if digest != chunk.digest:\n", "        if False:\n"),
        Edit("recordstore/reader.py", " or chunk_digest(chunk) != digests[place.seq]:\n", ":\n"),
    ],
    "publish before the chunks": [
        Edit(
            "recordstore/drafts.py",
            "writer, state=WRITING)\n",
            "writer, state=READY, run=draft.run, round=draft.round)\n",
        ),
        Edit("recordstore/drafts.py", ", RecordRow.state == WRITING\n", "\n"),
    ],
    "synchronous=OFF": [Edit("recordstore/connection.py", '"synchronous=EXTRA"', '"synchronous=OFF"')],
    "drop the fork guard": [
        Edit("recordstore/forks.py", "        return os.getpid() != self._pid\n", "        return False\n"),
        Edit("recordstore/engine.py", "        if os.getpid() != self._pid:\n", "        if False:\n"),
    ],
    "consume the input before the commit": [
        Edit(
            "recordstore/rounds.py",
            "        entries = chain.from_iterable(source.entries() for source in sources)  # which holds none of them\n",
            "        entries = iter(list(chain.from_iterable(source.entries() for source in sources)))\n"
            "        for source in sources:\n"
            "            source.release()\n",
        ),
    ],
}


def failed_tests(edits: list[Edit], arguments: list[str]) -> list[str]:
    """Return the tests that fail once a copy of the repository is changed, without their parameters."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy"
        hidden = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info")
        shutil.copytree(ROOT, copy, ignore=hidden)
        for edit in edits:
            edit.apply(copy)
        command = [sys.executable, "-m", "pytest", "-q", "--tb=no", "--numprocesses=auto", SELF, *(arguments or TESTS)]
        environment = {**os.environ, "PYTHONPATH": str(copy), "FLWR_TELEMETRY_ENABLED": "0"}
        done = subprocess.run(command, cwd=copy, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    failed = sorted(set(re.findall(r"^(?:FAILED|ERROR) ([^\[\s]+)", done.stdout, re.MULTILINE)))
    if done.returncode != bool(failed) and not (failed and done.returncode == INTERRUPTED):
        raise RuntimeError(f"pytest ended with {done.returncode}: {done.stdout[-1000:]}")
    return failed


def main() -> int:
    """Make the breaks one after the other, and list the tests that have noticed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=BREAKS)
    options, arguments = parser.parse_known_args()  # the others are for pytest, in place of TESTS
    unnoticed = 0
    for name, edits in BREAKS.items():
        if options.only in {None, name}:
            failed = failed_tests(edits, arguments)
            unnoticed += not failed
            print(f"{name}: {len(failed)} tests fail", *failed, sep="\n    ", flush=True)
    return bool(unnoticed)


if __name__ == "__main__":
    sys.exit(main())
