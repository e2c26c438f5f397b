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
    def read(self, service: str, keys: tuple[str, ...], at: datetime | None = None) -> tuple[dict[str, Any], ...]:
        """One row of online feature values per key, as of ``at`` (default: now); unknown keys have ``found`` false.

        A key of several parts is a JSON array, such as ``["JFK", 7]``. Times are microseconds since the epoch.
        """
        if not 1 <= len(keys) <= 1000:
            raise InvalidInput("keys", f"{len(keys)} keys; give between 1 and 1000")
        moment = at or datetime.now(UTC)
        parts = len(self._context.features.service(service).entity.join_keys)
        rows = self._context.features.online(service).read([_key(key, parts) for key in keys], moment)
        return tuple(
            {
                "key": key,
                "found": bool(rows.found[i]),
                "status": {view: states[i] for view, states in rows.status.items()},
                "features": {name: _plain(column[i]) for name, column in rows.values.items()},
            }
            for i, key in enumerate(keys)
        )


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
