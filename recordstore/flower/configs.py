"""The configurations of a training, which strategies change from round to round."""

from collections.abc import Callable, Mapping, MutableMapping
from typing import Any

from recordstore.flower.codec import Fingerprint
from recordstore.tagged import to_text

Live = MutableMapping[str, Any]


class Configs:
    """The live configurations by kind, and what the store has of them.

    Parameters
    ----------
    refuse
        Is told of a configuration that is given otherwise than at the beginning; it raises, or lets it be.
    begun
        The configurations as they were given at the beginning, for JSON.

    Attributes
    ----------
    live
        The objects that ``start`` passes on in each round.
    begun
        As above, and those that were given since.
    """

    def __init__(self, refuse: Callable[[list[str]], None], begun: Mapping[str, Any]) -> None:
        self._refuse = refuse
        self.live: dict[str, Live] = {}
        self.begun = dict(begun)
        self._given: dict[str, Any] = {}
        self._replayed: dict[str, object] = {}
        self._stored: dict[str, Any] = {}

    def restore(self, stored: Mapping[str, Any]) -> None:
        """Take what earlier rounds have made of them, to be put back when they are seen next."""
        self._stored = dict(stored)

    def replay(self, kind: str, config: Live | None) -> None:
        """Remember which object is the configuration of committed rounds: one made anew for each is not restored."""
        self._replayed[kind] = config
        self._note_given(kind, config)

    def use(self, kind: str, config: Live | None) -> None:
        """Take the configuration of a live round, after putting back what earlier rounds have made of it."""
        if config is None:
            return
        known = any(config is live for live in self.live.values())
        self._note_given(kind, config)
        if kind in self._stored and self._replayed.get(kind) is config and not known:
            self._put_back(kind, config)
        if not known:  # one that both kinds share has been changed already
            self.begun.setdefault(kind, self._given[kind])
        self._stored.pop(kind, None)
        self.live[kind] = config

    def _note_given(self, kind: str, config: Live | None) -> None:
        if config is not None and kind not in self._given:
            self._given[kind] = Fingerprint().encode_whole(dict(config), f"{kind}_config")

    def _put_back(self, kind: str, config: Live) -> None:
        begun, given = self.begun.get(kind), self._given[kind]
        if begun is not None and begun != given:
            self._refuse([f"{kind}_config: {to_text(begun)} stored, {to_text(given)} now"])
            self.begun[kind] = given
            return
        config.clear()
        config.update(self._stored[kind])
