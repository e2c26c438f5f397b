"""A verb of the platform: a method with a route and the role it needs.

``@route("GET", "/models/{model}", Role.VIEWER)`` marks a method of a noun class. The HTTP API registers every
marked method, and the remote client calls it by the same signature: parameters named in the path go there,
the others into the query (GET, DELETE) or into a JSON object (POST). Annotations are the contract of both.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from rayplat.types import Principal, Role

if TYPE_CHECKING:
    from rayplat.artifacts.store import ArtifactStore
    from rayplat.data.feature_store import FeatureStore
    from rayplat.data.tables import Tables as DeltaTables
    from rayplat.registry.calls import Registry
    from rayplat.settings import Settings
    from rayplat.tracking import Tracking

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Route:
    method: str
    path: str
    role: Role
    long: bool = False

    @property
    def path_params(self) -> tuple[str, ...]:
        return tuple(re.findall(r"{(\w+)}", self.path))

    @property
    def has_body(self) -> bool:
        return self.method == "POST"


@dataclass(frozen=True)
class Verb:
    """One marked method: its name, route, and signature with resolved annotations."""

    name: str
    route: Route
    signature: inspect.Signature
    doc: str


@dataclass(frozen=True)
class Context:
    """What a verb works with. ``principal`` is who calls; `for_principal` is made once per request."""

    settings: Settings
    registry: Registry
    tables: DeltaTables
    tracking: Tracking
    features: FeatureStore
    artifacts: ArtifactStore
    serve_url: str
    principal: Principal


class Noun:
    """Base of the nouns. ``NAME`` is the attribute of the client and the command of the CLI."""

    NAME: ClassVar[str]

    def __init__(self, context: Context) -> None:
        self._context = context

    def __repr__(self) -> str:
        return f"<rayplat {self.NAME}: {', '.join(v.name for v in verbs(type(self)))}>"


def route(method: str, path: str, role: Role, *, long: bool = False) -> Callable[[F], F]:
    """Mark a method of a noun as a verb; a ``long`` one may outlast an HTTP request (`rayplat.api.ongoing`)."""

    def mark(function: F) -> F:
        function.__route__ = Route(method, path, role, long)  # type: ignore[attr-defined]
        return function

    return mark


def verbs(noun: type[Noun]) -> list[Verb]:
    """The verbs of a noun, in the order of their definition."""
    found = []
    for name, function in vars(noun).items():
        marked: Route | None = getattr(function, "__route__", None)
        if marked is not None:
            signature = inspect.signature(function, eval_str=True)
            found.append(Verb(name, marked, signature, inspect.getdoc(function) or ""))
    return found
