"""The arrows between the modules, the one door, and what an import or an opening does not cost."""

import ast
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import recordstore

PACKAGE = Path(recordstore.__file__).parent

VALUES = {"copying", "array", "arrayrecord", "npy", "tensor", "typeddict"}
LEAVES = {"exceptions", "constants", "pages", "tasks"}
STORE = {"store", "upkeep", "loading", "rounds", "catalog", "handle"}
ENTRANCES = {"__init__", "__main__"}


def source(name: str) -> str:
    return (PACKAGE / f"{name.replace('.', '/')}.py").read_text(encoding="utf-8")


def imports(name: str) -> dict[str, bool]:
    """Return what a module imports, and whether it does so when it is imported itself."""
    tree = ast.parse(source(name))
    deferred = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) or (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test))
        for inner in ast.walk(node)
    }
    found: dict[str, bool] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            whole = node.module == "recordstore"
            modules = [f"recordstore.{alias.name}" for alias in node.names] if whole else [str(node.module)]
        else:
            continue
        for module in modules:
            found[module] = found.get(module, False) or node not in deferred
    return found


MODULES = sorted(path.stem for path in PACKAGE.glob("*.py"))
FLOWER = sorted(f"flower.{path.stem}" for path in PACKAGE.glob("flower/*.py"))
OWN = {name: {key.split(".")[1] for key in imports(name) if key.startswith("recordstore.")} for name in MODULES}


def reached(name: str, seen: frozenset[str] = frozenset()) -> set[str]:
    """Return all modules of the package that a module leads to."""
    direct = OWN[name] - seen
    return direct | {module for one in direct for module in reached(one, seen | direct)}


@pytest.mark.parametrize("name", MODULES)
def test_no_module_leads_back_to_itself(name: str) -> None:
    assert name not in reached(name)


@pytest.mark.parametrize("name", sorted(set(MODULES) - ENTRANCES))
def test_arrows_point_from_the_store_to_the_values(name: str) -> None:
    if name in LEAVES:
        assert OWN[name] == set()
    if name in VALUES:
        assert reached(name) <= VALUES | LEAVES
    if name not in STORE:
        assert not reached(name) & STORE
    assert not OWN[name] & ENTRANCES


def test_the_arrows_of_the_design_are_there() -> None:
    assert {"repository", "schema", "engine", "writer", "reader"} <= reached("store")
    assert "orm" in OWN["repository"]
    assert reached("orm") == set()
    assert not reached("repository") & {"schema", "engine", "store", "writer", "reader"}
    assert not reached("engine") & {"orm", "repository", "schema"}
    assert "repository" not in reached("schema")


OUTSIDE = {"numpy", "sqlalchemy", "blake3"}


@pytest.mark.parametrize("name", MODULES)
def test_a_module_imports_only_what_the_package_depends_on(name: str) -> None:
    outside = {module.split(".")[0]: at_import for module, at_import in imports(name).items()}
    foreign = set(outside) - set(sys.stdlib_module_names) - {"recordstore"}
    assert foreign <= OUTSIDE | {"alembic"}
    assert "alembic" not in foreign or (name == "schema" and not outside["alembic"])
    if name in VALUES | LEAVES:
        assert foreign <= {"numpy"}


@pytest.mark.parametrize("name", MODULES)
def test_only_repositories_and_the_schema_speak_to_the_database(name: str) -> None:
    text = source(name)
    if name in {"repository", "drafts", "blobs", "history"}:
        assert ".commit(" not in text, "a repository never commits"
        assert ".rollback(" not in text
    if name in STORE | {"writer", "reader", "verifier", "feed", "inputs"}:
        assert "select(" not in text
        assert ".execute(" not in text


@pytest.mark.parametrize("name", [*MODULES, *FLOWER])
def test_a_module_can_be_read_in_one_sitting(name: str) -> None:
    assert len(source(name).splitlines()) <= 310


@pytest.mark.parametrize("name", FLOWER)
def test_what_knows_flower_builds_on_the_store_and_not_the_other_way_round(name: str) -> None:
    outside = {module.split(".")[0] for module in imports(name)}
    assert outside - set(sys.stdlib_module_names) <= {"recordstore", "flwr", "numpy"}
    assert not {"pickle", "marshal", "shelve"} & outside
    assert not [module for module in MODULES if "flower" in OWN[module]]


FLOWER_OWN = {name: {key.removeprefix("recordstore.") for key in imports(name)} & set(FLOWER) for name in FLOWER}


def test_the_arrows_within_flower_point_one_way() -> None:
    left = dict(FLOWER_OWN)
    while ends := [name for name, targets in left.items() if not targets & left.keys()]:
        for name in ends:
            del left[name]
    assert not left, "these lead back to themselves"
    assert not FLOWER_OWN["flower.session"] & {"flower.message", "flower.legacy", "flower.checkpointer"}


def test_the_exported_members_are_sorted_and_are_all_that_is_imported() -> None:
    names = recordstore.__all__
    assert names == sorted(names, key=lambda name: (not name.isupper(), not name[0].isupper(), name))
    public = {name for name, member in vars(recordstore).items() if not name.startswith("_") and not is_module(member)}
    assert public | {"__version__"} == set(names)
    assert len(names) == len(set(names))
    for name in names:
        assert getattr(getattr(recordstore, name), "__module__", "recordstore.").startswith(("recordstore", "builtins"))


def is_module(member: object) -> bool:
    return type(member).__name__ == "module"


def test_every_error_of_the_tree_is_exported_and_inherits_from_its_root_and_a_builtin() -> None:
    from recordstore import exceptions

    errors = {name: member for name, member in vars(exceptions).items() if isinstance(member, type)}
    assert set(errors) <= set(recordstore.__all__)
    for name, error in errors.items():
        assert issubclass(error, recordstore.RecordStoreError)
        assert name in str(exceptions.__doc__)
        builtin = [base for base in error.__mro__ if base.__module__ == "builtins"]
        assert name in {"RecordStoreError", "SchemaError"} or builtin[0] is not Exception


def run(script: str, *arguments: object) -> str:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout


def test_importing_the_package_imports_neither_torch_nor_flower_nor_alembic() -> None:
    script = "import sys, recordstore; print(sorted({'torch', 'flwr', 'alembic', 'pandas'} & sys.modules.keys()))"
    assert run(script) == "[]\n"


OPEN = """
import sqlite3
import sys

statements = []
connect = sqlite3.connect

def traced(*arguments, **options):
    connection = connect(*arguments, **options)
    connection.set_trace_callback(statements.append)
    return connection

sqlite3.connect = traced
from recordstore import RecordStore

for options in ({}, {"read_only": True}, {"upgrade": True}):
    with RecordStore(sys.argv[1], **options) as store:
        assert len(store.load("r@1")) == 1
print(sorted({"torch", "flwr", "alembic"} & sys.modules.keys()))
print(len(statements) > 50, sorted({sql.split()[0] for sql in statements} - {'ROLLBACK'}))
print(sorted({sql.split()[1].split("=")[0] for sql in statements if sql.startswith("PRAGMA") and "=" in sql}))
"""


def test_opening_an_up_to_date_store_imports_no_alembic_and_changes_no_schema(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    with recordstore.RecordStore(path) as store:
        store.save([np.ones(3)], run="r", round=1)
    before = path.read_bytes()
    loaded, verbs, pragmas = run(OPEN, path).splitlines()
    assert loaded == "[]"
    assert verbs == "True ['BEGIN', 'COMMIT', 'PRAGMA', 'SELECT']"
    assert "user_version" not in pragmas
    assert "auto_vacuum" not in pragmas
    assert path.read_bytes() == before
