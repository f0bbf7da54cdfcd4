"""The seven tables of a record store as ORM classes (schema 0002).

Tables whose key is not a number of their own are ``WITHOUT ROWID``: the arrays of a record lie side by side, and a
small save writes one page of 32 KiB less for each of them.
"""

import json
import math
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    DateTime,
    Dialect,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Text,
    TypeDecorator,
    UniqueConstraint,
    literal_column,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

WRITING = "writing"
READY = "ready"
DELETING = "deleting"
DEAD = "dead"
DAMAGED = "damaged"

READY_INDEX = "uq_blob_ready_digest"
"""By which a save finds the bytes that it can share."""

Id = BigInteger().with_variant(Integer, "sqlite")
"""64 bits everywhere; SQLite autoincrements nothing but ``INTEGER``, which has 64 bits there."""


class Json(TypeDecorator[Any]):
    """A JSON text in a plain text column.

    SQLite gives a column of the type ``JSON`` numeric affinity, which would store the metadata ``12345678901234567890``
    as a float (https://www.sqlite.org/datatype3.html, section 3.1).
    """

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:  # noqa: ARG002
        """Return the compact JSON text of ``value``, None for None."""
        return None if value is None else json.dumps(value, separators=(",", ":"), allow_nan=False)

    def process_result_value(self, value: str | None, dialect: Dialect) -> Any:  # noqa: ARG002
        """Return what the stored text says."""
        return None if value is None else json.loads(value)


class UtcDateTime(TypeDecorator[datetime]):
    """An aware UTC time, stored without its offset: SQLite has no type that would keep it."""

    impl = DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """Return ``value`` in UTC, without its time zone."""
        return None if value is None else value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """Return the stored time as an aware one."""
        return None if value is None else value.replace(tzinfo=UTC)


class NullableNan(TypeDecorator[float]):
    """A float whose NaN is NULL: SQLite stores no NaN, and NULL sorts with no number."""

    impl = Double
    cache_ok = True

    def process_bind_param(self, value: float | None, dialect: Dialect) -> float | None:  # noqa: ARG002
        """Return ``value``, None for NaN."""
        return None if value is None or math.isnan(value) else value

    def process_result_value(self, value: float | None, dialect: Dialect) -> float:  # noqa: ARG002
        """Return the stored number, NaN for NULL."""
        return math.nan if value is None else float(value)


class Base(DeclarativeBase):
    """Registry of the tables; every constraint has a name, so that a migration can address it."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


class RecordRow(Base):
    """One saved record. Readers see it only in the state ``ready``.

    ``run`` and ``round`` are set when it is published and cleared when it is deleted: neither a dead writer nor a slow
    delete keeps a name from being used. ``checkpoint`` is JSON text: the state of what made the arrays, with which it
    can go on; the last column, since it may be long, and read by those who resume only.
    """

    __tablename__ = "record"
    __table_args__ = (
        UniqueConstraint("run", "round"),
        Index(None, "run", "id"),
        Index("ix_record_unfinished", "state", sqlite_where=literal_column("state != 'ready'")),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    run: Mapped[str | None] = mapped_column(Text)
    round: Mapped[int | None] = mapped_column(BigInteger)
    state: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    metadata_: Mapped[Any] = mapped_column("metadata", Json, nullable=True)
    array_count: Mapped[int | None] = mapped_column(BigInteger)
    nbytes: Mapped[int | None] = mapped_column(BigInteger)
    digest: Mapped[bytes | None] = mapped_column(LargeBinary)
    writer: Mapped[str] = mapped_column(Text)
    touched_at: Mapped[datetime] = mapped_column(UtcDateTime)
    checkpoint_digest: Mapped[bytes | None] = mapped_column(LargeBinary)
    checkpoint: Mapped[str | None] = mapped_column(Text, deferred=True)


class BlobRow(Base):
    """The bytes of one distinct array content; arrays with equal bytes point at the same one."""

    __tablename__ = "blob"
    __table_args__ = (
        Index(None, "nbytes", "head"),
        Index(READY_INDEX, "digest", unique=True, sqlite_where=literal_column("state = 'ready'")),
        Index("ix_blob_dead", "state", sqlite_where=literal_column("state = 'dead'")),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    state: Mapped[str] = mapped_column(Text)
    nbytes: Mapped[int] = mapped_column(BigInteger)
    head: Mapped[bytes] = mapped_column(LargeBinary)
    digest: Mapped[bytes | None] = mapped_column(LargeBinary)


class ArrayRow(Base):
    """One named array of a record, at its position in the insertion order.

    ``part`` is ``''`` for the arrays that were saved as the record, and names what else belongs to a checkpoint, such
    as the moments of an optimizer; those come behind.
    """

    __tablename__ = "array"
    __table_args__ = (UniqueConstraint("record_id", "part", "name"), {"sqlite_with_rowid": False})

    record_id: Mapped[int] = mapped_column(Id, ForeignKey("record.id"), primary_key=True)
    position: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    name: Mapped[str] = mapped_column(Text)
    dtype: Mapped[str] = mapped_column(Text)
    shape: Mapped[str] = mapped_column(Text)
    stype: Mapped[str] = mapped_column(Text)
    nbytes: Mapped[int] = mapped_column(BigInteger)
    blob_id: Mapped[int] = mapped_column(Id, ForeignKey("blob.id"), index=True)
    part: Mapped[str] = mapped_column(Text, server_default=text("''"))


class ChunkRow(Base):
    """A slice of a blob, at most ``CHUNK_SIZE`` bytes.

    ``data`` stays the last column: SQLite walks through the whole value to reach one behind it.
    """

    __tablename__ = "chunk"
    __table_args__ = (UniqueConstraint("blob_id", "seq"), {"sqlite_autoincrement": True})

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    blob_id: Mapped[int] = mapped_column(Id, ForeignKey("blob.id"))
    seq: Mapped[int] = mapped_column(BigInteger)
    nbytes: Mapped[int] = mapped_column(BigInteger)
    digest: Mapped[bytes] = mapped_column(LargeBinary)
    data: Mapped[bytes] = mapped_column(LargeBinary)


class MetricRow(Base):
    """One metric of a record."""

    __tablename__ = "metric"
    __table_args__ = (Index(None, "name", "value"), {"sqlite_with_rowid": False})

    record_id: Mapped[int] = mapped_column(Id, ForeignKey("record.id"), primary_key=True)
    name: Mapped[str] = mapped_column(Text, primary_key=True)
    value: Mapped[float] = mapped_column(NullableNan, nullable=True)


class TagRow(Base):
    """A movable name for a record of a run; ``run`` is ``''`` for the records that have none."""

    __tablename__ = "tag"
    __table_args__ = ({"sqlite_with_rowid": False},)

    run: Mapped[str] = mapped_column(Text, primary_key=True)
    name: Mapped[str] = mapped_column(Text, primary_key=True)
    record_id: Mapped[int] = mapped_column(Id, ForeignKey("record.id"), index=True)


class HistoryRow(Base):
    """What one source reported of one round of a run, as tagged JSON; it outlives the records."""

    __tablename__ = "history"
    __table_args__ = ({"sqlite_with_rowid": False},)

    run: Mapped[str] = mapped_column(Text, primary_key=True)
    round: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    source: Mapped[str] = mapped_column(Text, primary_key=True)
    values: Mapped[str] = mapped_column(Text)
