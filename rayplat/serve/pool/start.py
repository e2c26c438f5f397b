"""The pool as Ray Serve applications: the front, which has a route, and its workers, which have none.

They run once there is a pooled endpoint. Like hosts they are found again by name, and deploying them is idempotent.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import pickle
import sys
from collections.abc import AsyncGenerator
from typing import Any, cast

from rayplat.errors import RayplatError
from rayplat.serve.access import Access
from rayplat.serve.deployment import cluster
from rayplat.serve.host import ModelHost, Parts
from rayplat.serve.http import relay
from rayplat.serve.live import LiveHost, registry_for
from rayplat.serve.log.tap import ActorSink, InferenceTap
from rayplat.serve.pool import names, placement
from rayplat.serve.pool.aliases import SharedAliases
from rayplat.serve.pool.front import PoolFront
from rayplat.serve.pool.loads import SingleLoads
from rayplat.serve.pool.placement import Key, Limits
from rayplat.serve.pool.table import EndpointTable
from rayplat.serve.pool.taps import SharedTaps
from rayplat.serve.pool.worker import Loading, PoolWorker
from rayplat.serve.reach import HandleReach
from rayplat.serve.registry_link import RegistryLink
from rayplat.serve.telemetry.tracing import Tracing
from rayplat.settings import Settings
from rayplat.types import EndpointSpec, Logging
from rayplat.version import __version__

log = logging.getLogger(__name__)

_START_S = 120.0
_SWITCH_S = (
    0.0005  # how long a model that computes in Python may keep the others' threads waiting; Python's own is 5 ms
)
_DRAIN_S = 4.0
_ONGOING = 10_000


def front(settings: Settings) -> PoolFront:
    """A front over Serve handles, for a process that is a Serve replica."""
    link = RegistryLink()
    serve = settings.serve
    table = EndpointTable(link, serve.poll_s)
    access = Access(link, serve.token_cache_s)
    return PoolFront(table, access, HandleReach(), _workers(settings), serve.max_body_bytes)


def ensure(settings: Settings) -> None:
    """Run the pool; ready when this returns. Raises `Unschedulable` or `PartFailed`."""
    from ray import serve

    wanted = [*_workers(settings), names.FRONT]
    states = cluster.states()
    for name in [name for name in states if names.is_pool(name) and name not in wanted]:
        serve.delete(name, _blocking=False)  # there are fewer processes now
    if all(states.get(name) == "RUNNING" for name in wanted):
        return
    for name in [name for name in wanted if states.get(name) not in ("RUNNING", "DEPLOYING", None)]:
        serve.delete(name)
    cluster.check_room("the pool", settings.serve.pool_cpus)
    targets = [
        serve.RunTarget(_application(_Worker, name, settings.serve.pool_cpus).bind(settings, name), name, None)
        for name in _workers(settings)
    ]
    entry = _application(serve.ingress()(_Front), f"front-{len(targets)}", 0.0).bind(settings)
    serve.run_many([*targets, serve.RunTarget(entry, names.FRONT, names.PREFIX)], wait_for_applications_running=False)
    for name in wanted:
        cluster.wait_until_running(name, "the pool", _START_S)


def load(settings: Settings, model: str, alias: str) -> None:
    """Have the pool hold a model now. Raises what keeps it from loading."""
    _told(settings, model, "load", model, alias)


def configure(settings: Settings, spec: EndpointSpec) -> None:
    """Tell the pool that an endpoint is served like ``spec`` from now on."""
    if _runs():
        _told(settings, spec.model, "configure", spec)
        refresh()


def drop(settings: Settings, model: str, alias: str) -> None:
    """Have the pool forget a model."""
    if _runs():
        _told(settings, model, "drop", model, alias)
        refresh()


def refresh() -> None:
    """Have the front read anew what is served."""
    if _runs():
        cluster.broadcast(names.FRONT, "refresh")


def states() -> list[dict[str, Any]]:
    """Every model that a worker holds, loads or failed to load (`PoolWorker.states`), with its ``worker``."""
    found: list[dict[str, Any]] = []
    for name, state in cluster.states().items():
        if names.is_worker(name) and state == "RUNNING":
            for of_replica in cluster.broadcast(name, "states"):
                found += [{**one, "worker": name} for one in of_replica]
    return found


def stats() -> dict[str, dict[str, Any]]:
    """Counts of each worker by its name (`PoolWorker.stats`)."""
    running = [name for name, state in cluster.states().items() if names.is_worker(name) and state == "RUNNING"]
    return {name: one for name in running for one in cluster.broadcast(name, "stats")}


def _workers(settings: Settings) -> list[str]:
    return names.workers(settings.serve.pool_processes)


def _runs() -> bool:
    return cluster.states().get(names.FRONT) == "RUNNING"


def _told(settings: Settings, model: str, method: str, *args: Any) -> None:
    for packed in cluster.broadcast(placement.worker_of(model, _workers(settings)), method, *args, timeout_s=_START_S):
        went_well, error = pickle.loads(packed)
        if not went_well:
            raise error


def _application(cls: Any, version: str, cpus: float) -> Any:
    from ray import serve

    deployment: Any = serve.deployment(
        name="Pool",
        num_replicas=1,
        ray_actor_options={"num_cpus": cpus},
        max_ongoing_requests=_ONGOING,
        max_queued_requests=-1,
        max_surge_percent=100,
        max_constructor_retry_count=2,
        graceful_shutdown_wait_loop_s=0.5,
        graceful_shutdown_timeout_s=_DRAIN_S + 2,
        health_check_period_s=2,
        health_check_timeout_s=10,
        logging_config={"enable_access_log": False, "log_level": "WARNING"},
    )(cls)
    return deployment.options(version=f"{__version__}-{version}", _internal=True)


class _Front:
    """The class that Serve starts for the front. ``…_pooled`` are for processes that know a model's name only."""

    def __init__(self, settings: Settings) -> None:
        from rayplat import logs

        logs.set_up_in_replica()
        self._settings = settings

    async def __serve_build_asgi_app__(self) -> Any:
        from rayplat.serve.http import ingress

        self._front = front(self._settings)
        with contextlib.suppress(RayplatError):  # it asks again with the first request
            await self._front.refresh()
        ingress.take(names.PREFIX, self._front)
        return self._front

    async def refresh(self) -> None:
        await self._front.refresh()

    async def describe_pooled(self, model: str, alias: str, version: int | None = None) -> bytes:
        return await self._pooled(model, alias, "describe", version)

    async def infer_remote_pooled(self, model: str, alias: str, packed: bytes) -> bytes:
        return await self._pooled(model, alias, "infer_remote", packed)

    async def infer_forwarded_pooled(self, model: str, alias: str, packed: bytes) -> bytes:
        return await self._pooled(model, alias, "infer_forwarded", packed)

    async def _pooled(self, model: str, alias: str, method: str, argument: Any) -> bytes:
        try:
            return bytes(await self._front.call(model, alias, method, argument))
        except RayplatError as e:
            return pickle.dumps((False, e.with_traceback(None)))


class _Worker:
    """The class that Serve starts for a worker: the real parts around a `PoolWorker`."""

    def __init__(self, settings: Settings, name: str) -> None:
        from ray import serve

        from rayplat import logs
        from rayplat.serve.loader import VersionLoader
        from rayplat.serve.log import spool

        logs.set_up_in_replica()
        sys.setswitchinterval(_SWITCH_S)
        self._settings, self._name = settings, name
        self._replica = serve.get_replica_context().replica_id.unique_id
        self._link = RegistryLink()
        self._loader = SingleLoads(VersionLoader(settings))
        folder = spool.folder(settings)

        def tap(declared: Logging) -> InferenceTap:
            return InferenceTap(ActorSink(), settings.log, self._replica, declared, folder)

        self._taps = SharedTaps(tap)
        self._pool: PoolWorker | None = None

    async def check_health(self) -> None:
        pool = await self._started()
        self._aliases.check_health()
        pool.check_health()

    async def http(self, packed: bytes) -> bytes:
        """The answer to a client's HTTP request for any of the models (`relay`)."""
        sent = relay.unpack_request(packed)
        try:
            host = await self._use(sent.model, sent.alias)
        except RayplatError as e:
            return relay.failed(e)
        return await relay.answer(host, sent)

    async def http_stream(self, packed: bytes) -> AsyncGenerator[bytes, None]:
        sent = relay.unpack_request(packed)
        try:
            host = await self._use(sent.model, sent.alias)
        except RayplatError as e:
            yield relay.failed(e)
            return
        async with contextlib.aclosing(relay.pieces(host, sent)) as found:
            async for piece in found:
                yield piece

    async def infer_forwarded(self, model: str, alias: str, packed: bytes) -> bytes:
        return await self._asked(model, alias, "infer_forwarded", packed)

    async def infer_remote(self, model: str, alias: str, packed: bytes) -> bytes:
        return await self._asked(model, alias, "infer_remote", packed)

    async def describe(self, model: str, alias: str, version: int | None = None) -> bytes:
        return await self._asked(model, alias, "describe", version)

    async def load(self, model: str, alias: str) -> bytes:
        return await self._said((await self._started()).load(model, alias))

    async def configure(self, spec: EndpointSpec) -> bytes:
        return await self._said((await self._started()).configure(spec))

    async def drop(self, model: str, alias: str) -> bytes:
        return await self._said((await self._started()).drop(model, alias))

    async def states(self) -> list[dict[str, Any]]:
        return (await self._started()).states()

    async def stats(self) -> dict[str, Any]:
        return (await self._started()).stats()

    async def metrics(self) -> str:
        from rayplat.serve.telemetry import metrics

        return metrics.merged([live.host.metrics() for live in (await self._started()).hosts()])

    async def flush_log(self, timeout_s: float) -> bool:
        return await asyncio.to_thread(self._taps.flush, timeout_s)

    # --- inside ---------------------------------------------------------------------------------------

    async def _use(self, model: str, alias: str) -> LiveHost:
        pool = self._pool
        return await (pool or await self._started()).use(model, alias)

    async def _asked(self, model: str, alias: str, method: str, argument: Any) -> bytes:
        """What a method of a host gives: a pickle of whether it went well, and the result or our error."""
        try:
            with (await self._use(model, alias)).using() as host:
                return bytes(await getattr(host, method)(argument))
        except RayplatError as e:
            return pickle.dumps((False, e.with_traceback(None)))

    async def _said(self, work: Any) -> bytes:
        try:
            return pickle.dumps((True, await work))
        except RayplatError as e:
            return pickle.dumps((False, e.with_traceback(None)))

    async def _started(self) -> PoolWorker:
        """The worker, begun with the first call (Serve's own, which asks for its health): it needs the loop."""
        if self._pool is None:
            serve = self._settings.serve
            self._aliases = SharedAliases(self._link, serve.poll_s)
            self._access = Access(self._link, serve.token_cache_s)
            self._tracing = Tracing.of(self._settings.tracing)
            self._aliases.start()
            limits = Limits(serve.pool_models, serve.pool_bytes)
            self._pool = pool = PoolWorker(
                self._link, self._host, limits, Loading(timeout_s=serve.pool_load_s), left=self._aliases.forget
            )
            pinned: list[Key] = []
            with contextlib.suppress(RayplatError):
                pinned = [(s.model, s.alias) for s in await self._link.endpoints() if self._keeps(s)]
            pool.start(pinned)
        return self._pool

    def _keeps(self, spec: EndpointSpec) -> bool:
        mine = placement.worker_of(spec.model, _workers(self._settings)) == self._name
        return spec.placement == "pooled" and spec.pinned and mine

    def _host(self, spec: EndpointSpec) -> ModelHost:
        tap = cast(InferenceTap, self._taps.of(spec.log))
        registry = registry_for(spec, self._aliases)
        parts = Parts(registry, self._loader, tap, access=self._access, tracing=self._tracing)
        return ModelHost(self._settings.serve, spec, self._replica, parts)
