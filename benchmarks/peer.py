"""What the benchmark asks of a peer, and what peers have in common."""

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn
from workloads import State


class Peer:
    """A way to keep the state of a model in a folder, durably.

    Methods that are timed do the whole work: what they have saved is on the disk, what they have loaded is in memory
    unless ``note`` says otherwise.

    Attributes
    ----------
    name
        In the table.
    needs
        The distributions that have to be installed.
    modules
        Those of them that not every version has.
    note
        What a reader of the table has to know.
    offers
        The operations that it can do: ``save``, ``blocked`` (a save in the background), ``load``, ``into`` (a model),
        ``one`` (array), ``convert`` and ``restore`` (tensors into its own kind of record, and back).
    incremental
        Whether a save writes only what has changed since the one before.
    """

    name: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ()
    modules: ClassVar[tuple[str, ...]] = ()
    note: ClassVar[str] = ""
    offers: ClassVar[frozenset[str]] = frozenset({"save", "load", "into", "one"})
    incremental: ClassVar[bool] = False

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def prepare(self) -> None:
        """Begin with nothing, and do once what a program does once."""
        self.clear()
        self.folder.mkdir(parents=True)

    def clear(self) -> None:
        """Close and remove everything."""
        self.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def close(self) -> None:
        """Let go of files that are kept open between calls."""

    def pack(self, state: State) -> Any:
        """Return the state in the form in which a user of this peer would have it."""
        return state

    def convert(self, state: State) -> Any:
        """Return the state as a record of this peer, in memory."""
        raise NotImplementedError

    def restore(self, record: Any) -> Any:
        """Return the tensors of a record."""
        raise NotImplementedError

    def save(self, packed: Any, step: int) -> None:
        """Save a packed state durably."""
        raise NotImplementedError

    def save_async(self, packed: Any, step: int) -> Callable[[], object]:
        """Begin to save, and return what waits for the end."""
        raise NotImplementedError

    def load(self, step: int) -> Mapping[str, Any]:
        """Return the arrays by their names."""
        raise NotImplementedError

    def load_into(self, step: int, model: nn.Module) -> None:
        """Fill a model."""
        model.load_state_dict(self.load(step))

    def load_one(self, step: int, name: str) -> Any:
        """Return one array."""
        raise NotImplementedError


class ArrayPeer(Peer):
    """A peer that takes and returns ndarrays."""

    def pack(self, state: State) -> dict[str, np.ndarray]:
        """Return the same memory as ndarrays."""
        return {name: tensor.numpy() for name, tensor in state.items()}

    def load_into(self, step: int, model: nn.Module) -> None:
        """Fill a model."""
        model.load_state_dict({name: torch.from_numpy(array) for name, array in self.load(step).items()})


def raw(tensor: torch.Tensor) -> memoryview:
    """Return the bytes of a contiguous tensor, without a copy."""
    array: Any = tensor.reshape(-1).numpy()
    return memoryview(array).cast("B")


def fsync(path: Path) -> None:
    """Write a file or folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_new(path: Path) -> None:
    """Write a new file, or all that is in a new folder, and its name to the disk."""
    if path.is_dir():
        for child in path.rglob("*"):
            fsync(child)
    fsync(path)
    fsync(path.parent)
