"""Verbs on declared features: views, and what the online store answers for a key at a moment."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from typing import Any

from rayplat.errors import InvalidInput
from rayplat.services.verbs import Noun, route
from rayplat.types import FeatureViewInfo, Role


class Features(Noun):
    """Feature views and the online store."""

    NAME = "features"

    @route("GET", "/features/views", Role.VIEWER)
    def list(self) -> tuple[FeatureViewInfo, ...]:
        """All registered feature views."""
        return tuple(self._context.features.views())

    @route("GET", "/features/views/{name}", Role.VIEWER)
    def get(self, name: str) -> FeatureViewInfo:
        """One feature view. Raises NotFound."""
        return self._context.features.view(name)

    @route("GET", "/features/services", Role.VIEWER)
    def services(self) -> dict[str, tuple[str, ...]]:
        """Feature services, each with the names of its views in lookup order."""
        return self._context.features.services()

    @route("POST", "/features/services/{service}/read", Role.VIEWER)
    def read(
        self,
        service: str,
        keys: tuple[str, ...],
        at: datetime | None = None,
        request: dict[str, tuple[Any, ...]] | None = None,
    ) -> tuple[dict[str, Any], ...]:
        """One row of online feature values per key, as of ``at`` (default: now); unknown keys have ``found`` false.

        A key of several parts is a JSON array, such as ``["JFK", 7]``. ``request`` holds the columns of features
        computed on request, one value per key. Times are microseconds since the epoch.
        """
        if not 1 <= len(keys) <= 1000:
            raise InvalidInput("keys", f"{len(keys)} keys; give between 1 and 1000")
        moment = at or datetime.now(UTC)
        parts = len(self._context.features.service(service).entity.join_keys)
        rows = self._context.features.online(service).read([_key(key, parts) for key in keys], moment, request)
        return tuple(
            {
                "key": key,
                "found": bool(rows.found[i]),
                "status": {view: states[i] for view, states in rows.status.items()},
                "features": {name: _plain(column[i]) for name, column in rows.values.items()},
            }
            for i, key in enumerate(keys)
        )

    @route("POST", "/features/materialize", Role.DEVELOPER)
    def materialize(
        self, views: tuple[str, ...] = (), upto: datetime | None = None, fresh: bool = False
    ) -> dict[str, int]:
        """Bring the online rows of views (default: all) to what was known at ``upto`` (default: now); rows written.

        All applied versions that are built are brought up to date. ``fresh`` begins anew and forgets what was pushed.
        """
        store, tables = self._context.features, self._context.tables
        for name in views:
            store.view(name)
        built = set(tables.names())
        wanted = [v for v in store.versions() if v.table in built and (not views or v.name in views)]
        return store.materialize(tables, wanted, upto or datetime.now(UTC), fresh=fresh)

    @route("POST", "/features/push/{source}", Role.DEVELOPER)
    def push(self, source: str, events: dict[str, tuple[Any, ...]], to: str = "online") -> dict[str, Any]:
        """Fresh rows of the table ``source``, by column, into the online store at once; ``to`` offline or both: the
        table too. Times are ISO 8601 text. Answers the rows by view and the table's new version."""
        from rayplat.data.online.push import from_columns

        rows = from_columns(events, self._context.tables.scan(source).schema)
        done = self._context.features.push(self._context.tables, source, rows, to)
        return {"rows": done.rows, "version": done.version}


def _key(text: str, parts: int) -> str | tuple[Any, ...]:
    if parts == 1:
        return text
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, list) or len(found) != parts:
        raise InvalidInput("keys", f"{text[:80]!r} is no JSON array of {parts} parts")
    return tuple(found)


def _plain(value: Any) -> Any:
    """JSON has no NaN: a missing number is null."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
