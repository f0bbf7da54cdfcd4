"""``python -m recordstore``: check whether a store can be opened, and upgrade one with an older schema."""

import argparse
import sys
from collections.abc import Sequence

from recordstore import schema
from recordstore.exceptions import RecordStoreError
from recordstore.store import RecordStore
from recordstore.target import parse_target


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command, and return its exit status: 0, 1 for a store that is not as it should be, 2 for wrong usage."""
    options = _parser().parse_args(arguments)
    try:
        _require_file(options.target)
        print(options.run(options.target))  # noqa: T201 - this is a command
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m recordstore", description="Look after a record store.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for run, text in (
        (check, "say whether a store can be opened and what is in it; changes nothing"),
        (upgrade, "bring a store with an older schema to the newest one, in one transaction"),
    ):
        command = commands.add_parser(run.__name__, help=text, description=text)
        command.add_argument("target", help="path or sqlite:/// URL of the store")
        command.set_defaults(run=run)
    return parser


def _require_file(target: str) -> None:
    """Refuse a missing file, which opening for an upgrade would create."""
    parse_target(target).ensure_file(read_only=True)


if __name__ == "__main__":
    sys.exit(main())
