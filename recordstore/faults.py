"""What the database reports, said in the words of :mod:`recordstore.exceptions`."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

from sqlalchemy import Connection, ExceptionContext
from sqlalchemy.exc import DBAPIError, SQLAlchemyError, StatementError

from recordstore.exceptions import (
    CorruptRecordError,
    NotARecordStoreError,
    ReadOnlyStoreError,
    RecordStoreError,
    StorageFullError,
    StoreAccessError,
    StoreBusyError,
)

# Primary result codes, https://www.sqlite.org/rescode.html
BUSY = sqlite3.SQLITE_BUSY
DAMAGED_FILE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
LOST_FILE = (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH)

_WORDS: dict[int, tuple[type[RecordStoreError], str]] = {
    BUSY: (
        StoreBusyError,
        "locked by another reader or writer for too long; try again, or open the store with a larger timeout=",
    ),
    sqlite3.SQLITE_FULL: (StorageFullError, "no room left to write; free some space and try again"),
    sqlite3.SQLITE_READONLY: (
        ReadOnlyStoreError,
        "read-only: it cannot be written to, nor read if it is in WAL mode or a killed writer left a journal",
    ),
    **dict.fromkeys(DAMAGED_FILE, (CorruptRecordError, "the file is damaged; restore it from a backup")),
    **dict.fromkeys(LOST_FILE, (StoreAccessError, "cannot be opened, read or written")),
}


def result_code(error: BaseException) -> int:
    """Return SQLite's primary result code of an error, 0 if it has none."""
    code = getattr(error, "sqlite_errorcode", None)
    return code & 0xFF if isinstance(code, int) else 0


def unwrapped(connection: Connection) -> sqlite3.Connection:
    """Return the connection of the driver, for what SQLAlchemy has no words for."""
    return cast("sqlite3.Connection", connection.connection.dbapi_connection)


@contextmanager
def driver(connection: Connection) -> Iterator[sqlite3.Connection]:
    """Give the connection of the driver, and drop it after an error of its file."""
    try:
        yield unwrapped(connection)
    except sqlite3.Error as error:
        if _loses_connection(error):
            connection.invalidate(error)
        raise


def abandon(connection: Connection, error: BaseException) -> None:
    """Roll back what has failed, or drop the connection."""
    if _loses_connection(error):
        connection.invalidate(error)
    else:
        unwrapped(connection).rollback()


def drop_after_io_error(context: ExceptionContext) -> None:
    """Have SQLAlchemy drop a connection, as a listener to its errors."""
    if _loses_connection(context.original_exception):
        context.is_disconnect = True


def _loses_connection(error: BaseException) -> bool:
    """Return whether a connection is to be dropped after an error, as its view of the file is not to be trusted."""
    return result_code(error) in LOST_FILE


@contextmanager
def translated(target: str, *, opening: bool = False) -> Iterator[None]:
    """Let no exception of SQLAlchemy or sqlite3 out of the block.

    Parameters
    ----------
    target
        How messages call the database; it must hold no secret.
    opening
        Whether the database is being opened: damage then concerns the file, later a record.
    """
    try:
        yield
    except StatementError as error:  # its subclass DBAPIError has the driver's error
        error.params = None  # may hold the bytes of arrays
        if isinstance(error.orig, RecordStoreError):  # a ForkError
            raise error.orig from None
        cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
        if _is_undecodable(cause):
            raise _undecodable(target, opening=opening) from None
        raise _translate(cause, target, opening=opening) from error
    except (SQLAlchemyError, sqlite3.Error) as error:
        if _is_undecodable(error):
            raise _undecodable(target, opening=opening) from None
        raise _translate(error, target, opening=opening) from error
    except RecordStoreError:
        raise
    except UnicodeDecodeError:  # of the driver, which decodes its own messages
        raise _undecodable(target, opening=opening) from None
    except (TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        if opening:  # a mistake in a revision, which is no damage
            raise
        # no code of the caller runs in here: a value in a row is not what we would have written
        raise CorruptRecordError(f"{target}: a row cannot be understood ({type(error).__name__}: {error})") from error


def _is_undecodable(error: BaseException) -> bool:
    return not result_code(error) and str(error).startswith("Could not decode")


def _undecodable(target: str, *, opening: bool) -> RecordStoreError:
    """Return the error for a text that is no UTF-8; the driver's would show it, and it may stand where bytes should."""
    kind = NotARecordStoreError if opening else CorruptRecordError
    return kind(f"{target}: a text in the file is no UTF-8")


def _translate(error: BaseException, target: str, *, opening: bool) -> RecordStoreError:
    code = result_code(error)
    kind, text = _WORDS.get(code, (RecordStoreError, "the database refused the call"))
    if code in DAMAGED_FILE and opening:
        kind, text = NotARecordStoreError, "this is no record store, or a truncated or damaged one"
    return kind(f"{target}: {text} ({error})")
