"""The control application at ``/``: health, the control API with its OpenAPI page, and clear answers for what no
model host serves. It runs as a Serve application of its own and takes no CPU reservation.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from fastapi.security import HTTPBearer
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException

from rayplat import __version__, identity
from rayplat.api import repository, transfers
from rayplat.api.routes import register
from rayplat.errors import BadRequest, InvalidInput, RayplatError, TooLarge, Unauthenticated
from rayplat.serve.telemetry.metrics import CONTENT_TYPE
from rayplat.services.catalog import NOUNS
from rayplat.services.spool import PART_BYTES
from rayplat.services.verbs import Context
from rayplat.types import Principal, Role

log = logging.getLogger(__name__)

MAX_BODY = 4 << 20
EXTENSIONS = ("binary_tensor_data", "model_repository", "parameters", "generate")
"""Of the Open Inference Protocol, as servers that have them name them."""


@dataclass(frozen=True)
class Backend:
    """What the application needs: the context (its principal is replaced per request), who a secret belongs to, and
    the page for Prometheus."""

    context: Context
    authenticate: Callable[[str], Principal | None]
    metrics: Callable[[], str] = str


def build(backend: Backend) -> FastAPI:
    """The ASGI application. Raises nothing at request time but errors of our tree, which become JSON."""
    app = FastAPIOffline(  # its page loads nothing from elsewhere: clusters often have no way out
        title="rayplat",
        version=__version__,
        docs_url="/api/v1/docs",
        redoc_url=None,
        static_url="/api/v1/docs/static",
        swagger_ui_oauth2_redirect_url="/api/v1/docs/oauth2-redirect",
        strict_content_type=False,  # a body without a Content-Type is read as JSON; another type is refused below
        openapi_url="/api/v1/openapi.json",
        description="Control API. Send `Authorization: Bearer <platform token>`; every route but health needs one.",
    )
    api = APIRouter(prefix="/api/v1")
    bearer = HTTPBearer(auto_error=False, description="A platform token")  # for the page; `caller` does the check

    def context_for(role: Role) -> Callable[..., Context]:
        def dependency(request: Request, _: Annotated[Any, Depends(bearer)]) -> Context:
            principal = caller(request)
            identity.require(principal, role)
            return replace(backend.context, principal=principal)

        return dependency

    def caller(request: Request) -> Principal:
        principal = backend.authenticate(identity.bearer(request.headers.get("authorization"), jwt=True))
        if principal is None:
            raise Unauthenticated("this token is not known, has expired or was revoked")
        return principal

    register(api, list(NOUNS), context_for)
    transfers.register(api, context_for)
    app.include_router(api)
    repository.register(app, context_for)
    _add_model_routes(app, caller)

    @app.get("/metrics", tags=["health"], response_class=PlainTextResponse)
    def metrics(request: Request, _: Annotated[Any, Depends(bearer)]) -> Response:
        """What every model host counts, for Prometheus."""
        caller(request)
        return Response(backend.metrics(), media_type=CONTENT_TYPE)

    _add_error_handlers(app)
    app.middleware("http")(_limit_body)
    return app


def _add_model_routes(app: FastAPI, caller: Callable[[Request], Principal]) -> None:
    """Open Inference routes of the server as a whole; those of a model belong to its host."""

    @app.get("/v2/health/live", tags=["health"])
    @app.get("/v2/health/ready", tags=["health"])
    def health() -> dict[str, bool]:
        return {"live": True}

    @app.get("/v2", tags=["server"])
    def server(request: Request) -> dict[str, Any]:
        caller(request)
        return {"name": "rayplat", "version": __version__, "extensions": list(EXTENSIONS)}


def _add_error_handlers(app: FastAPI) -> None:
    @app.exception_handler(RayplatError)
    async def ours(_: Request, error: RayplatError) -> JSONResponse:
        return error_response(error)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        # Never echo the input: it may hold NaN, lone surrogates or a secret.
        first = error.errors()[0]
        if first["type"] == "json_invalid":
            return error_response(BadRequest(f"the body is not valid JSON: {first.get('ctx', {}).get('error', '')}"))
        where = ".".join(str(p) for p in first["loc"] if p not in ("_body", "body")) or "body"
        return error_response(InvalidInput(where, str(first["msg"])))

    @app.exception_handler(HTTPException)
    async def plain(_: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse({"error": str(error.detail), "code": "HTTP", "args": []}, error.status_code, error.headers)

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> JSONResponse:
        log.error("%s %s failed", request.method, request.url.path, exc_info=error)
        return JSONResponse(
            {"error": "internal error; the platform's log has the reason", "code": "Internal", "args": []}, 500
        )


def error_response(error: RayplatError) -> JSONResponse:
    """One JSON shape everywhere: ``{"error": text, "code": class, "args": [...]}``."""
    headers = {"WWW-Authenticate": "Bearer"} if error.http_status == 401 else {}
    if error.retryable:
        headers["Retry-After"] = "1"
    return JSONResponse({"error": str(error), "code": error.code, "args": list(error.args)}, error.http_status, headers)


async def _limit_body(request: Request, call_next: Callable[[Request], Any]) -> Response:
    declared = request.headers.get("content-length", "0")
    if not declared.isdigit() or (declared == "0" and "chunked" in request.headers.get("transfer-encoding", "")):
        return error_response(BadRequest("send the body with a Content-Length"))
    is_part = request.method == "PUT" and request.url.path.startswith(f"/api/v1{transfers.PATH}")
    most = PART_BYTES if is_part else MAX_BODY
    if int(declared) > most:
        return error_response(TooLarge("the body", int(declared), most))
    if int(declared) and not is_part and "json" not in request.headers.get("content-type", "json").lower():
        return error_response(BadRequest("send the body as JSON, with Content-Type: application/json"))
    answer: Response = await call_next(request)
    answer.headers.setdefault("X-Content-Type-Options", "nosniff")
    return answer
