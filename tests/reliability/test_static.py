"""What the source may not hold: unpickling, running of texts, and checks that ``python -O`` leaves out."""

import ast
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from support import CHECKOUT, Child, rows, say

import recordstore
from recordstore import (
    Array,
    CorruptRecordError,
    InvalidTypeError,
    InvalidValueError,
    MismatchError,
    NotARecordStoreError,
    RecordExistsError,
    RecordNotFoundError,
    RecordStore,
)

PACKAGE = Path(recordstore.__file__).parent
SOURCES = sorted([*PACKAGE.rglob("*.py"), *(CHECKOUT / "migrations").rglob("*.py")])

MODULES = {
    "pickle",
    "_pickle",
    "cPickle",
    "marshal",
    "shelve",
    "dill",
    "cloudpickle",
    "joblib",
    "code",
    "codeop",
    "runpy",
}
BUILTINS = {"eval", "exec", "compile", "__import__"}
METHODS = {
    *(f"{module}.load" for module in ("torch", "np", "numpy")),
    *(f"builtins.{name}" for name in BUILTINS),
    *("os.system", "os.popen", "yaml.load", "importlib.import_module", "random.seed", "np.random.seed"),
}


def flaws(tree: ast.AST) -> Iterator[str]:
    """Yield what a source may not hold."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name.split(".")[0] for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            whole = f"{node.module or ''}".split(".")[0]
            names = [whole, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, (ast.Name, ast.Attribute)):
            names = [name for name in [ast.unparse(node)] if name not in MODULES]
        elif isinstance(node, ast.keyword):
            names = ["allow_pickle"] if node.arg == "allow_pickle" and ast.unparse(node.value) != "False" else []
        else:
            names = ["assert"] if isinstance(node, ast.Assert) else []
        yield from (name for name in names if name in MODULES | BUILTINS | METHODS | {"allow_pickle", "assert"})


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_a_module_unpickles_nothing_runs_no_text_and_asserts_nothing(path: Path) -> None:
    assert list(flaws(ast.parse(path.read_text(encoding="utf-8")))) == []


BAD = [
    *(
        "import pickle",
        "import os, marshal",
        "from shelve import open",
        "from dill.source import x",
        "import cloudpickle as c",
    ),
    *("eval('1')", "exec(text)", "compile('', '', 'exec')", "__import__('x')", "run = eval", "builtins.exec('')"),
    *(
        "torch.load(file)",
        "np.load(file)",
        "from numpy import load",
        "numpy.load",
        "np.lib.format.read_array(f, allow_pickle=True)",
    ),
    *(
        "np.save(file, x, allow_pickle=flag)",
        "def f():\n    assert x",
        "os.system('true')",
        "from torch import load as l",
    ),
]


@pytest.mark.parametrize("text", BAD)
def test_the_search_finds_what_a_source_may_not_hold(text: str) -> None:
    assert len(list(flaws(ast.parse(text)))) == 1


def test_the_search_lets_the_usual_pass() -> None:
    usual = "import re, json\nre.compile('x')\njson.load(f)\nnpy.load(data)\nnp.save(f, x, allow_pickle=False)\nast.literal_eval(x)"
    assert list(flaws(ast.parse(usual))) == []
    assert len(SOURCES) > 40


# Without assertions


def require(fact: object, what: str) -> None:
    """Check what ``assert`` would check, were it not left out."""
    if not fact:
        raise RuntimeError(f"not so: {what}")


def refused(error: type[Exception], call: object, *arguments: object, **options: object) -> None:
    try:
        call(*arguments, **options)
    except error:
        return
    raise RuntimeError(f"no {error.__name__} came")


def work_without_assertions(path: str) -> None:
    """Save, load, verify, and make all the mistakes that there are errors for."""
    require(not __debug__, "assertions are left out")
    array = np.arange(300_000)
    with RecordStore(path) as store:
        first = store.save({"x": array, "y": np.ones(3)}, run="r", round=1, metrics={"m": 1}, tags=["t"])
        require(np.array_equal(store.load("r@t")["x"].numpy(), array), "the bytes are those that were saved")
        require(np.array_equal(store.open(first)["x"][5:7], array[5:7]), "some rows")
        target = {"x": np.zeros(300_000, int), "y": np.zeros(3)}
        store.load_into(first, target)
        require(np.array_equal(target["x"], array), "the target is filled")
        require(store.verify(), "the store is whole")
        refused(RecordExistsError, store.save, [array], run="r", round=1)
        refused(RecordNotFoundError, store.load, 99)
        refused(MismatchError, store.load_into, first, {"x": np.zeros(2)})
        refused(InvalidTypeError, store.save, 1)
        refused(InvalidTypeError, store.save, [], metrics={"m": "x"})
        refused(InvalidValueError, store.save, [], run="a@b")
        refused(InvalidValueError, store.save, {"a\0": array})
        refused(AssertionError, Array.from_numpy_ndarray, [1])  # as Flower raises
        refused(ValueError, Array("f", [1], "numpy.ndarray", b"x").numpy)
        rows(path, "UPDATE chunk SET data = zeroblob(length(data)) WHERE id = 1")
        require(not store.verify(), "the damage is found")
        refused(CorruptRecordError, store.load, first)
        again = store.save({"x": array})
        require(np.array_equal(store.load(again)["x"].numpy(), array), "damaged bytes are not shared")
        store.delete(first)
        require(store.verify(), "the damage is gone")
    rows(path, "CREATE TABLE evil (x)")
    refused(NotARecordStoreError, RecordStore, path)
    say("done")


def test_the_promises_hold_without_assertions(path: Path) -> None:
    with Child(work_without_assertions, path, under=["env", "PYTHONOPTIMIZE=1"]) as child:
        assert child.finish() == ["done"]
