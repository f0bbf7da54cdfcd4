"""Peers that write a new file, or a new folder of files, for each save."""

import os
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from peer import ArrayPeer, Peer, fsync_new
from torch import nn

dcp: Any = import_module("torch.distributed.checkpoint")  # which does not declare its names for type checkers


class FilePeer(Peer):
    """A peer with a path for each save.

    Attributes
    ----------
    suffix
        Of the path.
    """

    suffix: ClassVar[str] = ""

    def path(self, step: int) -> Path:
        """Return where a state is saved."""
        return self.folder / f"{step}{self.suffix}"

    def save(self, packed: Any, step: int) -> None:
        """Write a file and its name to the disk."""
        self.write(packed, self.path(step))
        fsync_new(self.path(step))

    def write(self, packed: Any, path: Path) -> None:
        """Write a file."""
        raise NotImplementedError


class SafetensorsPeer(FilePeer):
    """The files of Hugging Face."""

    name = "safetensors"
    needs = ("safetensors",)
    note = "load maps the file and reads nothing yet; nothing is verified"
    suffix = ".safetensors"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.module: Any = import_module("safetensors.torch")

    def write(self, packed: Any, path: Path) -> None:
        """Write a file."""
        self.module.save_file(packed, path)

    def load(self, step: int) -> Mapping[str, Any]:
        """Map a file."""
        tensors: Mapping[str, Any] = self.module.load_file(self.path(step))
        return tensors

    def load_one(self, step: int, name: str) -> Any:
        """Read one tensor of a file."""
        with self.module.safe_open(self.path(step), framework="pt") as file:
            return file.get_tensor(name)


class TorchPeer(FilePeer):
    """``torch.save`` and ``torch.load``."""

    name = "torch.save"
    needs = ("torch",)
    note = "weights_only=True; one array with mmap=True"
    suffix = ".pt"

    def write(self, packed: Any, path: Path) -> None:
        """Write a file."""
        torch.save(packed, path)

    def load(self, step: int) -> Mapping[str, Any]:
        """Read a file."""
        tensors: Mapping[str, Any] = torch.load(self.path(step), weights_only=True)
        return tensors

    def load_one(self, step: int, name: str) -> Any:
        """Read one tensor of a file."""
        return torch.load(self.path(step), weights_only=True, mmap=True)[name].clone()


class DistributedPeer(FilePeer):
    """``torch.distributed.checkpoint`` in a single process."""

    name = "torch.distributed.checkpoint"
    needs = ("torch",)
    note = "one process, no process group; blocked: async_save"
    offers = frozenset({"save", "blocked", "load", "into", "one"})

    def write(self, packed: Any, path: Path) -> None:
        """Write a folder."""
        dcp.save(packed, checkpoint_id=path, no_dist=True)

    def save_async(self, packed: Any, step: int) -> Callable[[], object]:
        """Begin to write a folder."""
        wait: Callable[[], object] = dcp.async_save(packed, checkpoint_id=self.path(step), no_dist=True).result
        return wait

    def load(self, step: int) -> Mapping[str, Any]:
        """Read a folder into new tensors."""
        found: Any = dcp.FileSystemReader(self.path(step)).read_metadata().state_dict_metadata
        tensors = {name: torch.empty(part.size, dtype=part.properties.dtype) for name, part in found.items()}
        dcp.load(tensors, checkpoint_id=self.path(step), no_dist=True)
        return tensors

    def load_into(self, step: int, model: nn.Module) -> None:
        """Read a folder into the tensors of a model."""
        dcp.load(model.state_dict(), checkpoint_id=self.path(step), no_dist=True)

    def load_one(self, step: int, name: str) -> Any:
        """Read one tensor of a folder."""
        part: Any = dcp.FileSystemReader(self.path(step)).read_metadata().state_dict_metadata[name]
        tensors = {name: torch.empty(part.size, dtype=part.properties.dtype)}
        dcp.load(tensors, checkpoint_id=self.path(step), no_dist=True)
        return tensors[name]


class OrbaxPeer(FilePeer):
    """The checkpoints of JAX, with ndarrays."""

    name = "orbax"
    needs = ("orbax-checkpoint",)
    note = "StandardCheckpointer with ndarrays; blocked: save before wait_until_finished"
    offers = frozenset({"save", "blocked", "load", "into"})

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.checkpointer: Any = import_module("orbax.checkpoint").StandardCheckpointer()

    def pack(self, state: Any) -> Any:
        """Return the same memory as ndarrays."""
        return {name: tensor.numpy() for name, tensor in state.items()}

    def write(self, packed: Any, path: Path) -> None:
        """Write a folder."""
        self.checkpointer.save(path.absolute(), packed)
        self.checkpointer.wait_until_finished()

    def save_async(self, packed: Any, step: int) -> Callable[[], object]:
        """Begin to write a folder."""
        self.checkpointer.save(self.path(step).absolute(), packed)
        wait: Callable[[], object] = self.checkpointer.wait_until_finished
        return wait

    def load(self, step: int) -> Mapping[str, Any]:
        """Read a folder."""
        arrays = self.checkpointer.restore(self.path(step).absolute())
        return {name: np.asarray(array) for name, array in arrays.items()}

    def load_into(self, step: int, model: nn.Module) -> None:
        """Read a folder, then copy."""
        model.load_state_dict({name: torch.from_numpy(array) for name, array in self.load(step).items()})


class NpzPeer(FilePeer, ArrayPeer):
    """``np.savez``."""

    name = "np.savez"
    needs = ("numpy",)
    suffix = ".npz"

    def write(self, packed: Any, path: Path) -> None:
        """Write a file."""
        np.savez(path, **packed)

    def load(self, step: int) -> Mapping[str, Any]:
        """Read a file."""
        with np.load(self.path(step)) as file:
            return dict(file)

    def load_one(self, step: int, name: str) -> Any:
        """Read one array of a file."""
        with np.load(self.path(step)) as file:
            return file[name]


class JoblibPeer(FilePeer, ArrayPeer):
    """``joblib.dump``."""

    name = "joblib"
    needs = ("joblib",)
    note = "one array with mmap_mode"
    suffix = ".joblib"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.module: Any = import_module("joblib")

    def write(self, packed: Any, path: Path) -> None:
        """Write a file."""
        self.module.dump(packed, path)

    def load(self, step: int) -> Mapping[str, Any]:
        """Read a file."""
        arrays: Mapping[str, Any] = self.module.load(self.path(step))
        return arrays

    def load_one(self, step: int, name: str) -> Any:
        """Read one array of a file."""
        return np.array(self.module.load(self.path(step), mmap_mode="r")[name])


class HDF5Peer(FilePeer, ArrayPeer):
    """One contiguous dataset for each array."""

    name = "h5py"
    needs = ("h5py",)
    suffix = ".h5"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.module: Any = import_module("h5py")

    def write(self, packed: Any, path: Path) -> None:
        """Write a file."""
        with self.module.File(path, "w") as file:
            for name, array in packed.items():
                file.create_dataset(name, data=array)

    def load(self, step: int) -> Mapping[str, Any]:
        """Read a file."""
        with self.module.File(self.path(step), "r") as file:
            return {name: np.asarray(dataset[()]) for name, dataset in file.items()}

    def load_one(self, step: int, name: str) -> Any:
        """Read one array of a file."""
        with self.module.File(self.path(step), "r") as file:
            return file[name][()]


class ZarrPeer(FilePeer, ArrayPeer):
    """One array of one chunk for each array, not compressed: random bytes do not compress."""

    name = "zarr"
    needs = ("zarr",)
    note = "no compression, an array is one chunk; each file and folder fsynced"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.module: Any = import_module("zarr")

    def write(self, packed: Any, path: Path) -> None:
        """Write a folder."""
        group = self.module.open_group(os.fspath(path), mode="w")
        for name, array in packed.items():
            group.create_array(name, data=array, chunks=array.shape, compressors=None)

    def load(self, step: int) -> Mapping[str, Any]:
        """Read a folder."""
        group = self.module.open_group(os.fspath(self.path(step)), mode="r")
        return {name: np.asarray(array[...]) for name, array in group.arrays()}

    def load_one(self, step: int, name: str) -> Any:
        """Read one array of a folder."""
        return np.asarray(self.module.open_group(os.fspath(self.path(step)), mode="r")[name][...])
