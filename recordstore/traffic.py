"""The threads that read the arrays of a record, and the memory that these take on their way."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Abandoned(Exception):  # noqa: N818 - a signal, not an error
    """Nobody wants the array any more."""


class Traffic:
    """The threads that are at work on the arrays of a pipeline, and the memory that these take.

    Those who ask for memory are served in the order of their turns, which is that in which arrays are yielded: one that
    came first by chance would else hold what an earlier one waits for. The thread that made it never waits for memory,
    as it is the one that frees it.
    """

    def __init__(self, room: int) -> None:
        self._room = room
        self._held = 0
        self._turn = 0
        self._inside = 0
        self._ended = False
        self._pid = os.getpid()
        self._owner = threading.get_ident()
        self._changed = threading.Condition()

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Work within the block, unless nobody wants the arrays any more."""
        with self._changed:
            if self._ended:
                raise Abandoned
            self._inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                self._changed.notify_all()

    def take(self, turn: int, nbytes: int) -> None:
        """Wait until all turns before have taken theirs, and there is room for so much or nothing else on its way."""
        with self._changed:
            self._changed.wait_for(lambda: self._free or (turn == self._turn and self._has_room(nbytes)))
            if self._ended:
                raise Abandoned
            self._held += nbytes
            self._turn += 1
            self._changed.notify_all()

    def give(self, nbytes: int) -> None:
        """Give back what was taken."""
        with self._changed:
            self._held -= nbytes
            self._changed.notify_all()

    def end(self) -> None:
        """Let nobody begin any more, and wait for those who have: also those of whom an interrupt left no trace.

        A forked child has no thread to wait for, and perhaps a lock that one of its parent's held.
        """
        if os.getpid() != self._pid:
            return
        interrupt = None
        while not self._ended or self._inside:
            try:
                with self._changed:
                    self._ended = True
                    self._changed.notify_all()
                    self._changed.wait_for(lambda: not self._inside)
            except KeyboardInterrupt as error:
                interrupt = error
        if interrupt is not None:
            raise interrupt

    def _has_room(self, nbytes: int) -> bool:
        return not self._held or self._held + nbytes <= self._room

    @property
    def _free(self) -> bool:
        return self._ended or threading.get_ident() == self._owner
