"""What the arguments of a store may be; everything is checked before anything is written."""

import json
import math
import numbers
from collections.abc import Iterable
from typing import Any

import numpy as np

from recordstore.exceptions import InvalidTypeError, InvalidValueError

MAX_NAME_BYTES = 1024
MAX_TYPE_BYTES = 65_536
"""Longest dtype and stype in UTF-8 bytes: a structured dtype spells out all its fields."""

MAX_INT = 2**63 - 1

MAX_DEPTH = 200
"""Levels of nesting of metadata: far below what Python's parser takes, wherever it is called from."""

MAX_SECONDS = 1e9
"""About 32 years: more than anybody waits, and less than what overflows a clock."""


def check_text(what: str, value: object, *, limit: int = MAX_NAME_BYTES) -> str:
    """Return ``value`` if it is a string that every database can hold.

    Raises
    ------
    InvalidTypeError
        Not a string.
    InvalidValueError
        A NUL character, a lone surrogate, or more than ``limit`` bytes of UTF-8.
    """
    if not isinstance(value, str):
        raise InvalidTypeError(f"{what} must be a str, not {type(value).__name__}")
    text = str.__str__(value)  # the value of an enum's member, not its name
    if "\0" in text:
        raise InvalidValueError(f"{what} {text[:80]!r} holds a NUL character, which databases cut texts at")
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise InvalidValueError(f"{what} {text[:80]!r} holds a lone surrogate, which UTF-8 has no bytes for") from None
    if size > limit:
        raise InvalidValueError(f"{what} {text[:80]!r}... has {size} bytes of UTF-8, more than {limit}")
    return text


def show(value: object) -> str:
    """Return the text of a value for a message, cut to a length that one can read."""
    try:
        return f"{value!r:.80}"
    except ValueError:  # Python writes out no int of more than 4,300 digits
        return "an int of thousands of digits"


def check_run(run: object) -> str | None:
    """Return a run name, or None."""
    if run is None:
        return None
    name = check_text("run", run)
    if not name or "@" in name:
        raise InvalidValueError(f"run {name!r} must not be empty or hold '@', which ends the run in a reference")
    return name


def check_round(round_: object, run: str | None) -> int | None:
    """Return a round number, or None."""
    if round_ is None:
        return None
    number = check_int("round", round_)
    if run is None:
        raise InvalidValueError("round needs a run: save(record, run='name', round=3)")
    if not 0 <= number <= MAX_INT:
        raise InvalidValueError(f"round must be between 0 and 2**63 - 1, not {show(number)}")
    return number


def check_int(what: str, value: object) -> int:
    """Return an int from any integer type but bool."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise InvalidTypeError(f"{what} must be an int, not {type(value).__name__}")
    return int(value)


def check_bool(what: str, value: object) -> bool:
    """Return a bool; nothing else passes for one, since ``"no"`` would be true."""
    if not isinstance(value, bool):
        raise InvalidTypeError(f"{what} must be a bool, not {type(value).__name__}")
    return value


def check_choice(what: str, value: object, first: str, second: str) -> str:
    """Return one of two words."""
    if not isinstance(value, str):
        raise InvalidTypeError(f"{what} must be {first!r} or {second!r}, not {type(value).__name__}")
    if value not in {first, second}:
        raise InvalidValueError(f"{what} must be {first!r} or {second!r}, not {value!r:.80}")
    return value


def check_seconds(what: str, value: object) -> float:
    """Return a number of seconds, not negative, that a clock can count."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InvalidTypeError(f"{what} must be a number of seconds, not {type(value).__name__}")
    if not 0 <= value <= MAX_SECONDS:
        raise InvalidValueError(f"{what} must be between 0 and {MAX_SECONDS:.0f} seconds, not {show(value)}")
    return float(value)


def check_tag(tag: object) -> str:
    """Return a tag; one that looks like another kind of reference is refused."""
    name = check_text("tag", tag)
    if not name or name.isdigit() or name == "latest" or "@" in name or ":" in name:
        raise InvalidValueError(f"tag {name!r} must not be empty, 'latest' or all digits, or hold '@' or ':'")
    return name


def check_tags(tags: object) -> tuple[str, ...]:
    """Return the tags of a record, each once."""
    if isinstance(tags, str) or not isinstance(tags, Iterable):
        raise InvalidTypeError(f"tags must be a sequence of str, such as ('best',), not {type(tags).__name__}")
    return tuple(dict.fromkeys(check_tag(tag) for tag in tags))


def check_metrics(metrics: object) -> dict[str, float]:
    """Return metrics as floats.

    Raises
    ------
    InvalidTypeError
        Not a mapping of str to int or float.
    InvalidValueError
        An int that no float equals.
    """
    if metrics is None:
        return {}
    try:
        pairs = dict(metrics.items())  # type: ignore[attr-defined]
    except (AttributeError, TypeError, ValueError):
        raise InvalidTypeError(
            f"metrics must be a mapping of str to int or float, not {type(metrics).__name__}"
        ) from None
    return {check_text("metric", name): _check_metric(name, value) for name, value in pairs.items()}


def _check_metric(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (numbers.Integral, float, np.floating)):
        raise InvalidTypeError(f"metric {name!r} must be an int or a float, not {type(value).__name__}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    lost = int(number) != int(value) if math.isfinite(number) and isinstance(value, numbers.Integral) else False
    if lost or (math.isinf(number) and value not in {math.inf, -math.inf}):
        raise InvalidValueError(
            f"metric {name!r} is {show(value)}, which a float cannot hold exactly; put it into metadata"
        )
    return number


def check_metadata(metadata: object) -> Any:
    """Return a copy of metadata that equals its own JSON round trip.

    Raises
    ------
    InvalidTypeError
        As :func:`check_json` does.
    """
    return None if metadata is None else json.loads(check_json("metadata", metadata))


def check_json(what: str, value: object) -> str:
    """Return the compact JSON text of a value that equals what is read back from it.

    Raises
    ------
    InvalidTypeError
        JSON cannot hold it, or gives something else back: a tuple, an int as a key, NaN, an object.
    """
    try:
        text = json.dumps(value, separators=(",", ":"), allow_nan=False)
        copy = json.loads(text)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidTypeError(f"{what} must be JSON-able (dict, list, str, numbers, bool, None): {error}") from error
    if depth(copy) > MAX_DEPTH:
        raise InvalidTypeError(f"{what} must not be nested more than {MAX_DEPTH} levels deep")
    if copy != value:
        raise InvalidTypeError(f"{what} must equal its JSON round trip: lists for tuples, str for keys")
    return text


def depth(value: Any) -> int:
    """Return the levels of nesting of JSON data, 1 for a number."""
    levels, level = 0, [value]
    while level:
        levels += 1
        members = [
            item.values() if isinstance(item, dict) else item for item in level if isinstance(item, (dict, list))
        ]
        level = [member for group in members for member in group]
    return levels
