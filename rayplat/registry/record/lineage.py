"""Edges between what was made from what, each written in the transaction that made it."""

from __future__ import annotations

import sqlalchemy as sa

from rayplat.registry.record import rows
from rayplat.registry.record.database import Tx
from rayplat.registry.record.schema import edge


def link(tx: Tx, source: str, target: str, relation: str, run_id: str | None = None) -> None:
    """``target`` was made from ``source``; again changes nothing."""
    key = {"source": source, "target": target, "relation": relation}
    same = sa.and_(*(edge.c[name] == value for name, value in key.items()))
    if tx.connection.execute(sa.select(edge.c.source).where(same)).first() is None:
        tx.connection.execute(sa.insert(edge).values(**key, run_id=run_id, at=rows.to_us(tx.at)))
