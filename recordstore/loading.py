"""Reading records: whole, array by array, or into memory that is there."""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace
from typing import Any

from recordstore.array import Array
from recordstore.arrayrecord import ArrayRecord
from recordstore.destinations import destinations
from recordstore.exceptions import InvalidTypeError, RecordStoreError
from recordstore.info import RecordInfo
from recordstore.listing import Listing, open_record
from recordstore.matching import IncompatibleKeys, match
from recordstore.reader import Reader
from recordstore.refs import parse_ref
from recordstore.rounds import RoundKeeper
from recordstore.stored import StoredRecord
from recordstore.validation import check_bool, check_text


class RecordLoader(RoundKeeper):
    """The part of a store that reads arrays."""

    def load(self, ref: int | str | RecordInfo, *, names: Iterable[str] | None = None) -> ArrayRecord:
        """Return a record as it was saved, every byte verified.

        Parameters
        ----------
        ref
            An id, a :class:`RecordInfo`, or a str: ``"latest"``, ``"run@latest"``, ``"run@3"`` (a round),
            ``"run@tag"``, or a tag that one run has.
        names
            The arrays to read; None reads all. They come in the order of the record.

        Raises
        ------
        RecordNotFoundError
            There is no such record, or it was deleted while it was being read.
        ArrayNotFoundError
            The record has no array of one of the names.
        CorruptRecordError
            What is stored is not what was saved.

        Examples
        --------
        >>> import numpy as np
        >>> from recordstore import RecordStore
        >>> with RecordStore(":memory:") as store:
        ...     record_id = store.save({"weight": np.ones(2), "bias": np.zeros(1)})
        ...     store.load(record_id, names=["bias"])["bias"].numpy()
        array([0.])
        """
        self._check_usable()
        listing = open_record(self._database, self._proofs, parse_ref(ref), _check_names(names))
        record = ArrayRecord()
        for name, array in self._reader().load(listing).items():
            record[name] = array
        return record

    def stream(self, ref: int | str | RecordInfo, *, names: Iterable[str] | None = None) -> Iterator[tuple[str, Array]]:
        """Iterate over the names and arrays of a record, with one large array in memory at a time.

        No lock is held between two arrays, and other calls are welcome meanwhile. The loop variable keeps its array
        until the next one is there: ``del array`` at the end of the loop's body halves the memory.

        Parameters
        ----------
        ref, names
            As for :meth:`load`. What is wrong with them is raised here, not at the first array.

        Raises
        ------
        RecordNotFoundError, ArrayNotFoundError, CorruptRecordError
            As for :meth:`load`.

        Examples
        --------
        >>> import numpy as np
        >>> from recordstore import RecordStore
        >>> with RecordStore(":memory:") as store:
        ...     record_id = store.save({"weight": np.ones(2), "bias": np.zeros(1)})
        ...     for name, array in store.stream(record_id):
        ...         print(name, array.shape)
        weight [2]
        bias [1]
        """
        self._check_usable()
        reader = self._reader()
        return self._arrays(reader, open_record(self._database, self._proofs, parse_ref(ref), _check_names(names)))

    def load_into(
        self, ref: int | str | RecordInfo, target: Any, *, strict: bool = True, prefix: str = ""
    ) -> IncompatibleKeys:
        """Fill a model, a ``state_dict`` or a dict of ndarrays with a record, in place and verified.

        No array is built in between: the bytes go from the database to where they belong, each chunk once its digest
        is that which was stored. An array that lies otherwise, on another device or in another order, is read whole
        first.

        Parameters
        ----------
        ref
            As for :meth:`load`.
        target
            A ``torch.nn.Module``, or a mapping of names to tensors or ndarrays, which keep their dtype, device and
            memory.
        strict
            Refuse a record that lacks a name of the target, or has one more; False takes what matches. Shapes and
            dtypes have to be equal in any case.
        prefix
            What the names in the record have before those of the target: ``"module."`` for a model that was saved
            within ``DistributedDataParallel``, ``"encoder."`` for a part of a model. Other arrays are left out.

        Returns
        -------
        IncompatibleKeys
            ``missing_keys`` and ``unexpected_keys``, as of ``load_state_dict`` of PyTorch.

        Raises
        ------
        MismatchError
            Names, shapes or dtypes differ; nothing was overwritten.
        InvalidTypeError, InvalidValueError
            The target is something else, or cannot be written to; nothing was overwritten.
        RecordNotFoundError, CorruptRecordError
            As for :meth:`load`. The message says which arrays of the target were overwritten before.

        Examples
        --------
        >>> import numpy as np
        >>> from recordstore import RecordStore
        >>> weights = {"weight": np.zeros(2)}
        >>> with RecordStore(":memory:") as store:
        ...     record_id = store.save({"weight": np.ones(2)})
        ...     store.load_into(record_id, weights)
        IncompatibleKeys(missing_keys=[], unexpected_keys=[])
        >>> weights["weight"]
        array([1., 1.])
        """
        self._check_usable()
        check_bool("strict", strict)
        listing = open_record(self._database, self._proofs, parse_ref(ref), None)
        places = destinations(target)
        found = match(listing.record_id, listing.arrays, places, strict=strict, prefix=check_text("prefix", prefix))
        begun: list[str] = []
        try:
            self._reader().place(replace(listing, arrays=found.rows), found.places, begun)
        except RecordStoreError as error:
            names = [row.name for row in found.rows if row.name in begun]
            overwritten = f"of the target, these were overwritten, perhaps in part: {names}"
            raise type(error)(f"{error}; {overwritten if begun else 'nothing was overwritten'}") from error
        return found.keys

    def open(self, ref: int | str | RecordInfo) -> StoredRecord:
        """Look at a record without loading it: a mapping of names to arrays that are read when they are asked for.

        Parameters
        ----------
        ref
            As for :meth:`load`.

        Raises
        ------
        RecordNotFoundError, CorruptRecordError
            As for :meth:`load`; of the bytes of an array when these are read.

        Examples
        --------
        >>> import numpy as np
        >>> from recordstore import RecordStore
        >>> with RecordStore(":memory:") as store:
        ...     record = store.open(store.save({"embedding": np.eye(3)}))
        ...     record["embedding"].shape
        ...     record["embedding"][1:, 2]
        (3, 3)
        array([0., 1.])
        """
        self._check_usable()
        return StoredRecord(open_record(self._database, self._proofs, parse_ref(ref), None), self._usable_reader)

    def _usable_reader(self) -> Reader:
        self._check_usable()
        return self._reader()

    def __getitem__(self, ref: int | str | RecordInfo) -> ArrayRecord:
        return self.load(ref)

    def _arrays(self, reader: Reader, listing: Listing) -> Iterator[tuple[str, Array]]:
        arrays = reader.arrays(listing)
        while True:
            self._check_usable()
            item = next(arrays, None)
            if item is None:
                return
            yield item
            del item  # before the next one is made


def _check_names(names: object) -> Collection[str] | None:
    if names is None:
        return None
    if isinstance(names, str) or not isinstance(names, Iterable):
        raise InvalidTypeError(f"names must be a sequence of str, such as ['weight'], not {type(names).__name__}")
    return {check_text("the name of an array", name) for name in names}
