"""The errors that a record store raises.

::

    RecordStoreError
    ├── InvalidTypeError          (TypeError)        an argument of a wrong type
    ├── InvalidValueError         (ValueError)       an argument of a wrong value
    ├── RecordNotFoundError       (LookupError)      no record answers to this reference
    │   └── ArrayNotFoundError    (KeyError)         the record has no array of this name
    ├── AmbiguousReferenceError   (LookupError)      a bare tag that several runs have
    ├── RecordExistsError         (ValueError)       (run, round) is taken
    ├── MismatchError             (ValueError)       a record does not fit into what it is to be loaded into
    ├── CorruptRecordError        (ValueError)       stored bytes are not those that were saved
    ├── ResumeError               (ValueError)       a run cannot go on from what is stored of it
    ├── SaveSweptError            (RuntimeError)     gc took the unfinished save for a dead one
    ├── StoreBusyError            (TimeoutError)     another writer or reader held the lock for too long
    ├── StorageFullError          (OSError)          no room left on the disk
    ├── StoreAccessError          (OSError)          the file cannot be opened, read or written
    │   └── ReadOnlyStoreError    (PermissionError)  a write to a store that was opened for reading
    ├── StoreClosedError          (RuntimeError)     used after close()
    ├── ForkError                 (RuntimeError)     used in a forked child process
    └── SchemaError
        ├── NotARecordStoreError  (ValueError)       the file is something else, or damaged
        ├── SchemaOutdatedError   (RuntimeError)     the file is of an older schema: upgrade it
        └── SchemaTooNewError     (RuntimeError)     the file is of a newer schema: upgrade recordstore

Each leaf also inherits the built-in exception that one would guess. No SQLAlchemy or sqlite3 exception leaves the
package; where one was the cause it is chained, without the values of the statement.
"""


class RecordStoreError(Exception):
    """Root of all errors that a record store raises by itself."""


class InvalidTypeError(RecordStoreError, TypeError):
    """An argument has a type that the call does not take."""


class InvalidValueError(RecordStoreError, ValueError):
    """An argument has the right type and a value that the call does not take."""


class RecordNotFoundError(RecordStoreError, LookupError):
    """No visible record answers to the reference."""


class ArrayNotFoundError(RecordNotFoundError, KeyError):
    """The record exists and has no array of the name asked for."""

    __str__ = Exception.__str__  # a KeyError would show the text as a literal


class AmbiguousReferenceError(RecordStoreError, LookupError):
    """A bare tag that records of several runs carry."""


class RecordExistsError(RecordStoreError, ValueError):
    """A record of this run and round is already there."""


class MismatchError(RecordStoreError, ValueError):
    """A record has other names, shapes or dtypes than what it is to be loaded into."""


class CorruptRecordError(RecordStoreError, ValueError):
    """The stored bytes are not those that were saved; nothing of them is returned."""


class ResumeError(RecordStoreError, ValueError):
    """A run cannot be resumed: nothing is stored, something else is, or the strategy is not the one that began it."""


class SaveSweptError(RecordStoreError, RuntimeError):
    """``gc`` took an unfinished save for a dead one and removed it; its input is intact."""


class StoreBusyError(RecordStoreError, TimeoutError):
    """The lock that the call needs was held by others for longer than the store's timeout."""


class StorageFullError(RecordStoreError, OSError):
    """The disk, or the quota of the database, has no room for the write."""


class StoreAccessError(RecordStoreError, OSError):
    """The database file cannot be opened, read or written."""


class ReadOnlyStoreError(StoreAccessError, PermissionError):
    """A write to a store that was opened with ``read_only=True`` or lies on read-only storage."""


class StoreClosedError(RecordStoreError, RuntimeError):
    """The store was closed."""


class ForkError(RecordStoreError, RuntimeError):
    """The store was opened before a ``fork`` and is used in the child."""


class SchemaError(RecordStoreError):
    """The database does not have the schema that this version of recordstore works with."""


class NotARecordStoreError(SchemaError, ValueError):
    """The target is no record store: another program's file, or one damaged beyond recognition."""


class SchemaOutdatedError(SchemaError, RuntimeError):
    """The store was written by an older recordstore and has to be upgraded first."""


class SchemaTooNewError(SchemaError, RuntimeError):
    """The store was written by a newer recordstore than this one."""
