"""What a store tells about its records without reading an array, and their tags."""

from collections.abc import Iterator
from typing import Literal

from recordstore.drafts import DraftRepository
from recordstore.exceptions import InvalidValueError, RecordNotFoundError
from recordstore.handle import StoreHandle
from recordstore.info import RecordInfo, RunInfo
from recordstore.refs import parse_ref
from recordstore.repository import RecordRepository
from recordstore.validation import check_bool, check_choice, check_int, check_run, check_tag, check_text, show

PAGE = 100
"""Records that one query of :meth:`Catalog.records` reads."""

ID_PAGE = 1000
"""Ids that one query of an iteration over a store reads."""


class Catalog(StoreHandle):
    """The part of a store that looks at records from outside."""

    def info(self, ref: int | str | RecordInfo) -> RecordInfo:
        """Return what is known of a record; reads no array.

        Parameters
        ----------
        ref
            An id, a :class:`RecordInfo`, or a str: ``"latest"``, ``"run@latest"``, ``"run@3"`` (a round),
            ``"run@tag"``, or a tag that one run has.

        Raises
        ------
        RecordNotFoundError
            There is no such record.
        AmbiguousReferenceError
            Several runs have the tag.

        Examples
        --------
        >>> import numpy as np
        >>> from recordstore import RecordStore
        >>> with RecordStore(":memory:") as store:
        ...     record_id = store.save({"weight": np.ones(2)}, run="mnist", round=1, metrics={"loss": 0.5})
        ...     info = store.info("mnist@1")
        >>> info.id, info.metrics, info.names, info.nbytes
        (1, {'loss': 0.5}, ('weight',), 144)
        """
        self._check_usable()
        parsed = parse_ref(ref)
        with self._database.read() as connection:
            records = RecordRepository(connection)
            return records.infos([records.find(parsed)])[0]

    def records(
        self, *, run: str | None = None, newest_first: bool = False, limit: int | None = None
    ) -> Iterator[RecordInfo]:
        """Iterate over the records in the order in which their saves began, or the reverse.

        No lock is held between two records; one that is saved or deleted meanwhile may be among them or not.

        Examples
        --------
        >>> import numpy as np
        >>> from recordstore import RecordStore
        >>> with RecordStore(":memory:") as store:
        ...     ids = [store.save([np.ones(2)], run="mnist", round=number) for number in range(5)]
        ...     [info.round for info in store.records(run="mnist", newest_first=True, limit=2)]
        [4, 3]
        """
        self._check_usable()
        count = None if limit is None else check_int("limit", limit)
        if count is not None and count < 0:
            raise InvalidValueError(f"limit must not be negative, and is {show(count)}")
        return self._pages(check_run(run), newest_first=check_bool("newest_first", newest_first), limit=count)

    def latest(self, run: str | None = None) -> RecordInfo | None:
        """Return the record of the highest round of a run, or the newest of all; None if there is none.

        Examples
        --------
        >>> from recordstore import RecordStore
        >>> with RecordStore(":memory:") as store:
        ...     store.latest("mnist") is None
        True
        """
        self._check_usable()
        name = check_run(run)
        with self._database.read() as connection:
            records = RecordRepository(connection)
            row = records.latest(name)
            return None if row is None else records.infos([row])[0]

    def best(self, metric: str, mode: Literal["max", "min"], *, run: str | None = None) -> RecordInfo | None:
        """Return the record with the highest or lowest value of a metric, the oldest of several; None without one.

        A record whose value is NaN never is it.

        Examples
        --------
        >>> import numpy as np
        >>> from recordstore import RecordStore
        >>> with RecordStore(":memory:") as store:
        ...     for number, loss in enumerate([0.9, 0.4, float("nan")]):
        ...         _ = store.save([np.ones(2)], run="mnist", round=number, metrics={"loss": loss})
        ...     store.best("loss", "min").round
        1
        """
        self._check_usable()
        name, of_run = check_text("metric", metric), check_run(run)
        maximum = check_choice("mode", mode, "max", "min") == "max"
        with self._database.read() as connection:
            records = RecordRepository(connection)
            row = records.best(name, maximum=maximum, run=of_run)
            return None if row is None else records.infos([row])[0]

    def runs(self) -> list[RunInfo]:
        """Return name, number of records and highest round of each run, by name.

        Examples
        --------
        >>> import numpy as np
        >>> from recordstore import RecordStore
        >>> with RecordStore(":memory:") as store:
        ...     record_id = store.save([np.ones(2)], run="mnist", round=3)
        ...     store.runs()
        [RunInfo(run='mnist', records=1, last_round=3)]
        """
        self._check_usable()
        with self._database.read() as connection:
            return RecordRepository(connection).runs()

    def tag(self, ref: int | str | RecordInfo, name: str) -> None:
        """Give a record a tag; within the run of the record, another one that has it loses it.

        Examples
        --------
        >>> import numpy as np
        >>> from recordstore import RecordStore
        >>> with RecordStore(":memory:") as store:
        ...     record_id = store.save([np.ones(2)], run="mnist", round=3)
        ...     store.tag(record_id, "best")
        ...     store.info("mnist@best").round
        3
        """
        self._check_writable()
        parsed, tag = parse_ref(ref), check_tag(name)
        with self._database.write() as session:
            row = RecordRepository(session.connection()).find(parsed)
            DraftRepository(session).set_tag(row.id, row.run, tag)

    def untag(self, ref: int | str | RecordInfo, name: str) -> None:
        """Take a tag from a record.

        Raises
        ------
        RecordNotFoundError
            There is no such record, or it does not have this tag.

        Examples
        --------
        >>> import numpy as np
        >>> from recordstore import RecordStore
        >>> with RecordStore(":memory:") as store:
        ...     record_id = store.save([np.ones(2)], tags=["first"])
        ...     store.untag(record_id, "first")
        ...     store.info(record_id).tags
        ()
        """
        self._check_writable()
        parsed, tag = parse_ref(ref), check_tag(name)
        with self._database.write() as session:
            row = RecordRepository(session.connection()).find(parsed)
            if not DraftRepository(session).remove_tag(row.id, row.run, tag):
                raise RecordNotFoundError(f"record {row.id} does not have the tag {tag!r}")

    def __len__(self) -> int:
        self._check_usable()
        with self._database.read() as connection:
            return RecordRepository(connection).count()

    def __bool__(self) -> bool:
        return True  # an empty store is a store: ``store or default`` must not drop it

    def __contains__(self, ref: object) -> bool:
        self._check_usable()
        try:
            parsed = parse_ref(ref)
            with self._database.read() as connection:
                RecordRepository(connection).find(parsed)
        except RecordNotFoundError:
            return False
        return True

    def __iter__(self) -> Iterator[int]:
        self._check_usable()
        return self._ids()

    def _ids(self) -> Iterator[int]:
        after = None
        while True:
            with self._database.read() as connection:
                ids = RecordRepository(connection).ids(after=after, limit=ID_PAGE)
            for id_ in ids:
                self._check_usable()
                yield id_
            if len(ids) < ID_PAGE:
                return
            after = ids[-1]

    def _pages(self, run: str | None, *, newest_first: bool, limit: int | None) -> Iterator[RecordInfo]:
        after = None
        while limit is None or limit > 0:
            size = PAGE if limit is None else min(PAGE, limit)
            with self._database.read() as connection:
                records = RecordRepository(connection)
                infos = records.infos(records.page(run, after=after, newest_first=newest_first, limit=size))
            for info in infos:
                self._check_usable()
                yield info
            if len(infos) < size:
                return
            after, limit = infos[-1].id, None if limit is None else limit - size
