"""What comes with a record: its metrics and its metadata."""

import decimal
import enum
import math
from collections.abc import Callable, Iterator
from fractions import Fraction
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recordstore import InvalidTypeError, InvalidValueError, RecordStore

NUMBERS = [
    (1, 1.0),
    (0.1, 0.1),
    (-0.5, -0.5),
    (5e-324, 5e-324),
    (1.7976931348623157e308, 1.7976931348623157e308),
    (2**53, 2.0**53),
    (2**1000, 2.0**1000),
    (float("inf"), float("inf")),
    (float("-inf"), float("-inf")),
    (np.float32(0.1), float(np.float32(0.1))),
    (np.float16(2), 2.0),
    (np.int64(-3), -3.0),
    (np.uint8(3), 3.0),
    (enum.IntEnum("Level", {"LOW": 2}).LOW, 2.0),  # type: ignore[attr-defined]
]


@pytest.mark.parametrize(("number", "expected"), NUMBERS)
def test_a_metric_comes_back_as_the_float_it_equals(memory: RecordStore, number: Any, expected: float) -> None:
    loaded = memory.info(memory.save([], metrics={"m": number})).metrics["m"]
    assert type(loaded) is float
    assert loaded == expected


@pytest.mark.parametrize("nan", [float("nan"), np.float32("nan"), -math.nan])
def test_nan_comes_back_as_nan(memory: RecordStore, nan: float) -> None:
    assert math.isnan(memory.info(memory.save([], metrics={"m": nan})).metrics["m"])


def test_nan_is_null_in_the_file_and_infinity_is_not(file_store: RecordStore, query: Callable[..., Any]) -> None:
    file_store.save([], metrics={"nan": math.nan, "inf": math.inf})
    assert query("SELECT name, value, typeof(value) FROM metric ORDER BY name") == [
        ("inf", math.inf, "real"),
        ("nan", None, "null"),
    ]


TOO_MUCH = [2**53 + 1, -(2**53) - 1, 10**400, -(10**400), 10**5000, np.int64(2**62 + 1)]
if np.finfo(np.longdouble).maxexp > 1024:
    TOO_MUCH.append(np.longdouble("1e4000"))


@pytest.mark.parametrize("number", TOO_MUCH, ids=range(len(TOO_MUCH)))
def test_a_number_that_no_float_equals_is_refused(memory: RecordStore, number: int) -> None:
    with pytest.raises(InvalidValueError, match="metric 'm' is"):
        memory.save([], metrics={"m": number})
    assert list(memory) == []


@pytest.mark.parametrize(
    "value", [True, "1", None, 1j, [1.0], np.bool_(1), np.ones(1), decimal.Decimal(1), Fraction(1, 4)]
)
def test_a_metric_of_another_type_is_refused(memory: RecordStore, value: object) -> None:
    with pytest.raises(InvalidTypeError, match=r"metric 'm' must be an int or a float"):
        memory.save([], metrics={"m": value})  # type: ignore[dict-item]
    assert list(memory) == []


def test_a_metric_record_of_flower_is_taken(memory: RecordStore, flwr_app: ModuleType) -> None:
    metrics = flwr_app.MetricRecord({"loss": 0.5, "examples": 10})
    assert memory.info(memory.save([], metrics=metrics)).metrics == {"loss": 0.5, "examples": 10.0}
    with pytest.raises(InvalidTypeError, match=r"'history'"):
        memory.save([], metrics=flwr_app.MetricRecord({"history": [1.0, 2.0]}))


METADATA = [
    {"a": {"b": [1, 2.5, "x", True, None]}},
    [],
    {},
    "",
    0,
    False,
    "text \0 \ud800 \N{GRINNING FACE}",
    12345678901234567890,
    -(10**100),
    0.1,
    1e308,
    {"": {"": ""}},
]


@pytest.mark.parametrize("metadata", METADATA, ids=repr)
def test_metadata_comes_back_as_it_was(memory: RecordStore, metadata: Any) -> None:
    loaded = memory.info(memory.save([], metadata=metadata)).metadata
    assert loaded == metadata
    assert type(loaded) is type(metadata)


@pytest.fixture(scope="module")
def shared() -> Iterator[RecordStore]:
    """One store for all examples of a property."""
    with RecordStore(":memory:") as opened:
        yield opened


def json_values() -> st.SearchStrategy[Any]:
    scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
    return st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=10)


@settings(deadline=None)
@given(metadata=json_values())
def test_any_json_value_comes_back_equal_as_metadata(shared: RecordStore, metadata: Any) -> None:
    assert shared.info(shared.save([], metadata=metadata)).metadata == metadata


def test_changing_the_metadata_after_the_save_changes_nothing(memory: RecordStore) -> None:
    metadata = {"list": [1]}
    record_id = memory.save([], metadata=metadata)
    metadata["list"].append(2)
    memory.info(record_id).metadata["list"].append(3)
    assert memory.info(record_id).metadata == {"list": [1]}


@pytest.mark.parametrize("depth", [200, 400, 600, 800, 900, 950, 960, 970, 980, 990, 1000])
def test_deeply_nested_metadata_comes_back_or_is_refused(memory: RecordStore, depth: int) -> None:
    deep: list[Any] = []
    for _ in range(depth):
        deep = [deep]
    try:
        record_id = memory.save([], metadata=deep)
    except InvalidTypeError:
        assert list(memory) == []
    else:
        assert memory.info(record_id).metadata == deep


CYCLE: list[Any] = []
CYCLE.append(CYCLE)
DEEP: list[Any] = []
for _ in range(100_000):
    DEEP = [DEEP]


@pytest.mark.parametrize(
    "metadata",
    [
        *(math.nan, math.inf, [math.nan], (1, 2), {"a": (1,)}, {1: "a"}, {None: 1}, {1: 1, "1": 2}, {1, 2}, b"x"),
        *(object(), np.int64(1), np.ones(2), 1j, CYCLE, DEEP, 10**5000),
    ],
    ids=lambda metadata: f"{type(metadata).__name__}",
)
def test_metadata_that_json_would_change_is_refused(memory: RecordStore, metadata: Any) -> None:
    with pytest.raises(InvalidTypeError, match=r"metadata must"):
        memory.save([], metadata=metadata)
    assert list(memory) == []
