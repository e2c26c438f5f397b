"""The control application as a Serve application, and what Serve says of all applications."""

from __future__ import annotations

import logging
from typing import Any

from rayplat import identity
from rayplat.errors import PartFailed
from rayplat.settings import Settings
from rayplat.types import Principal, Role


def _application(settings: Settings, serve_url: str, mlflow_url: str) -> Any:
    """The ASGI application, built inside the replica, where the registry is reached by name."""
    from rayplat import logs
    from rayplat.api.app import Backend, build
    from rayplat.services import local

    logs.set_up()
    nobody = Principal("nobody", Role.VIEWER)
    context = local.context(settings, mlflow_url, serve_url, nobody)
    tokens = identity.TokenCache(settings.serve.token_cache_s)

    def authenticate(secret: str) -> Principal | None:
        known = tokens.get(secret)
        if known is None:
            known = context.registry.authenticate(identity.hash_token(secret))
            if known is not None:
                tokens.put(secret, known)
        return known

    return build(Backend(context, authenticate))


def run_control(name: str, settings: Settings, port: int, serve_url: str, mlflow_url: str) -> None:
    """Start Serve on ``port`` and the control application at ``/``; `PartFailed` when it does not come up."""
    from ray import serve

    def application() -> Any:
        return _application(settings, serve_url, mlflow_url)

    logging.getLogger("ray.serve").setLevel(logging.WARNING)  # the import above has set it to INFO
    try:
        serve.start(http_options={"host": "0.0.0.0", "port": port})
        deployment: Any = serve.deployment(
            name="Control",
            max_ongoing_requests=64,
            max_queued_requests=256,
            ray_actor_options={"num_cpus": 0},
            graceful_shutdown_timeout_s=2,
            logging_config={"enable_access_log": False},
        )
        serve.run(deployment(serve.ingress(application)()).bind(), name=name, route_prefix="/")
    except Exception as e:
        text = str(e).strip().splitlines()
        raise PartFailed("the control API", text[-1] if text else type(e).__name__) from e


def applications() -> list[tuple[str, str, str]]:
    """(name, state, message) of every Serve application."""
    from ray import serve

    return [(name, str(app.status.value), app.message) for name, app in serve.status().applications.items()]


def control_is_running(name: str) -> bool:
    return any(app == name and state == "RUNNING" for app, state, _ in applications())


def remove_all(control_name: str) -> None:
    """Delete the control application and every endpoint."""
    from ray import serve

    for name, _, _ in applications():
        if name == control_name or "--" in name:
            serve.delete(name)
