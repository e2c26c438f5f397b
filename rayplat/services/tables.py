"""Verbs on Delta tables: what there is, at which version, and a look at the first rows."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from rayplat.errors import InvalidInput
from rayplat.services.verbs import Noun, route
from rayplat.types import Commit, Role, TableInfo, TableVersion

MAX_ROWS = 10_000


class Tables(Noun):
    """Versioned Delta tables."""

    NAME = "tables"

    @route("GET", "/tables", Role.VIEWER)
    def list(self) -> tuple[TableInfo, ...]:
        """All tables with their columns and latest version."""
        return tuple(self._context.tables.info(name) for name in self._context.tables.names())

    @route("GET", "/tables/{name}", Role.VIEWER)
    def get(self, name: str) -> TableInfo:
        """One table. Raises NotFound."""
        return self._context.tables.info(name)

    @route("GET", "/tables/{name}/version", Role.VIEWER)
    def version(self, name: str, version: int | None = None, at: datetime | None = None) -> TableVersion:
        """The identity of a version: by number, as of a moment (UTC), or the latest."""
        if version is not None and at is not None:
            raise InvalidInput("version", "give a version number or a moment, not both")
        return self._context.tables.version(name, version if version is not None else at)

    @route("GET", "/tables/{name}/history", Role.VIEWER)
    def history(self, name: str) -> tuple[Commit, ...]:
        """Every commit, newest first, with the run that made it."""
        return tuple(self._context.tables.history(name))

    @route("GET", "/tables/{name}/rows", Role.VIEWER)
    def head(self, name: str, version: int | None = None, limit: int = 20) -> tuple[dict[str, Any], ...]:
        """The first ``limit`` rows of a version, at most 10,000."""
        if not 1 <= limit <= MAX_ROWS:
            raise InvalidInput("limit", f"{limit} is not between 1 and {MAX_ROWS}")
        return tuple(self._context.tables.head(name, version, limit).to_pylist())
