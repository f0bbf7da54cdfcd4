"""What the rollback journal of a file tells from outside: whether a transaction is open, and how far it has come."""

import os
from pathlib import Path

MAGIC = bytes.fromhex("d9d505f920a163d7")
"""What a journal begins with once it is on the disk: from then on pages of the file are overwritten.

Until then these bytes are zeros, https://www.sqlite.org/fileformat2.html#the_rollback_journal
"""


def head_of_journal(path: Path) -> bytes:
    """Return the first bytes of the journal of a file, none if no transaction has written."""
    try:
        descriptor = os.open(f"{path}-journal", os.O_RDONLY)
    except FileNotFoundError:
        return b""
    try:
        return os.read(descriptor, len(MAGIC))
    finally:
        os.close(descriptor)


def remove_store(path: Path) -> None:
    """Remove a file with all that lies beside it under a name that begins with its own."""
    for file in path.parent.glob(f"{path.name}*"):
        file.unlink()
