"""Looking after a store: removing records, giving their space back, checking what is there, and copying it."""

import os
from collections.abc import Callable

from recordstore.backup import back_up
from recordstore.callbacks import telling
from recordstore.compaction import compact
from recordstore.drafts import DraftRepository
from recordstore.handle import DEFAULT_GRACE
from recordstore.info import Progress, RecordInfo, Swept, VerifyReport
from recordstore.loading import RecordLoader
from recordstore.refs import parse_ref
from recordstore.repository import RecordRepository
from recordstore.sweep import kill_orphans, sweep
from recordstore.target import check_path
from recordstore.validation import check_seconds
from recordstore.verifier import Verifier

DELETE_STEPS = 64
"""Transactions of at most 32 MiB in which one ``delete`` frees space; the next ones, or ``gc``, free the rest."""


class Upkeep(RecordLoader):
    """The part of a store that looks after what is in it."""

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
        >>> from recordstore import RecordStore
        >>> with RecordStore(":memory:") as store:
        ...     record_id = store.save([np.ones(2)])
        ...     store.delete(record_id)
        ...     len(store)
        0
        """
        self._check_writable()
        parsed = parse_ref(ref)
        with self._database.write() as session:
            DraftRepository(session).hide(RecordRepository(session.connection()).find(parsed).id)
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
        >>> from recordstore import RecordStore
        >>> with RecordStore(":memory:") as store:
        ...     store.gc(grace=0)
        Swept(records=0, blobs=0, nbytes=0)
        """
        self._check_writable()
        seconds = check_seconds("grace", grace)
        self._background.settle()  # which is alive, whatever its grace
        kill_orphans(self._database)
        return sweep(self._database, grace=seconds)

    def verify(
        self, ref: int | str | RecordInfo | None = None, *, progress: Callable[[Progress], object] | None = None
    ) -> VerifyReport:
        """Read every byte of a record, or of all, and tell what is not as it was saved.

        Other calls go on meanwhile, as beside :meth:`stream`; only the last look, at the pages of the file as a whole,
        holds writers up, for some 0.2 seconds per GiB if the system still has them in memory. Of a file of more than 4
        GiB it is left out. Damaged bytes are marked, so that no later save shares them: saving the same arrays again
        stores them anew. Nothing is repaired or removed.

        Parameters
        ----------
        ref
            As for :meth:`load`; None checks all records, the history of all runs, and the tables and indexes that
            lead to them.
        progress
            Called after each array with a :class:`Progress`, in bytes.

        Returns
        -------
        VerifyReport
            True if nothing is damaged; ``damaged`` lists what is.

        Raises
        ------
        RecordNotFoundError
            There is no such record.

        Examples
        --------
        >>> import numpy as np
        >>> from recordstore import RecordStore
        >>> with RecordStore(":memory:") as store:
        ...     record_id = store.save([np.ones(2)])
        ...     store.verify()
        VerifyReport(records=1, arrays=1, nbytes=144, damaged=())
        """
        self._check_usable()
        with telling(progress) as tell:
            verifier = Verifier(self._database, self._reader(), tell)
            if ref is None:
                verifier.check_all()
            else:
                parsed = parse_ref(ref)
                with self._database.read() as connection:
                    record_id = RecordRepository(connection).find(parsed).id
                verifier.check(record_id)
                verifier.mark_unseen(record_id)
            return verifier.report()

    def backup(self, path: str | os.PathLike[str], *, progress: Callable[[Progress], object] | None = None) -> None:
        """Copy the store into a new file, as it is at one moment, while others go on writing to it.

        The copy is a store like any other. It gets its name when it is whole and on the disk; one that was interrupted
        has a name that ends in ``.partial-`` and digits, and can be removed. Writers commit between two steps of 32
        MiB. A copy that they overtake begins anew, after the third time in one step: then they wait, for as long as
        their ``timeout`` says.

        Parameters
        ----------
        path
            Where to; there must be nothing yet.
        progress
            Called after each step with a :class:`Progress`, in bytes.

        Raises
        ------
        InvalidValueError
            There is something of this name, SQLite would take what is beside it for a part of the copy, or the name is
            one that SQLite uses for files beside a database (``-journal``, ``-wal`` or ``-shm`` at its end).
        StorageFullError, StoreAccessError
            The copy cannot be written.
        StoreBusyError
            A writer kept the store locked for longer than ``timeout``.

        Examples
        --------
        >>> import numpy as np
        >>> from recordstore import RecordStore
        >>> with RecordStore("checkpoints.db") as store:
        ...     record_id = store.save([np.ones(2)], run="mnist", round=1)
        ...     store.backup("checkpoints-backup.db")
        >>> with RecordStore("checkpoints-backup.db") as copy:
        ...     copy.load("mnist@1").to_numpy_ndarrays()
        [array([1., 1.])]
        """
        self._check_usable()
        with telling(progress) as tell:
            where = check_path(path)
            self._background.settle()  # what was handed over before is in the copy
            back_up(self._database, where, tell)

    def compact(self, *, progress: Callable[[Progress], object] | None = None) -> int:
        """Give the space of deleted records back to the file system.

        In transactions of at most 8 MiB, between which others read and write. Later saves would use the space too:
        this is for a store that stays smaller.

        Parameters
        ----------
        progress
            Called after each transaction with a :class:`Progress`, in bytes.

        Returns
        -------
        int
            By how many bytes the file is shorter.

        Raises
        ------
        StoreBusyError
            Others kept the store locked for longer than ``timeout``; what was given back until then stays so.

        Examples
        --------
        >>> import numpy as np
        >>> from recordstore import RecordStore
        >>> with RecordStore(":memory:") as store:
        ...     store.delete(store.save([np.ones(1_000_000)]))
        ...     store.compact() > 8_000_000
        True
        """
        self._check_writable()
        with telling(progress) as tell:
            self._background.settle()
            sweep(self._database, grace=DEFAULT_GRACE)
            return compact(self._database, tell)
