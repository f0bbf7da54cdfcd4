"""Plain Python values as JSON, and back without the loss of a bit or a type.

JSON has no NaN, no bytes, no tuples and no keys but strings, and most of its readers round large integers. A value that
it lacks becomes an object of one key that begins with ``$``::

    2**63          {"$int": "0x8000000000000000"}      of 2**53 and more
    nan, -inf      {"$float": "nan"}, {"$float": "-inf"}
    b"ab"          {"$bytes": "YWI="}                  base64
    (1, 2)         {"$tuple": [1, 2]}                  likewise $set and $frozenset
    {7: 1}         {"$dict": [[7, 1]]}                 likewise $ordered (OrderedDict) and $counter (Counter)
    deque([1], 9)  {"$deque": [[1], 9]}                its items and maxlen
    1 + 2j         {"$complex": [1.0, 2.0]}            likewise $bytearray, of bytes
    defaultdict    {"$defaultdict": ["list", [[7, 1]]]}     name of a built-in factory, or null, and the pairs
    np.float32(1)  {"$scalar": ["<f4", "0000803f"]}    dtype and bytes of a NumPy scalar, in hexadecimal

All others are plain JSON, ``1.0`` with its point. Nothing else is taken: no subclasses, since another type would come
back; no texts with both halves of a surrogate pair, which JSON joins; nothing nested beyond :data:`MAX_DEPTH`.
"""

import base64
import json
import math
import re
import struct
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from typing import Any

import numpy as np

from recordstore.exceptions import InvalidTypeError, InvalidValueError
from recordstore.validation import depth

MAX_EXACT_INT = 2**53
"""From here on a reader that takes numbers for doubles, as JavaScript does, loses digits."""

LONG_BYTES = 1024
"""From here on bytes are handed to the caller's encoder, if there is one: they would swell by a third."""

MAX_DEPTH = 150
"""Levels of JSON: what was written has to be readable wherever in a deep stack the reader is called."""

SCALARS = re.compile(r"\|b1|\|[iu]1|<[iu][248]|<f[248]|<c(8|16)|<[mM]8\[\d*[A-Za-z]+\]|<U\d+|\|S\d+")
"""Dtypes of NumPy's scalars that are their bytes and nothing else, on every machine."""

_PAIR = re.compile("[\ud800-\udbff][\udc00-\udfff]")

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
    """Return data for JSON that stands for a value; ``other`` encodes what is unknown here.

    Raises
    ------
    InvalidTypeError
        A part of the value is unknown to both, or it is nested too deep.
    """
    try:
        data = _encode(value, other)
        levels = depth(data)
    except RecursionError:
        levels = MAX_DEPTH + 1
    if levels > MAX_DEPTH:
        raise InvalidTypeError(f"a value that is nested more than {MAX_DEPTH} levels deep cannot be kept as JSON")
    return data


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


def _encode(value: Any, other: Encoder | None) -> Any:
    kind = type(value)
    if kind in _ATOMS and not (other and kind is bytes and len(value) >= LONG_BYTES):
        return _ATOMS[kind](value)
    if kind is list:
        return [_encode(item, other) for item in value]
    if kind in _COLLECTIONS:
        items = [_encode(item, other) for item in value]
        return {_COLLECTIONS[kind]: items if kind is tuple else sorted(items, key=to_text)}
    if kind in _MAPPINGS:
        return _encode_dict(value, other)
    return _encode_parts(value, other) or (other or _refuse)(value)


def _encode_parts(value: Any, other: Encoder | None) -> Any | None:
    kind = type(value)
    if kind in _PARTS and (parts := _PARTS[kind](value)) is not None:
        return {f"${kind.__name__}": _encode(parts, other)}
    if isinstance(value, np.generic) and (parts := _scalar_parts(value)):
        return {"$scalar": parts}
    return None


def _encode_dict(value: dict[Any, Any], other: Encoder | None) -> Any:
    plain = type(value) is dict and all(type(key) is str and not key.startswith("$") for key in value)
    if plain:
        return {_encode_str(key): _encode(item, other) for key, item in value.items()}
    return {_MAPPINGS[type(value)]: [[_encode(key, other), _encode(item, other)] for key, item in value.items()]}


def _defaultdict_parts(value: defaultdict[Any, Any]) -> list[Any] | None:
    """Return the factory and the pairs, None for another factory than the types that are empty when called."""
    factory = value.default_factory
    name = None if factory is None else getattr(factory, "__name__", "")
    return [name, [list(pair) for pair in value.items()]] if _FACTORIES.get(name) is factory else None


def _scalar_parts(value: np.generic) -> list[str] | None:
    """Return dtype and bytes of a scalar, None for one of another dtype or of a subclass."""
    if type(value) is np.str_:  # for these two NumPy drops NULs at the end
        return [f"<U{len(value)}", str.__str__(value).encode("utf-32-le", "surrogatepass").hex()]
    if type(value) is np.bytes_:
        return [f"|S{len(value)}", bytes(value).hex()]
    name = value.dtype.str
    is_plain = SCALARS.fullmatch(name) is not None and np.dtype(name).type is type(value)
    return [name, value.tobytes().hex()] if is_plain else None


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


def _encode_str(value: str) -> str:
    if not value.isascii() and _PAIR.search(value):
        raise InvalidTypeError("a text with a surrogate pair in two halves cannot be kept as JSON")
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
    packed = bytes.fromhex(text)
    if len(packed) != len(_NAN):
        raise InvalidValueError(f"{text!r} is no float")
    (value,) = struct.unpack(">d", packed)
    return float(value)


def _scalar(name: str, text: str) -> Any:
    data = bytes.fromhex(text)
    if not SCALARS.fullmatch(name) or len(data) != np.dtype(name).itemsize:
        raise InvalidValueError(f"{name!r} with {len(data)} bytes is no scalar")
    if name[1] == "U":
        return np.str_(data.decode("utf-32-le", "surrogatepass"))
    return np.bytes_(data) if name[1] == "S" else np.frombuffer(data, name)[0]


_NAN = struct.pack(">d", math.nan)
_ATOMS: dict[type, Callable[[Any], Any]] = {
    type(None): _unchanged,
    bool: _unchanged,
    str: _encode_str,
    int: _encode_int,
    float: _encode_float,
    bytes: _encode_bytes,
}
_COLLECTIONS: dict[type, str] = {tuple: "$tuple", set: "$set", frozenset: "$frozenset"}
_MAPPINGS: dict[type, str] = {dict: "$dict", OrderedDict: "$ordered", Counter: "$counter"}
_PARTS: dict[type, Callable[[Any], Any]] = {
    complex: lambda value: [value.real, value.imag],
    bytearray: bytes,
    deque: lambda value: [list(value), value.maxlen],
    defaultdict: _defaultdict_parts,
}
_FACTORIES: dict[Any, Any] = {None: None} | {kind.__name__: kind for kind in (bool, int, float, str, list, dict, set)}
_LEAVES: dict[str, Callable[[Any], Any]] = {
    "$int": lambda text: int(text, 16),
    "$float": _from_special,
    "$bytes": lambda text: base64.b64decode(text, validate=True),
    "$scalar": lambda parts: _scalar(*parts),
}
_MAKERS: dict[str, Callable[[Any], Any]] = {
    "$tuple": tuple,
    "$set": set,
    "$frozenset": frozenset,
    "$dict": dict,
    "$ordered": OrderedDict,
    "$counter": lambda pairs: Counter(dict(pairs)),
    "$complex": lambda parts: complex(*parts),
    "$bytearray": lambda data: bytearray(memoryview(data)),  # of a number it would be as many zeros
    "$deque": lambda parts: deque(*parts),
    "$defaultdict": lambda parts: defaultdict(_FACTORIES[parts[0]], dict(parts[1])),
}
