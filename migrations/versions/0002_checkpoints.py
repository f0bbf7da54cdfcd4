"""Parts of records, the state that belongs to a checkpoint, and the history of a run.

On SQLite ``array`` is made anew, not altered: its key on the names is a part of the table there, which nothing can
change. Nothing refers to it, and it is filled by one statement, in the memory of SQLite's page cache however many rows
there are. Other databases alter it: in PostgreSQL the names of keys belong to the schema, two tables cannot share them.

Frozen once released: it imports nothing from the package.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

Id = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


OLD_NAME, OLD_KEY = "uq_array_record_id_name", ["record_id", "name"]
NEW_NAME, NEW_KEY = "uq_array_record_id_part_name", ["record_id", "part", "name"]


def upgrade() -> None:
    """Give arrays a part and records a checkpoint, and create the history."""
    op.add_column("record", sa.Column("checkpoint_digest", sa.LargeBinary()))
    op.add_column("record", sa.Column("checkpoint", sa.Text()))
    part = sa.Column("part", sa.Text(), server_default=sa.text("''"), nullable=False)
    if _on_sqlite():
        _make_array_anew(part, unique=sa.UniqueConstraint(*NEW_KEY, name=NEW_NAME))
    else:
        op.drop_constraint(OLD_NAME, "array", type_="unique")
        op.add_column("array", part)
        op.create_unique_constraint(NEW_NAME, "array", NEW_KEY)
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
    op.execute("DELETE FROM \"array\" WHERE part != ''")  # a reserved word of PostgreSQL
    if _on_sqlite():
        _make_array_anew(unique=sa.UniqueConstraint(*OLD_KEY, name=OLD_NAME))
    else:
        op.drop_constraint(NEW_NAME, "array", type_="unique")
        op.drop_column("array", "part")
        op.create_unique_constraint(OLD_NAME, "array", OLD_KEY)
    op.drop_column("record", "checkpoint")
    op.drop_column("record", "checkpoint_digest")


def _on_sqlite() -> bool:
    return op.get_context().dialect.name == "sqlite"


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
