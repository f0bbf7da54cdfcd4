"""Values as tagged JSON: back to the bit and the type, texts that never change, and nothing else taken."""

import contextlib
import decimal
import enum
import fractions
import json
import math
import struct
import subprocess
import sys
import types
from collections import Counter, OrderedDict, defaultdict, deque
from datetime import UTC, datetime
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from recordstore import InvalidTypeError, InvalidValueError
from recordstore.tagged import decode, dumps, encode, loads, to_text

ORDERED = (dict, OrderedDict, Counter)


def spelled(value: Any) -> Any:
    """Return a value taken apart into types and bits: ``1``, ``True`` and ``1.0`` differ, and NaN equals NaN."""
    kind = type(value)
    if isinstance(value, np.generic):
        return kind, value.dtype.str, value.tobytes()
    if kind is float:
        return kind, struct.pack(">d", value)
    if kind is int:
        return kind, hex(value)
    if kind is deque:
        return kind, value.maxlen, spelled(list(value))
    if kind is defaultdict:
        return kind, value.default_factory, spelled(dict(value))
    if kind is complex:
        return kind, spelled([value.real, value.imag])
    if kind in (list, tuple):
        return kind, [spelled(item) for item in value]
    if kind in (set, frozenset):
        return kind, sorted(repr(spelled(item)) for item in value)
    if kind in ORDERED:
        return kind, [(spelled(key), spelled(item)) for key, item in value.items()]
    return kind, value


def from_bits(bits: int) -> float:
    (value,) = struct.unpack(">d", bits.to_bytes(8))
    return float(value)


def numpy_scalar(dtype: np.dtype[Any]) -> st.SearchStrategy[Any]:
    return hnp.from_dtype(dtype).map(lambda value: np.array(value, dtype)[()])


FLOATS = st.floats() | st.integers(0, 2**64 - 1).map(from_bits) | st.integers(2**52, 2**53).map(lambda n: -from_bits(n))
NANS = st.integers(1, 2**52 - 1).map(lambda bits: from_bits(0x7FF << 52 | bits))
INTS = (
    st.integers()
    | st.integers(-(2**60), 2**60)
    | st.builds(lambda n, e: n << e, st.integers(-9, 9), st.integers(0, 40_000))
)
TEXTS = st.text() | st.text("$aint").map("$".__add__) | st.text(st.characters(), max_size=3)
NUMPY = (hnp.scalar_dtypes() | hnp.byte_string_dtypes() | hnp.unicode_string_dtypes()).flatmap(numpy_scalar)
ATOMS = st.none() | st.booleans() | INTS | FLOATS | NANS | TEXTS | st.binary() | NUMPY
KEYS = st.recursive(
    ATOMS,
    lambda inner: st.lists(inner, max_size=3).map(tuple) | st.frozensets(inner, max_size=3),
    max_leaves=4,
)


def collections_of(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    dicts = st.dictionaries(KEYS, inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4)
    lists = st.lists(inner, max_size=4)
    return (
        lists
        | lists.map(tuple)
        | st.sets(KEYS, max_size=4)
        | KEYS
        | dicts
        | dicts.map(OrderedDict)
        | dicts.map(Counter)
    )


VALUES = st.recursive(ATOMS, collections_of, max_leaves=15)


@settings(deadline=None)
@given(VALUES)
def test_a_value_comes_back_to_the_bit_and_the_type(value: Any) -> None:
    assert spelled(loads(dumps(value))) == spelled(value)


@settings(deadline=None)
@given(VALUES)
def test_a_text_is_plain_json_in_ascii_and_equal_values_have_the_same_one(value: Any) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    text = dumps(value)
    assert text.isascii()
    json.loads(text, parse_constant=refuse)
    assert dumps(loads(text)) == text
    assert to_text(encode(value)) == text


@settings(deadline=None)
@given(VALUES)
def test_no_number_in_a_text_is_too_large_for_a_double(value: Any) -> None:
    def check(digits: str) -> int:
        number = int(digits)
        assert float(number) == number
        assert abs(number) < 2**53
        return number

    json.loads(dumps(value), parse_int=check)


GOLDEN: list[tuple[Any, str]] = [
    (None, "null"),
    (True, "true"),
    ('\0\u03b2"', '"\\u0000\\u03b2\\""'),
    ("\ud800", '"\\ud800"'),
    ([], "[]"),
    ({}, "{}"),
    ({"b": 1, "a": [2, {"": None}]}, '{"b":1,"a":[2,{"":null}]}'),
    (1.0, "1.0"),
    (-0.0, "-0.0"),
    (0.1, "0.1"),
    (5e-324, "5e-324"),
    (2.0**53, "9007199254740992.0"),
    (2**53 - 1, "9007199254740991"),
    (-(2**53) + 1, "-9007199254740991"),
    (2**53, '{"$int":"0x20000000000000"}'),
    (-(2**53), '{"$int":"-0x20000000000000"}'),
    (2**70, '{"$int":"0x400000000000000000"}'),
    (math.inf, '{"$float":"inf"}'),
    (-math.inf, '{"$float":"-inf"}'),
    (math.nan, '{"$float":"nan"}'),
    (-math.nan, '{"$float":"fff8000000000000"}'),
    (from_bits(0x7FF8_0000_0000_0001), '{"$float":"7ff8000000000001"}'),
    (b"", '{"$bytes":""}'),
    (b"ab\xff", '{"$bytes":"YWL/"}'),
    (bytes(2000), '{"$bytes":"' + "A" * 2667 + '="}'),
    ((), '{"$tuple":[]}'),
    ((1, (2,)), '{"$tuple":[1,{"$tuple":[2]}]}'),
    (set(), '{"$set":[]}'),
    ({"b", "a", 10, 9, None, 1.5}, '{"$set":["a","b",1.5,10,9,null]}'),
    (frozenset({(1, 2), b"x"}), '{"$frozenset":[{"$bytes":"eA=="},{"$tuple":[1,2]}]}'),
    ({7: 1}, '{"$dict":[[7,1]]}'),
    ({"a": 1, 2.5: {None: []}}, '{"$dict":[["a",1],[2.5,{"$dict":[[null,[]]]}]]}'),
    ({"$int": "0x7"}, '{"$dict":[["$int","0x7"]]}'),
    ({"a": 1, "$": 2}, '{"$dict":[["a",1],["$",2]]}'),
    ({True: 1, (1, "x"): b""}, '{"$dict":[[true,1],[{"$tuple":[1,"x"]},{"$bytes":""}]]}'),
    (OrderedDict(), '{"$ordered":[]}'),
    (OrderedDict([("b", 1), ("a", 2)]), '{"$ordered":[["b",1],["a",2]]}'),
    (Counter("aab"), '{"$counter":[["a",2],["b",1]]}'),
    (complex(1, -2), '{"$complex":[1.0,-2.0]}'),
    (complex(math.inf, 0), '{"$complex":[{"$float":"inf"},0.0]}'),
    (bytearray(b"ab"), '{"$bytearray":{"$bytes":"YWI="}}'),
    (deque([1, (2,)], 5), '{"$deque":[[1,{"$tuple":[2]}],5]}'),
    (deque(), '{"$deque":[[],null]}'),
    (defaultdict(list, {7: [1]}), '{"$defaultdict":["list",[[7,[1]]]]}'),
    (defaultdict(None, {"a": 1}), '{"$defaultdict":[null,[["a",1]]]}'),
    (np.float32(1), '{"$scalar":["<f4","0000803f"]}'),
    (np.float64(1), '{"$scalar":["<f8","000000000000f03f"]}'),
    (np.int64(-2), '{"$scalar":["<i8","feffffffffffffff"]}'),
    (np.uint8(255), '{"$scalar":["|u1","ff"]}'),
    (np.bool_(True), '{"$scalar":["|b1","01"]}'),
    (np.complex64(1j), '{"$scalar":["<c8","000000000000803f"]}'),
    (np.str_("\u03b2x"), '{"$scalar":["<U2","b203000078000000"]}'),
    (np.bytes_(b"ab"), '{"$scalar":["|S2","6162"]}'),
    (np.datetime64("2026-01-02", "D"), '{"$scalar":["<M8[D]","e74f000000000000"]}'),
    (np.timedelta64(5, "ms"), '{"$scalar":["<m8[ms]","0500000000000000"]}'),
]


@pytest.mark.parametrize(("value", "text"), GOLDEN, ids=[text[:40] for _, text in GOLDEN])
def test_a_value_has_the_text_that_it_always_had(value: Any, text: str) -> None:
    assert dumps(value) == text
    assert spelled(loads(text)) == spelled(value)


def test_each_tag_is_among_them() -> None:
    tags = {"$int", "$float", "$bytes", "$tuple", "$set", "$frozenset", "$dict", "$ordered", "$counter", "$scalar"}
    assert {tag for tag in tags if any(f'{{"{tag}":' in text for _, text in GOLDEN)} == tags


@pytest.mark.parametrize(
    "value",
    [
        np.str_("a\0"),
        np.str_("\0"),
        np.str_(""),
        np.bytes_(b"a\0\0"),
        np.bytes_(b""),
        np.datetime64("NaT", "s"),
        np.float16(math.nan),
    ],
    ids=repr,
)
def test_a_scalar_of_numpy_at_the_edge_of_its_type_comes_back(value: Any) -> None:
    loaded = loads(dumps(value))
    assert type(loaded) is type(value)
    assert str(loaded) == str(value)  # NaN and NaT are not equal to themselves
    assert not isinstance(value, (str, bytes)) or len(loaded) == len(value)


@pytest.mark.parametrize("value", ["\ud83d\ude00", "a\udbff\udfffb", {"\ud83d\ude00": 1}], ids=ascii)
def test_two_surrogates_never_come_back_as_the_character_that_they_would_encode(value: Any) -> None:
    with contextlib.suppress(InvalidTypeError, InvalidValueError):
        assert loads(dumps(value)) == value


SETS = """
from recordstore.tagged import dumps
print(dumps([{f"name {number}" for number in range(50)}, frozenset([(1, "x"), b"y", None, "z", 2.5])]))
"""


def test_the_text_of_a_set_does_not_depend_on_the_order_of_its_members() -> None:
    texts = {
        subprocess.run(
            [sys.executable, "-c", SETS], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(texts) == 1
    assert [dumps({first, first + 8}) for first in range(8)] == [dumps({first + 8, first}) for first in range(8)]


class Text(str):
    __slots__ = ()


class Pair(NamedTuple):
    left: int
    right: int


class Level(enum.IntEnum):
    LOW = 1


class Word(enum.StrEnum):
    LOW = "low"


class Half(np.float64):
    pass


REFUSED: list[Any] = [
    Text("x"),
    Pair(1, 2),
    Level.LOW,
    Word.LOW,
    type("Number", (float,), {})(1),
    type("Whole", (int,), {})(1),
    type("Bytes", (bytes,), {})(b"x"),
    type("List", (list,), {})(),
    type("Set", (set,), {})(),
    type("Frozen", (frozenset,), {})(),
    type("Dict", (dict,), {})(),
    type("Ordered", (OrderedDict,), {})(),
    type("Count", (Counter,), {})(),
    Half(1),
    defaultdict(lambda: 0),
    defaultdict(Counter),
    type("Deque", (deque,), {})(),
    types.MappingProxyType({}),
    object(),
    int,
    len,
    range(3),
    memoryview(b"x"),
    iter([]),
    decimal.Decimal(1),
    fractions.Fraction(1),
    datetime(2026, 1, 1, tzinfo=UTC),
    np.ones(2),
    np.array(1.0),
    np.zeros(1, "f4,f4")[0],
    np.void(b"x"),
    np.dtype("f4"),
    np.random.default_rng(0),
]


@pytest.mark.parametrize("value", REFUSED, ids=lambda value: type(value).__name__)
def test_what_would_come_back_as_something_else_is_refused(value: Any) -> None:
    holders: list[Any] = [value, [value], (value,), {"a": value}, {7: value}, OrderedDict(a=value)]
    with contextlib.suppress(TypeError):  # of what cannot be a member of a set
        holders += [{value}, {value: 1}, frozenset({value}), {"a": 1, value: 2}]
    for holder in holders:
        with pytest.raises(InvalidTypeError, match="cannot be kept as JSON"):
            dumps(holder)


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


def circular() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


@pytest.mark.parametrize("value", [nested(100_000), circular()], ids=["deep", "circular"])
def test_what_is_nested_without_end_is_refused(value: Any) -> None:
    with pytest.raises(InvalidTypeError):
        dumps(value)


def test_what_was_taken_can_be_read_from_a_deeper_stack() -> None:
    """A server reads its history from within the frames of a framework."""

    def deepest() -> str:
        for levels in range(5000, 0, -10):
            try:
                return dumps(nested(levels))
            except (InvalidTypeError, RecursionError):
                continue
        raise AssertionError

    def read(text: str, frames: int) -> Any:
        return read(text, frames - 1) if frames else loads(text)

    assert isinstance(read(deepest(), 300), list)


@pytest.mark.parametrize(
    "text", ['{"$pickle":"gASVAA=="}', '[{"a":{"$Int":"0x1"}}]', '{"$":1}', '{"$tuple":[{"$x":1}]}']
)
def test_an_unknown_tag_is_refused(text: str) -> None:
    with pytest.raises(InvalidValueError, match=r"the tag '\$.*' is unknown"):
        loads(text)


def test_an_object_with_more_keys_than_a_tag_is_a_plain_one() -> None:
    assert loads('{"$int":"0x1","a":1}') == {"$int": "0x1", "a": 1}
    assert loads('{"":1}') == {"": 1}


def test_a_dtype_whose_scalars_are_more_than_bytes_is_refused() -> None:
    for dtype in ("O", "V4", "f4,f4"):
        with pytest.raises(InvalidValueError, match="is no scalar"):
            loads(json.dumps({"$scalar": [dtype, "00" * 8]}))


# What the caller knows


def test_a_callers_encoder_gets_what_is_unknown_and_long_bytes() -> None:
    asked: list[Any] = []

    def other(value: Any) -> Any:
        asked.append(value)
        return {"$mine": len(asked)}

    long, unknown = bytes(1024), object()
    data = encode([1, b"short", long, {"a": unknown}, (bytes(1023), np.float32(1), {unknown: 1})], other)
    assert asked == [long, unknown, unknown]
    assert data[2:4] == [{"$mine": 1}, {"a": {"$mine": 2}}]
    assert data[4]["$tuple"][2] == {"$dict": [[{"$mine": 3}, 1]]}


def test_a_callers_decoder_gets_the_tags_that_are_unknown() -> None:
    def other(tag: str, content: Any) -> Any:
        return tag, content

    data = {"$tuple": [{"$mine": {"$int": "0x1"}}, {"$int": "0x1"}]}
    assert decode(data, other) == (("$mine", {"$int": "0x1"}), 1)


def test_nothing_but_the_values_is_changed() -> None:
    value = {"a": [1, (2, {3})], "b": OrderedDict(c=np.float32(1))}
    before = spelled(value)
    data = encode(value)
    loaded = decode(data)
    assert spelled(value) == before
    assert decode(data) == loaded
    assert loaded["a"] is not value["a"]
