"""The package itself as one of the peers."""

from collections.abc import Callable
from contextlib import closing
from typing import Any

import torch
from peer import Peer
from torch import nn
from workloads import State

from recordstore import ArrayRecord, RecordStore


class RecordStorePeer(Peer):
    """A store that stays open, as in a training loop, and state_dicts."""

    name = "recordstore"
    needs = ("flwr-recordstore",)
    note = "every byte verified; the store is open, and has saved and loaded a small record before"
    offers = frozenset({"save", "blocked", "load", "into", "one", "convert", "restore"})
    incremental = True

    _store: RecordStore | None = None

    def prepare(self) -> None:
        """Make the file, and let the store do once what the first call does only once."""
        super().prepare()
        first = {"weight": torch.ones(2)}
        record_id = self._opened().save(first)
        self._opened().load(record_id)
        self._opened().load_into(record_id, first)
        self._opened().open(record_id)["weight"].torch()

    def close(self) -> None:
        """Close the file."""
        if self._store is not None:
            self._store.close()
            self._store = None

    def save(self, packed: Any, step: int) -> None:
        """Save a record."""
        self._opened().save(packed, run="benchmark", round=step)

    def save_async(self, packed: Any, step: int) -> Callable[[], object]:
        """Save a record in the background."""
        return self._opened().save_async(packed, run="benchmark", round=step).result

    def load(self, step: int) -> Any:
        """Load a record and turn it into tensors."""
        return self._opened().load(f"benchmark@{step}").to_torch_state_dict()

    def load_into(self, step: int, model: nn.Module) -> None:
        """Load a record to where it belongs."""
        self._opened().load_into(f"benchmark@{step}", model)

    def load_one(self, step: int, name: str) -> torch.Tensor:
        """Read one array of a record."""
        tensor: torch.Tensor = self._opened().open(f"benchmark@{step}")[name].torch()
        return tensor

    def convert(self, state: State) -> Any:
        """Return a record."""
        return ArrayRecord(state)

    def restore(self, record: Any) -> Any:
        """Return the tensors of a record."""
        return record.to_torch_state_dict()

    def _opened(self) -> RecordStore:
        if self._store is None:
            self._store = RecordStore(self.folder / "store.db")
        return self._store


class RecordPeer(RecordStorePeer):
    """The same with an ``ArrayRecord``, as Flower hands it to a server, on both sides."""

    name = "recordstore, ArrayRecord"
    note = "saves a record that exists, and loads one: no tensors"
    offers = frozenset({"save", "blocked", "load"})

    def pack(self, state: State) -> ArrayRecord:
        """Return a record."""
        return ArrayRecord(state)

    def load(self, step: int) -> Any:
        """Load a record."""
        return self._opened().load(f"benchmark@{step}")


class ReopenedPeer(RecordStorePeer):
    """A store that is opened for each call, as in a script that only looks at one."""

    name = "recordstore, reopened"
    note = "opens the store, calls and closes it"
    offers = frozenset({"save", "load", "into", "one"})

    def prepare(self) -> None:
        """Make the file."""
        super().prepare()
        self.close()

    def save(self, packed: Any, step: int) -> None:
        """Save a record."""
        with closing(self):
            super().save(packed, step)

    def load(self, step: int) -> Any:
        """Load a record and turn it into tensors."""
        with closing(self):
            return super().load(step)

    def load_into(self, step: int, model: nn.Module) -> None:
        """Load a record to where it belongs."""
        with closing(self):
            super().load_into(step, model)

    def load_one(self, step: int, name: str) -> torch.Tensor:
        """Read one array of a record."""
        with closing(self):
            return super().load_one(step, name)
