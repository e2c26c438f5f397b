"""Model hosts as Ray Serve applications: one for each served (model, alias), found again by its name.

Deploying is idempotent: an application that runs is left alone (Serve would restart its replicas, and an alias move
needs no deployment at all). What the cluster cannot carry is said within seconds instead of waited for.
"""

from __future__ import annotations

import logging
import re
import time
from dataclasses import dataclass
from typing import Any

from rayplat import resources
from rayplat.errors import InvalidName, NotFound, PartFailed, RayplatError, Unschedulable
from rayplat.serve.routes import prefix
from rayplat.settings import Settings
from rayplat.types import AliasHead, Endpoint, check_alias, check_name

log = logging.getLogger(__name__)

_SEPARATOR = "--"
_DEPLOYMENT = "ModelHost"
_START_S = 120.0  # importing torch and loading a model on a busy machine; a failure is noticed long before
_UNSCHEDULABLE_S = 6.0
_STOP_S = 6.0


def app_name(model: str, alias: str) -> str:
    """The Serve application's name. Aliases with ``--`` are refused, so that the name can be read back."""
    check_name("model", model)
    if _SEPARATOR in check_alias(alias):
        raise InvalidName("alias", f"{alias!r} cannot be served: an alias with {_SEPARATOR!r} in it has no address")
    return f"{model}{_SEPARATOR}{alias}"


def deploy(settings: Settings, model: str, alias: str, serve_url: str) -> Endpoint:
    """Serve ``model`` at ``alias``; ready when this returns.

    Raises `Unschedulable` when no node has the CPUs that a host reserves (naming who holds them), `PartFailed`
    with the host's own reason when it does not start (it is taken away again).
    """
    from ray import serve

    name = app_name(model, alias)
    state = _states().get(name)
    if state not in ("RUNNING", "DEPLOYING"):
        if state is not None:
            serve.delete(name)
        _check_room(name, settings.serve.host_cpus)
        target = serve.RunTarget(_application(settings, model, alias), name, prefix(model, alias))
        serve.run_many([target], wait_for_applications_running=False)
    try:
        _wait_until_running(name)
    except RayplatError:
        serve.delete(name)
        raise
    return next(e for e in endpoints(serve_url) if (e.model, e.alias) == (model, alias))


def remove(model: str, alias: str) -> None:
    """Stop serving the alias. Raises NotFound where it is not served."""
    from ray import serve

    name = app_name(model, alias)
    if name not in _states():
        raise NotFound("endpoint", f"{model}/{alias}")
    serve.delete(name)


def endpoints(serve_url: str) -> list[Endpoint]:
    """Every served alias. ``version`` and ``generation`` are the oldest that a live replica has acknowledged, so
    they change when all have moved; both are None while a replica has yet to answer or the registry is down."""
    found = []
    for name, details in sorted(_applications().items()):
        model, separator, alias = name.rpartition(_SEPARATOR)
        if not separator:
            continue
        live = [
            replica["replica_id"]
            for deployment in details["deployments"].values()
            for replica in deployment["replicas"]
            if _text(replica["state"]) == "RUNNING"
        ]
        acks, history = _registry_view(model, alias)
        replicas = {replica: acks[replica] for replica in live if replica in acks}
        oldest = min(replicas.values()) if live and len(replicas) == len(live) else None
        found.append(
            Endpoint(
                model=model,
                alias=alias,
                route=prefix(model, alias),
                url=serve_url + prefix(model, alias),
                version=next((head.version for head in history if head.generation == oldest), None),
                generation=oldest,
                status=_text(details["status"]).lower(),
                replicas=replicas,
            )
        )
    return found


def flush_logs(timeout_s: float = 15.0) -> bool:
    """Wait until every host has handed what it answered so far to the inference log, committed. False when one
    did not in time."""
    results: list[bool] = []
    for name, state in _states().items():
        if _SEPARATOR in name and state == "RUNNING":
            results += _handle(name).broadcast("flush_log", timeout_s).results(timeout_s=timeout_s + 5)
    return all(results)


def stats(model: str, alias: str) -> list[dict[str, Any]]:
    """The counts of each replica of a served alias (see `ModelHost.stats`)."""
    found: list[dict[str, Any]] = _handle(app_name(model, alias)).broadcast("stats").results(timeout_s=10)
    return found


def _handle(name: str) -> Any:
    from ray import serve

    handle: Any = serve.get_app_handle(name)
    if not handle.is_initialized:
        handle._init(_run_router_in_separate_loop=True)  # callers are plain threads, without an event loop
    return handle


# --- the application ------------------------------------------------------------------------------


class _Replica:
    """The class that Serve starts: builds the real parts around a `ModelHost` and exposes its control methods."""

    def __init__(self, settings: Settings, model: str, alias: str) -> None:
        from ray import serve

        from rayplat import logs
        from rayplat.serve.host import ModelHost, Parts
        from rayplat.serve.loader import VersionLoader
        from rayplat.serve.registry_link import RegistryLink
        from rayplat.serve.tap import ActorSink, InferenceTap

        logs.set_up()
        replica = serve.get_replica_context().replica_id.unique_id
        tap = InferenceTap(ActorSink(), settings.log, replica)
        parts = Parts(RegistryLink(), VersionLoader(settings), tap)
        self._host = ModelHost(settings.serve, model, alias, replica, parts)

    async def __serve_build_asgi_app__(self) -> Any:
        """Called by Serve after the constructor; the replica takes requests once this has returned."""
        await self._host.start()
        return self._host

    async def check_health(self) -> None:
        self._host.check_health()

    async def stats(self) -> dict[str, Any]:
        return self._host.stats()

    async def flush_log(self, timeout_s: float) -> bool:
        return await self._host.flush_log(timeout_s)


def _application(settings: Settings, model: str, alias: str) -> Any:
    from ray import serve

    options: dict[str, Any] = {
        "name": _DEPLOYMENT,
        "num_replicas": 1,
        "ray_actor_options": {"num_cpus": settings.serve.host_cpus},
        "max_ongoing_requests": 100,
        "max_queued_requests": 400,
        "max_surge_percent": 100,  # a replacement starts before the old replica stops
        "max_constructor_retry_count": 2,
        "graceful_shutdown_wait_loop_s": 0.5,
        "graceful_shutdown_timeout_s": _STOP_S,
        "health_check_period_s": 2,
        "health_check_timeout_s": 10,
        "logging_config": {"enable_access_log": False, "log_level": "WARNING"},
    }
    return serve.deployment(**options)(serve.ingress()(_Replica)).bind(settings, model, alias)


# --- waiting, and saying why ----------------------------------------------------------------------


def _wait_until_running(name: str) -> None:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        details = _applications().get(name)
        state = _text(details["status"]) if details else "gone"
        if details and state == "RUNNING":
            return
        if state in ("DEPLOY_FAILED", "UNHEALTHY", "gone"):
            raise PartFailed(f"the endpoint {name}", _reason(details))
        time.sleep(0.1)
    reason = _reason(_applications().get(name))
    raise PartFailed(f"the endpoint {name}", f"it was not ready within {_START_S:.0f} s: {reason}")


def _reason(details: dict[str, Any] | None) -> str:
    """The last telling line of what Serve reports: the exception's own text, without its traceback."""
    if details is None:
        return "its application is gone"
    texts = [d["message"] for d in details["deployments"].values()] + [details["message"]]
    for text in texts:
        lines = [line.strip() for line in str(text).splitlines() if line.strip()]
        telling = [line for line in lines if "Error" in line.partition(":")[0] or line.startswith("rayplat.")]
        if telling:
            return re.sub(r"^rayplat\.errors\.\w+: ", "", telling[-1])
        if lines:
            return lines[-1]
    return "Serve gives no reason"


@dataclass(frozen=True)
class _Room:
    free: float
    total: float


def _check_room(name: str, cpus: float) -> None:
    """Raise `Unschedulable` when no node gets ``cpus`` free within a few seconds."""
    deadline = time.monotonic() + _UNSCHEDULABLE_S
    while True:
        rooms = _rooms()
        if any(room.free + 1e-9 >= cpus for room in rooms):
            return
        if time.monotonic() > deadline:
            break
        time.sleep(0.25)
    free = max((room.free for room in rooms), default=0.0)
    total = sum(room.total for room in rooms)
    held = sorted(resources.holders().items(), key=lambda e: (-e[1], e[0]))[:5]
    names = ", ".join(f"{who} ({n:g})" for who, n in held) or "running tasks"
    raise Unschedulable(
        f"the endpoint {name}",
        f"a host reserves {cpus:g} CPU, at most {free:g} of {total:g} are free on one node; held by {names}",
    )


def _rooms() -> list[_Room]:
    import ray
    from ray._private.state import available_resources_per_node

    free = available_resources_per_node()
    return [
        _Room(free.get(node["NodeID"], {}).get("CPU", 0.0), node["Resources"].get("CPU", 0.0))
        for node in ray.nodes()
        if node["Alive"]
    ]


def _states() -> dict[str, str]:
    return {name: _text(details["status"]) for name, details in _applications().items()}


def _applications() -> dict[str, dict[str, Any]]:
    """Serve's own account of its applications; empty where Serve does not run."""
    from ray.serve.context import _get_global_client

    client = _get_global_client(raise_if_no_controller_running=False)
    if client is None:
        return {}
    found: dict[str, dict[str, Any]] = client.get_serve_details()["applications"]
    return found


def _text(value: Any) -> str:
    return str(getattr(value, "value", value))


def _registry_view(model: str, alias: str) -> tuple[dict[str, int], list[AliasHead]]:
    from rayplat.registry.client import RegistryClient
    from rayplat.registry.record import aliases

    try:
        registry = RegistryClient.connect(timeout_s=10)
        return registry.acks(model, alias), registry.read(aliases.history, model, alias)
    except RayplatError as e:
        log.warning("the registry does not say which version answers at %s/%s: %s", model, alias, e)
        return {}, []
