"""What alembic runs: on the connection that `record.opening` hands over, or, from alembic's own command line, on
``sqlalchemy.url`` of its configuration (``script_location = rayplat:registry/migrations``)."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import context

from rayplat.registry.record import opening, schema


def ours(_: Any, name: str | None, kind: str, *__: Any) -> bool:
    """MLflow's tables are in the same database, and none of alembic's business here."""
    return kind != "table" or str(name).startswith("rp_")


def run(connection: sa.Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=schema.metadata,
        version_table=schema.VERSION_TABLE,  # MLflow keeps its own revision in the default one
        include_object=ours,
        render_as_batch=True,
    )
    with context.begin_transaction():
        context.run_migrations()


if (given := context.config.attributes.get("connection")) is not None:
    run(given)
else:
    with opening.engine(context.config.get_main_option("sqlalchemy.url", "")).begin() as own:
        run(own)
