"""Times peers side by side, and lets a child process count what a save and a load need."""

import gc
import json
import mmap
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from peer import Peer
from torch import nn
from workloads import State, Workload

Seconds = dict[str, float]
"""How long each operation took."""

SPARE = 16 * 1024 * 1024
"""Bytes of memory that are touched before a call, besides those of a copy and of a file in the page cache."""

CHILD = Path(__file__).with_name("child.py")


def timed(call: Callable[[], object], memory: int) -> float:
    """Return the seconds that a call takes, once all that was written before is on the disk.

    Memory that a virtual machine has given back to its host is ten times slower to fill than other memory: as much as
    the call may need is touched first, so that it is there for whoever comes first.
    """
    gc.collect()
    os.sync()
    np.empty(memory, np.uint8)[:: mmap.PAGESIZE] = 1
    began = time.perf_counter()
    result = call()
    seconds = time.perf_counter() - began
    del result
    return seconds


class Bench:
    """One workload in one folder, and the peers that take turns with it.

    Parameters
    ----------
    workload
        What is saved and loaded.
    peers
        Who does it.
    folder
        Where; it holds the files of one peer at a time.
    """

    def __init__(self, workload: Workload, peers: list[type[Peer]], folder: Path) -> None:
        self.workload = workload
        self.peers = [peer(folder / peer.__name__) for peer in peers]
        self.model = workload.model()
        self.steps = len(workload.states)
        self.memory = 2 * workload.nbytes + SPARE

    def measure(self, pairs: int) -> dict[str, list[Seconds]]:
        """Return the seconds of each peer in each round, the warm-up left out."""
        seconds: dict[str, list[Seconds]] = {peer.name: [] for peer in self.peers}
        for round_ in range(pairs + 1):
            for peer in self.peers if round_ % 2 else reversed(self.peers):
                found = self.turn(peer, check=round_ == 0)
                if round_:
                    seconds[peer.name].append(found)
        return seconds

    def turn(self, peer: Peer, *, check: bool) -> Seconds:
        """Let one peer do everything once."""
        begin(peer, self.workload.base)
        try:
            seconds = self.time_saves(peer) | self.time_reads(peer)
            if check:
                self.check(peer)
            return seconds | self.time_blocked(peer) | self.time_conversions(peer)
        finally:
            peer.clear()

    def time_saves(self, peer: Peer) -> Seconds:
        """Time a save, and the same once more where that is less work."""
        packed = self.packed(peer)
        seconds: Seconds = {}
        if packed:
            spent = self.timed(lambda: save_all(peer, packed, 1))
            if "save" in peer.offers:
                seconds["save"] = seconds["again"] = spent
            if "again" in self.workload.operations and peer.incremental and "save" in peer.offers:
                seconds["again"] = self.timed(lambda: save_all(peer, packed, 1 + self.steps))
        return self.asked(seconds)

    def time_reads(self, peer: Peer) -> Seconds:
        """Time what reads the last of the saves."""
        calls: dict[str, Callable[[], object]] = {
            "load": lambda: peer.load(self.steps),
            "into": lambda: peer.load_into(self.steps, self.model),
            "one": lambda: peer.load_one(self.steps, self.workload.small),
        }
        return {name: self.timed(call) for name, call in self.asked(calls).items() if name in peer.offers}

    def time_blocked(self, peer: Peer) -> Seconds:
        """Time the part of a save in the background that the caller waits for; of others it is the whole save."""
        if "blocked" not in peer.offers:
            return {}
        if self.workload.base is None:
            begin(peer, None)
        packed = self.packed(peer)
        seconds = {"blocked": self.blocked(peer, packed, 1 + 2 * self.steps)}
        if "blocked again" in self.workload.operations:
            seconds["blocked again"] = self.blocked(peer, packed, 1 + 3 * self.steps)
        return seconds

    def timed(self, call: Callable[[], object]) -> float:
        """Return the seconds that a call takes."""
        return timed(call, self.memory)

    def blocked(self, peer: Peer, packed: list[Any], first: int) -> float:
        """Return the seconds until the calls have come back, each after the end of the save before."""
        spent = 0.0
        for step, state in enumerate(packed, first):
            waits: list[Callable[[], object]] = []
            spent += self.timed(lambda step=step, state=state, keep=waits.append: keep(peer.save_async(state, step)))  # type: ignore[misc]
            waits[0]()
        return spent

    def time_conversions(self, peer: Peer) -> Seconds:
        """Time the way from tensors to a record in memory, and back."""
        if "convert" not in peer.offers or self.workload.base is not None:
            return {}
        records: list[Any] = []
        convert = self.timed(lambda: records.append(peer.convert(self.workload.states[-1])))
        return {"convert": convert, "restore": self.timed(lambda: peer.restore(records[0]))}

    def packed(self, peer: Peer) -> list[Any]:
        """Return what the peer is to save, of which it knows nothing yet."""
        if not {"save", "blocked"} & peer.offers:
            return []
        self.workload.renew()
        return [peer.pack(state) for state in self.workload.states]

    def asked(self, found: dict[str, Any]) -> dict[str, Any]:
        """Return those of the operations that belong to the workload."""
        return {name: value for name, value in found.items() if name in self.workload.operations}

    def check(self, peer: Peer) -> None:
        """Raise unless the peer returns what was saved."""
        wanted = self.workload.states[-1]
        if "load" in self.workload.operations and "load" in peer.offers:
            loaded = peer.load(self.steps)
            equal(peer, wanted, ((name, loaded[name]) for name in wanted))
        if "into" in self.workload.operations and "into" in peer.offers:
            clear_model(self.model)
            peer.load_into(self.steps, self.model)
            equal(peer, wanted, self.model.state_dict().items())
        if "one" in self.workload.operations and "one" in peer.offers:
            name = self.workload.small
            equal(peer, {name: wanted[name]}, [(name, peer.load_one(self.steps, name))])


def begin(peer: Peer, base: State | None) -> None:
    """Make a peer ready to save, after what was saved before."""
    peer.prepare()
    if base is not None and peer.incremental:
        peer.save(peer.pack(base), 0)


def save_all(peer: Peer, packed: list[Any], first: int) -> None:
    """Save one state after the other."""
    for step, state in enumerate(packed, first):
        peer.save(state, step)


def clear_model(model: nn.Module) -> None:
    """Fill a model with zeros."""
    for tensor in model.state_dict().values():
        tensor.zero_()


def equal(peer: Peer, wanted: State, found: Iterable[tuple[str, Any]]) -> None:
    """Raise unless all arrays are those that were saved."""
    for name, value in found:
        array = value.numpy() if hasattr(value, "numpy") else value
        if not np.array_equal(wanted[name].numpy(), array):
            raise AssertionError(f"{peer.name} returns another {name}")


def medians(seconds: list[Seconds]) -> Seconds:
    """Return the median of each operation."""
    return {name: statistics.median(found[name] for found in seconds) for name in (seconds[0] if seconds else {})}


def ratios(seconds: list[Seconds], reference: list[Seconds]) -> Seconds:
    """Return the medians of the pairwise ratios: above 1 where the reference is faster."""
    names = [name for name in (seconds[0] if seconds else {}) if name in reference[0]]
    return {
        name: statistics.median(one[name] / other[name] for one, other in zip(seconds, reference, strict=True))
        for name in names
    }


def count(workload: Workload, peer: type[Peer], folder: Path) -> dict[str, int]:
    """Return what child processes have counted: bytes on the disk and written to it, and peaks of memory."""
    place = folder / f"{peer.__name__}-counted"
    counted: dict[str, int] = {}
    try:
        for operation in operations_to_count(workload, peer):
            command = [sys.executable, str(CHILD), peer.__name__, workload.name, str(place), operation]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            counted |= json.loads(done.stdout.splitlines()[-1])
    finally:
        peer(place).clear()
    return counted


def operations_to_count(workload: Workload, peer: type[Peer]) -> Iterator[str]:
    """Return what children do, one after the other."""
    if "save" in peer.offers:
        if workload.base is not None and peer.incremental:
            yield "base"
        yield "save"
        if "into" in peer.offers and "into" in workload.operations:
            yield "into"
