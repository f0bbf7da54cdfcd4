"""Work that threads are given, done once whatever becomes of the threads."""

from collections.abc import Callable
from concurrent.futures import Executor, Future
from contextlib import suppress
from typing import Generic, ParamSpec, TypeVar

_P = ParamSpec("_P")
_T = TypeVar("_T")


class _Task(Generic[_T]):
    def __init__(self, work: Callable[[], _T], outcome: Future[_T]) -> None:
        self._work = work
        self._unclaimed = [outcome]

    def claim(self) -> Future[_T] | None:
        """Return the outcome, which the caller has to see to; None if somebody else does.

        Taking the last of a list is one step for all threads.
        """
        with suppress(IndexError):
            return self._unclaimed.pop()
        return None

    def run(self) -> None:
        outcome = self.claim()
        if outcome is None or not outcome.set_running_or_notify_cancel():
            return
        try:
            outcome.set_result(self._work())
        except BaseException as error:  # noqa: BLE001 - whoever asks for the outcome gets it
            outcome.set_exception(error)
            # The error has this frame, and those that called it: were the outcome in one of them too, the memory of
            # failed work would stay until the garbage collector comes.
            del outcome


def offer(executor: Executor, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> Future[_T] | None:
    """Have a thread call ``function``; None where none can be started, and none will call it then.

    An executor that cannot start a thread, for lack of room or because the interpreter ends, says so once the work is
    in its queue already: there it must not be done a second time, when somebody else has done it long ago.
    """
    outcome: Future[_T] = Future()
    task = _Task(lambda: function(*args, **kwargs), outcome)
    try:
        executor.submit(task.run)
    except RuntimeError:
        if task.claim() is not None:
            return None
    return outcome
