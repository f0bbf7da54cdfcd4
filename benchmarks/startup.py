"""How long a program waits before it can save: the import, and the opening of a store that exists.

    python benchmarks/startup.py [--pairs 15]

Each import happens in a process of its own, which takes the time, in alternating order with that of what the package
cannot do without.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from recordstore import RecordStore

BASE, OURS = "import sqlalchemy.orm, numpy", "import recordstore"
IMPORT = """
import time
began = time.perf_counter()
{}
print(time.perf_counter() - began)
"""
OPEN = """
import sys, time, recordstore
began = time.perf_counter()
store = recordstore.RecordStore(sys.argv[1])
print(time.perf_counter() - began)
"""


def told(code: str, *arguments: str) -> float:
    """Return the number that some code prints in a new interpreter, which finds bytecode as after an installation."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return float(subprocess.check_output([sys.executable, "-c", code, *arguments], text=True, env=environment))


def imports(pairs: int) -> list[tuple[float, float]]:
    """Return the seconds of both imports, pair by pair."""
    found = []
    for pair in range(pairs + 1):
        codes = (BASE, OURS) if pair % 2 else (OURS, BASE)
        spent = {code: told(IMPORT.format(code)) for code in codes}
        found.append((spent[BASE], spent[OURS]))
    return found[1:]  # the first one reads the files from the disk


def opening(path: Path, count: int) -> list[float]:
    """Return the seconds that the opening of a store takes, each time in a new process."""
    with RecordStore(path) as store:
        store.save({})
    return [told(OPEN, str(path)) for _ in range(count)]


def main() -> None:
    """Measure, and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=15)
    pairs = imports(count := parser.parse_args().pairs)
    base, ours = (statistics.median(column) * 1000 for column in zip(*pairs, strict=True))
    ratio = statistics.median(mine / other for other, mine in pairs)
    print(f"{BASE}: {base:.0f} ms; {OURS}: {ours:.0f} ms; ratio {ratio:.2f} (medians of {count} pairs)")
    with tempfile.TemporaryDirectory() as folder:
        opened = statistics.median(opening(Path(folder) / "store.db", count)) * 1000
    print(f"opening a store that exists, imports done: {opened:.1f} ms (median of {count})")


if __name__ == "__main__":
    main()
