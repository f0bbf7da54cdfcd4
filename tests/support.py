"""Child processes that run a function of a test file, and witnesses that know nothing of the package.

    def child(path):
        say(os.getpid())
        assert hear() == "go on"

    with Child(child, path) as process:
        assert process.hear() == process.pid
        process.say("go on")
        assert process.finish() == []

Nothing is inherited: the child is a fresh interpreter that imports the test file again.
"""

import importlib.util
import io
import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from sqlalchemy import Connection, Engine, event

import recordstore
from recordstore import RecordStore, constants, schema
from recordstore.engine import Database
from recordstore.target import parse_target

CHECKOUT = Path(__file__).parents[1]
ASSETS = CHECKOUT / "tests/assets"
HEAD = schema.HEAD
NEXT = f"{int(HEAD) + 1:04}"
"""The revision of the next release, which only tests have."""


class Child:
    """A process that runs ``function(*arguments)``, which are sent as JSON; leaving the block ends it.

    ``under`` is a command that runs it, such as strace with its options.
    """

    def __init__(self, function: Callable[..., object], *arguments: object, under: Sequence[str] = ()) -> None:
        file = Path(function.__code__.co_filename)
        folders = dict.fromkeys([Path(recordstore.__file__).parents[1], Path(__file__).parent, file.parent])
        texts = json.dumps([str(item) if isinstance(item, Path) else item for item in arguments])
        self._process = subprocess.Popen(
            [*under, sys.executable, __file__, file, function.__name__, texts],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, folders))},
        )
        self.pid = self._process.pid

    def say(self, message: object) -> None:
        """Send a message."""
        self._process.stdin.write(json.dumps(message).encode() + b"\n")
        self._process.stdin.flush()

    def hear(self) -> Any:
        """Return the next message."""
        line = self._process.stdout.readline()
        assert line, f"the child ended with the exit code {self._process.wait()}"
        return json.loads(line)

    def finish(self) -> list[Any]:
        """Return the messages that are left, once the child has ended well."""
        self._process.stdin.close()
        messages = [json.loads(line) for line in self._process.stdout]
        assert self._process.wait() == 0
        return messages

    def kill(self) -> None:
        """Send it SIGKILL and wait for its end."""
        self._process.kill()
        self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        self._process.stdout.close()
        self._process.stdin.close()


def say(message: object) -> None:
    """Send a message to the process that started this one; whole, whenever this one is killed."""
    os.write(1, json.dumps(message).encode() + b"\n")


def hear() -> Any:
    """Return the next message of the process that started this one."""
    line = sys.stdin.readline()
    return json.loads(line) if line else None


def make_small(**sizes: float) -> None:
    """Set constants of the package for the rest of this process, a child."""
    for name, size in sizes.items():
        setattr(constants, name, size)


def kill_before_statement(number: int) -> None:
    """Have this process kill itself before its SQL statement or COMMIT of this number."""
    statements = count()

    def strike(*_: object) -> None:
        if next(statements) == number:
            os.kill(os.getpid(), signal.SIGKILL)

    event.listen(Engine, "before_cursor_execute", strike)
    event.listen(Engine, "commit", strike)


def status(field: str) -> int:
    """Return a size in bytes from ``/proc/self/status``, such as VmRSS, the resident memory."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1]) * 1024


def bytes_written() -> int:
    """Return the bytes that this process has caused to be written to a disk."""
    return _io("write_bytes")


def bytes_read() -> int:
    """Return the bytes that this process has asked to read, from a disk or its cache."""
    return _io("rchar")


def _io(field: str) -> int:
    (line,) = (line for line in Path("/proc/self/io").read_text().splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1])


@contextmanager
def memory_used(used: list[int]) -> Iterator[None]:
    """Append by how many bytes the peak of the resident memory in the block exceeds what was resident before."""
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts again, see proc_pid_clear_refs(5)
    before = status("VmHWM")
    yield
    used.append(status("VmHWM") - before)


def noise(seed: int, nbytes: int = 60_000) -> np.ndarray:
    """Return random bytes."""
    return np.random.default_rng(seed).integers(0, 256, nbytes, np.uint8)


def content(store: RecordStore, ref: Any) -> dict[str, bytes]:
    """Return the bytes of a record by name."""
    return {name: array.data for name, array in store.load(ref).items()}


def npy(array: np.ndarray) -> bytes:
    """Return what ``numpy.save`` writes."""
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    return stream.getvalue()


def rows(path: Path | str, sql: str, *parameters: object) -> list[tuple[Any, ...]]:
    """Ask the file with nothing but sqlite3."""
    with closing(sqlite3.connect(path)) as connection, connection:
        return connection.execute(sql, parameters).fetchall()


def sql_of(path: Path | str) -> dict[tuple[str, str], str]:
    """Return the text of each object of a file, but for white space."""
    objects = rows(path, "SELECT type, name, sql FROM sqlite_schema WHERE sql IS NOT NULL")
    return {(kind, name): " ".join(sql.split()) for kind, name, sql in objects if not name.startswith("sqlite_")}


def flaws(path: Path | str) -> dict[str, list[tuple[Any, ...]]]:
    """Return what SQLite finds wrong with a file, and what of its rows no visible record needs."""
    queries = {
        "damaged pages": "SELECT * FROM pragma_integrity_check WHERE integrity_check != 'ok'",
        "dangling references": "SELECT * FROM pragma_foreign_key_check",
        "unfinished records": "SELECT id, state FROM record WHERE state != 'ready'",
        "unfinished blobs": "SELECT id, state FROM blob WHERE state NOT IN ('ready', 'damaged')",
        "blobs without an array": "SELECT id, state FROM blob WHERE id NOT IN (SELECT blob_id FROM array)",
        "arrays without a record": "SELECT record_id FROM array WHERE record_id NOT IN (SELECT id FROM record)",
        "chunks without a blob": "SELECT id FROM chunk WHERE blob_id NOT IN (SELECT id FROM blob)",
        "blobs without their bytes": "SELECT id FROM blob WHERE nbytes != "
        "(SELECT coalesce(sum(length(data)), 0) FROM chunk WHERE blob_id = blob.id)",
        "records without their arrays": "SELECT id FROM record WHERE array_count != "
        "(SELECT count(*) FROM array WHERE record_id = record.id AND part = '')",
    }
    return {flaw: found for flaw, sql in queries.items() if (found := rows(path, sql))}


def alembic_config(connection: Connection | None = None) -> Any:
    """Return what Alembic needs to know of the migrations of this checkout, and the connection they run on."""
    from alembic.config import Config

    made = Config()
    made.set_main_option("script_location", str(CHECKOUT / "migrations").replace("%", "%%"))
    made.attributes["connection"] = connection
    return made


def migrate(path: Path | str, revision: str) -> None:
    """Bring a file up or down to a revision, and do nothing else to it: opening a store would sweep leftovers too."""
    from alembic import command

    database = Database(parse_target(path), read_only=False, timeout=1.0)
    with database.migration() as connection:
        steps = command.upgrade if int(revision) > _version(connection) else command.downgrade
        steps(alembic_config(connection), revision if int(revision) else "base")
    database.close()


def _version(connection: Connection) -> int:
    return int(connection.exec_driver_sql("PRAGMA user_version").scalar_one())


def main() -> None:
    """Run the function that the command line names."""
    _, file, name, arguments = sys.argv
    spec = importlib.util.spec_from_file_location("child", file)
    module = importlib.util.module_from_spec(spec)
    sys.modules["child"] = module
    spec.loader.exec_module(module)
    getattr(module, name)(*json.loads(arguments))


if __name__ == "__main__":
    sys.modules["support"] = sys.modules["__main__"]
    main()
