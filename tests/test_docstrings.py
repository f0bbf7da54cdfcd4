"""The examples in the docstrings of the package: each runs, and prints what it says."""

import doctest
import importlib
import importlib.util
import pkgutil
import re
from pathlib import Path

import pytest

import recordstore

OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def modules() -> list[str]:
    walked = pkgutil.walk_packages(recordstore.__path__, "recordstore.")
    names = [module.name for module in walked if not module.name.startswith("recordstore.migrations")]
    return ["recordstore", *names]


def examples() -> list[doctest.DocTest]:
    finder = doctest.DocTestFinder(exclude_empty=True)
    found = [test for name in modules() for test in finder.find(importlib.import_module(name), name)]
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
    module = getattr(recordstore, name).__module__
    assert any(example.name.startswith(f"{module}.{name}") for example in examples())
