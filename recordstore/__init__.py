"""A persistent store for the records of federated learning.

Flower's in-memory records, and one SQLite file that keeps every round of every run: atomic, verified, fast.
"""

from recordstore.array import Array
from recordstore.arrayrecord import ArrayRecord, ParametersRecord
from recordstore.constants import CHUNK_SIZE, GC_THRESHOLD, SType
from recordstore.exceptions import (
    AmbiguousReferenceError,
    ArrayNotFoundError,
    CorruptRecordError,
    ForkError,
    InvalidTypeError,
    InvalidValueError,
    MismatchError,
    NotARecordStoreError,
    ReadOnlyStoreError,
    RecordExistsError,
    RecordNotFoundError,
    RecordStoreError,
    ResumeError,
    SaveSweptError,
    SchemaError,
    SchemaOutdatedError,
    SchemaTooNewError,
    StorageFullError,
    StoreAccessError,
    StoreBusyError,
    StoreClosedError,
)
from recordstore.info import Damage, HistoryEntry, Progress, RecordInfo, RunInfo, Swept, VerifyReport
from recordstore.matching import IncompatibleKeys
from recordstore.rounds import Checkpoint
from recordstore.savehandle import SaveHandle
from recordstore.store import RecordStore
from recordstore.stored import StoredArray, StoredRecord
from recordstore.typeddict import TypedDict

__version__ = "0.1.0"

__all__ = [
    "CHUNK_SIZE",
    "GC_THRESHOLD",
    "AmbiguousReferenceError",
    "Array",
    "ArrayNotFoundError",
    "ArrayRecord",
    "Checkpoint",
    "CorruptRecordError",
    "Damage",
    "ForkError",
    "HistoryEntry",
    "IncompatibleKeys",
    "InvalidTypeError",
    "InvalidValueError",
    "MismatchError",
    "NotARecordStoreError",
    "ParametersRecord",
    "Progress",
    "ReadOnlyStoreError",
    "RecordExistsError",
    "RecordInfo",
    "RecordNotFoundError",
    "RecordStore",
    "RecordStoreError",
    "ResumeError",
    "RunInfo",
    "SType",
    "SaveHandle",
    "SaveSweptError",
    "SchemaError",
    "SchemaOutdatedError",
    "SchemaTooNewError",
    "StorageFullError",
    "StoreAccessError",
    "StoreBusyError",
    "StoreClosedError",
    "StoredArray",
    "StoredRecord",
    "Swept",
    "TypedDict",
    "VerifyReport",
    "__version__",
]
