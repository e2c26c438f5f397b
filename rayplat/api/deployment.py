"""The control application as a Serve application, and what Serve says of all applications."""

from __future__ import annotations

import logging
from collections.abc import Collection
from typing import Any

from rayplat.errors import PartFailed
from rayplat.platform import processes
from rayplat.settings import Settings
from rayplat.types import Principal, Role


def _application(settings: Settings, serve_url: str, mlflow_url: str) -> Any:
    """The ASGI application, built inside the replica, where the registry is reached by name."""
    from rayplat import logs
    from rayplat.api.app import Backend, build
    from rayplat.api.entry import Entry
    from rayplat.serve import access
    from rayplat.serve.pool import start as pool
    from rayplat.serve.telemetry import scrape
    from rayplat.services import local

    logs.set_up_in_replica()
    nobody = Principal("nobody", Role.VIEWER)
    context = local.context(settings, mlflow_url, serve_url, nobody)
    ask = local.authenticator(settings, context.registry)
    authenticate = access.remembering(ask, settings.serve.token_cache_s)
    return Entry(build(Backend(context, authenticate, scrape.Scrape().page)), pool.front(settings))


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


def running_port() -> int | None:
    """The port of a Serve instance that is up already; its options cannot be changed any more."""
    from ray.serve.context import _get_global_client

    found: Any = _get_global_client(raise_if_no_controller_running=False)
    return None if found is None else int(found.http_config.port)


def remove(names: Collection[str], timeout_s: float = 20) -> None:
    """Delete applications and wait until they are gone: hosts answer what they have begun and hand in their log."""
    from ray import serve

    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    ours = [name for name, _, _ in applications() if name in names]
    for name in ours:
        serve.delete(name, _blocking=False)
    processes.wait_until(lambda: not any(name in ours for name, _, _ in applications()), timeout_s)
