"""Trials that are drawn from a seed, and counted."""

import random
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

TOLD_FAILURES = 10


class Trials:
    """What one test tries, and what became of it.

    Iterating gives the numbers of the trials, ``dice(number)`` the random numbers of one of them: each can be repeated
    without those before it, with ``--seed`` and ``--only``.
    """

    def __init__(
        self,
        name: str,
        seed: int,
        count: int,
        *,
        only: int | None = None,
        tell: Callable[[str], object] = print,
    ) -> None:
        self.name = name
        self.seed = seed
        self.count = count
        self.counts: Counter[str] = Counter()
        self.failures: list[Any] = []
        self._only = only
        self._tell = tell
        self._done = 0

    def __iter__(self) -> Iterator[int]:
        for number in range(self.count) if self._only is None else [self._only]:
            yield number
            self._done += 1

    def dice(self, *key: object) -> random.Random:
        """Return the random numbers of a trial."""
        return random.Random(f"{self.seed} {key}")

    def fail(self, number: int, *what: object) -> None:
        """Note that a trial has shown a broken promise."""
        self.failures.append((number, *what))

    def conclude(self) -> None:
        """Tell what was seen, and raise if a promise was broken."""
        lines = [f"{self.name}, seed {self.seed}: {self._done} trials, {len(self.failures)} failures"]
        lines += [f"    {what}: {count}" for what, count in sorted(self.counts.items())]
        lines += [f"    trial {number}: {what!r:.1000}" for number, *what in self.failures[:TOLD_FAILURES]]
        self._tell("\n".join(lines))
        assert self.failures == [], f"repeat with --seed {self.seed} --only {self.failures[0][0]}"
        assert self._done, "nothing was tried"
