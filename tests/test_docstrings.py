"""The examples in the docstrings of the package: each runs, and prints what it says."""

import doctest
import importlib
import importlib.util
import pkgutil
import re
from pathlib import Path
from types import ModuleType

import pytest
from flwr_import import FLWR, import_quietly

import recordstore

OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


FLOWER = "recordstore.flower"


def modules() -> list[str]:
    walked = pkgutil.iter_modules(recordstore.__path__, "recordstore.")
    names = [module.name for module in walked if not module.ispkg]
    folder = Path(recordstore.__file__).parent / "flower"
    if FLWR:  # which the modules of this folder import
        names += [f"{FLOWER}.{path.stem}" for path in sorted(folder.glob("*.py"))]
    return ["recordstore", *names]


def module(name: str) -> ModuleType:
    return import_quietly(name) if name.startswith(FLOWER) else importlib.import_module(name)


def examples() -> list[doctest.DocTest]:
    finder = doctest.DocTestFinder(exclude_empty=True)
    found = [test for name in modules() for test in finder.find(module(name), name)]
    return [test for test in found if test.examples]


@pytest.mark.parametrize("example", examples(), ids=lambda example: example.name)
def test_a_docstring_example_prints_what_it_says(
    example: doctest.DocTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "".join(step.source for step in example.examples)
    for library in ("torch", "flwr"):
        if re.search(rf"\b{library}\b", code) and importlib.util.find_spec(library) is None:
            pytest.skip(f"the example needs {library}")
    monkeypatch.chdir(tmp_path)
    failures, tried = doctest.DocTestRunner(optionflags=OPTIONS).run(example)
    assert tried > 0
    assert failures == 0, f"see the output above for {example.name}"


@pytest.mark.parametrize("name", ["RecordStore", "Array", "ArrayRecord"])
def test_a_central_class_has_an_example(name: str) -> None:
    home = getattr(recordstore, name).__module__
    assert any(example.name.startswith(f"{home}.{name}") for example in examples())
