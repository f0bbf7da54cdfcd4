"""``python -m recordstore``: look after a store from the command line."""

import argparse
import io
import sys
from collections.abc import Callable, Sequence

from recordstore import schema
from recordstore.exceptions import CorruptRecordError, RecordStoreError
from recordstore.info import Damage, Progress
from recordstore.store import RecordStore
from recordstore.target import parse_target


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command, and return its exit status: 0, 1 for a store that is not as it should be, 2 for wrong usage."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as stderr has it: a path is any bytes
    options = vars(_parser().parse_args(arguments))
    run: Callable[..., str] = options.pop("run")
    try:
        _require_file(options["target"])
        print(run(**options))  # noqa: T201 - this is a command
    except RecordStoreError as error:
        print(f"recordstore: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


def check(target: str) -> str:
    """Open a store without changing it, and say what is in it."""
    with RecordStore(target, read_only=True) as store:
        runs = len(store.runs())
        return f"{target}: schema {schema.HEAD}, up to date; records: {len(store)}, runs: {runs}"


def upgrade(target: str) -> str:
    """Bring a store to the newest schema."""
    with RecordStore(target, upgrade=True) as store:
        return f"{target}: schema {schema.HEAD}, records: {len(store)}"


def verify(target: str) -> str:
    """Read every byte of a store without changing it; an error lists what is damaged."""
    with RecordStore(target, read_only=True) as store:
        report = store.verify(progress=_show)
    if not report:
        lines = [_describe(damage) for damage in report.damaged]
        raise CorruptRecordError("\n".join([f"{target} is damaged", *lines]))
    return f"{target}: records: {report.records}, arrays: {report.arrays}, bytes: {report.nbytes}; nothing is damaged"


def backup(target: str, path: str) -> str:
    """Copy a store into a new file."""
    with RecordStore(target, read_only=True) as store:
        store.backup(path, progress=_show)
    return f"{path}: a copy of {target}"


def compact(target: str) -> str:
    """Give the space of deleted records back to the file system."""
    with RecordStore(target) as store:
        return f"{target}: {store.compact(progress=_show)} bytes shorter"


def _describe(damage: Damage) -> str:
    where = "" if damage.record_id is None else f"record {damage.record_id}: "
    return where + ("" if damage.array is None else f"array {damage.array!r}: ") + damage.message


def _show(progress: Progress) -> None:
    """Tell how far a command has come, on a terminal."""
    if sys.stderr.isatty():
        print(f"\r{progress.done / max(1, progress.total):5.1%}\r", end="", file=sys.stderr, flush=True)  # noqa: T201


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m recordstore", description="Look after a record store.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for run, text in (
        (check, "say whether a store can be opened and what is in it; changes nothing"),
        (upgrade, "bring a store with an older schema to the newest one, in one transaction"),
        (verify, "read every byte of a store, and list what is damaged; changes nothing"),
        (backup, "copy a store into a new file, while others may write to it"),
        (compact, "give the space of deleted records back to the file system"),
    ):
        command = commands.add_parser(run.__name__, help=text, description=text)
        command.add_argument("target", help="path or sqlite:/// URL of the store")
        if run is backup:
            command.add_argument("path", help="the new file")
        command.set_defaults(run=run)
    return parser


def _require_file(target: str) -> None:
    """Refuse a missing file, which opening for an upgrade would create."""
    parse_target(target).ensure_file(read_only=True)


if __name__ == "__main__":
    sys.exit(main())
