"""Verbs on declared features: their versions and tables, the online store, training sets, and parity of both sides."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from rayplat.errors import InvalidInput
from rayplat.services.verbs import Noun, route
from rayplat.types import (
    Applied,
    FeatureVersion,
    FeatureViewInfo,
    ParityReport,
    Role,
    TableVersion,
    TrainingSet,
)

if TYPE_CHECKING:
    from rayplat.data.features import Expr, FeatureView

_SET = "training_set_"


class Features(Noun):
    """Feature views, the online store, training sets."""

    NAME = "features"

    @route("POST", "/features/apply", Role.DEVELOPER, long=True)
    def apply(
        self,
        entities: tuple[dict[str, Any], ...] = (),
        views: tuple[dict[str, Any], ...] = (),
        services: tuple[dict[str, Any], ...] = (),
    ) -> tuple[Applied, ...]:
        """Register declarations; a view that changed becomes a new version beside the old ones, which stay.

        Each declaration is the JSON of its ``to_dict``. Views of services and entities of views come with them."""
        from rayplat.services.declarations import Declared

        return Declared.from_json(entities, views, services).apply(self._context.features)

    @route("GET", "/features/views", Role.VIEWER)
    def list(self) -> tuple[FeatureViewInfo, ...]:
        """All registered feature views."""
        return tuple(self._context.features.views())

    @route("GET", "/features/views/{name}", Role.VIEWER)
    def get(self, name: str) -> FeatureViewInfo:
        """One feature view. Raises NotFound."""
        return self._context.features.view(name)

    @route("GET", "/features/views/{name}/versions", Role.VIEWER)
    def versions(self, name: str) -> tuple[FeatureVersion, ...]:
        """Every applied version of a view, the current one first, and what its table holds. Raises NotFound."""
        from rayplat.data.features import FeatureView
        from rayplat.data.features.notes import held

        store, tables = self._context.features, self._context.tables
        current = store.declaration(name)
        if not isinstance(current, FeatureView):
            return (FeatureVersion(current.id, current.digest(), True, "", None, None),)
        found = []
        for view in sorted(store.versions(name), key=lambda v: v.digest() != current.digest()):
            rows = held(tables, view)
            made = tables.version(view.table) if rows.source_id is not None else None
            source = rows.source_version if made is not None else None
            found.append(FeatureVersion(view.id, view.digest(), view.id == current.id, view.table, made, source))
        return tuple(found)

    @route("POST", "/features/views/{name}/build", Role.DEVELOPER, long=True)
    def build(self, name: str, source_version: int | None = None, allow_short_history: bool = False) -> TableVersion:
        """Compute all rows of a view from its source; nothing is written where its table holds them already.

        ``source_version`` is a version of the source table (default: the latest). Raises NotFound, SchemaMismatch for a
        column the source lacks, InvalidInput for values used before they were known and for a window longer than the
        source's history (unless ``allow_short_history``)."""
        from rayplat.data.features.build import build

        view = self._stored(name)
        return build(self._context.tables, view, source_version, allow_short_history=allow_short_history)

    @route("POST", "/features/views/{name}/refresh", Role.DEVELOPER, long=True)
    def refresh(self, name: str, upto: int | None = None) -> tuple[TableVersion, ...]:
        """Bring the tables of a view up to its source by what changed there, late rows included.

        That is the current version, built if it never was, and all others that are built. ``upto`` is a version of the
        source (default: the latest)."""
        from rayplat.data.features.refresh import refresh

        tables, current = self._context.tables, self._stored(name)
        there = set(tables.names())
        views = [v for v in self._context.features.versions(name) if v.id == current.id or v.table in there]
        return tuple(refresh(tables, view, upto=upto) for view in views)

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

    @route("POST", "/features/materialize", Role.DEVELOPER, long=True)
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

    @route("GET", "/features/parity/{model}/{version}", Role.VIEWER, long=True)
    def parity(
        self,
        model: str,
        version: int,
        start: datetime | None = None,
        end: datetime | None = None,
        limit: int = 100_000,
        tolerance: float = 1e-9,
    ) -> ParityReport:
        """Compare the feature vectors that a model version was given online with the offline join at their moments.

        Vectors come from the inference log: ``start <= event time < end``, at most ``limit``, the newest. Numbers
        within the relative ``tolerance`` are equal. Refresh the views first: what has not reached their tables counts
        as a mismatch. So does a value that a request sent in place of a looked-up one, since the log does not tell
        them apart; features computed from request columns are not compared. Raises NotFound without logged vectors."""
        from rayplat.services import parity

        return parity.measure(self._context, model, version, parity.Sample(start, end, limit), tolerance)

    @route("GET", "/features/training-sets", Role.VIEWER)
    def training_sets(self, name: str | None = None, version: int | None = None) -> tuple[TrainingSet, ...]:
        """The newest of every training set, or the one called ``name``, at a version of its table."""
        from rayplat.data import training_sets

        tables = self._context.tables
        if name is not None:
            return (training_sets.get(tables, name, version),)
        if version is not None:
            raise InvalidInput("version", "belongs to one training set: give its name too")
        names = [table.removeprefix(_SET) for table in tables.names() if table.startswith(_SET)]
        found = (training_sets.find(tables, one) for one in names)
        return tuple(one for one in found if one is not None)

    @route("POST", "/features/training-sets/{name}", Role.DEVELOPER, long=True)
    def training_set(
        self,
        name: str,
        *,
        service: str,
        table: str,
        event_time: str,
        label: str,
        key: tuple[str, ...] = (),
        version: int | None = None,
        where: dict[str, Any] | None = None,
        known_by: bool = False,
        pins: dict[str, int] | None = None,
    ) -> TrainingSet:
        """Join each labelled row of a table with what was known then; pinned, and reproducible by its digest.

        ``key`` are the table's key columns (default: those of the service's entity), ``version`` pins the table and
        ``pins`` the tables of views by name (default: the latest). ``where`` is an expression's ``to_dict``.
        ``known_by`` leaves out rows created later. Raises NotFound for what is not built, SchemaMismatch naming
        a column."""
        from rayplat.data import training_sets

        found = self._context.features.service(service)
        rows = None if where is None else _expression(where)
        spine = training_sets.Spine(
            table, key or found.entity.join_keys, event_time, label, where=rows, version=version, known_by=known_by
        )
        unknown = set(pins or {}) - {view.name for view in found.stored}
        if unknown:
            raise InvalidInput("pins", f"service {service!r} has no built view {min(unknown)!r}")
        return training_sets.build(self._context.tables, name, spine, found, pins=pins)

    def _stored(self, name: str) -> FeatureView:
        from rayplat.data.features import FeatureView

        view = self._context.features.declaration(name)
        if not isinstance(view, FeatureView):
            raise InvalidInput(f"feature view {name}", "is computed when a request asks: there is nothing to build")
        return view


def _expression(tree: dict[str, Any]) -> Expr:
    from rayplat.data.features import Expr

    try:
        return Expr.from_dict(tree)
    except (KeyError, TypeError, ValueError, AttributeError) as e:
        raise InvalidInput("where", f"is no expression as `to_dict` writes it: {e!r}") from e


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
