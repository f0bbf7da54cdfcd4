"""R8 for ``.npy`` headers: what comes of any bytes is what NumPy makes of them or a ValueError, and costs no more.

tests/values/test_npy.py holds the first crafted files; these are others, and the calls that lead to the parser.
"""

import sys
import tracemalloc
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fuzz_npy import examine, wrapped
from hypothesis import given, settings
from hypothesis import strategies as st
from npy_corpus import CORPUS, FILES, TEXTS
from support import Child, say

from recordstore import Array, ArrayRecord, RecordStore, SType

OVERHEAD = 16 << 20
"""Bytes that Python's parser needs for a header of legal length, whatever it says."""


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["shape", "code", "dtype", "structure", "unicode", ""])
def test_a_crafted_header_is_what_numpy_makes_of_it_or_a_value_error(kind: str) -> None:
    names = [name for name in CORPUS if name.startswith(kind)] if kind else [*TEXTS, *FILES]
    read = [name for name in names if examine(CORPUS[name]) is not None]
    print(f"\n{len(names)} files, of which these are arrays: {', '.join(read)}")
    assert 0 < len(read) < len(names)


def peak_of(data: bytes) -> int:
    """Return how many bytes reading a file takes at most."""
    tracemalloc.start()
    try:
        Array("any", [2], SType.NUMPY, data).numpy()
    except ValueError:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return peak


@pytest.mark.filterwarnings("ignore")
def test_no_crafted_header_allocates_what_it_claims() -> None:
    beyond = {name: peak_of(data) - 2 * len(data) for name, data in CORPUS.items()}
    worst = max(beyond, key=lambda name: beyond[name])
    print(f"\nat most {beyond[worst] / 1024:.0f} KiB beyond twice the file: {worst}")
    assert beyond[worst] < OVERHEAD


def watch_the_interpreter(folder: str) -> None:
    """Tell what the interpreter does while it reads the corpus: it compiles texts, and never runs what comes of it."""
    import os

    os.chdir(folder)
    events: set[str] = set()
    on: list[bool] = []
    sys.addaudithook(lambda event, _: events.add(event) if on else None)
    warnings.simplefilter("ignore")
    for _ in range(2):  # the first time imports what NumPy imports late
        events.clear()
        on.append(True)
        for data in CORPUS.values():
            examine_quietly(data)
        on.clear()
    say(sorted(events))
    on.append(True)
    eval("1")  # the negative control
    on.clear()
    say("exec" in events)


def examine_quietly(data: bytes) -> None:
    try:
        Array("any", [2], SType.NUMPY, data).numpy()
    except ValueError:
        return


def test_no_crafted_header_runs_code(tmp_path: Path) -> None:
    with Child(watch_the_interpreter, tmp_path) as child:
        events = child.hear()
        assert child.hear()
        child.finish()
    assert set(events) <= {"compile", "object.__getattr__"}
    assert list(tmp_path.iterdir()) == []


# Headers from a grammar


LENGTHS = [0, 1, 2, 3, 8, 64, 2**16, 2**31 - 1, 2**31, 2**32, 2**62, 2**63 - 1, 2**63, 2**64, -1, -2, True, False]
numbers = st.one_of(st.sampled_from(LENGTHS), st.integers(), st.integers(0, 5))
shapes = st.one_of(st.lists(numbers, max_size=5).map(tuple), st.lists(st.integers(0, 4), max_size=3).map(tuple))
codes = st.sampled_from(
    ["<f8", ">i4", "?", "|u1", "O", "T", "V0", "S0", "<U3", "M8[ns]", "m8[2D]", "V9", "<c8", "f4,i4"]
)
formats = st.recursive(
    codes,
    lambda inner: st.one_of(
        st.tuples(inner, st.one_of(numbers, shapes)),
        st.lists(
            st.one_of(
                st.tuples(st.text("ab é€", max_size=2), inner), st.tuples(st.text("ab", max_size=2), inner, shapes)
            ),
            max_size=4,
        ),
    ),
    max_leaves=6,
)
plain = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.binary(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.lists(inner, max_size=3).map(tuple)),
    max_leaves=5,
)
keys = st.sampled_from(["descr", "fortran_order", "shape", "descr ", "x"])
headers = st.one_of(
    st.builds(
        lambda descr, order, shape: {"descr": descr, "fortran_order": order, "shape": shape},
        formats,
        st.booleans(),
        shapes,
    ),
    st.builds(
        lambda descr, order, shape: {"descr": descr, "fortran_order": order, "shape": shape}, plain, plain, plain
    ),
    st.dictionaries(keys, st.one_of(plain, formats, shapes), max_size=5),
)


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=500, deadline=None, derandomize=True)
@given(headers, st.sampled_from([(1, 0), (2, 0), (3, 0)]), st.binary(max_size=200))
def test_a_header_that_a_grammar_makes_is_what_numpy_makes_of_it_or_a_value_error(
    said: dict[str, Any], version: tuple[int, int], data: bytes
) -> None:
    text = repr(said) + "\n"
    raw = text.encode("utf-8" if version == (3, 0) else "latin-1", "replace")
    file = wrapped(raw, version, data)
    examine(file)
    assert peak_of(file) < 2 * len(file) + OVERHEAD


# The calls that lead there


KEYS: list[Any] = [slice(0, 1), slice(None), slice(None, None, -2), 0, -1, ..., (slice(0, 1), 0)]


@pytest.fixture
def read_in_parts(monkeypatch: pytest.MonkeyPatch) -> int:
    """Let arrays be of several chunks that are soon long enough; the first chunk still holds any header."""
    monkeypatch.setattr("recordstore.constants.CHUNK_SIZE", 65_536)
    return 65_536


@pytest.fixture(scope="module")
def chosen() -> dict[str, bytes]:
    """The crafted files that are arrays, and some of the others."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {
            name: data
            for number, (name, data) in enumerate(CORPUS.items())
            if number % 10 == 0 or examine(data) is not None
        }


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("shape", [[2], [0], [], [2, 2], [-1], [2**50]], ids=str)
def test_a_stored_array_with_a_crafted_header_is_read_as_the_one_in_memory(
    memory: RecordStore, read_in_parts: int, shape: list[int], chosen: dict[str, bytes]
) -> None:
    arrays = {name: Array("float64", shape, SType.NUMPY, data + bytes(read_in_parts)) for name, data in chosen.items()}
    record_id = memory.save(ArrayRecord(arrays))
    for name, stored in memory.open(record_id).items():
        assert stored.data == arrays[name].data
        expected = outcome(arrays[name].numpy)
        assert same(outcome(ArrayRecord({"x": arrays[name]}).to_numpy_ndarrays), expected)
        assert same(outcome(stored.numpy), expected)
        fits = expected is not None and list(expected.shape) == shape  # else it is bounds that say otherwise
        for key in KEYS:
            found = outcome(stored.__getitem__, key)
            assert (found is None and not fits) or same(found, outcome(expected.__getitem__, key)), (name, key)


def outcome(call: Any, *arguments: Any) -> Any:
    """Return what a call returns, None for an error that tells of the bytes or of the index."""
    try:
        found = call(*arguments)
    except (ValueError, IndexError):
        return None
    return found[0] if isinstance(found, list) else found


def same(found: Any, expected: Any) -> bool:
    if found is None or expected is None:
        return found is expected
    return found.dtype == expected.dtype and found.shape == expected.shape and found.tobytes() == expected.tobytes()


@pytest.mark.filterwarnings("ignore")
def test_loading_a_crafted_header_into_place_fills_the_place_or_is_a_value_error(memory: RecordStore) -> None:
    arrays = {name: Array("float64", [2], SType.NUMPY, data) for name, data in CORPUS.items()}
    record_id = memory.save(ArrayRecord(arrays))
    filled = 0
    for name, array in arrays.items():
        target = {name: np.full(2, 7.0)}
        expected = outcome(array.numpy)
        try:
            memory.load_into(record_id, target, strict=False)
        except ValueError:
            assert expected is None or (expected.dtype, expected.shape) != (np.dtype("<f8"), (2,)), name
            continue
        filled += 1
        assert np.array_equal(target[name], expected), name
    print(f"\n{filled} of {len(CORPUS)} fit")
    assert 0 < filled < len(CORPUS)
