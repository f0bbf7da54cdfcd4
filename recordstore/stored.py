"""Records that are looked at without being loaded: an array, or some of its rows, is read when it is asked for."""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from recordstore import constants, npy, tensor
from recordstore.array import Array, restore_tensor
from recordstore.constants import SType
from recordstore.exceptions import ArrayNotFoundError
from recordstore.listing import Listing
from recordstore.npy import NDArray
from recordstore.reader import Reader, parse_shape
from recordstore.repository import StoredArrayRow


class StoredRecord(Mapping[str, "StoredArray"]):
    """A record in its store, a read-only mapping of names to :class:`StoredArray`.

    It holds no lock and no transaction; of a record that is deleted meanwhile, reads raise ``RecordNotFoundError``.

    Attributes
    ----------
    id
        Of the record.
    """

    def __init__(self, listing: Listing, reader: Callable[[], Reader]) -> None:
        self.id = listing.record_id
        self._listing = listing
        self._reader = reader
        self._rows = {row.name: row for row in listing.arrays}

    def __getitem__(self, name: str) -> "StoredArray":
        row = self._rows.get(name)
        if row is None:
            raise ArrayNotFoundError(f"record {self.id} has no array {name!r}; list(record) shows those it has")
        return StoredArray(self._listing, row, self._reader)

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, name: object) -> bool:
        return name in self._rows

    def __repr__(self) -> str:
        return f"<StoredRecord {self.id}, {len(self)} arrays>"


class StoredArray:
    """An array in its store.

    ``array[3]``, ``array[1000:1010]`` or ``array[::2, 5]`` read the chunks that these rows lie in and the first one, as
    long as the array was saved in C order; every other index reads the whole array.

    Attributes
    ----------
    name, dtype, shape, stype, nbytes
        As of the :class:`~recordstore.Array` that was saved; ``nbytes`` is the length of its ``data``.
    """

    def __init__(self, listing: Listing, row: StoredArrayRow, reader: Callable[[], Reader]) -> None:
        self._listing = listing
        self._row = row
        self._reader = reader
        self.name = row.name
        self.dtype = row.dtype
        self.shape = parse_shape(listing, row)
        self.stype = row.stype
        self.nbytes = row.blob_nbytes  # which each read proves; the one of the array is nowhere hashed

    @property
    def data(self) -> bytes:
        """Return the serialized bytes."""
        return self._reader().read_one(self._listing, self._row)

    def numpy(self) -> NDArray:
        """Return the array as a new ndarray.

        Raises
        ------
        TypeError
            It was not saved as an ndarray.
        """
        return self._load().numpy()

    def torch(self) -> Any:
        """Return the array as a new tensor on the CPU.

        Raises
        ------
        RuntimeError
            The program has not imported torch.
        """
        return restore_tensor(tensor.require_torch("torch"), self._load())

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("len() of unsized object")
        return self.shape[0]

    def __getitem__(self, key: Any) -> Any:
        first, *rest = key if isinstance(key, tuple) and key else (key,)
        wanted = self._wanted(first)
        low, high = sorted((wanted[0], wanted[-1])) if wanted else (0, -1)
        rows = None if wanted is None else self._read_rows(low, high + 1)
        if wanted is None or rows is None:
            return (self.torch() if self.stype == SType.TORCH else self.numpy())[key]
        return rows[(slice(None, None, wanted.step) if isinstance(first, slice) else 0, *rest)]

    def __repr__(self) -> str:
        return f"<StoredArray {self.name!r}, {self.dtype}, shape {self.shape}>"

    def _load(self) -> Array:
        return Array(self.dtype, list(self.shape), self.stype, self.data)

    def _wanted(self, first: Any) -> range | None:
        """Return the rows that the first index selects, None if it is no int or slice."""
        if not self.shape or isinstance(first, bool):
            return None
        if isinstance(first, slice):
            return range(*first.indices(self.shape[0]))
        if not isinstance(first, (int, np.integer)):
            return None
        if not -self.shape[0] <= first < self.shape[0]:
            raise IndexError(f"index {first} is out of bounds for axis 0 with size {self.shape[0]}")
        return range(int(first) % self.shape[0], int(first) % self.shape[0] + 1)

    def _read_rows(self, start: int, stop: int) -> Any | None:
        """Return some rows as an ndarray or a tensor, None if they do not lie one behind the other."""
        if self.nbytes <= constants.CHUNK_SIZE or math.prod(self.shape) == 0:
            return None
        if self.stype == SType.TORCH:
            size = self.nbytes // self.shape[0]
            return tensor.from_raw(
                self.dtype, [stop - start, *self.shape[1:]], bytes(self._part(start * size, stop * size))
            )
        if self.stype != SType.NUMPY:
            return None
        layout = npy.read_layout(bytes(self._part(0, min(self.nbytes, constants.CHUNK_SIZE))), self.nbytes)
        if layout.shape != self.shape or (layout.fortran_order and len(layout.shape) > 1):
            return None
        size = layout.nbytes // layout.shape[0]
        raw = self._part(layout.offset + start * size, layout.offset + stop * size)
        return layout._replace(shape=(stop - start, *layout.shape[1:])).shaped(np.frombuffer(raw, np.uint8))

    def _part(self, start: int, stop: int) -> bytearray:
        return self._reader().read_part(self._listing, self._row, start, stop)
