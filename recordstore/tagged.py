"""Plain Python values as JSON, and back without the loss of a bit or a type.

JSON has no NaN, no bytes, no tuples and no keys but strings, and most of its readers round large integers. A value that
it lacks becomes an object of one key that begins with ``$``::

    2**63          {"$int": "0x8000000000000000"}      of 2**53 and more
    nan, -inf      {"$float": "nan"}, {"$float": "-inf"}
    b"ab"          {"$bytes": "YWI="}                  base64
    (1, 2)         {"$tuple": [1, 2]}                  likewise $set and $frozenset
    {7: 1}         {"$dict": [[7, 1]]}                 likewise $ordered (OrderedDict) and $counter (Counter)
    np.float32(1)  {"$scalar": ["<f4", "0000803f"]}    dtype and bytes of a NumPy scalar, in hexadecimal

All others are plain JSON, ``1.0`` with its point. Nothing else is taken, subclasses included: what came back would be
another type.
"""

import base64
import json
import math
import struct
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np

from recordstore.exceptions import InvalidTypeError, InvalidValueError

MAX_EXACT_INT = 2**53
"""From here on a reader that takes numbers for doubles, as JavaScript does, loses digits."""

LONG_BYTES = 1024
"""From here on bytes are handed to the caller's encoder, if there is one: they would swell by a third."""

SCALAR_KINDS = "biufcmMSU"
"""Kinds of NumPy dtypes whose scalars are their bytes and nothing else."""

Encoder = Callable[[Any], Any]
"""Encodes what this module does not know, or raises :class:`InvalidTypeError`."""

Decoder = Callable[[str, Any], Any]
"""Returns the value of a tag that this module does not know, given its content."""


def dumps(value: Any) -> str:
    """Return the JSON text of a value that consists of what the module's docstring lists.

    Raises
    ------
    InvalidTypeError
        A part of it is something else.

    Examples
    --------
    >>> from recordstore.tagged import dumps, loads
    >>> dumps({"loss": float("nan"), "counts": [1, 2**70]})
    '{"loss":{"$float":"nan"},"counts":[1,{"$int":"0x400000000000000000"}]}'
    >>> loads(dumps((1.0, b"x")))
    (1.0, b'x')
    """
    return to_text(encode(value))


def loads(text: str) -> Any:
    """Return the value that :func:`dumps` wrote."""
    return decode(json.loads(text))


def to_text(data: Any) -> str:
    """Return encoded data as compact JSON text."""
    return json.dumps(data, separators=(",", ":"), allow_nan=False)


def encode(value: Any, other: Encoder | None = None) -> Any:
    """Return data for JSON that stands for a value; ``other`` encodes what is unknown here."""
    kind = type(value)
    if kind in _ATOMS and not (other and kind is bytes and len(value) >= LONG_BYTES):
        return _ATOMS[kind](value)
    if kind is list:
        return [encode(item, other) for item in value]
    if kind in _COLLECTIONS:
        items = [encode(item, other) for item in value]
        return {_COLLECTIONS[kind]: items if kind is tuple else sorted(items, key=to_text)}
    if kind in _MAPPINGS:
        return _encode_dict(value, other)
    if isinstance(value, np.generic) and value.dtype.kind in SCALAR_KINDS:
        return {"$scalar": [value.dtype.str, value.tobytes().hex()]}
    return (other or _refuse)(value)


def decode(data: Any, other: Decoder | None = None) -> Any:
    """Return the value that encoded data stands for; ``other`` decodes the tags that are unknown here."""
    if isinstance(data, list):
        return [decode(item, other) for item in data]
    if not isinstance(data, dict):
        return data
    tag = next(iter(data), "")
    if len(data) != 1 or not tag.startswith("$"):
        return {key: decode(item, other) for key, item in data.items()}
    return _decode_tag(tag, data[tag], other)


def _encode_dict(value: dict[Any, Any], other: Encoder | None) -> Any:
    plain = type(value) is dict and all(type(key) is str and not key.startswith("$") for key in value)
    if plain:
        return {key: encode(item, other) for key, item in value.items()}
    return {_MAPPINGS[type(value)]: [[encode(key, other), encode(item, other)] for key, item in value.items()]}


def _decode_tag(tag: str, content: Any, other: Decoder | None) -> Any:
    if tag in _LEAVES:
        return _LEAVES[tag](content)
    if tag in _MAKERS:
        return _MAKERS[tag](decode(content, other))
    if other is None:
        raise InvalidValueError(f"the tag {tag!r} is unknown: written by a newer version?")
    return other(tag, content)


def _refuse(value: Any) -> Any:
    raise InvalidTypeError(f"a {type(value).__name__} cannot be kept as JSON")


def _unchanged(value: Any) -> Any:
    return value


def _encode_int(value: int) -> Any:
    return value if abs(value) < MAX_EXACT_INT else {"$int": hex(value)}


def _encode_float(value: float) -> Any:
    return value if math.isfinite(value) else {"$float": _special(value)}


def _encode_bytes(value: bytes) -> Any:
    return {"$bytes": base64.b64encode(value).decode("ascii")}


def _special(value: float) -> str:
    """Return the name of an infinity or the usual NaN, and the bytes of any other NaN."""
    packed = struct.pack(">d", value)
    return packed.hex() if math.isnan(value) and packed != _NAN else repr(value)


def _from_special(text: str) -> float:
    if text in {"nan", "inf", "-inf"}:
        return float(text)
    (value,) = struct.unpack(">d", bytes.fromhex(text))
    return float(value)


def _scalar(dtype: str, data: str) -> Any:
    kind = np.dtype(dtype)
    if kind.kind not in SCALAR_KINDS:
        raise InvalidValueError(f"the dtype {dtype!r} has no scalars that are plain bytes")
    return np.frombuffer(bytes.fromhex(data), kind)[0] if kind.itemsize else kind.type()


_NAN = struct.pack(">d", math.nan)
_ATOMS: dict[type, Callable[[Any], Any]] = {
    type(None): _unchanged,
    bool: _unchanged,
    str: _unchanged,
    int: _encode_int,
    float: _encode_float,
    bytes: _encode_bytes,
}
_COLLECTIONS: dict[type, str] = {tuple: "$tuple", set: "$set", frozenset: "$frozenset"}
_MAPPINGS: dict[type, str] = {dict: "$dict", OrderedDict: "$ordered", Counter: "$counter"}
_LEAVES: dict[str, Callable[[Any], Any]] = {
    "$int": lambda text: int(text, 16),
    "$float": _from_special,
    "$bytes": lambda text: base64.b64decode(text, validate=True),
    "$scalar": lambda parts: _scalar(*parts),
}
_MAKERS: dict[str, Callable[[list[Any]], Any]] = {
    "$tuple": tuple,
    "$set": set,
    "$frozenset": frozenset,
    "$dict": dict,
    "$ordered": OrderedDict,
    "$counter": lambda pairs: Counter(dict(pairs)),
}
