"""Model hosts as Ray Serve applications: one for each dedicated (model, alias), found again by its name.

Deploying is idempotent and changes in place what Serve can change: replicas come and go beside those that stay. An
alias move needs no deployment at all. What the cluster cannot carry is said within seconds instead of waited for.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from rayplat.errors import NotFound, RayplatError
from rayplat.registry import endpoint_rules
from rayplat.serve.deployment import cluster
from rayplat.serve.http.routes import prefix
from rayplat.serve.pool import names
from rayplat.settings import Settings
from rayplat.types import AliasHead, Endpoint, EndpointSpec, check_name
from rayplat.version import __version__

log = logging.getLogger(__name__)

_SEPARATOR = "--"
_DEPLOYMENT = "ModelHost"
_START_S = 120.0  # importing torch and loading a model on a busy machine; a failure is noticed long before
_STOP_S = 6.0
_ONGOING = 10_000  # a host refuses by itself, sooner and with a better reason than Serve would


def app_name(model: str, target: str) -> str:
    """The Serve application's name; ``target`` is an alias, or ``v7`` for an exact version. Names that hold ``--``
    where it would be read wrongly are refused (`InvalidName`)."""
    check_name("model", model)
    return f"{model}{_SEPARATOR}{endpoint_rules.check_target(target)}"


def named(name: str) -> tuple[str, str] | None:
    """(model, target) of a host's application; None for another application's name."""
    model, separator, target = name.rpartition(_SEPARATOR)
    return (model, target) if separator else None


def deploy(settings: Settings, spec: EndpointSpec, serve_url: str) -> Endpoint:
    """Serve ``spec.model`` at ``spec.alias`` by hosts of its own, like ``spec``; ready when this returns. Where it is
    served already, only what differs is changed, and nothing is refused meanwhile.

    Raises `Unschedulable` when no node has what a host reserves (naming who holds it), `PartFailed` with the host's
    own reason when it does not start: it is taken away again, or goes on as it was.
    """
    name = app_name(spec.model, spec.alias)
    state = cluster.states().get(name)
    running = state in ("RUNNING", "DEPLOYING")
    what = f"the endpoint {name}"
    if not running:
        if state is not None:
            _delete(name)
        cluster.check_room(what, *_reserved(settings, spec))
    _run(settings, spec, name)
    try:
        cluster.wait_until_running(name, what, _START_S)
    except RayplatError:
        if not running:
            _delete(name)
        raise
    if running:
        configure(spec)
    return next(e for e in endpoints(serve_url) if (e.model, e.alias) == (spec.model, spec.alias))


def configure(spec: EndpointSpec) -> None:
    """Tell every live replica how it serves from now on; those that come later read it in the record."""
    cluster.broadcast(app_name(spec.model, spec.alias), "configure", spec, timeout_s=_START_S)


def remove(model: str, alias: str) -> None:
    """Stop serving the alias. Raises NotFound where it is not served."""
    name = app_name(model, alias)
    if name not in cluster.states():
        raise NotFound("endpoint", f"{model}/{alias}")
    _delete(name)


def endpoints(serve_url: str) -> list[Endpoint]:
    """Every alias that has hosts of its own. ``version`` and ``generation`` are the oldest that a live replica has
    acknowledged, so they change when all have moved; both are None while a replica has yet to answer or the registry is
    down."""
    found = []
    for name, details in sorted(cluster.applications().items()):
        place = named(name)
        if place is None:
            continue
        model, alias = place
        live = cluster.live_replicas(details)
        acks, history = _registry_view(model, alias)
        replicas = {replica: acks[replica] for replica in live if replica in acks}
        oldest = min(replicas.values()) if live and len(replicas) == len(live) else None
        found.append(
            Endpoint(
                model=model,
                alias=alias,
                route=prefix(model, alias),
                url=serve_url + prefix(model, alias),
                version=_version(alias, history, oldest),
                generation=oldest,
                status=cluster.text(details["status"]).lower(),
                replicas=replicas,
            )
        )
    return found


def flush_logs(timeout_s: float = 15.0) -> bool:
    """Wait until every host, the pool's included, has handed what it answered so far to the inference log, committed.
    False when one did not in time."""
    results: list[bool] = []
    for name, state in cluster.states().items():
        if state == "RUNNING" and (named(name) is not None or names.is_worker(name)):
            results += cluster.broadcast(name, "flush_log", timeout_s, timeout_s=timeout_s + 5)
    return all(results)


def stats(model: str, alias: str) -> list[dict[str, Any]]:
    """The counts of each replica of a served alias (see `ModelHost.stats`)."""
    return cluster.broadcast(app_name(model, alias), "stats")


# --- the application ------------------------------------------------------------------------------


def _run(settings: Settings, spec: EndpointSpec, name: str) -> None:
    from ray import serve

    target = serve.RunTarget(_application(settings, spec), name, prefix(spec.model, spec.alias))
    serve.run_many([target], wait_for_applications_running=False)


def _application(settings: Settings, spec: EndpointSpec) -> Any:
    from ray import serve

    from rayplat.serve.replica import Replica

    cpus, gpus = _reserved(settings, spec)
    options: dict[str, Any] = {
        "name": _DEPLOYMENT,
        "ray_actor_options": {"num_cpus": cpus, "num_gpus": gpus},
        "max_ongoing_requests": _ONGOING,
        "max_queued_requests": -1,
        "max_surge_percent": 100,  # a replacement starts before the old replica stops
        "max_constructor_retry_count": 2,
        "graceful_shutdown_wait_loop_s": 0.5,
        "graceful_shutdown_timeout_s": _STOP_S,
        "health_check_period_s": 2,
        "health_check_timeout_s": 10,
        "logging_config": {"enable_access_log": False, "log_level": "WARNING"},
        **_count(spec),
    }
    deployment: Any = serve.deployment(**options)(serve.ingress()(Replica))
    # By default Serve gives each deployment a random version, and restarts its replicas with every call. What needs a
    # restart (CPUs, GPUs) it knows by itself; the rest is told to them.
    return deployment.options(version=__version__, _internal=True).bind(settings, spec)


def _count(spec: EndpointSpec) -> dict[str, Any]:
    scale = spec.autoscale
    if scale is None:
        return {"num_replicas": spec.replicas}
    config = {
        "min_replicas": scale.min_replicas,
        "max_replicas": scale.max_replicas,
        "initial_replicas": max(scale.min_replicas, 1),  # even where none is kept: to see that it starts
        "target_ongoing_requests": scale.target_ongoing,
        "upscale_delay_s": scale.upscale_delay_s,
        "downscale_delay_s": scale.downscale_delay_s,
        "look_back_period_s": max(1.0, min(30.0, scale.upscale_delay_s)),
        "metrics_interval_s": max(0.5, min(10.0, scale.upscale_delay_s)),
    }
    return {"autoscaling_config": config}


def _reserved(settings: Settings, spec: EndpointSpec) -> tuple[float, float]:
    return settings.serve.host_cpus if spec.cpus is None else spec.cpus, spec.gpus


def _delete(name: str) -> None:
    from ray import serve

    serve.delete(name)


def _version(alias: str, history: Sequence[AliasHead], generation: int | None) -> int | None:
    exact = endpoint_rules.version_of(alias)
    if exact is not None:
        return exact if generation is not None else None
    return next((head.version for head in history if head.generation == generation), None)


def _registry_view(model: str, alias: str) -> tuple[dict[str, int], list[AliasHead]]:
    from rayplat.registry.client import RegistryClient
    from rayplat.registry.record import aliases

    try:
        registry = RegistryClient.connect(timeout_s=10)
        exact = endpoint_rules.version_of(alias) is not None
        return registry.acks(model, alias), [] if exact else registry.read(aliases.history, model, alias)
    except RayplatError as e:
        log.warning("the registry does not say which version answers at %s/%s: %s", model, alias, e)
        return {}, []
