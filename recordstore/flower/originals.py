"""Objects that a strategy, and what it holds, share by reference: found at the attach, and restored in place.

An optimizer holds on to the parameters that it was made with, a bound method to its generator, a view to its base. So
what is at a commit still the object that it was at the attach is not replaced at a resume, but given its new value.
"""

import random
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from flwr.server.strategy import Strategy as LegacyStrategy
from flwr.serverapp.strategy import Strategy

from recordstore.exceptions import ResumeError
from recordstore.tensor import is_tensor, loaded_torch

CONTAINER_LEVELS = 6
"""How deep an object may lie in lists, tuples and dicts; one of these that holds itself has no end."""


_PLAIN = frozenset({type(None), bool, int, float, str, bytes})


def is_strategy(value: object) -> bool:
    """Return whether an object is a strategy of one of Flower's interfaces."""
    return isinstance(value, (Strategy, LegacyStrategy))


def has_state_dict(thing: object) -> bool:
    """Return whether an object tells its state and takes it back, as those of PyTorch do."""
    methods = (getattr(thing, name, None) for name in ("state_dict", "load_state_dict"))
    return not isinstance(thing, type) and all(map(callable, methods))


def leaves(value: Any, path: str, levels: int = CONTAINER_LEVELS) -> Iterator[tuple[str, Any]]:
    """Yield what a value is, or lists, tuples and dicts in it hold, each with the path that leads to it."""
    if not isinstance(value, (list, tuple, dict)):
        yield path, value
    elif levels:
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(item, f"{path}.{key}", levels - 1)


class Originals:
    """The objects of an attach by path: strategies, those with a state, arrays, tensors and generators."""

    def __init__(self) -> None:
        self._objects: dict[str, Callable[[], Any]] = {}
        self._paths: dict[int, str] = {}

    def add(self, value: Any, path: str) -> None:
        """Take what is found in the value of an attribute."""
        for where, leaf in leaves(value, path):
            if _is_shared(leaf) and self.path(leaf) is None:
                self._objects[where] = _reference(leaf)
                self._paths[id(leaf)] = where

    def path(self, value: Any) -> str | None:
        """Return where an object was found, None for one that came later."""
        path = self._paths.get(id(value))
        return path if path is not None and self._objects[path]() is value else None

    def put_back(self, path: str, value: Any, *, is_state: bool) -> Any:
        """Give the object at a path its value, or what its ``state_dict`` has said, and return it.

        A value that does not fit into it is returned instead.

        Raises
        ------
        ResumeError
            There is none that takes the state.
        """
        target = self._objects.get(path, lambda: None)()
        if not is_state:
            return target if target is not None and _fill(target, value) else value
        if is_strategy(target) and value is None:
            return target
        try:
            target.load_state_dict(value)
        except Exception as error:
            raise ResumeError(
                f"{path} does not take the state that it had when it was saved: {error!r:.300}; make the strategy as "
                "for the first start, with all that has a state_dict()"
            ) from error
        return target


def _is_shared(value: object) -> bool:
    if type(value) in _PLAIN:  # a list of losses may be long
        return False
    generators = (random.Random, np.random.Generator, np.random.RandomState)
    torch = loaded_torch()
    return (
        isinstance(value, (np.ndarray, *generators))
        or is_tensor(value)
        or (torch is not None and isinstance(value, torch.Generator))
        or is_strategy(value)
        or has_state_dict(value)
    )


def _reference(value: Any) -> Callable[[], Any]:
    """Refer to an object without keeping it alive, where it allows that: an array may be large, and replaced soon."""
    try:
        return weakref.ref(value)
    except TypeError:
        return lambda: value


def _fill(target: Any, value: Any) -> bool:
    """Give an object the value of another one, if it can have it."""
    if type(target) is not type(value):
        return False
    if isinstance(target, np.ndarray):
        fits = target.shape == value.shape and target.dtype == value.dtype and target.flags.writeable
        if fits:
            target[...] = value
        return fits
    if is_tensor(target):
        return _fill_tensor(target, value)
    if isinstance(target, random.Random):
        target.setstate(value.getstate())
    elif isinstance(target, np.random.Generator):
        if type(target.bit_generator) is not type(value.bit_generator):
            return False
        target.bit_generator.state = value.bit_generator.state
    else:
        target.set_state(value.get_state())
    return True


def _fill_tensor(target: Any, value: Any) -> bool:
    if target.shape != value.shape or target.dtype != value.dtype:
        return False
    target.detach().copy_(value.detach())
    target.requires_grad_(value.requires_grad)
    return True
