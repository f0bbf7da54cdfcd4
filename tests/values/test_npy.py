"""The .npy format: byte for byte what NumPy writes, and nothing that NumPy would trust."""

from __future__ import annotations

import random
import struct
import tracemalloc
import warnings
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recordstore import npy

PLAIN = ["?", "i1", "<i2", ">i4", "<i8", "u1", "<u2", ">u4", "<u8", "<f2", ">f4", "<f8", "g", "<c8", ">c16", "G"]
OTHER = ["S5", "<U3", ">U2", "V7", "M8[ns]", ">M8[D]", "m8[s]", "M8", "S1", "V1"]
RECORDS = [
    [("a", "<i4"), ("b", ">f8")],
    [("x", "<f4", (2, 3)), ("y", [("z", "S3"), ("w", "M8[us]")])],
    [(("a title", "name"), "<i2")],
]
DTYPES = [np.dtype(each) for each in (*PLAIN, *OTHER, *RECORDS)]
SHAPES = [(), (0,), (1,), (5,), (2, 3), (3, 0, 2), (1, 1, 1), (2, 3, 4)]
MAX_OVERHEAD = 16 << 20  # bytes that Python's parser needs for any header of legal length


def filled(dtype: np.dtype, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """An array of arbitrary bits."""
    size = dtype.itemsize * int(np.prod(shape, dtype=int))
    return np.frombuffer(bytearray(random.Random(seed).randbytes(size)), np.uint8).view(dtype).reshape(shape)


def layouts(array: np.ndarray) -> dict[str, np.ndarray]:
    double = np.concatenate([array[None]] * 2).repeat(2, axis=-1) if array.ndim else np.stack([array, array])
    return {
        "C": array,
        "Fortran": np.asfortranarray(array),
        "transposed": array.T,
        "every second": double[..., ::2],
        "backwards": array[::-1] if array.ndim else array,
        "swapped": double.swapaxes(0, -1),
        "read-only": np.broadcast_to(array, (2, *array.shape)),
        "unaligned": np.frombuffer(b"x" + array.tobytes(), array.dtype, array.size, 1).reshape(array.shape)
        if array.size
        else array,
    }


def saved(array: np.ndarray) -> bytes:
    buffer = BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def assert_same(ours: np.ndarray, theirs: np.ndarray) -> None:
    assert (ours.dtype, ours.shape, ours.dtype.byteorder) == (theirs.dtype, theirs.shape, theirs.dtype.byteorder)
    if ours.dtype.itemsize:  # without bytes the order means nothing, and NumPy 1 and 2 differ
        assert ours.flags.c_contiguous == theirs.flags.c_contiguous
        assert ours.flags.f_contiguous == theirs.flags.f_contiguous
    assert ours.flags.writeable
    assert type(ours) is np.ndarray
    assert ours.tobytes("A") == theirs.tobytes("A")


def hostile(text: str | bytes, version: tuple[int, int] = (1, 0), data: bytes = b"\0" * 64) -> bytes:
    raw = text if isinstance(text, bytes) else text.encode("utf-8" if version == (3, 0) else "latin-1")
    return b"\x93NUMPY" + bytes(version) + struct.pack("<H" if version == (1, 0) else "<I", len(raw)) + raw + data


def describe(descr: str = "'<f8'", shape: str = "(2,)", order: str = "False") -> str:
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}\n"


def load_peak(data: bytes) -> tuple[np.ndarray | None, int]:
    """The array, or None for a ValueError, and the peak of the bytes allocated meanwhile."""
    tracemalloc.start()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                array = npy.load(data)
            except ValueError:
                array = None
        return array, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_dump_writes_what_numpy_writes_and_load_reads_what_numpy_reads(dtype: np.dtype, shape: tuple[int, ...]) -> None:
    for name, array in layouts(filled(dtype, shape)).items():
        expected = saved(array)
        assert npy.dump(array) == expected, name
        assert expected.startswith(npy.header(array)), name
        assert_same(npy.load(expected), np.load(BytesIO(expected), allow_pickle=False))


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    dtype=st.sampled_from(DTYPES),
    shape=st.lists(st.integers(0, 4), max_size=5).map(tuple),
    seed=st.integers(0, 1000),
    layout=st.sampled_from(["C", "Fortran", "transposed", "every second", "backwards", "swapped", "unaligned"]),
)
def test_load_of_dump_is_what_numpy_makes_of_it(dtype, shape, seed, layout) -> None:
    array = layouts(filled(dtype, shape, seed))[layout]
    data = npy.dump(array)
    assert data == saved(array)
    assert_same(npy.load(data), np.load(BytesIO(data), allow_pickle=False))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_flat_view_is_the_data_part_and_shares_the_memory_of_a_contiguous_array(dtype: np.dtype) -> None:
    for array in (array for shape in SHAPES for array in layouts(filled(dtype, shape)).values()):
        view = npy.flat_view(array)
        if not (array.flags.c_contiguous or array.flags.f_contiguous):
            assert view is None
            continue
        assert (view.ndim, view.dtype, type(view)) == (1, np.uint8, np.ndarray)
        assert npy.header(array) + view.tobytes() == saved(array)
        assert array.size == 0 or np.shares_memory(view, array)


def test_writing_through_the_flat_view_changes_the_array() -> None:
    array = np.zeros(2, "<i2")
    npy.flat_view(array)[:] = [1, 0, 2, 0]
    assert array.tolist() == [1, 2]


ODD = {
    "matrix": lambda: np.matrix([[1, 2], [3, 4]]),
    "Fortran matrix": lambda: np.asfortranarray(np.matrix([[1, 2], [3, 4]])),
    "strided matrix": lambda: np.matrix(np.arange(16).reshape(4, 4))[::2, ::2],
    "masked": lambda: np.ma.masked_array([1, 2, 3], [False, True, False]),
    "strided masked": lambda: np.ma.masked_array(np.arange(8), np.arange(8) % 4)[::2],
    "records": lambda: np.rec.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")]),
    "empty strings": lambda: np.ndarray((2, 3), "S0"),
    "empty voids": lambda: np.ndarray((3,), "V0"),
    "no fields": lambda: np.zeros(3, []),
}


@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")
@pytest.mark.parametrize("name", ODD)
def test_subclasses_and_odd_dtypes_are_written_as_numpy_writes_them(name: str) -> None:
    array = ODD[name]()
    data = npy.dump(array)
    assert data == saved(array)
    assert_same(npy.load(data), np.load(BytesIO(data), allow_pickle=False))


def test_padding_between_fields_is_kept_where_numpy_leaves_it_to_chance() -> None:
    array = np.frombuffer(bytearray(range(48)), np.dtype("i1,f8", align=True))
    data = npy.dump(array)
    assert data == saved(array)
    assert npy.load(data).tobytes() == array.tobytes()


@pytest.mark.parametrize("dtype", [object, [("a", object)], [("a", [("b", "O", 2)])]], ids=str)
def test_object_arrays_are_refused_in_both_directions(dtype: object) -> None:
    with pytest.raises(ValueError, match="Python objects"):
        npy.dump(np.zeros(2, dtype))
    with pytest.raises(ValueError, match="Python objects"):
        npy.header(np.zeros(2, dtype))
    buffer = BytesIO()
    np.save(buffer, np.zeros(2, dtype), allow_pickle=True)
    with pytest.raises(ValueError, match="cannot be read"):
        npy.load(buffer.getvalue())


@pytest.mark.parametrize(
    ("names", "version"), [(["ü"], (1, 0)), (["€", "λ😀"], (3, 0)), ([f"f{i:04}" for i in range(4000)], (2, 0))]
)
def test_every_version_of_the_header_is_written(names: list[str], version: tuple[int, int]) -> None:
    array = np.zeros(2, [(name, "f4") for name in names])
    array[names[-1]] = [1.5, 2.5]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # "Stored array in format 3.0"
        data = npy.dump(array)
        assert data == saved(array)
    assert tuple(data[6:8]) == version
    if version != (2, 0):  # as long a header as that is refused on reading, by NumPy too
        assert_same(npy.load(data), np.load(BytesIO(data), allow_pickle=False))
    else:
        with pytest.raises(ValueError, match="too long"):
            npy.load(data)


def test_a_python_2_header_is_read_as_numpy_reads_it() -> None:
    data = hostile(describe(shape="(2L,)"))
    with pytest.warns(UserWarning, match="Python 2"):
        assert npy.load(data).tolist() == [0.0, 0.0]


def test_loading_gives_memory_of_its_own() -> None:
    data = npy.dump(np.zeros(4))
    first, second = npy.load(data), npy.load(data)
    first[:] = 1
    assert second.tolist() == [0] * 4
    assert npy.load(data).tolist() == [0] * 4


def test_bytes_after_the_array_are_ignored() -> None:
    assert npy.load(npy.dump(np.arange(3)) + b"more").tolist() == [0, 1, 2]


def test_no_data_is_both_a_value_error_and_an_end_of_file() -> None:
    with pytest.raises(EOFError) as raised:
        npy.load(b"")
    assert isinstance(raised.value, ValueError)


@pytest.mark.parametrize("cut", [1, 5, 6, 7, 8, 9, 10, 60, 127, 128, 135, 151])
def test_truncated_data_is_a_value_error(cut: int) -> None:
    data = npy.dump(np.arange(3.0))
    assert len(data) == 152
    with pytest.raises(ValueError, match=r"."):
        npy.load(data[:cut])


HOSTILE = {
    "zip": b"PK\x03\x04" + b"\0" * 60,
    "empty zip": b"PK\x05\x06" + b"\0" * 18,
    "pickle": b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00.",
    "no magic": b"NUMPY" * 20,
    "version 0": hostile(describe(), (0, 0)),
    "version 4": hostile(describe(), (4, 0)),
    "version 1.1": hostile(describe(), (1, 1)),
    "terabytes": hostile(describe(shape=f"({10**13},)")),
    "one byte more": hostile(describe(shape="(9,)")),
    "more than 64 bits": hostile(describe(shape=f"({2**40}, {2**40})")),
    "wraps to zero": hostile(describe(shape=f"({2**32}, {2**32})")),
    "wraps to one": hostile(describe(descr="'|u1'", shape=f"({2**64 + 1},)")),
    "huge number": hostile(describe(shape=f"({10**4000},)")),
    "number too long for int()": hostile(describe(shape="(" + "9" * 9000 + ",)")),
    "empty but huge": hostile(describe(shape=f"(0, {10**30})")),
    "empty but overflowing": hostile(describe(shape=f"(0, {2**62}, {2**62})")),
    "itemsize 0, overflowing": hostile(describe(descr="'|S0'", shape=f"({2**62}, 4)")),
    "itemsize 0, far beyond 64 bits": hostile(describe(descr="'|S0'", shape=f"({2**62}, {2**62})")),
    "negative": hostile(describe(shape="(-1,)")),
    "twice negative": hostile(describe(shape="(-2, -3)")),
    "bool in the shape": hostile(describe(shape="(True, 2)")),
    "float in the shape": hostile(describe(shape="(2.0,)")),
    "shape is a list": hostile(describe(shape="[2]")),
    "too many dimensions": hostile(describe(shape=repr((1,) * 200))),
    "nested parentheses": hostile(describe(shape="(" * 4000 + ")" * 4000)),
    "nested brackets": hostile("[" * 9000),
    "many signs": hostile(describe(shape="(" + "-" * 9000 + "1,)")),
    "many operators": hostile(describe(shape="(" + "1+" * 4500 + "1j,)")),
    "header above the limit": hostile(describe() + " " * 10_000),
    "header above the limit, 2.0": hostile(describe() + " " * 200_000, (2, 0)),
    "header above the limit, 3.0": hostile(describe() + "€" * 10_000, (3, 0)),
    "header of 4 GB": b"\x93NUMPY\x02\x00" + b"\xff" * 4 + describe().encode() + b"\0" * 64,
    "header of 4 GB, 3.0": b"\x93NUMPY\x03\x00" + b"\xff" * 4 + describe().encode() + b"\0" * 64,
    "not UTF-8": hostile(b"{'descr': '\xff\xfe'}", (3, 0)),
    "null byte": hostile("{\0}"),
    "no dict": hostile("[1, 2]"),
    "a call": hostile("__import__('os').getpid()"),
    "no keys": hostile("{}"),
    "mixed keys": hostile("{1: 2, 'descr': 3}"),
    "unhashable key": hostile("{[]: 1}"),
    "unhashable set": hostile("{{}: 1}"),
    "open string": hostile("{'descr"),
    "tokens": hostile("{'shape': 3L 'descr"),
    "bad indentation": hostile("  1\n 2\n"),
    "order is no bool": hostile(describe(order="1")),
    "object": hostile(describe(descr="'|O'")),
    "object in a record": hostile(describe(descr="[('a', '|O')]")),
    "array dtype": hostile(describe(descr="('<f8', (1,))")),
    "huge array dtype": hostile(describe(descr="('<f8', (1000000, 100))")),
    "array dtype too large": hostile(describe(descr="('<f8', (1000000000, 1000000000))")),
    "no dtype": hostile(describe(descr="'nonsense'")),
    "dtype None": hostile(describe(descr="None")),
    "dtype of a number": hostile(describe(descr="3")),
    "dtype of short tuples": hostile(describe(descr="[('a',)]")),
    "empty tuple as dtype": hostile(describe(descr="()")),
    "same field twice": hostile(describe(descr="[('a', '<f4'), ('a', '<f4')]")),
    "itemsize of 2 GB": hostile(describe(descr=f"'|V{2**31 - 1}'", shape="(1,)")),
    "itemsize too large": hostile(describe(descr=f"'|V{2**40}'", shape="(1,)")),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_header_is_a_value_error_and_allocates_nothing_of_its_claim(name: str) -> None:
    array, peak = load_peak(HOSTILE[name])
    assert array is None or array.nbytes == 0  # NumPy 1 takes an itemsize of 2**40 for 0
    assert peak < len(HOSTILE[name]) + MAX_OVERHEAD


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("terabytes", "claims more than the 64 bytes"),
        ("one byte more", "claims more than the 64 bytes"),
        ("negative", "no array can have"),
        ("array dtype", "cannot be read from bytes"),
        ("object", "cannot be read from bytes"),
        ("header of 4 GB", "truncated or too long"),
        ("version 4", "Version"),
        ("nested brackets", "cannot be parsed"),
    ],
)
def test_the_message_says_what_is_wrong(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        npy.load(HOSTILE[name])


def test_a_large_file_is_not_copied_to_look_for_its_header() -> None:
    data = b"\x93NUMPY\x02\x00" + b"\xff" * 4 + bytes(64 << 20)
    array, peak = load_peak(data)
    assert array is None
    assert peak < 1 << 20


def test_a_header_near_the_limit_of_characters_is_read_however_many_bytes_it_takes() -> None:
    data = hostile(describe(descr=f"[('{'😀' * 9000}', '<f8')]"), (3, 0), data=bytes(16))
    assert len(data) > 36_000
    assert_same(npy.load(data), np.load(BytesIO(data), allow_pickle=False))


def test_an_array_without_bytes_of_its_own_is_read_without_allocating_its_claim() -> None:
    array, peak = load_peak(hostile(describe(descr="'|S0'", shape=f"({10**12},)"), data=b""))
    assert array.shape == (10**12,)
    assert peak < MAX_OVERHEAD


@settings(max_examples=600, deadline=None, derandomize=True)
@given(data=st.data())
def test_mutated_files_are_read_as_numpy_reads_them_or_are_a_value_error(data: st.DataObject) -> None:
    array = filled(data.draw(st.sampled_from(DTYPES)), data.draw(st.sampled_from(SHAPES)))
    raw = bytearray(npy.dump(array))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(raw) - 1))
        piece = data.draw(st.one_of(st.binary(max_size=4), st.sampled_from([b"9" * 12, b"(", b"'", b"-", b"O", b"L"])))
        raw[at : at + data.draw(st.integers(0, 4))] = piece
        raw = raw or bytearray(b"x")
    ours, peak = load_peak(bytes(raw))
    assert peak <= 2 * len(raw) + MAX_OVERHEAD
    if ours is not None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            theirs = np.load(BytesIO(raw), allow_pickle=False)
        assert_same(ours, theirs)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(text=st.text(max_size=200), version=st.sampled_from([(1, 0), (2, 0), (3, 0)]))
def test_a_header_of_any_text_is_a_value_error(text: str, version: tuple[int, int]) -> None:
    raw = text.encode("utf-8", "surrogatepass")
    assert load_peak(hostile(raw, version))[0] is None


def test_dump_and_load_make_one_copy() -> None:
    array = np.zeros(4 << 20)
    for function, argument in [(npy.dump, array), (npy.load, npy.dump(array)), (npy.dump, np.asfortranarray(array))]:
        tracemalloc.start()
        try:
            function(argument)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < array.nbytes + (1 << 20)
