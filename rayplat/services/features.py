"""Verbs on declared features: views, and what the online store answers for a key at a moment."""

from __future__ import annotations

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
        """One row of online feature values per key, as of ``at`` (default: now); unknown keys have ``found`` false."""
        if not 1 <= len(keys) <= 1000:
            raise InvalidInput("keys", f"{len(keys)} keys; give between 1 and 1000")
        moment = at or datetime.now(UTC)
        rows = self._context.features.online(service).read(list(keys), moment)
        return tuple(
            {
                "key": key,
                "found": bool(rows.found[i]),
                "status": {view: states[i] for view, states in rows.status.items()},
                "features": {name: _plain(column[i]) for name, column in rows.columns.items()},
            }
            for i, key in enumerate(keys)
        )


def _plain(value: Any) -> Any:
    """JSON has no NaN: a missing number is null."""
    if value is None or isinstance(value, str):
        return value
    number = float(value)
    return None if number != number else number
