"""Feature services: the views of one model, and views that are computed when a request asks.

A service is checked when it is declared: every join key and every column of an on-request view must be known by
the time it is needed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rayplat.data.features.declarations import (
    EVENT_TIME,
    Derived,
    Entity,
    FeatureView,
    Field,
    check_distinct,
    digest_of,
    short,
)
from rayplat.errors import InvalidInput, NotFound
from rayplat.types import Column, FeatureViewInfo, check_name


@dataclass(frozen=True)
class OnRequestView:
    """Features computed at the moment of asking, offline and online by the same kernels: from ``inputs``, which the
    request carries (in training: the spine), from features of views before it in a service, and from those of its own
    before. No table holds them."""

    name: str
    inputs: tuple[Field, ...]
    features: tuple[Derived, ...]

    def __post_init__(self) -> None:
        check_name("feature view", self.name)
        what = f"on-request view {self.name}"
        if not self.features:
            raise InvalidInput(what, "declare at least one feature")
        check_distinct(what, tuple(field.name for field in self.inputs) + self.feature_names, {EVENT_TIME})

    @property
    def id(self) -> str:
        return f"{self.name}@{short(self.digest())}"

    @property
    def feature_names(self) -> tuple[str, ...]:
        return tuple(feature.name for feature in self.features)

    @property
    def columns(self) -> tuple[Column, ...]:
        return tuple(Column(feature.name, feature.dtype) for feature in self.features)

    @property
    def needs(self) -> tuple[str, ...]:
        """Columns it reads that are neither its inputs nor its own: features of views before, or keys."""
        known = {field.name for field in self.inputs}
        found: dict[str, None] = {}
        for feature in self.features:
            found |= dict.fromkeys(name for name in feature.expression.columns if name not in known)
            known.add(feature.name)
        return tuple(found)

    def to_dict(self) -> dict[str, Any]:
        return {
            "kind": "on_request",
            "name": self.name,
            "inputs": [field.to_dict() for field in self.inputs],
            "features": [feature.to_dict() for feature in self.features],
        }

    @staticmethod
    def from_dict(tree: Mapping[str, Any]) -> OnRequestView:
        inputs = tuple(Field.from_dict(field) for field in tree["inputs"])
        return OnRequestView(tree["name"], inputs, tuple(Derived.from_dict(feature) for feature in tree["features"]))

    def digest(self) -> str:
        return digest_of(self.to_dict())

    def info(self) -> FeatureViewInfo:
        return FeatureViewInfo(self.name, self.digest(), "", "", self.columns, None, "request", "")


View = FeatureView | OnRequestView


def view_from_dict(tree: Mapping[str, Any]) -> View:
    """A view of either kind from its `to_dict`."""
    return OnRequestView.from_dict(tree) if tree.get("kind") == "on_request" else FeatureView.from_dict(tree)


@dataclass(frozen=True)
class FeatureService:
    """The features of one model: ``views`` in lookup order. A request carries the keys of ``entity``; the join keys
    of any other view must be features of a view before it."""

    name: str
    entity: Entity
    views: tuple[View, ...]

    def __post_init__(self) -> None:
        check_name("feature service", self.name)
        what = f"feature service {self.name}"
        known = dict.fromkeys(self.entity.join_keys, "the request")
        keys = set(known)
        defaulted: set[str] = set()
        inputs: dict[str, Field] = {}
        for view in self.views:
            if isinstance(view, FeatureView):
                needed: tuple[str, ...] = tuple(key for key in view.keys if key not in keys)
            else:
                needed = tuple(name for name in view.needs if name not in known)
                for field in view.inputs:
                    if field.name in known or inputs.setdefault(field.name, field) != field:
                        raise InvalidInput(what, f"request column {field.name!r} of {view.name!r} has another meaning")
            leads = defaulted.intersection(view.keys if isinstance(view, FeatureView) else ())
            if leads:
                raise InvalidInput(what, f"{leads.pop()!r} leads to view {view.name!r}, so it can have no default")
            if needed:
                raise InvalidInput(what, f"view {view.name!r} needs {needed[0]!r}, which no view before it yields")
            for name in view.feature_names:
                if name in known or name in inputs:
                    by = known.get(name, "the request")
                    raise InvalidInput(what, f"{name!r} comes both from {by} and {view.name!r}")
                known[name] = f"view {view.name!r}"
            if isinstance(view, FeatureView):
                keys.update(view.feature_names)
                defaulted.update(view.defaults)
        check_distinct(what, tuple(view.name for view in self.views), set())

    @property
    def features(self) -> tuple[str, ...]:
        """What a model may use, in order: everything but pure lookups."""
        lookups = {f.name for view in self.stored for f in view.fields if f.lookup}
        return tuple(n for view in self.views for n in view.feature_names if n not in lookups)

    @property
    def stored(self) -> tuple[FeatureView, ...]:
        """The views that have a table."""
        return tuple(view for view in self.views if isinstance(view, FeatureView))

    @property
    def on_request(self) -> tuple[OnRequestView, ...]:
        return tuple(view for view in self.views if isinstance(view, OnRequestView))

    @property
    def inputs(self) -> tuple[Field, ...]:
        """The columns that a request carries besides the keys."""
        return tuple({field.name: field for view in self.on_request for field in view.inputs}.values())

    def view(self, name: str) -> View:
        for view in self.views:
            if view.name == name:
                return view
        raise NotFound("feature view", name, f"{self.name} has {', '.join(v.name for v in self.views)}")

    def view_digests(self) -> dict[str, str]:
        """View name to definition digest, in lookup order: what `ModelSpec.views` stores."""
        return {view.name: view.digest() for view in self.views}

    def to_dict(self) -> dict[str, Any]:
        views = [view.to_dict() for view in self.views]
        return {"name": self.name, "entity": self.entity.to_dict(), "views": views}

    @staticmethod
    def from_dict(tree: Mapping[str, Any]) -> FeatureService:
        views = tuple(view_from_dict(view) for view in tree["views"])
        return FeatureService(tree["name"], Entity.from_dict(tree["entity"]), views)

    def digest(self) -> str:
        return digest_of(self.to_dict())
