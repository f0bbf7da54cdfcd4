"""What ``recordstore.npy`` promises of any bytes, and Atheris, which looks for bytes that break it; run by hand::

    python3.11 -m venv /tmp/fuzz && /tmp/fuzz/bin/pip install atheris --editable .
    (ulimit -v 4000000; /tmp/fuzz/bin/python tests/reliability/fuzz_npy.py -atheris_runs=1000000 -max_len=2048 CORPUS)

CORPUS is a folder that grows by what was found worth keeping; the options are those of libFuzzer. The limit of the
address space is a part of the test: what allocates on the word of a header dies of it. No test needs Atheris.
"""

import random
import struct
import sys
import tempfile
import warnings
from io import BytesIO
from pathlib import Path

import numpy as np

from recordstore import npy

STRICTER = ("no array can have", "cannot be read from bytes", "claims more than")
"""Parts of the messages for what is refused before it is known whether NumPy would take it."""

PREFIX = b"\x93NUMPY"


def wrapped(text: str | bytes, version: tuple[int, int] = (1, 0), data: bytes = b"\0" * 64) -> bytes:
    """Return a file with this header."""
    raw = text if isinstance(text, bytes) else text.encode("utf-8" if version == (3, 0) else "latin-1", "surrogatepass")
    return PREFIX + bytes(version) + struct.pack("<H" if version == (1, 0) else "<I", len(raw)) + raw + data


def examine(data: bytes) -> np.ndarray | None:
    """Return the array in a file, None for none; raise AssertionError if a promise is broken."""
    try:
        ours = npy.load(data)
    except ValueError as error:
        if not any(text in str(error) for text in STRICTER):
            _check_that_numpy_refuses(data)
        return None
    if ours.nbytes > len(data):
        raise AssertionError(f"{ours.nbytes} bytes came of {len(data)}")
    if ours.dtype.hasobject:
        raise AssertionError("an array of Python objects came of bytes")
    check_equal(ours, np.load(BytesIO(data), allow_pickle=False))
    return ours


def check_equal(ours: np.ndarray, theirs: np.ndarray) -> None:
    """Raise AssertionError if two arrays differ in anything that one can see."""
    if (ours.dtype, ours.shape) != (theirs.dtype, theirs.shape):
        raise AssertionError(f"{ours.dtype}{ours.shape} is not {theirs.dtype}{theirs.shape}")
    if ours.dtype.itemsize and (ours.tobytes("A") != theirs.tobytes("A") or ours.strides != theirs.strides):
        raise AssertionError("other bytes, or another order of them")


def _check_that_numpy_refuses(data: bytes) -> None:
    try:
        theirs = np.load(BytesIO(data), allow_pickle=False)
    except Exception:  # also SyntaxError, EOFError, MemoryError, BadZipFile ...
        return
    if type(theirs) is np.ndarray:
        raise AssertionError(f"NumPy reads {theirs.dtype}{theirs.shape}")


def _try_one(data: bytes) -> None:
    """Read the bytes as they are, or as the text of a header before some data."""
    kind, rest = data[:1], data[1:]
    if kind < b"\x40":
        examine(rest)
    else:
        version = ((1, 0), (2, 0), (3, 0))[kind[0] % 3]
        examine(wrapped(rest[:60_000], version, bytes(kind[0] % 40)))


def _seeds(folder: Path) -> None:
    """Write a few files to begin with."""
    dtypes = ["<f8", ">i4", "?", "<U3", "S5", "M8[ns]", "<c8", "V7", "<f4,(2,3)i2", [("a", "<i4"), ("ü", ">f8", (2,))]]
    for number, dtype in enumerate(dtypes):
        array = np.zeros((2, 3), dtype)
        data = npy.dump(array if number % 2 else np.asfortranarray(array))
        (folder / f"raw-{number}").write_bytes(b"\0" + data)
        start = 10 if data[6] == 1 else 12
        (folder / f"text-{number}").write_bytes(
            random.Random(number).choice([b"\x60", b"\x61", b"\x62"]) + data[start:]
        )


def main() -> None:
    """Hand ``_try_one`` to Atheris."""
    import ast
    import tokenize

    import atheris

    warnings.simplefilter("ignore")
    for module in (npy, np.lib.format, ast, tokenize):
        for name, value in list(vars(module).items()):
            if callable(value) and getattr(value, "__module__", "") == module.__name__ and hasattr(value, "__code__"):
                setattr(module, name, atheris.instrument_func(value))
    with tempfile.TemporaryDirectory() as seeds:
        _seeds(Path(seeds))
        atheris.Setup([*sys.argv, seeds], _try_one)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
