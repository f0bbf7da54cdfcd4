"""Methods of a strategy instance, replaced for as long as a checkpointer is attached to it."""

from collections.abc import Callable, Mapping
from typing import Any

from recordstore.exceptions import InvalidValueError

_MARK = "_recordstore_hook"
_MISSING = object()


class Hooks:
    """Replacements for methods on one instance.

    On the instance, not in a wrapper around it: a strategy whose own ``start`` calls ``self.configure_train`` is
    reached too, and ``super()`` still leads to the original methods.
    """

    def __init__(self, strategy: Any, methods: Mapping[str, Callable[..., Any]]) -> None:
        self._strategy = strategy
        self._methods = methods
        self._before: dict[str, Any] = {}

    def install(self) -> None:
        """Replace the methods.

        Raises
        ------
        InvalidValueError
            A checkpointer is attached to it already.
        """
        attributes = vars(self._strategy)
        if any(is_hook(value) for value in attributes.values()):
            raise InvalidValueError("a checkpointer is attached to this strategy already")
        for name, method in self._methods.items():
            self._before[name] = attributes.get(name, _MISSING)
            attributes[name] = _marked(method)

    def remove(self) -> None:
        """Put the methods back."""
        attributes = vars(self._strategy)
        for name, value in self._before.items():
            attributes.pop(name, None)
            if value is not _MISSING:
                attributes[name] = value
        self._before = {}


def own_attributes(thing: Any) -> dict[str, Any]:
    """Return the attributes of a strategy, or of any other object, by name, those in slots too, but for hooks."""
    slots = {name for kind in type(thing).__mro__ for name in _slots(kind) if hasattr(thing, name)}
    found = {name: getattr(thing, name) for name in sorted(slots)} | getattr(thing, "__dict__", {})
    return {name: value for name, value in found.items() if not is_hook(value)}


def _slots(kind: type) -> tuple[str, ...]:
    slots = vars(kind).get("__slots__", ())
    names = (slots,) if isinstance(slots, str) else tuple(slots)
    return tuple(name for name in names if not name.startswith("__"))


def is_hook(value: object) -> bool:
    """Return whether a value is one of the replacements."""
    return callable(value) and getattr(value, _MARK, None) is True


def _marked(method: Callable[..., Any]) -> Callable[..., Any]:
    def hook(*args: Any, **kwargs: Any) -> Any:
        return method(*args, **kwargs)

    setattr(hook, _MARK, True)
    return hook
