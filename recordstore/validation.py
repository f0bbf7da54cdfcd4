"""What the arguments of a store may be; everything is checked before anything is written."""

import json
import math
import numbers
from collections.abc import Iterable
from typing import Any

from recordstore.exceptions import InvalidTypeError, InvalidValueError

MAX_NAME_BYTES = 1024
MAX_TYPE_BYTES = 65_536
"""Longest dtype and stype in UTF-8 bytes: a structured dtype spells out all its fields."""

MAX_INT = 2**63 - 1

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
    text = str(value)
    if "\0" in text:
        raise InvalidValueError(f"{what} {text[:80]!r} holds a NUL character, which databases cut texts at")
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise InvalidValueError(f"{what} {text[:80]!r} holds a lone surrogate, which UTF-8 has no bytes for") from None
    if size > limit:
        raise InvalidValueError(f"{what} {text[:80]!r}... has {size} bytes of UTF-8, more than {limit}")
    return text


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
        raise InvalidValueError(f"round must be between 0 and 2**63 - 1, not {number}")
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
        raise InvalidValueError(f"{what} must be between 0 and {MAX_SECONDS:.0f} seconds, not {value}")
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
    if not hasattr(metrics, "items") or isinstance(metrics, type):
        raise InvalidTypeError(f"metrics must be a mapping of str to int or float, not {type(metrics).__name__}")
    return {check_text("metric", name): _check_metric(name, value) for name, value in metrics.items()}


def _check_metric(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise InvalidTypeError(f"metric {name!r} must be an int or a float, not {type(value).__name__}")
    try:
        number = float(value)
    except OverflowError:
        number = math.nan
    if isinstance(value, numbers.Integral) and (math.isnan(number) or int(number) != int(value)):
        raise InvalidValueError(f"metric {name!r} is {value}, which a float cannot hold exactly; put it into metadata")
    return number


def check_metadata(metadata: object) -> Any:
    """Return metadata that equals its own JSON round trip.

    Raises
    ------
    InvalidTypeError
        JSON cannot hold it, or gives something else back: a tuple, an int as a key, NaN, an object.
    """
    if metadata is None:
        return None
    try:
        copy = json.loads(json.dumps(metadata, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidTypeError(f"metadata must be JSON-able (dict, list, str, numbers, bool, None): {error}") from error
    if copy != metadata:
        raise InvalidTypeError("metadata must equal its JSON round trip: lists for tuples, str for keys")
    return copy
