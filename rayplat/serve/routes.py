"""Paths of a model's application, relative to its route. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

from rayplat.errors import NotFound

DEFAULT_ALIAS = "champion"

_VERSION = re.compile(r"[1-9][0-9]{0,17}")
_ACTIONS = {"": "metadata", "infer": "infer", "ready": "ready"}
_METHODS = {"metadata": ("GET",), "infer": ("POST",), "ready": ("GET",)}


@dataclass(frozen=True)
class Route:
    """``version`` is the exact version that the path names; None is whatever the alias points at."""

    action: str
    version: int | None = None

    @property
    def methods(self) -> tuple[str, ...]:
        return _METHODS[self.action]


def prefix(model: str, alias: str) -> str:
    """The route of a served alias: the default one owns the model's own path."""
    return f"/v2/models/{model}" + ("" if alias == DEFAULT_ALIAS else f"/versions/{alias}")


def route(path: str, alias: str) -> Route:
    """What ``path``, the part behind the route, asks of the host of ``alias``. NotFound names what is missing."""
    parts = [part for part in path.split("/") if part]
    version: int | None = None
    if parts and parts[0] == "versions" and len(parts) > 1:
        named, parts = parts[1], parts[2:]
        if _VERSION.fullmatch(named):
            version = int(named)
        elif named != alias:
            hint = f"{alias!r} answers at this path, and an exact version is a number"
            raise NotFound("served alias", named[:80], hint)
    action = _ACTIONS.get("/".join(parts))
    if action is None:
        raise NotFound("path", path[:80], "a model has GET /, GET /ready and POST /infer")
    return Route(action, version)
