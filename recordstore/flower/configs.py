"""The configurations of a training, which strategies change from round to round."""

from collections.abc import Mapping, MutableMapping
from typing import Any


class Configs:
    """The live configurations by kind, and what the store has of them.

    Attributes
    ----------
    live
        The objects that ``start`` passes on in each round.
    """

    def __init__(self) -> None:
        self.live: dict[str, MutableMapping[str, Any]] = {}
        self._replayed: dict[str, object] = {}
        self._stored: dict[str, Any] = {}

    def restore(self, stored: Mapping[str, Any]) -> None:
        """Take what earlier rounds have made of them, to be put back when they are seen next."""
        self._stored = dict(stored)

    def replay(self, kind: str, config: object) -> None:
        """Remember which object is the configuration of committed rounds: one made anew for each is not restored."""
        self._replayed[kind] = config

    def use(self, kind: str, config: MutableMapping[str, Any] | None) -> None:
        """Take the configuration of a live round, after putting back what earlier rounds have made of it."""
        if config is None:
            return
        known = any(config is live for live in self.live.values())
        if kind in self._stored and self._replayed.get(kind) is config and not known:
            config.clear()
            config.update(self._stored[kind])
        self._stored.pop(kind, None)
        self.live[kind] = config
