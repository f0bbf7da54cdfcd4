"""The modules of the value types: what they import, and that their examples run."""

from __future__ import annotations

import ast
import doctest
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

MODULES = ["npy", "tensor", "typeddict", "array", "arrayrecord"]


def imported(name: str) -> set[str]:
    tree = ast.parse(Path(import_module(f"recordstore.{name}").__file__).read_text())
    nodes = list(ast.walk(tree))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    for node in (node for node in nodes if isinstance(node, ast.ImportFrom)):
        assert node.level == 0
        names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("name", MODULES)
def test_the_values_import_only_each_other_numpy_and_the_standard_library(name: str) -> None:
    for each in imported(name):
        top, _, rest = each.partition(".")
        if top == "recordstore":
            assert rest.partition(".")[0] in {*MODULES, "constants", "copying", "pages", "tasks"}, each
        else:
            assert top in {"numpy", *sys.stdlib_module_names}, each


def test_importing_them_imports_neither_torch_nor_flower_nor_alembic() -> None:
    script = "import sys, recordstore.arrayrecord; print(sorted({'torch', 'flwr', 'alembic'} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def examples() -> list:
    finder = doctest.DocTestFinder(exclude_empty=True)
    modules = [import_module(f"recordstore.{name}") for name in MODULES]
    return [test for module in modules for test in finder.find(module) if test.examples]


@pytest.mark.parametrize("example", examples(), ids=lambda example: example.name)
def test_the_example_in_the_docstring_runs(example: doctest.DocTest) -> None:
    if "torch" in example.docstring.partition("Examples")[2] and not find_spec("torch"):
        pytest.skip("torch is not installed")
    output: list[str] = []
    failed, _ = doctest.DocTestRunner(verbose=False).run(example, out=output.append)
    assert not failed, "".join(output)


@pytest.mark.parametrize("name", ["Array", "ArrayRecord", "ParametersRecord"])
def test_everything_public_has_an_example(name: str) -> None:
    module = import_module("recordstore.array" if name == "Array" else "recordstore.arrayrecord")
    cls = getattr(module, name)
    public = [getattr(cls, each) for each in vars(cls) if not each.startswith("_") and callable(getattr(cls, each))]
    for documented in [cls, *public]:
        assert ">>> " in documented.__doc__, documented
