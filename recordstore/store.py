"""The store: one database of records, and the protocols that keep them whole."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from recordstore.array import Array
from recordstore.arrayrecord import ArrayRecord
from recordstore.drafts import Draft, DraftRepository
from recordstore.exceptions import InvalidTypeError
from recordstore.handle import DEFAULT_GRACE
from recordstore.info import RecordInfo, Swept
from recordstore.inputs import Input
from recordstore.reader import Listing, Reader
from recordstore.refs import parse_ref
from recordstore.repository import RecordRepository
from recordstore.rounds import RoundKeeper
from recordstore.sweep import kill_orphans, sweep
from recordstore.validation import (
    check_bool,
    check_metadata,
    check_metrics,
    check_round,
    check_run,
    check_seconds,
    check_tags,
    check_text,
)

DELETE_STEPS = 64
"""Transactions of at most 32 MiB in which one ``delete`` frees space; the next ones, or ``gc``, free the rest."""


class RecordStore(RoundKeeper):
    """A database of records.

    **Atomic.** A record is wholly visible or not at all, whatever is killed and whoever reads meanwhile.

    **Durable.** When :meth:`save` returns, the record survives a kill, a crash of the system and a power failure, as
    far as the disk honours ``fsync``.

    **Verified.** A read returns exactly the bytes that were saved, in the order in which they were saved, or raises.

    **Bounded.** Saving and streaming need at most 64 MiB beyond the caller's own data and one array.

    **Thread safety.** One store serves any number of threads, and one file any number of processes: many readers, and
    one writer at a time; the next one waits up to ``timeout``. After a ``fork`` the child has to open the file anew.

    Parameters
    ----------
    target
        Path of the database file, ``":memory:"``, or an SQLAlchemy URL such as ``sqlite:///checkpoints.db``. A missing
        or empty file becomes a new store, readable by its owner only.
    upgrade
        Bring a store with an older schema to the newest one.
    read_only
        Refuse all writes.
    journal_mode
        ``"truncate"`` or ``"wal"`` converts the file; None leaves a WAL file as it is and uses TRUNCATE otherwise.
    timeout
        Seconds to wait for a lock that others hold.

    Raises
    ------
    NotARecordStoreError
        The target is a folder, another application's file, or damaged.
    SchemaOutdatedError
        The store has an older schema, and ``upgrade`` is false.
    SchemaTooNewError
        The store has a newer schema than this version of the package knows.
    StoreAccessError
        The file cannot be created or opened.
    StoreBusyError
        Others kept the file locked for longer than ``timeout``.

    Examples
    --------
    >>> import numpy as np
    >>> from recordstore import ArrayRecord, RecordStore
    >>> with RecordStore(":memory:") as store:
    ...     record_id = store.save(ArrayRecord([np.zeros(3)]), run="mnist", round=0, metrics={"accuracy": 0.1})
    ...     store.load("mnist@latest").to_numpy_ndarrays()
    [array([0., 0., 0.])]
    """

    def save(
        self,
        record: Any,
        *,
        run: str | None = None,
        round: int | None = None,  # noqa: A002 - the word of the field
        metrics: Mapping[str, float] | None = None,
        metadata: Any = None,
        tags: Iterable[str] = (),
        overwrite: bool = False,
        keep_input: bool = True,
    ) -> int:
        """Save a record and return its id once it is on the disk.

        Parameters
        ----------
        record
            An ``ArrayRecord`` (ours or Flower's), a mapping of arrays or tensors such as a ``state_dict``, a list of
            ndarrays, or an iterable of ``(name, array)`` pairs, of which one at a time is held.
        run
            Name of the federation it belongs to, without ``@``.
        round
            Number of the round after which it is saved, 0 for the initial model; needs ``run``.
        metrics
            Numbers by name; they come back as floats.
        metadata
            Anything that equals its own JSON round trip.
        tags
            Names for this record within its run; a record that has one of them loses it.
        overwrite
            Replace the record of the same run and round; the new one takes over its tags.
        keep_input
            False empties ``record``, but only after the save has succeeded.

        Returns
        -------
        int
            The id, which no other record of this store will ever have.

        Raises
        ------
        InvalidTypeError, InvalidValueError
            An argument is not what is described above; nothing was written.
        RecordExistsError
            The run has a record of this round, and ``overwrite`` is false.
        StorageFullError, StoreBusyError, StoreAccessError
            The write failed: nothing of the record is visible, and the input is untouched.
        SaveSweptError
            ``gc`` with too short a grace removed the unfinished record.

        Examples
        --------
        >>> import numpy as np
        >>> with RecordStore(":memory:") as store:
        ...     store.save({"weight": np.ones(2)}, run="mnist", round=1, metrics={"loss": 0.5}, tags=["first"])
        1
        """
        self._check_writable()
        name = check_run(run)
        draft = Draft(
            run=name,
            round=check_round(round, name),
            metrics=check_metrics(metrics),
            metadata=check_metadata(metadata),
            tags=check_tags(tags),
            overwrite=check_bool("overwrite", overwrite),
        )
        return self._write(draft, Input(record, keep=check_bool("keep_input", keep_input)))

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
        >>> with RecordStore(":memory:") as store:
        ...     record_id = store.save({"weight": np.ones(2), "bias": np.zeros(1)})
        ...     store.load(record_id, names=["bias"])["bias"].numpy()
        array([0.])
        """
        record = ArrayRecord()
        for name, array in self.stream(ref, names=names):
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
        >>> with RecordStore(":memory:") as store:
        ...     record_id = store.save({"weight": np.ones(2), "bias": np.zeros(1)})
        ...     for name, array in store.stream(record_id):
        ...         print(name, array.shape)
        weight [2]
        bias [1]
        """
        self._check_usable()
        reader = self._reader()
        return self._arrays(reader, reader.open(parse_ref(ref), _check_names(names)))

    def __getitem__(self, ref: int | str | RecordInfo) -> ArrayRecord:
        return self.load(ref)

    def delete(self, ref: int | str | RecordInfo) -> None:
        """Delete a record: at once for all who look for it, then its space is freed.

        Bytes that other records share stay. Freed space is used by later saves.

        Raises
        ------
        RecordNotFoundError
            There is no such record.

        Examples
        --------
        >>> import numpy as np
        >>> with RecordStore(":memory:") as store:
        ...     record_id = store.save([np.ones(2)])
        ...     store.delete(record_id)
        ...     len(store)
        0
        """
        self._check_writable()
        parsed = parse_ref(ref)
        with self._database.write() as session:
            DraftRepository(session).hide(RecordRepository(session).find(parsed).id)
        self._sweep_share(DELETE_STEPS)

    def gc(self, *, grace: float = DEFAULT_GRACE) -> Swept:
        """Remove what deleted records, killed writers and failed saves have left.

        Parameters
        ----------
        grace
            Seconds; an unfinished save that was not touched for so long is taken for dead. With 0 nobody else may be
            saving.

        Returns
        -------
        Swept
            How many records, blobs and bytes were removed.

        Examples
        --------
        >>> with RecordStore(":memory:") as store:
        ...     store.gc(grace=0)
        Swept(records=0, blobs=0, nbytes=0)
        """
        self._check_writable()
        seconds = check_seconds("grace", grace)
        kill_orphans(self._database)
        return sweep(self._database, grace=seconds)

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
