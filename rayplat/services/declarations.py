"""Feature declarations as JSON and back: what `rayplat features apply` sends, and what became of each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from rayplat.data.feature_store import FeatureStore
from rayplat.data.features import Entity, FeatureService, FeatureView, OnRequestView, View, view_from_dict
from rayplat.errors import InvalidInput, RayplatError
from rayplat.types import Applied

T = TypeVar("T")


@dataclass(frozen=True)
class Declared:
    """Declarations by name, each name once."""

    entities: dict[str, Entity] = field(default_factory=dict)
    views: dict[str, View] = field(default_factory=dict)
    services: dict[str, FeatureService] = field(default_factory=dict)

    @staticmethod
    def of(values: Iterable[Any]) -> Declared:
        """The declarations among ``values``, with the views of services and the entities of all. Raises `InvalidInput`
        for one name with two meanings."""
        found = Declared()
        for value in values:
            found._add(value)
        return found

    @staticmethod
    def from_json(
        entities: Sequence[Mapping[str, Any]], views: Sequence[Mapping[str, Any]], services: Sequence[Mapping[str, Any]]
    ) -> Declared:
        """From what `to_json` made. Raises `InvalidInput` naming what is no declaration."""
        found: list[Any] = [_parsed("entities", i, Entity.from_dict, tree) for i, tree in enumerate(entities)]
        found += [_parsed("views", i, view_from_dict, tree) for i, tree in enumerate(views)]
        found += [_parsed("services", i, FeatureService.from_dict, tree) for i, tree in enumerate(services)]
        return Declared.of(found)

    def to_json(self) -> dict[str, list[dict[str, Any]]]:
        """Arguments of the verb ``apply``."""
        return {
            "entities": [entity.to_dict() for entity in self.entities.values()],
            "views": [view.to_dict() for view in self.views.values()],
            "services": [service.to_dict() for service in self.services.values()],
        }

    def apply(self, store: FeatureStore) -> tuple[Applied, ...]:
        """Apply all of it, and tell what changed. Raises `InvalidInput` where there is nothing."""
        if not self.views and not self.services and not self.entities:
            raise InvalidInput("declarations", "there are none: declare an Entity, a FeatureView or a FeatureService")
        views = {view.name: view.digest for view in store.views()}
        services = {name: store.service(name).digest() for name in store.services()}
        store.apply(tuple(self.entities.values()), tuple(self.views.values()), tuple(self.services.values()))
        made = [Applied("view", v.name, v.digest(), _change(views, v.name, v.digest())) for v in self.views.values()]
        return (
            *made,
            *(
                Applied("service", s.name, s.digest(), _change(services, s.name, s.digest()))
                for s in self.services.values()
            ),
        )

    def _add(self, value: Any) -> None:
        if isinstance(value, Entity):
            _once("entity", self.entities, value)
        elif isinstance(value, FeatureView | OnRequestView):
            if isinstance(value, FeatureView):
                self._add(value.entity)
            _once("feature view", self.views, value)
        elif isinstance(value, FeatureService):
            self._add(value.entity)
            for view in value.views:
                self._add(view)
            _once("feature service", self.services, value)


def _once(kind: str, known: dict[str, Any], value: Any) -> None:
    if known.setdefault(value.name, value).to_dict() != value.to_dict():
        raise InvalidInput(f"{kind} {value.name}", "is declared twice, with two meanings; rename one")


def _parsed(field_name: str, place: int, parse: Callable[[Mapping[str, Any]], T], tree: Mapping[str, Any]) -> T:
    try:
        return parse(tree)
    except RayplatError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as e:
        raise InvalidInput(f"{field_name}[{place}]", f"is no declaration as `to_dict` writes it: {e!r}") from e


def _change(before: Mapping[str, str], name: str, digest: str) -> str:
    if name not in before:
        return "new"
    return "same" if before[name] == digest else "changed"
