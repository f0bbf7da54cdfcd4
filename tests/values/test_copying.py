"""Copies by several threads: NumPy's own copies are the reference."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from recordstore import Array, copying, npy

LARGE = copying.PARALLEL_BYTES


@pytest.fixture(params=[0, 1, 3])
def helpers(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    fresh = copying._Helpers()
    fresh.count = request.param
    monkeypatch.setattr(copying, "_helpers", fresh)
    return request.param


@pytest.mark.parametrize("size", [0, 1, LARGE - 1, LARGE, LARGE + 1, 3 * LARGE + 5])
def test_every_byte_is_copied_and_none_beside_them(helpers: int, size: int) -> None:
    source = np.frombuffer(np.random.default_rng(size).bytes(size), np.uint8)
    target = np.zeros(size + 20, np.uint8)
    copying.copy_bytes(target[10:-10], source)
    assert target[10:-10].tobytes() == source.tobytes()
    assert not target[:10].any()
    assert not target[-10:].any()


def test_large_copies_are_shared_and_small_ones_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    fresh, handed = copying._Helpers(), []
    fresh.count, real = 1, fresh.start
    monkeypatch.setattr(fresh, "start", lambda *part: handed.append(part[0].nbytes) or real(*part))
    monkeypatch.setattr(copying, "_helpers", fresh)
    for size in (LARGE - 1, 2 * LARGE):
        copying.copy_bytes(np.empty(size, np.uint8), np.ones(size, np.uint8))
    assert handed == [LARGE]


def test_where_no_thread_can_be_started_the_caller_copies_all(helpers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("threading.Thread.start", refuse)
    array = np.random.default_rng(0).normal(size=LARGE // 4)
    assert npy.load(npy.dump(array)).tobytes() == array.tobytes()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_child_has_threads_of_its_own() -> None:
    script = f"""
import os, numpy as np
from recordstore import Array, copying
copying._helpers.count = 1
array = np.arange({LARGE // 4}, dtype=np.float64)
first = Array(array)
if not (child := os.fork()):
    os._exit(0 if (Array(array).numpy() == array).all() else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), Array(array) == first)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == ["0", "True"]


def test_copies_at_the_end_of_the_interpreter() -> None:
    script = f"""
import atexit, numpy as np
from recordstore import Array
array = np.arange({LARGE // 4}, dtype=np.float64)
atexit.register(lambda: print((Array(array).numpy() == array).all()))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == ["True"]


@pytest.mark.parametrize("dtype", ["f4", ">f8", "S3"])
def test_large_arrays_come_back(helpers: int, dtype: str) -> None:
    array = np.arange(LARGE).astype(dtype).reshape(-1, 4)
    for given in (array, np.asfortranarray(array), array[::2]):
        found = Array(given).numpy()
        assert found.dtype == given.dtype
        np.testing.assert_array_equal(found, given)
        assert found.flags.writeable
