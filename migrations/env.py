"""Alembic's environment: runs the revisions on the connection of a store, in the transaction that it is in.

The library hands its connection over in ``config.attributes``. On the command line of a checkout, name the database::

    alembic -x target=checkpoints.db upgrade head
"""

from collections.abc import Collection, Mapping
from typing import Any, Literal

from alembic import context
from alembic.autogenerate.api import AutogenContext
from alembic.operations.ops import MigrationScript
from alembic.runtime.migration import MigrationContext, MigrationInfo
from alembic.util import CommandError
from sqlalchemy import Connection, TypeDecorator

from recordstore import schema
from recordstore.engine import Database
from recordstore.orm import Base
from recordstore.target import parse_target


def stamp(ctx: MigrationContext, step: MigrationInfo, heads: Collection[Any], run_args: Mapping[str, Any]) -> None:  # noqa: ARG001
    """Write the revision into the file's header too, in the transaction of the revision."""
    if ctx.connection is not None and ctx.dialect.name == "sqlite":
        version = max((int(head) for head in heads), default=0)
        ctx.connection.exec_driver_sql(f"PRAGMA user_version={version}")
        ctx.connection.exec_driver_sql(f"PRAGMA application_id={schema.APPLICATION_ID}")


def render_item(kind: str, item: object, autogen: AutogenContext) -> str | Literal[False]:  # noqa: ARG001
    """Render our own types as the plain ones they are stored as: revisions import nothing from the package."""
    if kind == "type" and isinstance(item, TypeDecorator):
        return f"sa.{item.impl!r}"
    return False


def next_number(ctx: MigrationContext, revision: Any, directives: list[MigrationScript]) -> None:  # noqa: ARG001
    """Give a new revision the next number: ``0002`` follows ``0001``."""
    head = context.script.get_current_head()
    for script in directives:
        script.rev_id = f"{int(head or 0) + 1:04}"


def migrate(connection: Connection) -> None:
    """Run what Alembic was called for, and check that no row lost the row it points at."""
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        version_table=schema.VERSION_TABLE,
        transactional_ddl=True,
        render_as_batch=True,
        on_version_apply=stamp,
        render_item=render_item,
        process_revision_directives=next_number,
    )
    with context.begin_transaction():
        context.run_migrations()
    if violations := connection.exec_driver_sql("PRAGMA foreign_key_check").fetchall():
        raise CommandError(f"rows without the row they point at, nothing was changed: {violations[:5]}")


def main() -> None:
    """Use the connection that was handed over, else open the database named by ``-x target=``."""
    if context.is_offline_mode():
        raise CommandError("SQL scripts cannot be generated: revisions look at the database that they upgrade")
    connection = context.config.attributes.get("connection")
    if connection is not None:
        migrate(connection)
        return
    name = context.get_x_argument(as_dictionary=True).get("target")
    if not isinstance(name, str) or not name:
        raise CommandError("name the database: alembic -x target=checkpoints.db upgrade head")
    target = parse_target(name)
    target.ensure_file(read_only=False)
    schema.refuse_foreign(target)
    with schema.migrating(Database(target, read_only=False, timeout=30.0)) as own:
        migrate(own)


main()
