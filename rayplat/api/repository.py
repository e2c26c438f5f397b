"""The Open Inference Protocol's model repository extension: what could be served and is, and serving it or not.

``load`` serves a model's default alias as its serving spec says, in the pool where it has none; ``unload`` serves it no
longer. Models themselves come from the registry: files and configurations in a request are refused.
"""

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import Body, Depends, FastAPI, Response
from pydantic import BaseModel, ConfigDict

from rayplat.errors import InvalidInput
from rayplat.registry.record import aliases, endpoints
from rayplat.serve.http.routes import DEFAULT_ALIAS
from rayplat.services.serving import Serving
from rayplat.services.verbs import Context
from rayplat.types import Endpoint, EndpointSpec, Role

Contexts = Callable[[Role], Callable[..., Context]]


class IndexRequest(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    ready: bool = False


class ChangeRequest(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    parameters: dict[str, Any] = {}


class IndexEntry(BaseModel):
    """``version`` is the exact version that answers for the model's default alias, the alias itself for another."""

    name: str
    version: str
    state: str
    reason: str


def register(app: FastAPI, context_for: Contexts) -> None:
    """``POST /v2/repository/index`` and ``/v2/repository/models/{model}/load|unload``."""
    reader, changer = Depends(context_for(Role.VIEWER)), Depends(context_for(Role.DEVELOPER))

    @app.post("/v2/repository/index", tags=["repository"], summary="Models that can be served, and how they are")
    def index(
        context: Annotated[Any, reader], request: Annotated[IndexRequest | None, Body()] = None
    ) -> list[IndexEntry]:
        """Needs the role `viewer`."""
        return entries(context, only_ready=request is not None and request.ready)

    @app.post("/v2/repository/models/{model}/load", tags=["repository"], summary="Serve a model")
    def load(
        model: str, context: Annotated[Any, changer], request: Annotated[ChangeRequest | None, Body()] = None
    ) -> Response:
        """Ready when this returns. Needs the role `developer`."""
        alias = _alias(request)
        serving = _serving(context)
        known = context.registry.read(endpoints.find, model, alias)
        spec = known or EndpointSpec(model, alias, placement="pooled")
        for step in serving.plan((spec,), prune=False).steps:
            serving.take(step)
        if known is not None:
            serving.reload(spec)
        return Response(status_code=200)

    @app.post("/v2/repository/models/{model}/unload", tags=["repository"], summary="Serve a model no longer")
    def unload(
        model: str, context: Annotated[Any, changer], request: Annotated[ChangeRequest | None, Body()] = None
    ) -> Response:
        """Needs the role `developer`, `approver` where the alias is protected."""
        _serving(context).remove(model, _alias(request))
        return Response(status_code=200)


def entries(context: Context, only_ready: bool = False) -> list[IndexEntry]:
    """Every alias there is, served or not, by name."""
    served = {(e.model, e.alias): e for e in _serving(context).endpoints()}
    found = [_entry(endpoint) for endpoint in served.values()]
    for head in context.registry.read(aliases.listed):
        if (head.model, head.alias) not in served:
            version = str(head.version) if head.alias == DEFAULT_ALIAS else head.alias
            found.append(IndexEntry(name=head.model, version=version, state="UNAVAILABLE", reason="it is not served"))
    found.sort(key=lambda e: (e.name, e.version))
    return [e for e in found if e.state == "READY"] if only_ready else found


def _entry(endpoint: Endpoint) -> IndexEntry:
    state, reason = "READY", ""
    if endpoint.status in ("deploying", "loading"):
        state = "LOADING"
    elif endpoint.status == "cold":
        reason = "its first request loads it"
    elif endpoint.status != "running":
        state, reason = "UNAVAILABLE", endpoint.status
    version = "" if endpoint.version is None else str(endpoint.version)
    version = version if endpoint.alias == DEFAULT_ALIAS else endpoint.alias
    return IndexEntry(name=endpoint.model, version=version, state=state, reason=reason)


def _alias(request: ChangeRequest | None) -> str:
    parameters = {} if request is None else dict(request.parameters)
    alias = parameters.pop("alias", DEFAULT_ALIAS)
    parameters.pop("unload_dependents", None)  # nothing depends on a served model
    if parameters:
        name = str(next(iter(parameters)))[:80]
        raise InvalidInput(f"parameters.{name}", "it is not taken here: models come from the registry, by their alias")
    if not isinstance(alias, str):
        raise InvalidInput("parameters.alias", "it must be the name of an alias")
    return alias


def _serving(context: Context) -> Serving:
    return Serving(context.settings, context.registry, context.serve_url, context.principal)
