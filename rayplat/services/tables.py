"""Verbs on Delta tables: what there is, at which version, what changed; filling, pinning, keeping fit."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from rayplat.errors import Forbidden, InvalidInput
from rayplat.services.verbs import Noun, route
from rayplat.types import (
    ChangeCount,
    Commit,
    Ingested,
    Pin,
    Role,
    SourceSpec,
    TableInfo,
    TableVersion,
    VacuumReport,
)

MAX_ROWS = 10_000
MOST_DAYS = 36_500


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

    @route("GET", "/tables/{name}/changes", Role.VIEWER)
    def changes(self, name: str, after: int, upto: int | None = None) -> ChangeCount:
        """How many rows came and went, net, after version ``after`` up to ``upto`` (default: the latest)."""
        from rayplat.data.tables import changes

        found = changes.read(self._context.tables, name, after, upto)
        return ChangeCount(name, after, found.table_version.version, *found.count())

    @route("GET", "/tables/{name}/checks", Role.VIEWER)
    def checks(self, name: str) -> dict[str, Any]:
        """The rules that every row written to the table must fulfil, as they are given to `ingest`."""
        found = self._context.tables.checks(name)
        return {} if found is None else found.to_dict()

    @route("POST", "/tables/{name}/ingest", Role.DEVELOPER, long=True)
    def ingest(
        self, name: str, source: SourceSpec, checks: dict[str, Any] | None = None, evolve: bool = False
    ) -> Ingested:
        """Append what is new in a source of files or a SQL database, each row once; the first time makes the table.
        Paths and databases are reached from the platform's machines. ``checks`` are stored with a new table; ``evolve``
        adds columns that are new in the source. Raises BadRows, SchemaMismatch naming the column."""
        from rayplat.data.sources import declared, ingest
        from rayplat.data.tables.checks import Checks

        rules = None if checks is None else Checks.from_dict(checks)
        return ingest(self._context.tables, name, declared(source), checks=rules, evolve=evolve)

    @route("GET", "/tables/{name}/pins", Role.VIEWER)
    def pins(self, name: str) -> tuple[Pin, ...]:
        """The versions that a vacuum keeps readable, and for whom."""
        from rayplat.data.tables import upkeep

        return tuple(upkeep.pins(self._context.tables, name))

    @route("POST", "/tables/{name}/pins", Role.DEVELOPER)
    def pin(self, name: str, version: int, reason: str) -> Pin:
        """Keep a version readable until you unpin it."""
        from rayplat.data.tables import upkeep

        return upkeep.pin(self._context.tables, name, version, self._context.principal.name, reason)

    @route("DELETE", "/tables/{name}/pins/{version}", Role.DEVELOPER)
    def unpin(self, name: str, version: int, by: str | None = None) -> None:
        """Take your pin away; only an admin takes away those of another holder (``by``)."""
        from rayplat.data.tables import upkeep

        caller = self._context.principal
        if by is not None and by != caller.name and not caller.role.includes(Role.ADMIN):
            raise Forbidden(caller.name, f"the pin is {by}'s; an admin may take it away")
        upkeep.unpin(self._context.tables, name, version, by or caller.name)

    @route("POST", "/tables/{name}/compact", Role.DEVELOPER, long=True)
    def compact(self, name: str, target_mib: int = 128) -> TableVersion:
        """Write small files as larger ones; no row changes, and change feeds see nothing of it."""
        from rayplat.data.tables import upkeep

        if not 1 <= target_mib <= 8192:
            raise InvalidInput("target_mib", f"{target_mib} is not between 1 and 8192")
        return upkeep.compact(self._context.tables, name, target_bytes=target_mib << 20)

    @route("POST", "/tables/{name}/vacuum", Role.ADMIN, long=True)
    def vacuum(self, name: str, keep_days: float = 30.0, dry_run: bool = True) -> VacuumReport:
        """Remove files that no pinned version and no version of the last ``keep_days`` needs; a dry run only counts."""
        from rayplat.data.tables import upkeep

        if not 0 <= keep_days <= MOST_DAYS:
            raise InvalidInput("keep_days", f"{keep_days} is not between 0 and {MOST_DAYS}")
        return upkeep.vacuum(self._context.tables, name, keep=timedelta(days=keep_days), dry_run=dry_run)
