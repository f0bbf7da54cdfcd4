"""Work that threads are given, done once whatever becomes of the threads."""

from collections.abc import Callable
from concurrent.futures import Executor, Future
from itertools import count
from typing import Generic, ParamSpec, TypeVar

_P = ParamSpec("_P")
_T = TypeVar("_T")


class _Task(Generic[_T]):
    def __init__(self, work: Callable[[], _T]) -> None:
        self.outcome: Future[_T] = Future()
        self._work = work
        self._claims = count()

    def claim(self) -> bool:
        """Return whether nobody else does the work; ``next`` of a counter is one step for all threads."""
        return next(self._claims) == 0

    def run(self) -> None:
        if not self.claim() or not self.outcome.set_running_or_notify_cancel():
            return
        try:
            self.outcome.set_result(self._work())
        except BaseException as error:  # noqa: BLE001 - whoever asks for the outcome gets it
            self.outcome.set_exception(error)


def offer(executor: Executor, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> Future[_T] | None:
    """Have a thread call ``function``; None where none can be started, and none will call it then.

    An executor that cannot start a thread, for lack of room or because the interpreter ends, says so once the work is
    in its queue already: there it must not be done a second time, when somebody else has done it long ago.
    """
    task = _Task(lambda: function(*args, **kwargs))
    try:
        executor.submit(task.run)
    except RuntimeError:
        if task.claim():
            return None
    return task.outcome
