"""Parts of records, the state that belongs to a checkpoint, and the history of a run.

``array`` is made anew, not altered: its key on the names is a part of the table, and SQLite cannot change it. Nothing
refers to it, and it is filled by one statement, in the memory of SQLite's page cache however many rows there are.

Frozen once released: it imports nothing from the package.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

Id = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Give arrays a part and records a checkpoint, and create the history."""
    op.add_column("record", sa.Column("checkpoint_digest", sa.LargeBinary()))
    op.add_column("record", sa.Column("checkpoint", sa.Text()))
    _make_array_anew(
        sa.Column("part", sa.Text(), server_default=sa.text("''"), nullable=False),
        unique=sa.UniqueConstraint("record_id", "part", "name", name="uq_array_record_id_part_name"),
    )
    op.create_table(
        "history",
        sa.Column("run", sa.Text(), nullable=False),
        sa.Column("round", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("values", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("run", "round", "source", name="pk_history"),
        sqlite_with_rowid=False,
    )


def downgrade() -> None:
    """Drop what 0002 brought, the arrays that no schema 0001 could tell from those of the model among it."""
    op.drop_table("history")
    op.execute("DELETE FROM array WHERE part != ''")
    _make_array_anew(unique=sa.UniqueConstraint("record_id", "name", name="uq_array_record_id_name"))
    op.drop_column("record", "checkpoint")
    op.drop_column("record", "checkpoint_digest")


def _make_array_anew(*more: sa.Column[str], unique: sa.UniqueConstraint) -> None:
    """Make the table with these columns and this key, and take over its rows."""
    op.drop_index("ix_array_blob_id", "array")
    op.rename_table("array", "array_before")
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
        *more,
        sa.PrimaryKeyConstraint("record_id", "position", name="pk_array"),
        unique,
        sa.ForeignKeyConstraint(["record_id"], ["record.id"], name="fk_array_record_id_record"),
        sa.ForeignKeyConstraint(["blob_id"], ["blob.id"], name="fk_array_blob_id_blob"),
        sqlite_with_rowid=False,
    )
    op.execute(
        "INSERT INTO array (record_id, position, name, dtype, shape, stype, nbytes, blob_id) "
        "SELECT record_id, position, name, dtype, shape, stype, nbytes, blob_id FROM array_before "
        "ORDER BY record_id, position"
    )
    op.drop_table("array_before")
    op.create_index("ix_array_blob_id", "array", ["blob_id"])
