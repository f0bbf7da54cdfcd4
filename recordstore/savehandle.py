"""A save in the background, as the one sees it who has handed it in."""

import os
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, field
from typing import Any

from recordstore.exceptions import ForkError
from recordstore.validation import check_seconds


@dataclass(slots=True, eq=False)
class Save:
    """A save in the background, as far as it has come.

    Attributes
    ----------
    title
        What is saved, for people.
    future
        The id of the record, or the error.
    record
        What the caller has given away, once the save has failed.
    """

    title: str
    future: "Future[int]" = field(default_factory=Future)
    record: Any = None


class SaveHandle:
    """A save that goes on in the background, as :meth:`RecordStore.save_async` returns it.

    Examples
    --------
    >>> import numpy as np
    >>> from recordstore import RecordStore
    >>> with RecordStore(":memory:") as store:
    ...     handle = store.save_async({"weight": np.ones(2)}, run="mnist", round=1)
    ...     handle.result(), handle.done(), handle
    (1, True, <SaveHandle of 'mnist@1': record 1>)
    """

    def __init__(self, save: Save, saw: Callable[[BaseException], None]) -> None:
        self._save = save
        self._saw = saw
        self._pid = os.getpid()

    def done(self) -> bool:
        """Return whether the save has ended, well or not.

        Raises
        ------
        ForkError
            The save was begun before a fork, by the parent of this process.
        """
        self._check_process()
        return self._save.future.done()

    def result(self, timeout: float | None = None) -> int:
        """Return the id of the record, once it is on the disk.

        Parameters
        ----------
        timeout
            Seconds to wait; None waits until the save has ended. Giving up, or Ctrl-C, leaves the save running.

        Raises
        ------
        TimeoutError
            The save is still running; as for a ``concurrent.futures.Future`` this is Python's own. A lock that the
            save could not get is a :class:`StoreBusyError`, and then :meth:`done` is true.
        ForkError
            The save was begun before a fork, by the parent of this process.
        RecordStoreError
            What the save has failed with: all that :meth:`RecordStore.save` raises.
        """
        self._check_process()
        error = outcome(self._save, timeout)
        if error is None:
            return self._save.future.result()
        self._saw(error)
        try:
            raise error
        finally:
            del self, error  # the error knows this frame: together they would stay until garbage is collected

    @property
    def record(self) -> Any:
        """What was given away with ``keep_input=False``, once the save has failed; None otherwise.

        A list, or a mapping of the class that the input had, with the same arrays; for an iterator, a list of pairs.
        """
        return self._save.record

    def __repr__(self) -> str:
        future = self._save.future
        if not future.done():
            state = "running"
        elif (error := future.exception()) is not None:
            state = f"failed, {type(error).__name__}"
        else:
            state = f"record {future.result()}"
        return f"<{type(self).__name__} of {self._save.title}: {state}>"

    def _check_process(self) -> None:
        if os.getpid() != self._pid:
            raise ForkError("the save was begun before a fork, in the parent process, and only that knows how it ends")


def outcome(save: Save, timeout: float | None) -> BaseException | None:
    """Wait for the end of a save, and return its error; None too for one that an interrupt has kept from beginning."""
    seconds = None if timeout is None else min(check_seconds("timeout", timeout), threading.TIMEOUT_MAX)
    try:
        return save.future.exception(seconds)
    except CancelledError:
        return None
    except TimeoutError:
        raise TimeoutError(f"{save.title} is still running after {timeout} s; it goes on") from None
