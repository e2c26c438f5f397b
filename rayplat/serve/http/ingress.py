"""A shorter way from the socket to the model host, inside the replica that Serve started.

Serve wraps each request in metadata, two tasks and metrics of its own: more than a small model takes to answer. Its
documented hook for ASGI middleware (``RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH``) lets the replica's HTTP server ask
us first. Health and routing probes go on to Serve, and so does everything of an endpoint that scales by load, because
Serve counts the requests for it.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any, Protocol

from rayplat.serve.http.exchange import Receive, Scope, Send

IMPORT_PATH = "rayplat.serve.http.ingress:middlewares"


class Application(Protocol):
    def __call__(self, scope: Scope, receive: Receive, send: Send, /) -> Awaitable[None]: ...


_hosted: tuple[str, Application] | None = None


def take(prefix: str, application: Application) -> None:
    """From now on requests below ``prefix`` go to ``application`` of this process."""
    global _hosted  # one replica, one application: the process is the scope
    _hosted = (prefix, application)


def give_back() -> None:
    """Requests take Serve's own way again."""
    global _hosted
    _hosted = None


class HeadWithBody:
    """A transport of one answer that writes its head and the beginning of its body at once: uvicorn writes them apart,
    and each write wakes the proxy, which costs more than putting them together. Not for HEAD: nothing follows there."""

    __slots__ = ("_begun", "_head", "_transport")

    def __init__(self, transport: Any) -> None:
        self._transport, self._begun = transport, False
        self._head: bytes | None = None

    def write(self, data: bytes) -> None:
        """Send ``data``; an answer's head is kept until its body follows, be it empty."""
        if self._begun or data.startswith(b"HTTP/1.1 100 "):  # the client waits for that one before it sends its body
            self._transport.write(data)
        elif self._head is None:
            self._head = data
        else:
            self._begun = True
            self._transport.writelines((self._head, data))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class Shortcut:
    """ASGI middleware in front of Serve's own application."""

    def __init__(self, app: Application) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        hosted = _hosted
        if hosted is None or scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        prefix, application = hosted
        path = scope["path"]
        if path.startswith(prefix) and (len(path) == len(prefix) or path[len(prefix)] == "/"):
            scope["root_path"], scope["rayplat.direct"] = prefix, True
            exchange: Any = getattr(send, "__self__", None)
            if scope["method"] == "POST" and hasattr(exchange, "transport"):  # uvicorn's, whichever parser it uses
                exchange.transport = HeadWithBody(exchange.transport)
            await application(scope, receive, send)
        else:
            await self._app(scope, receive, send)


def middlewares() -> list[Any]:
    """What Serve asks for when it starts an HTTP server."""
    from starlette.middleware import Middleware

    return [Middleware(Shortcut)]
