"""The release in force as its row says it: for operations that are not about releases themselves."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy import Connection

from rayplat.registry import documents
from rayplat.registry.record.schema import release as table
from rayplat.types import Release


def in_force(connection: Connection, model: str) -> Release:
    """The release in force; generation 0 for a model that never had one: its alias answers everything."""
    newest = sa.select(table.c.release).where(table.c.model == model).order_by(table.c.generation.desc()).limit(1)
    text = connection.scalar(newest)
    return Release(model) if text is None else parsed(text)


def parsed(text: str) -> Release:
    return documents.parse(Release, text, "stored release")
