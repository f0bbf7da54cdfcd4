"""The tables of records, arrays, blobs, chunks, metrics and tags.

Frozen once released: it imports nothing from the package.
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

Id = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "record",
        sa.Column("id", Id, nullable=False),
        sa.Column("run", sa.Text()),
        sa.Column("round", sa.BigInteger()),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.Column("metadata", sa.Text()),
        sa.Column("array_count", sa.BigInteger()),
        sa.Column("nbytes", sa.BigInteger()),
        sa.Column("digest", sa.LargeBinary()),
        sa.Column("writer", sa.Text(), nullable=False),
        sa.Column("touched_at", sa.DateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_record"),
        sa.UniqueConstraint("run", "round", name="uq_record_run_round"),
        sqlite_autoincrement=True,
    )
    unfinished = sa.text("state != 'ready'")
    op.create_index("ix_record_run_id", "record", ["run", "id"])
    op.create_index("ix_record_unfinished", "record", ["state"], sqlite_where=unfinished, postgresql_where=unfinished)
    op.create_table(
        "blob",
        sa.Column("id", Id, nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("nbytes", sa.BigInteger(), nullable=False),
        sa.Column("head", sa.LargeBinary(), nullable=False),
        sa.Column("digest", sa.LargeBinary()),
        sa.PrimaryKeyConstraint("id", name="pk_blob"),
        sqlite_autoincrement=True,
    )
    ready, dead = sa.text("state = 'ready'"), sa.text("state = 'dead'")
    op.create_index("ix_blob_nbytes_head", "blob", ["nbytes", "head"])
    op.create_index("uq_blob_ready_digest", "blob", ["digest"], unique=True, sqlite_where=ready, postgresql_where=ready)
    op.create_index("ix_blob_dead", "blob", ["state"], sqlite_where=dead, postgresql_where=dead)
    op.create_table(
        "array",
        sa.Column("record_id", Id, nullable=False),
        sa.Column("position", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("dtype", sa.Text(), nullable=False),
        sa.Column("shape", sa.Text(), nullable=False),
        sa.Column("stype", sa.Text(), nullable=False),
        sa.Column("nbytes", sa.BigInteger(), nullable=False),
        sa.Column("blob_id", Id, nullable=False),
        sa.PrimaryKeyConstraint("record_id", "position", name="pk_array"),
        sa.UniqueConstraint("record_id", "name", name="uq_array_record_id_name"),
        sa.ForeignKeyConstraint(["record_id"], ["record.id"], name="fk_array_record_id_record"),
        sa.ForeignKeyConstraint(["blob_id"], ["blob.id"], name="fk_array_blob_id_blob"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_array_blob_id", "array", ["blob_id"])
    op.create_table(
        "chunk",
        sa.Column("id", Id, nullable=False),
        sa.Column("blob_id", Id, nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("nbytes", sa.BigInteger(), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_chunk"),
        sa.UniqueConstraint("blob_id", "seq", name="uq_chunk_blob_id_seq"),
        sa.ForeignKeyConstraint(["blob_id"], ["blob.id"], name="fk_chunk_blob_id_blob"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "metric",
        sa.Column("record_id", Id, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("value", sa.Double()),
        sa.PrimaryKeyConstraint("record_id", "name", name="pk_metric"),
        sa.ForeignKeyConstraint(["record_id"], ["record.id"], name="fk_metric_record_id_record"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_metric_name_value", "metric", ["name", "value"])
    op.create_table(
        "tag",
        sa.Column("run", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("record_id", Id, nullable=False),
        sa.PrimaryKeyConstraint("run", "name", name="pk_tag"),
        sa.ForeignKeyConstraint(["record_id"], ["record.id"], name="fk_tag_record_id_record"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_tag_record_id", "tag", ["record_id"])


def downgrade() -> None:
    """Drop the tables, with all that is in them."""
    for table in ("tag", "metric", "chunk", "array", "blob", "record"):
        op.drop_table(table)
