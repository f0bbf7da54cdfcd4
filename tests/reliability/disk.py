"""What a disk may hold after the power has failed at some moment: all that was synced, and any part of the rest.

The model is that of ALICE (https://www.usenix.org/conference/osdi14/technical-sessions/presentation/pillai):

- ``fsync`` and ``fdatasync`` of a file make its bytes and its length durable, fsync(2), but not its name: "an explicit
  fsync() on a file descriptor for the directory is also needed". Nothing else does; a hint to write early is none.
- Of a write without a later sync any sectors are kept, the others lost. Where writes follow each other, a sector holds
  what it held after one of them, for the system hands whole pages of its cache to the disk. Bytes beside those written
  come to no harm: the "powersafe overwrite" that SQLite relies on, https://www.sqlite.org/psow.html
- A file that has grown may have its old length or its new one, without the data too: then zeros are there, or random
  bytes. That they be bytes which the very file had before is left out: no journal of SQLite is proof against an old one
  in its place, which ext4 can bring back only where it is mounted with ``data=writeback``.
- A name that was given, moved or removed without a later sync of the folder may be as before.

Lengths that ``ftruncate`` sets, and names, are kept or lost in any combination, or, with ``ordered``, in the order in
which they were changed: a journal of metadata, which ext4 and XFS have, allows no other combinations. There the sync of
a new file keeps its name too, what was written to a file after a truncation that is lost is lost with it, and no garbage
appears. Without it the disk does at least as much harm.
"""

import random
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

SECTOR = 512

CHANCES = (0.0, 0.1, 0.5, 0.9, 1.0)
"""How likely something is kept: drawn once for each file, so that all and nothing are as frequent as a mixture."""


class Write(NamedTuple):
    file: int
    offset: int
    data: bytes


class Resize(NamedTuple):
    file: int
    size: int


class Sync(NamedTuple):
    file: int


class SyncFolder(NamedTuple):
    pass


class Enter(NamedTuple):
    """A file gets a name, perhaps its first."""

    name: str
    file: int


class Leave(NamedTuple):
    name: str


class Move(NamedTuple):
    name: str
    new: str
    file: int


class Said(NamedTuple):
    """The process has sent a message."""

    message: Any


Event = Write | Resize | Sync | SyncFolder | Enter | Leave | Move | Said
Kept = Callable[[int], bool]


class File:
    """The bytes of a file that are on the disk, and the changes that are on their way.

    Each change comes with its place in the order of all changes of lengths and names, 0 for a write.
    """

    def __init__(self, durable: bytes = b"") -> None:
        self.durable = bytearray(durable)
        self.pending: list[tuple[int, Write | Resize]] = []

    def settle(self) -> None:
        """Bring all that is pending to the disk."""
        for _, change in self.pending:
            if isinstance(change, Resize):
                _resize(self.durable, change.size)
            else:
                _put(self.durable, change.offset, change.data, bytes)
        self.pending.clear()

    def left(self, dice: random.Random, kept: Kept, *, ordered: bool) -> bytearray:
        """Return what is left of the file."""
        content = bytearray(self.durable)
        size = len(content)
        grown = dice.choice(CHANCES)
        fill = bytes if ordered or dice.random() < 0.5 else dice.randbytes
        for change, fate in self._fates(dice, kept, ordered=ordered):
            if isinstance(change, Resize):
                if fate:
                    size = change.size
                    _resize(content, size)
                continue
            end = change.offset + len(change.data)
            if end > size and dice.random() < grown:
                size = end
            for start, stop in _runs(change, fate):
                _put(content, start, change.data[start - change.offset : stop - change.offset], fill)
        del content[size:]
        content += fill(size - len(content))
        return content

    def _fates(self, dice: random.Random, kept: Kept, *, ordered: bool) -> list[tuple[Write | Resize, Any]]:
        """Return the changes that the disk may have noticed: with what is kept of their sectors, or whether at all."""
        likely, torn = dice.choice(CHANCES), dice.choice((0.0, 0.3, 1.0))
        fates: list[tuple[Write | Resize, Any]] = []
        for order, change in self.pending:
            if isinstance(change, Resize):
                fates.append((change, kept(order)))
                if ordered and not fates[-1][1]:
                    break  # what follows went to other blocks, which only the lost change would lead to
            else:
                count = _sectors(change).stop - _sectors(change).start
                fates.append((change, _mask(dice, count, likely, torn)))
        _carry(fates)
        return fates


class Disk:
    """A folder on a disk, to which the calls of a process are applied one by one."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self._names = {name: number for number, name in enumerate(files)}
        self._files = {number: File(files[name]) for name, number in self._names.items()}
        self._renamings: list[tuple[int, Enter | Leave | Move]] = []
        self._order = 0
        self._durable_order = 0

    @property
    def idle(self) -> bool:
        """Whether all is on the disk."""
        return not self._renamings and not any(file.pending for file in self._files.values())

    def apply(self, event: Event) -> None:
        """Take note of a call."""
        match event:
            case Write():
                self._files[event.file].pending.append((0, event))
            case Resize():
                self._order += 1
                self._files[event.file].pending.append((self._order, event))
            case Sync():
                self._sync(event.file)
            case SyncFolder():
                self._durable_order = max([self._durable_order, *(order for order, _ in self._renamings)])
                _rename(self._names, self._renamings, lambda order: True)
                self._renamings.clear()
            case Enter() | Leave() | Move():
                self._order += 1
                self._renamings.append((self._order, event))
                if isinstance(event, Enter):
                    self._files.setdefault(event.file, File())

    def _sync(self, number: int) -> None:
        lengths = [order for order, _ in self._files[number].pending]
        names = [order for order, change in self._renamings if getattr(change, "file", None) == number]
        self._durable_order = max([self._durable_order, *lengths, *names])
        self._files[number].settle()

    def without_power(self, dice: random.Random, *, ordered: bool) -> dict[str, bytearray]:
        """Return a folder that may be found when the power is back."""
        kept = self._kept_in_order(dice) if ordered else self._kept_in_any_order(dice)
        names = dict(self._names)
        _rename(names, self._renamings, kept)
        left = {number: self._files[number].left(dice, kept, ordered=ordered) for number in sorted({*names.values()})}
        return {name: left[number] for name, number in names.items()}

    def with_power(self) -> dict[str, bytearray]:
        """Return the folder as the process sees it, which is there once all has come to the disk."""
        for file in self._files.values():
            file.settle()
        self.apply(SyncFolder())
        return {name: self._files[number].durable for name, number in self._names.items()}

    def _kept_in_order(self, dice: random.Random) -> Kept:
        least, most = self._durable_order, self._order
        last = dice.choice((least, most, dice.randint(least, most)))
        return lambda order: order <= last

    def _kept_in_any_order(self, dice: random.Random) -> Kept:
        likely = dice.choice(CHANCES)
        return lambda order: dice.random() < likely


def _rename(names: dict[str, int], changes: list[tuple[int, Enter | Leave | Move]], kept: Kept) -> None:
    for order, change in changes:
        if not kept(order):
            continue
        if not isinstance(change, Enter):
            names.pop(change.name, None)
        if not isinstance(change, Leave):
            names[change.new if isinstance(change, Move) else change.name] = change.file


def _resize(content: bytearray, size: int) -> None:
    del content[size:]
    content += bytes(size - len(content))


def _put(content: bytearray, offset: int, data: bytes, fill: Callable[[int], bytes]) -> None:
    if offset > len(content):
        content += fill(offset - len(content))
    content[offset : offset + len(data)] = data


def _sectors(write: Write) -> slice:
    return slice(write.offset // SECTOR, -(-(write.offset + len(write.data)) // SECTOR))


def _mask(dice: random.Random, count: int, likely: float, torn: float) -> np.ndarray:
    if dice.random() < torn:
        return np.frombuffer(dice.randbytes(count), np.uint8) < 128
    return np.full(count, dice.random() < likely)


def _carry(fates: list[tuple[Write | Resize, Any]]) -> None:
    """Keep, of each sector, all writes before the last one that is kept: the page had them too."""
    writes = [_sectors(change).stop for change, _ in fates if isinstance(change, Write)]
    later = np.zeros(max(writes, default=0), bool)
    for number, (change, fate) in reversed(list(enumerate(fates))):
        if isinstance(change, Resize):
            later[-(-change.size // SECTOR) :] = False  # these pages were dropped
        else:
            fates[number] = (change, fate | later[_sectors(change)])
            later[_sectors(change)] = fates[number][1]


def _runs(write: Write, mask: np.ndarray) -> Iterator[tuple[int, int]]:
    """Yield from where to where the write is kept."""
    end = write.offset + len(write.data)
    edges = np.flatnonzero(np.diff(mask, prepend=False, append=False)) + _sectors(write).start
    for start, stop in list(pairwise(edges.tolist()))[::2]:
        yield max(start * SECTOR, write.offset), min(stop * SECTOR, end)
