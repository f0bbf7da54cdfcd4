"""The comparison with the peers: it runs, and each peer that is installed returns what it has saved."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")

CHECKOUT = Path(__file__).parents[1]
ALWAYS = ["recordstore", "torch.save", "np.savez", "sqlite3, a row per array", "floor: sqlite3, insert"]


@pytest.mark.slow
def test_the_comparison_prints_tables(tmp_path: Path) -> None:
    command = [sys.executable, CHECKOUT / "benchmarks" / "peers.py", "--work", "tiny", "--pairs", "1"]
    options = ["--folder", tmp_path, "--json", tmp_path / "peers.json"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (result,) = json.loads((tmp_path / "peers.json").read_text(encoding="utf-8"))["results"]
    assert {path.name for path in tmp_path.iterdir()} == {"peers.json"}, "nothing is left behind"
    for name in ALWAYS:
        assert f"| {name} " in done.stdout
        assert result["peers"][name]["seconds"]["save"] > 0
    ours = result["peers"]["recordstore"]
    assert ours["ratios"] == dict.fromkeys(ours["seconds"], 1)
    assert {"save", "again", "blocked", "load", "into", "one", "convert", "restore"} <= ours["seconds"].keys()
