"""Paths of a model's application, relative to its route, and of the server as a whole. Pure.

Paths are taken as they were written, percent-encoded: each part is decoded for itself, so that a slash within a name
stays within it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from rayplat.errors import NotFound

DEFAULT_ALIAS = "champion"

_VERSION = re.compile(r"[1-9][0-9]{0,17}")
_ACTIONS = {
    "": "metadata",
    "ready": "ready",
    "infer": "infer",
    "generate": "infer",
    "infer_stream": "stream",
    "generate_stream": "stream",
    "explain": "explain",
    "openapi.json": "openapi",
    "metrics": "metrics",
    "invocations": "invocations",
    "ping": "ping",
    "health": "ping",
    "version": "version",
}
_GET, _POST, _EITHER = ("GET",), ("POST",), ("GET", "POST")
_METHODS = {"infer": _POST, "stream": _POST, "explain": _POST, "invocations": _POST, "ping": _EITHER}
_SERVER = {
    ("v2",): "metadata",
    ("v2", "health", "live"): "live",
    ("v2", "health", "ready"): "ready",
    ("v2", "repository", "index"): "index",
    ("invocations",): "invocations",
    ("ping",): "ping",
    ("health",): "ping",
    ("version",): "version",
}
_SERVER_METHODS = {"index": _POST, "load": _POST, "unload": _POST, "invocations": _POST, "ping": _EITHER}


@dataclass(frozen=True)
class Route:
    """``version`` is the exact version that the path names; None is whatever the alias points at."""

    action: str
    version: int | None = None

    @property
    def methods(self) -> tuple[str, ...]:
        return _METHODS.get(self.action, _GET)


@dataclass(frozen=True)
class ServerRoute:
    """A path of the server. ``action`` ``model`` is for the host of ``model``; ``rest`` is the path behind its name, as
    it was written."""

    action: str
    model: str = ""
    rest: str = ""

    @property
    def methods(self) -> tuple[str, ...]:
        return _EITHER if self.action == "model" else _SERVER_METHODS.get(self.action, _GET)


def prefix(model: str, alias: str) -> str:
    """The route of a served alias: the default one owns the model's own path."""
    return f"/v2/models/{model}" + ("" if alias == DEFAULT_ALIAS else f"/versions/{alias}")


def route(path: str, alias: str) -> Route:
    """What ``path``, the part behind the route, asks of the host of ``alias``. NotFound names what is missing."""
    action = _ACTIONS.get(path[1:]) if path[:1] == "/" else None
    if action is not None:
        return Route(action)
    parts = _parts(path)
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
        paths = ", ".join(f"{'|'.join(Route(a).methods)} /{p}" for p, a in _ACTIONS.items())
        raise NotFound("path", path[:80], f"a model has {paths}, each also behind /versions/<version>")
    return Route(action, version)


def server(path: str) -> ServerRoute:
    """What a whole ``path`` asks of the server. NotFound names what is there."""
    parts = _parts(path)
    action = _SERVER.get(tuple(parts))
    if action is not None:
        return ServerRoute(action)
    if len(parts) >= 3 and parts[:2] == ["v2", "models"]:
        written = [part for part in path.split("/") if part]
        return ServerRoute("model", parts[2], "".join(f"/{part}" for part in written[3:]))
    if len(parts) == 5 and parts[:3] == ["v2", "repository", "models"] and parts[4] in ("load", "unload"):
        return ServerRoute(parts[4], parts[3])
    there = "/v2, /v2/health/live|ready, /v2/models/<model>, /v2/repository/index, /invocations, /ping, /version"
    raise NotFound("path", path[:80], f"the server has {there}")


def _parts(path: str) -> list[str]:
    """The path's parts, decoded. A part that is no UTF-8 or hides a slash is no name of anything."""
    try:
        return [unquote_to_bytes(part).decode() for part in path.split("/") if part]
    except UnicodeDecodeError:
        raise NotFound("path", path[:80], "its percent-encoding is not UTF-8") from None
