"""What comes to the control application: requests for models go to the front of the pool, all others to the API.

Models' requests are no JSON of ours (tensors, CSV) and never wait for the API's threads.
"""

from __future__ import annotations

from typing import Protocol

from rayplat.serve.http.exchange import Receive, Scope, Send

_MODELS = "/v2/models"
_ROOT = frozenset({"/invocations", "/ping", "/health", "/version"})  # MLflow's, for the default model


class Application(Protocol):
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None: ...


class Entry:
    """The ASGI application of the control replica."""

    def __init__(self, api: Application, models: Application) -> None:
        self._api, self._models = api, models

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        chosen = self._models if scope["type"] == "http" and _is_models(scope["path"]) else self._api
        await chosen(scope, receive, send)


def _is_models(path: str) -> bool:
    return path in _ROOT or path == _MODELS or path.startswith(_MODELS + "/")
