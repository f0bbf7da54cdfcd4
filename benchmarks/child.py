"""Does one thing in a process of its own, and prints what it has needed, as JSON.

``child.py PEER WORKLOAD FOLDER OPERATION``, which is ``save``, ``into``, or before these ``base``, which needs the
memory for what was saved before in a process of its own; the benchmark calls it.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path

from measuring import begin, save_all
from peer import Peer
from registry import PEERS
from workloads import WORKLOADS, Workload

PROC = Path("/proc/self")


def kib(field: str) -> int:
    """Return a field of the memory of this process, in bytes."""
    lines = (PROC / "status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def written() -> int:
    """Return the bytes that this process has sent to a disk."""
    lines = (PROC / "io").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("write_bytes"))


def on_disk(folder: Path) -> int:
    """Return the bytes of the blocks of all files."""
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())


def peak(call: Callable[[], object]) -> int:
    """Return how many bytes more than before were resident at once during a call."""
    (PROC / "clear_refs").write_text("5", encoding="ascii")
    before = kib("VmRSS")
    call()
    return max(kib("VmHWM") - before, 0)


def warm_up(peer: Peer) -> None:
    """Let the peer import and compile what it needs."""
    workload = WORKLOADS["tiny"]()
    begin(peer, None)
    save_all(peer, [peer.pack(state) for state in workload.states], 1)
    if "into" in peer.offers:
        peer.load_into(1, workload.model())
    peer.clear()


def count_save(peer: Peer, workload: Workload) -> dict[str, int]:
    """Save what has changed."""
    packed = [peer.pack(state) for state in workload.states]
    disk, sent = on_disk(peer.folder), written()
    memory = peak(lambda: save_all(peer, packed, 1))
    return {"written": written() - sent, "disk": on_disk(peer.folder) - disk, "memory of save": memory}


def count_load(peer: Peer, workload: Workload) -> dict[str, int]:
    """Load into a model whose memory is there."""
    model = workload.model()
    for tensor in model.state_dict().values():
        tensor.fill_(1)
    return {"memory of into": peak(lambda: peer.load_into(len(workload.states), model))}


def main() -> None:
    """Do what the arguments say."""
    kind, name, folder, operation = sys.argv[1:]
    peer = next(peer for peer in PEERS if peer.__name__ == kind)
    workload = WORKLOADS[name]()
    if PROC.exists():
        warm_up(peer(Path(folder).with_name("warm-up")))
    found: dict[str, int] = {}
    with_peer = peer(Path(folder))
    if operation == "base":
        begin(with_peer, workload.base)
    elif operation == "save":
        if not with_peer.folder.exists():
            begin(with_peer, None)
        found = count_save(with_peer, workload)
    else:
        found = count_load(with_peer, workload)
    with_peer.close()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
