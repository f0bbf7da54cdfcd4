"""Saves in the background: one at a time, in the order in which they were handed in.

They run in a thread of their own, which stays for the next one: to start one on a busy machine takes milliseconds. The
interpreter finishes what the thread was given before it ends, as it does for every executor. What went wrong is told
once: to the one who asks the handle, else to the next who waits for the store or closes it, else to ``stderr`` at the
end.
"""

import atexit
import os
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import TracebackType

from recordstore import forks
from recordstore.exceptions import StoreClosedError
from recordstore.savehandle import Save, SaveHandle, outcome
from recordstore.snapshot import Snapshot


class Background:
    """The saves of one store in the background."""

    def __init__(self) -> None:
        self._turn = _Turn()
        self._lock = threading.RLock()  # a signal handler or a finalizer may come in at any place
        self._current: Save | None = None
        self._executor: ThreadPoolExecutor | None = None
        self._job: Callable[[], None] | None = None
        self._worker: int | None = None
        self._unseen: list[BaseException] = []
        self._closed = False

    def start(self, title: str, take: Callable[[], Snapshot], write: Callable[[Snapshot], int]) -> SaveHandle:
        """Wait for the save before this one, take a snapshot, and have it written in the background.

        Parameters
        ----------
        title
            What is saved, for people.
        take
            Makes the snapshot. It may save by itself: an iterator of the caller runs in it.
        write
            Writes the snapshot and returns the id.
        """
        save = Save(title)
        if self._is_worker():  # a finalizer that happens to run in the middle of a save, which it must not wait for
            snapshot = take()
            self._run(save, snapshot, write)
            snapshot.surrender()
            return SaveHandle(save, self._saw)
        with self._turn:
            self.settle()
            snapshot = take()
            self.settle()  # for one that was handed in meanwhile, by ``take``
            self._begin(save, snapshot, write)
            snapshot.surrender()
        return SaveHandle(save, self._saw)

    def settle(self, timeout: float | None = None) -> None:
        """Wait for the save that was handed in last, however it ends."""
        save = self._current
        if save is not None and not self._is_worker():
            outcome(save, timeout)

    def close(self) -> None:
        """Wait for the save that was handed in last, and refuse more; not if the waiting is interrupted."""
        with self._lock:
            self._closed = True
        try:
            self.settle()
        except BaseException:
            self._closed = False
            raise
        if self._executor is not None:
            self._executor.shutdown(wait=not self._is_worker())

    def next_unseen(self) -> BaseException | None:
        """Return the oldest error that nobody has seen, who now has."""
        with self._lock:
            error = self._unseen[0] if self._unseen else None
            if error is not None:
                self._saw(error)
            return error

    def _begin(self, save: Save, snapshot: Snapshot, write: Callable[[Snapshot], int]) -> None:
        """Hand a save to the thread; without threads, at the end of the interpreter, save at once."""
        executor = self._thread()
        with self._lock:
            if self._closed:
                raise StoreClosedError("the store was closed while the save was being prepared; open it again")
            self._job, self._current = partial(self._run, save, snapshot, write), save
        try:
            if executor is None:
                self._work()
            else:
                executor.submit(self._work)
        except RuntimeError:  # the end of the interpreter came in between
            self._work()
        except BaseException:  # Ctrl-C
            if save.future.cancel():
                self._job = self._current = None
            raise

    def _thread(self) -> ThreadPoolExecutor | None:
        """Return the thread, running: one that has yet to start makes the caller wait; None if none can start."""
        if self._executor is None:
            executor = ThreadPoolExecutor(1, thread_name_prefix="recordstore-save")
            try:
                executor.submit(int)
            except BaseException as error:
                executor.shutdown(wait=False)  # or a thread that has started all the same would wait for ever
                if isinstance(error, RuntimeError):
                    return None
                raise
            self._executor = executor
        return self._executor

    def _work(self) -> None:
        job, self._job = self._job, None
        if job is not None:
            job()
        del job  # the frames of an error know this one

    def _run(self, save: Save, snapshot: Snapshot, write: Callable[[Snapshot], int]) -> None:
        """Save, and note how it has ended; the memory of the snapshot is free before anybody learns of that."""
        if not save.future.set_running_or_notify_cancel():
            return
        before, self._worker = self._worker, threading.get_ident()
        error: BaseException | None = None
        record_id = 0
        try:
            record_id = write(snapshot)
        except BaseException as raised:  # noqa: BLE001 - whatever it is, it is told to the one who asks
            error = raised
        if error is not None:
            save.record = snapshot.hand_back()
            _forget_locals(error)
            self._note(error)
        snapshot.drop()
        self._worker = before
        if error is None:
            save.future.set_result(record_id)
        else:
            save.future.set_exception(error)
        with self._lock:
            if self._current is save:
                self._current = None
        del save, snapshot, write, error  # the frames of the error know this one

    def _is_worker(self) -> bool:
        return self._worker == threading.get_ident()

    def _note(self, error: BaseException) -> None:
        with self._lock:
            self._unseen.append(error)
            _unreported.add(self)

    def _saw(self, error: BaseException) -> None:
        with self._lock:
            self._unseen = [other for other in self._unseen if other is not error]
            if not self._unseen:
                _unreported.discard(self)


class _Turn:
    """A lock that the thread that has it may take again, and that others get in the order in which they came."""

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._changed = threading.Condition()
        self._waiting: deque[object] = deque()
        self._owner: int | None = None
        self._depth = 0

    def __enter__(self) -> None:
        me = threading.get_ident()
        with self._changed:
            if self._owner != me:
                self._wait()
            self._owner, self._depth = me, self._depth + 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if os.getpid() != self._pid:  # a forked child that leaves the blocks of its parent, whose locks are not its own
            return
        with self._changed:
            self._depth -= 1
            if not self._depth:
                self._owner = None
                self._changed.notify_all()

    def _wait(self) -> None:
        ticket = object()
        self._waiting.append(ticket)
        try:
            self._changed.wait_for(lambda: self._owner is None and self._waiting[0] is ticket)
        finally:
            self._waiting.remove(ticket)
            self._changed.notify_all()


_unreported: set[Background] = set()
"""Those that have an error that nobody has seen."""


def _forget_locals(error: BaseException) -> None:
    """Let the frames of an error go of their variables, which hold arrays; where it came from stays known."""
    known, left = set(), [error]
    while left:
        one = left.pop()
        if id(one) not in known:
            known.add(id(one))
            traceback.clear_frames(one.__traceback__)
            left += [other for other in (one.__cause__, one.__context__) if other is not None]


def _report() -> None:
    """Print what nobody has seen, at the end of the interpreter."""
    for background in list(_unreported):
        while (error := background.next_unseen()) is not None:
            if sys.stderr is not None:
                sys.stderr.write("recordstore: a save in the background has failed, and nobody has asked for it:\n")
                traceback.print_exception(error)


atexit.register(_report)
forks.after_fork_in_child(_unreported.clear)
