"""Saves and loads models with this package and with its peers, side by side in one run, and prints tables.

Each round lets every peer do everything once, in the other order than the round before; the first round only warms up.
What earlier calls have left to be written is written before the clock starts. Peers that are not installed are left
out; ``pip install --group benchmark`` installs them::

    python benchmarks/peers.py --folder /on/the/disk /dev/shm --work gpt2 lora --json peers.json --chart peers.png
"""

import argparse
import json
import logging
import os
import tempfile
import warnings
from importlib import import_module
from pathlib import Path
from typing import Any

os.environ |= {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}

from measuring import Bench, count, medians, ratios
from peer import Peer
from registry import PEERS, REFERENCE, choose, versions
from report import file_system, load, notes, render, render_setting, setting
from workloads import WORKLOADS


def measure(name: str, peers: list[type[Peer]], folder: Path, pairs: int) -> dict[str, Any]:
    """Return the figures of one workload in one folder."""
    workload = WORKLOADS[name]()
    before = load()
    with tempfile.TemporaryDirectory(dir=folder, prefix="recordstore-peers-") as place:
        bench = Bench(workload, peers, Path(place))
        seconds = bench.measure(pairs)
        nbytes, arrays = workload.nbytes, sum(map(len, workload.states))
        del bench
        counted = {peer.name: count(workload, peer, Path(place)) for peer in peers}
    kind = file_system(folder)
    if kind == "tmpfs":  # nothing is written to a disk
        for found in counted.values():
            found.pop("written", None)
    return {
        "workload": name,
        "nbytes": nbytes,
        "arrays": arrays,
        "folder": str(folder),
        "file_system": kind,
        "pairs": pairs,
        "load_before": before,
        "load_after": load(),
        "peers": {
            peer.name: {
                "seconds": medians(seconds[peer.name]),
                "ratios": ratios(seconds[peer.name], seconds[REFERENCE.name]),
                "counted": counted[peer.name],
                "all": seconds[peer.name],
            }
            for peer in sorted(peers, key=lambda peer: peer is not REFERENCE)
        },
    }


def parse_arguments() -> argparse.Namespace:
    """Return what the command line says."""
    parser = argparse.ArgumentParser(description="recordstore and its peers, side by side.")
    temporary = [Path(tempfile.gettempdir())]
    parser.add_argument(
        "--folder", type=Path, nargs="+", default=temporary, help="where to write (default: %(default)s)"
    )
    parser.add_argument("--work", nargs="+", choices=WORKLOADS, default=list(WORKLOADS), help="default: all")
    parser.add_argument(
        "--peers", nargs="+", default=[], metavar="WORD", help="only those with one of these in the name"
    )
    parser.add_argument("--pairs", type=int, default=7, help="rounds after the warm-up (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="where to write all figures")
    parser.add_argument("--chart", type=Path, help="where to draw a chart (PNG)")
    return parser.parse_args()


def main() -> None:
    """Print the tables."""
    arguments = parse_arguments()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    peers, missing = choose(arguments.peers)
    report: dict[str, Any] = {"setting": setting(versions(PEERS), missing), "results": []}
    print(render_setting(report["setting"]), flush=True)
    for name in arguments.work:
        for folder in arguments.folder:
            report["results"].append(measure(name, peers, folder, arguments.pairs))
            print("\n" + render(report["results"][-1]), flush=True)
            if arguments.json:  # after each, as the rest may take long
                arguments.json.write_text(json.dumps(report, indent=1), encoding="utf-8")
    print("\n" + notes(peers))
    if arguments.chart:
        import_module("chart").draw(report, arguments.chart)


if __name__ == "__main__":
    main()
