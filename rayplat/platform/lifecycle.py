"""`up`, `status` and `down`: the parts of the platform in the order in which they start.

The state is written after each part, so that whatever is interrupted can be found, completed or stopped. A part
that is well is left as it is: `up` twice is `up` once.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from rayplat import actors, client, identity
from rayplat.artifacts import keys
from rayplat.errors import Conflict, InvalidInput, NotFound, PartFailed, RayplatError
from rayplat.platform import endpoints, mlflow_server, processes, ray_node, state
from rayplat.platform.state import PlatformState, secret_file
from rayplat.settings import Settings
from rayplat.types import PartStatus, Principal, Role

if TYPE_CHECKING:
    from rayplat.registry.client import RegistryClient

log = logging.getLogger(__name__)

CONTROL_APP = "rayplat-control"
_ACTORS = (actors.REGISTRY, actors.INFERENCE_LOG, actors.MONITOR, actors.RELEASES)
Progress = Callable[[str], None]


@dataclass(frozen=True)
class Up:
    """What `up` reports. ``started`` names the parts it had to start; empty where all was running."""

    state: PlatformState
    started: tuple[str, ...]


def up(settings: Settings, progress: Progress = lambda part: None) -> Up:
    """Start every part that is not well. ``progress`` is told each part before it starts.

    Raises `PartFailed` naming the part and the reason, and then stops a platform that this call began; one that was
    up before keeps what was well. Raises `Conflict` for another cluster than the one the platform is on.
    """
    home = settings.home
    state.prepare_home(home)
    with state.locked(home, "rayplat up"):
        before = state.read(home)
        if before is not None and settings.ray.address not in (None, before.ray_address):
            raise Conflict(f"the platform in {home} is on {before.ray_address}; `rayplat down` ends it there")
        if before is not None and not _ray_is_well(before):
            _end(settings, before)  # a crashed or half-started platform: clear it away, its data stay
            before = None
        current = before or state.new_state()
        state.write(home, current)  # before anything starts: whatever interrupts this can be found by its mark
        started: list[str] = []
        try:
            for part, start in _parts(settings):
                changed = start(current, lambda part=part: progress(part))  # type: ignore[misc]
                if changed is not None:
                    started.append(part)
                    current = changed
                    state.write(home, current)
        except BaseException as e:
            log.debug("up failed", exc_info=e)
            if before is None:
                if current.ray_address is not None and not current.ray_started:
                    _take_off_cluster(settings, current)
                _end(settings, current)
            raise
        return Up(current, tuple(started))


Starter = Callable[[PlatformState, Callable[[], None]], PlatformState | None]


def _parts(settings: Settings) -> Iterator[tuple[str, Starter]]:
    yield "MLflow server", lambda s, say: _start_mlflow(settings, s, say)
    yield "Ray cluster", lambda s, say: _start_ray(settings, s, say)
    yield "registry", lambda s, say: _start_registry(settings, s, say)
    yield "inference log", lambda s, say: _start_actor(settings, actors.INFERENCE_LOG, "the inference log", s, say)
    yield "monitor", lambda s, say: _start_actor(settings, actors.MONITOR, "the monitor", s, say)
    yield "releases", lambda s, say: _start_actor(settings, actors.RELEASES, "the release controller", s, say)
    yield "control API", lambda s, say: _start_control(settings, s, say)
    yield "gRPC server", lambda s, say: _start_grpc(settings, s, say)
    yield "endpoints", lambda s, say: _start_endpoints(settings, s, say)


def _ray_is_well(current: PlatformState) -> bool:
    if current.ray_address is None:
        return False
    host, _, port = current.ray_address.rpartition(":")
    with contextlib.suppress(OSError), socket.create_connection((host, int(port)), timeout=5):
        return not current.ray_started or processes.has_raylet(current.mark)
    return False


def _start_mlflow(settings: Settings, current: PlatformState, say: Callable[[], None]) -> PlatformState | None:
    if processes.alive(current.mlflow_pid, current.mark) and mlflow_server.is_well(current.mlflow_url):
        return None
    say()
    pid, url = mlflow_server.start(settings, current.mark, set())
    return current.with_(mlflow_pid=pid, mlflow_url=url)  # it starts while Ray does; the registry waits for it


def _start_ray(settings: Settings, current: PlatformState, say: Callable[[], None]) -> PlatformState | None:
    if current.ray_address is not None:
        ray_node.connect(settings.home, current.ray_address, current.ray_started)
        return None
    say()
    if settings.ray.address is not None:
        ray_node.connect(settings.home, settings.ray.address, own=False)
        ray_node.check_cluster()
        return current.with_(ray_address=settings.ray.address, ray_started=False)
    address, dashboard = ray_node.start_head(settings, current.mark)
    ray_node.connect(settings.home, address)
    ray_node.check_cluster()
    return current.with_(ray_address=address, ray_started=True, dashboard_url=dashboard)


def _start_registry(settings: Settings, current: PlatformState, say: Callable[[], None]) -> PlatformState | None:
    from rayplat.registry.client import RegistryClient

    found = actors.find(actors.REGISTRY)
    if found is not None and not current.ray_started and actors.REGISTRY not in current.owns:
        raise PartFailed("the registry", "this cluster already carries a platform of another home; use that one")
    changed: PlatformState | None = None
    try:
        keys.platform_key(settings.keys_folder, settings.signing_key)
        if found is None:
            say()
            # MLflow's server makes the database's tables; two processes doing so at once would collide.
            mlflow_server.wait(settings, int(current.mlflow_pid or 0), str(current.mlflow_url), current.mark)
            RegistryClient.start(settings)
            changed = _owning(current, actors.REGISTRY)
        registry = RegistryClient.connect()
        registry.heartbeat()
        _hand_over_token(settings, registry)
    except PartFailed:
        raise
    except RayplatError as e:
        raise PartFailed("the registry", str(e)) from e
    return changed


def _hand_over_token(settings: Settings, registry: RegistryClient) -> None:
    """The owner of the home holds an admin's token, whatever became of the last one."""
    from rayplat.registry.client import create_token
    from rayplat.registry.record import tokens

    file = client.token_file(settings.home)
    kept = file.read_text().strip() if file.exists() else ""
    if kept and registry.read(tokens.authenticate, identity.hash_token(kept)) is not None:
        return
    by = Principal("owner", Role.ADMIN) if registry.read(tokens.listed) else None
    _, secret = create_token(registry, "owner", Role.ADMIN, by)
    secret_file(file, secret + "\n")


def _start_actor(
    settings: Settings, name: str, what: str, current: PlatformState, say: Callable[[], None]
) -> PlatformState | None:
    if actors.find(name) is not None:
        with contextlib.suppress(RayplatError):
            actors.call(name, "heartbeat", timeout_s=15)
            return None
    say()
    from rayplat.monitor.actor import Monitor
    from rayplat.serve.log.writer import InferenceLogWriter
    from rayplat.serve.release.controller import ReleaseActor

    if name == actors.INFERENCE_LOG:
        actors.start(name, InferenceLogWriter, settings, max_concurrency=1000)  # each host keeps two writes waiting
    elif name == actors.RELEASES:
        actors.start(name, ReleaseActor)
    else:
        actors.start(name, Monitor, settings)
    try:
        actors.call(name, "heartbeat", timeout_s=60)
    except RayplatError as e:
        raise PartFailed(what, str(e)) from e
    return _owning(current, name)


def _start_grpc(settings: Settings, current: PlatformState, say: Callable[[], None]) -> PlatformState | None:
    if not settings.serve.grpc_port:
        return None
    if actors.find(actors.GRPC) is not None:
        with contextlib.suppress(RayplatError):
            actors.call(actors.GRPC, "heartbeat", timeout_s=15)
            return None
    say()
    from rayplat.serve.grpc.actor import GrpcServer

    urls = (current.mlflow_url, current.dashboard_url, current.serve_url)
    port = processes.free_port(settings.serve.grpc_port, {urlsplit(url).port or 0 for url in urls if url})
    actors.start(actors.GRPC, GrpcServer, settings, port)
    try:
        port = actors.call(actors.GRPC, "heartbeat", timeout_s=60)["port"]
    except RayplatError as e:
        raise PartFailed("the gRPC server", str(e)) from e
    return _owning(current, actors.GRPC).with_(grpc_url=f"127.0.0.1:{port}")


def _start_control(settings: Settings, current: PlatformState, say: Callable[[], None]) -> PlatformState | None:
    from rayplat.api import deployment

    if current.serve_url is not None and deployment.control_is_running(CONTROL_APP):
        return None
    say()
    taken = {urlsplit(url).port or 0 for url in (current.mlflow_url, current.dashboard_url) if url}
    port = deployment.running_port() or processes.free_port(settings.serve.http_port, taken)
    url = f"http://127.0.0.1:{port}"
    deployment.run_control(CONTROL_APP, settings, port, url, str(current.mlflow_url))
    return _owning(current, CONTROL_APP).with_(serve_url=url)


def _start_endpoints(settings: Settings, current: PlatformState, say: Callable[[], None]) -> PlatformState | None:
    """Serve again what was served when the platform went down."""
    return current if endpoints.start(settings, str(current.serve_url), say) else None


def _owning(current: PlatformState, name: str) -> PlatformState:
    return current.with_(owns=tuple(dict.fromkeys((*current.owns, name))))


def addresses(home: Path) -> dict[str, str]:
    """Where to look and where things lie."""
    current = state.require(home)
    return {
        "api": f"{current.serve_url}/api/v1/docs",
        "models": f"{current.serve_url}/v2/models",
        **({"grpc": current.grpc_url} if current.grpc_url else {}),
        "mlflow": str(current.mlflow_url),
        "ray_dashboard": str(current.dashboard_url or current.ray_address),
        "data": str(home),
        "token": f"{client.token_file(home)} (admin)",
    }


def status(settings: Settings) -> list[PartStatus]:
    """Whether each part is well. Raises `Unavailable` where nothing was started in this home."""
    current = state.require(settings.home)
    mlflow = "up" if mlflow_server.is_well(current.mlflow_url) else "down"
    parts = [PartStatus("MLflow server", mlflow, f"pid {current.mlflow_pid}", current.mlflow_url)]
    if not _ray_is_well(current):
        lost = "it cannot be reached; `rayplat up` starts what is missing"
        return [PartStatus("Ray cluster", "down", lost, current.ray_address), *parts]
    ray_node.connect(settings.home, str(current.ray_address), current.ray_started)
    import ray

    resources = ray.cluster_resources()
    detail = f"{resources.get('CPU', 0):g} CPUs, {len(ray.nodes())} node(s)" + (
        "" if current.ray_started else ", attached"
    )
    parts.insert(0, PartStatus("Ray cluster", "up", detail, current.dashboard_url or current.ray_address))
    from rayplat.api import deployment
    from rayplat.registry.client import RegistryClient
    from rayplat.services.status import actor_status, registry_parts

    parts += [actor_status(name) for name in _ACTORS]
    with contextlib.suppress(RayplatError):  # without a registry, its own line says so
        parts += registry_parts(RegistryClient.connect(), settings)
    if current.grpc_url is not None:
        parts.append(replace(actor_status(actors.GRPC), part="gRPC server", address=current.grpc_url))
    apps = {name: (app_state, message) for name, app_state, message in deployment.applications()}
    parts.append(_application_status("control API", apps.get(CONTROL_APP), current.serve_url))
    parts += endpoints.status(settings, apps, current.serve_url)
    return parts


def _application_status(part: str, app: tuple[str, str] | None, url: str | None) -> PartStatus:
    if app is None:
        return PartStatus(part, "down", "it is not deployed; `rayplat up` starts it", url)
    app_state, message = app
    if app_state != "RUNNING":
        return PartStatus(part, "failing", message or app_state.lower(), url)
    if not mlflow_server.answers(f"{url}/v2/health/live"):
        return PartStatus(part, "failing", "the ingress does not answer", url)
    return PartStatus(part, "up", "running", url)


def down(settings: Settings) -> int:
    """Stop what `up` started in this home; the data stay. Returns the number of processes that were ended.

    Hosts first finish what they have begun and hand in their log. Raises `NotFound` where nothing was started.
    """
    home = settings.home
    try:
        current = state.read(home) if home.exists() else None
    except InvalidInput:  # a state file that cannot be read: the processes still know whose they are
        left = processes.of_home(home)
        processes.end(left)
        state.forget(home)
        return len(left)
    if current is None:
        raise NotFound("running platform", str(home), "there is nothing to stop; `rayplat up` starts one")
    with state.locked(home, "rayplat down"):
        if _ray_is_well(current):
            _take_off_cluster(settings, current)
        return _end(settings, current)


def _take_off_cluster(settings: Settings, current: PlatformState) -> None:
    """Delete our applications, so that every answered request is in the log; on a cluster that is not ours, our
    actors too."""
    try:
        ray_node.connect(settings.home, str(current.ray_address), current.ray_started)
    except PartFailed as e:
        log.warning("the platform does not end in order: %s", e)
        return
    import ray  # only now: Ray reads its token when it is imported

    from rayplat.api import deployment

    try:
        running = {name: (app_state, message) for name, app_state, message in deployment.applications()}
        hosts = endpoints.application_names(running)
        if actors.GRPC in current.owns:
            actors.call(actors.GRPC, "stop", timeout_s=15)
        deployment.remove([*hosts, *current.owns])
        if actors.INFERENCE_LOG in current.owns:
            actors.call(actors.INFERENCE_LOG, "flush", timeout_s=30)
        if not current.ray_started:
            for name in current.owns:
                actor = actors.find(name)
                if actor is not None:
                    ray.kill(actor)
    except (RayplatError, ray.exceptions.RayError) as e:
        log.warning("the platform does not end in order: %s", e)


def _end(settings: Settings, current: PlatformState) -> int:
    """End every process of ours, and forget the platform."""
    if "ray" in sys.modules:
        sys.modules["ray"].shutdown()
    ended = processes.end_marked(current.mark)
    if current.ray_started or current.ray_address is None:
        shutil.rmtree(ray_node.temp_dir(settings.home), ignore_errors=True)
    state.forget(settings.home)
    return ended
