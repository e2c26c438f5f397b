"""The feature store: Feast's registry keeps the declarations, its online store (ours, plugged in) the newest rows.

The only owner of Feast, which is loaded to register declarations and on request (`FeatureStore.feast`): its import
takes ten seconds. Reading declarations back, advancing the online store and looking features up need only the
database under it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from rayplat.data.features import Entity, FeatureService, FeatureView, View
from rayplat.data.online import OnlineFeatures, catalog
from rayplat.data.online.materialize import advance
from rayplat.data.online.push import Push, push
from rayplat.data.online.store import open_store
from rayplat.errors import NotFound
from rayplat.settings import Settings
from rayplat.types import FeatureViewInfo

if TYPE_CHECKING:
    import feast
    import pyarrow as pa

    from rayplat.data.tables import Tables

PROJECT = "rayplat"
_ONLINE_STORE = "rayplat.data.feast.online_store.NewestOnlineStore"
_OFFLINE_STORE = "rayplat.data.feast.offline_store.DeltaRayOfflineStore"
_ENGINE = "rayplat.data.feast.engine.DeltaRayComputeEngine"

log = logging.getLogger(__name__)


class FeatureStore:
    """Declarations and online rows of one platform."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._online = open_store(settings.online_store)

    def apply(self, entities: Sequence[Entity], views: Sequence[View], services: Sequence[FeatureService]) -> None:
        """Register declarations, in Feast as the current ones of their names and here by digest: rows of other
        versions of a view stay. Applying again what is applied changes nothing. Declarations that Feast cannot hold
        are applied here and named in the log."""
        from rayplat.data.feast.declare import feast_entities, feast_objects

        made = feast_objects(views, services)
        for entity in entities:
            made.entities.setdefault(entity.name, feast_entities(entity))
        self.feast().apply(made.all())
        for name, reason in made.refused.items():
            log.warning("not applied to Feast", extra={"view": name, "reason": reason})
        declared = {view.id: view for view in (*views, *(v for service in services for v in service.views))}
        for view in declared.values():
            catalog.declare(self._online, catalog.Definition.of(view))
        for service in services:
            catalog.put_service(self._online, service)

    def views(self) -> list[FeatureViewInfo]:
        """All registered views, by name."""
        known = catalog.current(self._online).values()
        return [definition.view().info() for definition in known if definition.declaration is not None]

    def view(self, name: str) -> FeatureViewInfo:
        """Raises `NotFound`."""
        return self.declaration(name).info()

    def declaration(self, name: str, digest: str | None = None) -> View:
        """The declaration of a view as it was applied last, or of the version with this digest. Raises `NotFound`,
        `Conflict` where only other versions were applied."""
        found = catalog.get(self._online, name, digest)
        if found.declaration is None:
            raise NotFound("feature view", name, "Feast has one of this name, but it was not declared here")
        return found.view()

    def services(self) -> dict[str, tuple[str, ...]]:
        """Names of the services, each with its views in lookup order."""
        return {name: tuple(v.name for v in self.service(name).views) for name in catalog.services(self._online)}

    def service(self, name: str) -> FeatureService:
        """Raises `NotFound`."""
        return catalog.get_service(self._online, name)

    def versions(self, name: str | None = None) -> list[FeatureView]:
        """Every applied version of every view (or of the one called ``name``) that has a table, old ones too: models
        read the version they were made with, so all of them are materialized as long as they are in use."""
        views = (d.view() for d in catalog.definitions(self._online).values() if d.declaration is not None)
        return [view for view in views if isinstance(view, FeatureView) and name in (None, view.name)]

    def materialize(
        self, tables: Tables, views: Sequence[View], upto: datetime, *, fresh: bool = False
    ) -> dict[str, int]:
        """Bring the online rows of ``views`` to what was known at ``upto``; rows written per view.

        Only what is new since the last time is read: later events, and what changed in the feature table. Time does
        not run backwards: an earlier ``upto`` changes nothing, unless ``fresh`` first drops what is there (readers
        see the old rows until the new ones are complete). Views computed on request have nothing to write.
        """
        keep = timedelta(seconds=self._settings.data.online_keep_s)
        written: dict[str, int] = {}
        for view in (view for view in views if isinstance(view, FeatureView)):
            count = advance(self._online, tables, view, upto, fresh=fresh, keep=keep)
            written[view.name] = written.get(view.name, 0) + count
        return written

    def push(self, tables: Tables, source: str | FeatureView, events: pa.Table, to: str = "online") -> Push:
        """Make fresh ``events``, rows of the table ``source``, readable at once (``to`` is ``online``), append them to
        the table (``offline``), or ``both``; see `rayplat.data.online.push.push`."""
        return push(self._online, tables, source, events, to)

    def online(self, service: str) -> OnlineFeatures:
        """Lookup of a service's features. Raises `NotFound`."""
        found = self.service(service)
        return OnlineFeatures(self._settings, found.view_digests(), found.entity.join_keys)

    def feast(self) -> feast.FeatureStore:
        """Feast's own store on the same registry and online rows."""
        import feast

        home = Path(self._settings.home) / "feast"
        home.mkdir(parents=True, exist_ok=True)
        config = feast.RepoConfig(
            project=PROJECT,
            provider="local",
            registry=_registry(self._settings),
            online_store={"type": _ONLINE_STORE, "path": str(self._settings.online_store)},
            offline_store={
                "type": _OFFLINE_STORE,
                "tables_uri": self._settings.tables_uri,
                "storage_options": self._settings.data.storage_options,
                "ray_address": self._settings.ray.address,
            },
            batch_engine={"type": _ENGINE},
            repo_path=home,
            entity_key_serialization_version=3,
        )
        return feast.FeatureStore(config=config)


def _registry(settings: Settings) -> dict[str, str] | str:
    """Feast's registry: a file in the home, or beside the platform's own record in PostgreSQL."""
    url = settings.registry.database_url or ""
    if url.startswith(("postgresql:", "postgresql+psycopg:")):
        return {"registry_type": "sql", "path": url.replace("postgresql:", "postgresql+psycopg:", 1)}
    return str(Path(settings.home) / "feast" / "registry.db")
