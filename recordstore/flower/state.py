"""What a strategy remembers between rounds: found by what has changed since it was attached, kept, and put back."""

import contextlib
import logging
from collections.abc import Collection, Iterator
from typing import Any

from recordstore.exceptions import CorruptRecordError, InvalidTypeError, InvalidValueError
from recordstore.flower.codec import Encoder, Fingerprint, qualified_name
from recordstore.flower.decoder import Decoder
from recordstore.flower.hooks import is_hook, own_attributes
from recordstore.flower.marks import Mark, mark
from recordstore.flower.originals import Originals, has_state_dict, is_strategy, leaves
from recordstore.flower.privacy import BEFORE_NOISE, OPTIMIZER_STATE, is_accountant, is_private
from recordstore.tagged import to_text

logger = logging.getLogger("recordstore")

OWN = "state_dict()"
"""Stands, among the attributes, for what a strategy itself says of its state."""

GONE = ""
"""Stands, among the attributes, for the names of those that were deleted."""

UNCHANGED = object()
"""What stands for an attribute that is as it was at the beginning."""

SHOWN = 80
"""Characters of a value that a message shows."""


class UnnoisedStateError(InvalidValueError):
    """What comes from aggregates without noise would be stored, and that was not allowed: it never will be."""


def strategy_tree(strategy: Any) -> list[tuple[str, Any]]:
    """Return a strategy and those that it wraps, however deep, each with the path that leads to it."""
    found: list[tuple[str, Any]] = [("", strategy)]
    for path, outer in found:
        for name, value in own_attributes(outer).items():
            for inner_path, inner in leaves(value, f"{path}{name}"):
                if is_strategy(inner) and all(inner is not other for _, other in found):
                    found.append((f"{inner_path}.", inner))
    return found


class StrategyState:
    """The attributes of a strategy and of those that it wraps.

    Parameters
    ----------
    strategy
        The outermost one, fresh: how it is now counts as its hyper-parameters.
    store_unnoised
        Keep what strategies inside a differential-privacy wrapper remember.
    ignore
        Names of attributes to leave alone.

    Attributes
    ----------
    originals
        The objects in the attributes, as they are now.
    """

    def __init__(self, strategy: Any, *, store_unnoised: bool, ignore: Collection[str] = ()) -> None:
        self._store_unnoised = store_unnoised
        self._ignore = ignore
        self._reported: set[str] = set()
        self.originals = Originals()
        self._members = [_Member(path, one, ignore) for path, one in strategy_tree(strategy)]
        for member in self._members:
            for name, value in member.attributes():
                self.originals.add(value, f"{member.path}{name}")
        inside = False
        for member in self._members:
            member.inside_noise = inside
            inside = inside or is_private(member.strategy)
        for member in self._members:
            if member.inside_noise:
                _refuse_optimizer(member, store_unnoised=store_unnoised)

    def describe(self) -> list[dict[str, Any]]:
        """Return classes and hyper-parameters, for JSON."""
        return [
            {"path": member.path, "class": qualified_name(type(member.strategy)), "hyperparameters": member.fixed}
            for member in self._members
        ]

    def capture(self, encoder: Encoder) -> dict[str, Any]:
        """Return by path and attribute what has changed, for JSON; report what cannot be kept.

        Raises
        ------
        UnnoisedStateError
            A strategy inside a differential-privacy wrapper has changed, and that may not be stored.
        """
        now = [one for _, one in strategy_tree(self._members[0].strategy)]
        if {id(one) for one in now} != {id(member.strategy) for member in self._members}:
            self._warn("wrapped strategies", "they are other objects than at the beginning")
        return {member.path: self._capture(member, encoder) for member in self._members}

    def restore(self, saved: dict[str, Any], decoder: Decoder) -> None:
        """Set the attributes as they were captured."""
        for member in self._members:
            member.restore(saved.get(member.path, {}), decoder)

    def differences(self, stored: list[dict[str, Any]]) -> list[str]:
        """Return in which classes and hyper-parameters the strategy differs from a stored description."""
        theirs = {item["path"]: item for item in stored}
        ours = {item["path"]: item for item in self.describe()}
        found = []
        for path in sorted(theirs | ours):
            one, other = theirs.get(path), ours.get(path)
            if one is None or other is None or one["class"] != other["class"]:
                classes = [item["class"] if item else "nothing" for item in (one, other)]
                found.append(f"{path.rstrip('.') or 'the strategy'}: {classes[0]} stored, {classes[1]} now")
            else:
                found += [
                    text
                    for name, text in _compare(path, one["hyperparameters"], other["hyperparameters"])
                    if not _is_ignored(path, name, self._ignore)
                ]
        return found

    def _capture(self, member: "_Member", encoder: Encoder) -> dict[str, Any]:
        changed: dict[str, Any] = {}
        attributes = dict(member.attributes())  # once: it may ask the strategy for its state
        for name, value in attributes.items():
            if member.inside_noise and name in BEFORE_NOISE:
                continue
            before = len(encoder.arrays)
            try:
                data = member.changed(name, value, encoder)
            except InvalidTypeError as error:
                self._report(member, name, value, error)
                continue
            if data is UNCHANGED:
                continue
            if member.inside_noise and _may_be_a_model(data):
                encoder.drop_after(before)
                self._report(member, name, value, InvalidTypeError("it may be a model before noise"))
                continue
            changed[name] = data
        if gone := sorted(member.begin.keys() - attributes.keys()):
            changed[GONE] = gone
        if changed and member.inside_noise and not self._store_unnoised:
            raise UnnoisedStateError(
                f"{member.path}{next(iter(changed)) or gone[0]} changed inside a differential-privacy wrapper: it "
                "comes from aggregates without noise and is stored only with Checkpointer(store_unnoised_state=True)"
            )
        return changed

    def _report(self, member: "_Member", name: str, value: object, error: Exception) -> None:
        """Say once that an attribute has changed and will not be restored, unless the strategy keeps its own state."""
        if not has_state_dict(member.strategy) and member.has_changed(name, value):
            self._warn(f"{member.path}{name}", error)

    def _warn(self, label: str, reason: object) -> None:
        if label not in self._reported:
            self._reported.add(label)
            logger.warning(
                "The attribute %r of the strategy has changed and is not part of the checkpoints: %s. A resumed run "
                "begins with its first value; give the strategy state_dict() and load_state_dict() to keep it.",
                label,
                reason,
            )


class _Member:
    """One strategy of the tree, and how it was at the beginning."""

    def __init__(self, path: str, strategy: Any, ignore: Collection[str]) -> None:
        self.path = path
        self.strategy = strategy
        self.inside_noise = False
        self._ignore = ignore
        self.fixed: dict[str, Any] = {}
        self.begin: dict[str, Mark] = {}
        for name, value in self.attributes():
            if name != OWN and not is_strategy(value):  # a wrapped one is described as a member of its own
                self.fixed[name] = Fingerprint().encode_whole(value, name)
            self.begin[name] = mark(value)

    def attributes(self) -> Iterator[tuple[str, Any]]:
        """Yield names and values, and what the strategy itself says of its state."""
        for name, value in own_attributes(self.strategy).items():
            if not is_accountant(value) and not _is_ignored(self.path, name, self._ignore):
                yield name, value
        if has_state_dict(self.strategy):
            yield OWN, self.strategy.state_dict()

    def changed(self, name: str, value: Any, encoder: Encoder) -> Any:
        """Return an attribute for JSON, ``UNCHANGED`` if it is as at the beginning."""
        before = len(encoder.arrays)
        data = encoder.encode(value, f"{self.path}{name}")
        # arrays where there were none are a change, and need not be hashed to be seen
        has_new_arrays = (
            len(encoder.arrays) > before and not self.begin.get(name, Mark("", has_arrays=False)).has_arrays
        )
        if name in self.begin and not has_new_arrays and not self.has_changed(name, value):
            encoder.drop_after(before)
            return UNCHANGED
        return data

    def has_changed(self, name: str, value: Any) -> bool:
        """Return whether an attribute is not as at the beginning."""
        begin = self.begin.get(name)
        return begin is None or begin.text != mark(value).text

    def restore(self, saved: dict[str, Any], decoder: Decoder) -> None:
        """Set the attributes that had changed."""
        for name, data in saved.items():
            if _is_ignored(self.path, name, self._ignore):
                continue
            if _is_reserved(self.strategy, name):
                raise CorruptRecordError(f"the checkpoint sets {self.path}{name}, which no checkpoint has")
            if name == GONE:
                for gone in data:
                    with contextlib.suppress(AttributeError):
                        object.__delattr__(self.strategy, gone)
            elif name == OWN:
                self.strategy.load_state_dict(decoder.decode(data))
            else:
                object.__setattr__(self.strategy, name, decoder.decode(data))


def _is_ignored(path: str, name: str, ignore: Collection[str]) -> bool:
    return name in ignore or f"{path}{name}" in ignore


def _is_reserved(strategy: Any, name: str) -> bool:
    return (name.startswith("__") and name.endswith("__")) or (name != GONE and is_hook(getattr(strategy, name, None)))


def _may_be_a_model(data: Any) -> bool:
    text = to_text(data)
    return "$ArrayRecord" in text or "$Parameters" in text


def _compare(path: str, stored: dict[str, Any], now: dict[str, Any]) -> list[tuple[str, str]]:
    return [
        (name, f"{path}{name}: {_show(stored, name)} stored, {_show(now, name)} now")
        for name in sorted(stored.keys() | now.keys())
        if to_text(stored.get(name, {"$missing": 0})) != to_text(now.get(name, {"$missing": 0}))
    ]


def _show(values: dict[str, Any], name: str) -> str:
    if name not in values:
        return "nothing"
    value = values[name]
    is_object = isinstance(value, dict) and list(value) == ["$object"]
    text = str(value["$object"]) if is_object else to_text(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def _refuse_optimizer(member: _Member, *, store_unnoised: bool) -> None:
    """Refuse, before the first round, a strategy inside a wrapper that is known to remember what has no noise."""
    name, known = type(member.strategy).__name__, sorted(OPTIMIZER_STATE & member.begin.keys())
    if "initial_parameters" in member.begin and "momentum_vector" in known:
        raise InvalidValueError(
            f"the legacy {name} inside a differential-privacy wrapper goes on from its model before noise, which is "
            "never stored: such a training cannot be resumed; use FedAvg inside the wrapper"
        )
    if known and not store_unnoised:
        raise InvalidValueError(
            f"{name} inside a differential-privacy wrapper remembers aggregates without noise ({', '.join(known)}): "
            "they are stored, and the run can be resumed, with Checkpointer(..., store_unnoised_state=True) only"
        )
