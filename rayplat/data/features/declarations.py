"""Declarations of features: what is computed from which table, as values. They know no store, table or Ray.

A declaration is its own identity: `digest` is a sha256 over its canonical JSON and changes with anything that
changes a feature's meaning. Training sets, models and the online store carry the digests and compare them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from rayplat.data.windows import Window
from rayplat.errors import InvalidInput, NotFound
from rayplat.types import Column, FeatureViewInfo, check_name

DTYPES = ("int64", "double", "float", "string", "bool", "timestamp[us, tz=UTC]")


@dataclass(frozen=True)
class Entity:
    """What features describe. ``join_key`` is the column that names one of them; keys are strings."""

    name: str
    join_key: str

    def __post_init__(self) -> None:
        check_name("entity", self.name)


@dataclass(frozen=True)
class Field:
    """A column taken as it is. ``lookup`` marks one that only leads to other views and feeds no model."""

    name: str
    dtype: str
    lookup: bool = False

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise InvalidInput(f"field {self.name}", f"dtype {self.dtype!r} is none of {', '.join(DTYPES)}")


@dataclass(frozen=True)
class FeatureView:
    """Features of one entity from one source table: plain ``fields`` or trailing ``windows``, not both.

    ``event_time`` is the source column that says since when a row was known. Values older than ``ttl`` at the
    moment of asking do not count.
    """

    name: str
    entity: Entity
    source: str
    event_time: str
    fields: tuple[Field, ...] = ()
    windows: tuple[Window, ...] = ()
    ttl: timedelta | None = None

    def __post_init__(self) -> None:
        check_name("feature view", self.name)
        if bool(self.fields) == bool(self.windows):
            raise InvalidInput(f"feature view {self.name}", "declare either fields or windows")
        taken = {self.entity.join_key, "event_time"}
        for name in self.feature_names:
            if name in taken:
                raise InvalidInput(f"feature view {self.name}", f"the column name {name!r} is already taken")
            taken.add(name)

    @property
    def table(self) -> str:
        """The Delta table of the built rows: join key, ``event_time``, features."""
        return f"features_{self.name}"

    @property
    def feature_names(self) -> tuple[str, ...]:
        return tuple(f.name for f in self.fields) + tuple(w.name for w in self.windows)

    @property
    def columns(self) -> tuple[Column, ...]:
        return tuple(Column(f.name, f.dtype) for f in self.fields) + tuple(
            Column(w.name, "float") for w in self.windows
        )

    @property
    def source_columns(self) -> tuple[str, ...]:
        """What has to be read from the source."""
        own = [w.event_time or self.event_time for w in self.windows] + [w.column for w in self.windows]
        return tuple(dict.fromkeys([self.entity.join_key, self.event_time, *(f.name for f in self.fields), *own]))

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "entity": {"name": self.entity.name, "join_key": self.entity.join_key},
            "source": self.source,
            "event_time": self.event_time,
            "fields": [{"name": f.name, "dtype": f.dtype, "lookup": f.lookup} for f in self.fields],
            "windows": [
                {
                    "name": w.name,
                    "column": w.column,
                    "function": w.function,
                    "length_s": w.length.total_seconds(),
                    "event_time": w.event_time,
                }
                for w in self.windows
            ],
            "ttl_s": None if self.ttl is None else self.ttl.total_seconds(),
        }

    @staticmethod
    def from_dict(tree: Mapping[str, Any]) -> FeatureView:
        return FeatureView(
            name=tree["name"],
            entity=Entity(**tree["entity"]),
            source=tree["source"],
            event_time=tree["event_time"],
            fields=tuple(Field(**f) for f in tree["fields"]),
            windows=tuple(
                Window(w["name"], w["column"], w["function"], timedelta(seconds=w["length_s"]), w["event_time"])
                for w in tree["windows"]
            ),
            ttl=None if tree["ttl_s"] is None else timedelta(seconds=tree["ttl_s"]),
        )

    def digest(self) -> str:
        return _digest(self.to_dict())

    def info(self) -> FeatureViewInfo:
        ttl_s = None if self.ttl is None else self.ttl.total_seconds()
        key = self.entity.join_key
        return FeatureViewInfo(
            self.name, self.digest(), self.entity.name, key, self.columns, ttl_s, self.source, self.table
        )


@dataclass(frozen=True)
class FeatureService:
    """The features of one model: ``views`` in lookup order. A request carries the key of ``entity``; the join key
    of any other view must be a feature of a view before it."""

    name: str
    entity: Entity
    views: tuple[FeatureView, ...]

    def __post_init__(self) -> None:
        check_name("feature service", self.name)
        known = {self.entity.join_key: "the request"}
        for view in self.views:
            if view.entity.join_key not in known:
                raise InvalidInput(
                    f"feature service {self.name}",
                    f"view {view.name!r} needs {view.entity.join_key!r}, which no view before it yields",
                )
            for name in view.feature_names:
                if name in known:
                    raise InvalidInput(
                        f"feature service {self.name}", f"{name!r} comes both from {known[name]} and {view.name!r}"
                    )
                known[name] = f"view {view.name!r}"

    @property
    def features(self) -> tuple[str, ...]:
        """What a model may use, in order: everything but pure lookups."""
        lookups = {f.name for view in self.views for f in view.fields if f.lookup}
        return tuple(n for view in self.views for n in view.feature_names if n not in lookups)

    def view(self, name: str) -> FeatureView:
        for view in self.views:
            if view.name == name:
                return view
        raise NotFound("feature view", name, f"{self.name} has {', '.join(v.name for v in self.views)}")

    def view_digests(self) -> dict[str, str]:
        """View name to definition digest, in lookup order: what `ModelSpec.views` stores."""
        return {view.name: view.digest() for view in self.views}

    def to_dict(self) -> dict[str, Any]:
        entity = {"name": self.entity.name, "join_key": self.entity.join_key}
        return {"name": self.name, "entity": entity, "views": [view.to_dict() for view in self.views]}

    @staticmethod
    def from_dict(tree: Mapping[str, Any]) -> FeatureService:
        views = tuple(FeatureView.from_dict(view) for view in tree["views"])
        return FeatureService(tree["name"], Entity(**tree["entity"]), views)

    def digest(self) -> str:
        return _digest(self.to_dict())


def _digest(tree: Any) -> str:
    text = json.dumps(tree, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()
