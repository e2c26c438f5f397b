"""Our declarations as Feast's objects: what `FeatureStore.apply` registers, and what a plain feature repository may
define its views by. Each carries its declaration as a tag, by which our stores know what its rows mean.

Feast holds one definition of a name, the one applied last; other versions stay where they are kept by digest (feature
tables, online store). What Feast cannot express is left out by name, with the reason; our own reads have it all.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import feast
import pyarrow as pa
from feast import types
from feast.transformation.pandas_transformation import PandasTransformation

from rayplat.data.feast.online_store import DECLARATION_TAG, DIGEST_TAG
from rayplat.data.feast.source import DeltaSource
from rayplat.data.features import CREATED, EVENT_TIME, Entity, FeatureService, FeatureView, Field, OnRequestView, View
from rayplat.data.features.operations import arrow_type
from rayplat.data.features.transforms import on_request
from rayplat.data.windows.plan import TILE_START
from rayplat.errors import InvalidInput

_TYPES: dict[str, Any] = {
    "int64": types.Int64,
    "double": types.Float64,
    "float": types.Float32,
    "string": types.String,
    "bool": types.Bool,
    "timestamp[us, tz=UTC]": types.UnixTimestamp,
}
_KEYS = {"string": feast.ValueType.STRING, "int64": feast.ValueType.INT64}


@dataclass(frozen=True)
class FeastObjects:
    """Objects for `feast.FeatureStore.apply`. ``refused``: declarations that Feast cannot hold, and why."""

    entities: dict[str, list[feast.Entity]] = field(default_factory=dict)
    views: dict[str, feast.FeatureView | feast.OnDemandFeatureView] = field(default_factory=dict)
    services: dict[str, feast.FeatureService] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)

    def all(self) -> list[Any]:
        """Everything, in the order in which it depends on each other."""
        entities = {entity.name: entity for group in self.entities.values() for entity in group}
        return [*entities.values(), *self.views.values(), *self.services.values()]


def feast_objects(views: Sequence[View], services: Sequence[FeatureService] = ()) -> FeastObjects:
    """``views``, the views of ``services`` and their entities, and the services, as Feast's objects. The feature
    tables are named, so the offline store needs ``tables_uri``."""
    made = FeastObjects()
    given = {view.name: view for view in (*views, *(view for service in services for view in service.views))}
    for view in given.values():
        if isinstance(view, FeatureView):
            entities = made.entities.setdefault(view.entity.name, feast_entities(view.entity))
            made.views[view.name] = feast_view(view, entities)
    for service in services:
        for view in service.on_request:
            _add_on_request(made, service, view)
        kept: list[Any] = [made.views[view.name] for view in service.views if view.name in made.views]
        tags = {DIGEST_TAG: service.digest(), DECLARATION_TAG: json.dumps(service.to_dict())}
        made.services[service.name] = feast.FeatureService(name=service.name, features=kept, tags=tags)
    for view in given.values():
        if isinstance(view, OnRequestView) and view.name not in made.views and view.name not in made.refused:
            made.refused[view.name] = "no service says which views it reads"
    return made


def feast_entities(entity: Entity) -> list[feast.Entity]:
    """One of Feast's entities for each join key: Feast's have one key each. Of several, each is named by entity and
    key."""
    names = [entity.name] if len(entity.join_keys) == 1 else [f"{entity.name}__{key}" for key in entity.join_keys]
    keys = zip(names, entity.join_keys, entity.dtypes, strict=True)
    return [feast.Entity(name=name, join_keys=[key], value_type=_KEYS[dtype]) for name, key, dtype in keys]


def feast_view(view: FeatureView, entities: Sequence[feast.Entity]) -> feast.FeatureView:
    """The view over its feature table. One of plain columns also has a push source, ``<name>_push``: pushed rows have
    the feature table's columns."""
    source: Any = DeltaSource(
        table=view.table,
        timestamp_field=TILE_START if view.windows else EVENT_TIME,
        created_timestamp_column=CREATED if view.created is not None and not view.windows else None,
    )
    if is_pushable(view):
        source = feast.PushSource(name=f"{view.name}_push", batch_source=source)
    keys = [feast.Field(name=k, dtype=_TYPES[d]) for k, d in zip(view.keys, view.entity.dtypes, strict=True)]
    columns = [feast.Field(name=column.name, dtype=_TYPES[column.dtype]) for column in view.columns]
    return feast.FeatureView(
        name=view.name,
        entities=list(entities),
        schema=[*keys, *columns],
        source=source,
        ttl=view.ttl or timedelta(0),  # Feast's "without limit"
        tags={DIGEST_TAG: view.digest(), DECLARATION_TAG: json.dumps(view.to_dict())},
    )


def is_pushable(view: FeatureView) -> bool:
    """Whether rows of its feature table are rows of its source: Feast pushes those."""
    return bool(view.fields) and not view.derived and view.where is None


def source_rows(view: FeatureView, rows: pa.Table, source: pa.Schema) -> pa.Table:
    """Rows of the feature table as rows of the view's source table: its other columns are null. Raises `InvalidInput`
    for a view whose rows are computed."""
    if not is_pushable(view):
        raise InvalidInput(f"feature view {view.name}", "is computed from its source: push rows of the source instead")
    named = {key: rows[key] for key in view.keys} | {name: rows[name] for name in view.feature_names}
    named[view.event_time] = rows[EVENT_TIME]
    if view.created is not None:
        named[view.created] = rows[CREATED]
    missing = {column.name: pa.nulls(rows.num_rows, column.type) for column in source if column.name not in named}
    return pa.table(named | missing).select(source.names)


def computed(declaration: str, inputs: Any) -> Any:
    """The features of an on-request view from a frame of Feast's: what the registered function calls. Where Feast's
    frame has NaN there is a null: frames cannot tell them apart."""
    tree = json.loads(declaration)
    view = OnRequestView.from_dict(tree["view"])
    arrays = {name: pa.array(inputs[name], from_pandas=True) for name in tree["dtypes"]}
    typed = {name: array.cast(arrow_type(tree["dtypes"][name])) for name, array in arrays.items()}
    return pa.table(dict(on_request(view, typed, len(inputs)))).to_pandas()


def _add_on_request(made: FeastObjects, service: FeatureService, view: OnRequestView) -> None:
    read: dict[str, FeatureView] = {}
    for name in view.needs:
        owner = next((v for v in service.stored if name in v.feature_names), None)
        if owner is None:
            why = "a join key" if name in service.entity.join_keys else "a feature of another on-request view"
            made.refused[view.name] = f"it reads {name!r}, {why}: Feast gives on-demand views neither"
            return
        read[name] = owner
    sources: list[Any] = [made.views[owner.name][[n for n in read if read[n] is owner]] for owner in _each(read)]
    if view.inputs:
        schema = [feast.Field(name=column.name, dtype=_TYPES[column.dtype]) for column in view.inputs]
        sources.append(feast.RequestSource(name=f"{view.name}_request", schema=schema))
    if not sources:
        made.refused[view.name] = "it reads nothing: Feast's on-demand views have at least one source"
        return
    made.views[view.name] = _on_demand(view, sources, _dtypes(view.inputs, read))


def _on_demand(view: OnRequestView, sources: list[Any], dtypes: dict[str, str]) -> feast.OnDemandFeatureView:
    """Feast keeps the text of the function in its registry and runs that, so the text holds the declaration."""
    text = json.dumps({"view": view.to_dict(), "dtypes": dtypes})
    body = (
        "def on_request(inputs):\n"
        "    from rayplat.data.feast.declare import computed\n\n"
        f"    return computed({text!r}, inputs)\n"
    )
    namespace: dict[str, Any] = {}
    exec(body, namespace)
    return feast.OnDemandFeatureView(
        name=view.name,
        schema=[feast.Field(name=column.name, dtype=_TYPES[column.dtype]) for column in view.columns],
        sources=sources,
        feature_transformation=PandasTransformation(udf=namespace["on_request"], udf_string=body),
        mode="pandas",
        tags={DIGEST_TAG: view.digest()},
    )


def _dtypes(inputs: Sequence[Field], read: dict[str, FeatureView]) -> dict[str, str]:
    found = {column.name: column.dtype for column in inputs}
    for name, owner in read.items():
        found[name] = next(column.dtype for column in owner.columns if column.name == name)
    return found


def _each(read: dict[str, FeatureView]) -> list[FeatureView]:
    return list({owner.name: owner for owner in read.values()}.values())
