"""The comparison with the peers: it runs, and each peer that is installed returns what it has saved."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")

CHECKOUT = Path(__file__).parents[1]
FEW = ["torch.save"]
ALL = """
import gc, pathlib, sys
from measuring import Bench
from registry import choose
from workloads import WORKLOADS

peers, missing = choose([])
gc.freeze()  # what is imported, which each collection before a call would look through
print(*Bench(WORKLOADS["tiny"](), peers, pathlib.Path(sys.argv[1])).measure(0), sep="\\n")
"""
ALWAYS = [
    *FEW,
    "np.savez",
    "recordstore",
    "recordstore, reopened",
    "sqlite3, a row per array",
    "floor: sqlite3, insert",
]


@pytest.mark.slow
def test_the_comparison_prints_tables(tmp_path: Path) -> None:
    """With one of the peers: each takes two processes that import torch."""
    command = [sys.executable, CHECKOUT / "benchmarks" / "peers.py", "--work", "tiny", "--pairs", "1", "--peers", *FEW]
    options = ["--folder", tmp_path, "--json", tmp_path / "peers.json"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (result,) = json.loads((tmp_path / "peers.json").read_text(encoding="utf-8"))["results"]
    assert {path.name for path in tmp_path.iterdir()} == {"peers.json"}, "nothing is left behind"
    for name in ["recordstore", *FEW]:
        assert f"| {name} " in done.stdout
        assert result["peers"][name]["seconds"]["save"] > 0
    ours = result["peers"]["recordstore"]
    assert ours["ratios"] == dict.fromkeys(ours["seconds"], 1)
    assert {"save", "again", "blocked", "load", "into", "one", "convert", "restore"} <= ours["seconds"].keys()


@pytest.mark.slow
def test_every_peer_returns_what_it_saved(tmp_path: Path) -> None:
    command = [sys.executable, "-c", ALL, tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=CHECKOUT / "benchmarks")
    assert done.returncode == 0, done.stderr
    assert set(ALWAYS) <= set(done.stdout.splitlines())
    assert list(tmp_path.iterdir()) == [], "nothing is left behind"
