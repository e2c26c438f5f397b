"""Operations on aliases: where they point, where they ever pointed, and the compare-and-set that moves one."""

from __future__ import annotations

from dataclasses import replace

import sqlalchemy as sa
from sqlalchemy import Connection

from rayplat.errors import NotFound, StaleGeneration
from rayplat.registry.record import mlflow_rows, rows, versions
from rayplat.registry.record.database import Tx
from rayplat.registry.record.schema import alias_head, alias_history
from rayplat.types import AliasHead


def find(connection: Connection, model: str, alias: str) -> AliasHead | None:
    """Where the alias points, None where it does not exist."""
    wanted = (alias_head.c.model == model) & (alias_head.c.alias == alias)
    row = connection.execute(sa.select(alias_head).where(wanted)).first()
    return None if row is None else rows.alias_head(row)


def get(connection: Connection, model: str, alias: str) -> AliasHead:
    """Where the alias points. Raises `NotFound`."""
    head = find(connection, model, alias)
    if head is None:
        known = ", ".join(h.alias for h in listed(connection, model)) or "none yet"
        raise NotFound("alias", f"{model}@{alias}", f"aliases of this model: {known}")
    return head


def listed(connection: Connection, model: str | None = None) -> list[AliasHead]:
    """Heads of one model, or of all, by name."""
    heads = sa.select(alias_head).order_by(alias_head.c.model, alias_head.c.alias)
    if model is not None:
        heads = heads.where(alias_head.c.model == model)
    return [rows.alias_head(row) for row in connection.execute(heads)]


def of_model(connection: Connection, model: str) -> list[AliasHead]:
    """Where each alias of a model points. Raises `NotFound` for an unknown model."""
    versions.listed(connection, model)
    return listed(connection, model)


def history(connection: Connection, model: str, alias: str) -> list[AliasHead]:
    """Every head the alias ever had, newest first. Raises `NotFound`."""
    get(connection, model, alias)
    wanted = (alias_history.c.model == model) & (alias_history.c.alias == alias)
    heads = sa.select(alias_history).where(wanted).order_by(alias_history.c.generation.desc())
    return [rows.alias_head(row) for row in connection.execute(heads)]


def move(tx: Tx, head: AliasHead, expected_generation: int) -> AliasHead:
    """Point the alias where ``head`` says, if it still has ``expected_generation`` (0: it does not exist yet).

    Head, history and MLflow's row change together; ``head.generation`` and its time are set here. Raises
    `StaleGeneration` when somebody else moved it first.
    """
    head = replace(head, generation=expected_generation + 1, moved_at=tx.at)
    columns = rows.alias_head_columns(head)
    same = (alias_head.c.model == head.model) & (alias_head.c.alias == head.alias)
    if expected_generation == 0:
        won = find(tx.connection, head.model, head.alias) is None
        if won:
            tx.connection.execute(sa.insert(alias_head).values(**columns))
    else:
        cas = sa.update(alias_head).where(same, alias_head.c.generation == expected_generation).values(**columns)
        won = tx.connection.execute(cas).rowcount == 1
    if not won:
        now = find(tx.connection, head.model, head.alias)
        raise StaleGeneration(
            f"{head.model}@{head.alias} is at generation {now.generation if now else 0}, not {expected_generation}: "
            "somebody moved it; read it again and decide anew"
        )
    tx.connection.execute(sa.insert(alias_history).values(**columns))
    mlflow_rows.set_alias(tx.connection, head)
    tx.moved.append(head)
    return head
