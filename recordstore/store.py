"""The store: one database of records, and the protocols that keep them whole."""

from collections.abc import Iterable, Mapping
from typing import Any

from recordstore.drafts import Draft
from recordstore.inputs import Input
from recordstore.savehandle import SaveHandle
from recordstore.snapshot import Snapshot
from recordstore.upkeep import Upkeep
from recordstore.validation import check_bool, check_metadata, check_metrics, check_round, check_run, check_tags


class RecordStore(Upkeep):
    """A database of records.

    **Atomic.** A record is wholly visible or not at all, whatever is killed and whoever reads meanwhile.

    **Durable.** When :meth:`save` returns, the record survives a kill, a crash of the system and a power failure, as
    far as the disk honours ``fsync``.

    **Verified.** A read returns exactly the bytes that were saved, in the order in which they were saved, or raises.

    **Bounded.** Saving and streaming need at most 64 MiB beyond the caller's own data and one array; the copy that
    :meth:`save_async` makes of ndarrays and tensors excepted.

    **Thread safety.** One store serves any number of threads, and one file any number of processes: many readers, and
    one writer at a time; the next one waits up to ``timeout``. After a ``fork`` the child has to open the file anew.

    Parameters
    ----------
    target
        Path of the database file, ``":memory:"``, or an SQLAlchemy URL such as ``sqlite:///checkpoints.db``. A missing
        file becomes a new store, readable by its owner only; so does an empty one, with the permissions it has.
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
        draft = _draft(run, round, metrics=metrics, metadata=metadata, tags=tags, overwrite=overwrite)
        return self._write(draft, Input(record, keep=check_bool("keep_input", keep_input)))

    def save_async(
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
    ) -> SaveHandle:
        """Save a record in the background: return as soon as nothing that you do can change what is saved.

        The bytes of an ``Array`` never change, so an ``ArrayRecord`` of 150 arrays takes one or two milliseconds, of
        whatever size they are. ndarrays and tensors are copied first; an iterable is exhausted. A crash before the end
        leaves nothing of the record behind.

        **Bounded.** At most one save at a time is in the background: a call waits for the end of the one before, and so
        at most one copy of ndarrays and tensors exists, besides the 64 MiB of a save. (Only a call from within an
        iterable that is being exhausted adds another.) The memory of the copy is lent to the system between two saves.

        **In order.** Saves, :meth:`save` and :meth:`save_checkpoint` too, take place in the order of the calls. Reading
        waits for nothing: a record is there once its save has ended.

        **No error is lost.** It is raised by ``result()`` of the handle, else by the next :meth:`wait` or
        :meth:`close`, once; at the end of the interpreter, which finishes a pending save, it is printed.

        Parameters
        ----------
        record, run, round, metrics, metadata, tags, overwrite
            As for :meth:`save`.
        keep_input
            False gives the arrays away: none is copied, and ``record`` is empty when the call returns. If the save
            fails, the ``record`` of the handle is a container of the same class with the same arrays.

        Returns
        -------
        SaveHandle
            ``result(timeout=None)`` waits for the end and returns the id, ``done()`` tells whether it has come.

        Raises
        ------
        InvalidTypeError, InvalidValueError, ReadOnlyStoreError, StoreClosedError, ForkError
            As for :meth:`save`, by the call itself; nothing was begun, and ``record`` is untouched.

        Examples
        --------
        >>> import numpy as np
        >>> with RecordStore(":memory:") as store:
        ...     weight = np.ones(2)
        ...     handle = store.save_async({"weight": weight}, run="mnist", round=1)
        ...     weight[:] = 7  # train on
        ...     store.load(handle.result())["weight"].numpy()
        array([1., 1.])
        """
        self._check_writable()
        draft = _draft(run, round, metrics=metrics, metadata=metadata, tags=tags, overwrite=overwrite)
        given = Input(record, keep=check_bool("keep_input", keep_input))

        def take() -> Snapshot:
            snapshot = Snapshot(given, self._staging, self._pool)
            self._check_usable()  # an iterator may have closed the store, or forked
            return snapshot

        return self._background.start(_title(draft), take, lambda snapshot: self._write(draft, snapshot))


def _draft(run: object, round_: object, *, metrics: object, metadata: object, tags: object, overwrite: object) -> Draft:
    """Return what is saved besides the arrays, checked."""
    name = check_run(run)
    return Draft(
        run=name,
        round=check_round(round_, name),
        metrics=check_metrics(metrics),
        metadata=check_metadata(metadata),
        tags=check_tags(tags),
        overwrite=check_bool("overwrite", overwrite),
    )


def _title(draft: Draft) -> str:
    """Return what a save is called in messages."""
    if draft.run is None:
        return "a record without a run"
    return repr(draft.run if draft.round is None else f"{draft.run}@{draft.round}")
