"""`up`, `status` and `down`: the parts of the platform in the order in which they start.

The state is written after each part, so that whatever is interrupted can be found, completed or stopped. A part
that is well is left as it is: `up` twice is `up` once.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from rayplat import actors, client
from rayplat.errors import NotFound, PartFailed, RayplatError
from rayplat.platform import mlflow_server, processes, ray_node, state
from rayplat.platform.state import PlatformState, secret_file
from rayplat.settings import Settings
from rayplat.types import PartStatus, Role

log = logging.getLogger(__name__)

CONTROL_APP = "rayplat-control"
Progress = Callable[[str], None]


@dataclass(frozen=True)
class Up:
    """What `up` reports. ``started`` names the parts it had to start; empty where all was running."""

    state: PlatformState
    started: tuple[str, ...]


def up(settings: Settings, progress: Progress = lambda part: None) -> Up:
    """Start every part that is not well. ``progress`` is told each part before it starts.

    Raises `PartFailed` naming the part and the reason; what this call had started is stopped again.
    """
    home = settings.home
    state.prepare_home(home)
    with state.locked(home, "rayplat up"):
        before = state.read(home)
        if before is not None and not _ray_is_well(before):
            _stop(settings, before)  # a crashed or half-started platform: clear it away, its data stay
            before = None
        current = before or state.new_state()
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
                _stop(settings, current)
            raise
        return Up(current, tuple(started))


Starter = Callable[[PlatformState, Callable[[], None]], PlatformState | None]


def _parts(settings: Settings) -> Iterator[tuple[str, Starter]]:
    yield "MLflow server", lambda s, say: _start_mlflow(settings, s, say)
    yield "Ray cluster", lambda s, say: _start_ray(settings, s, say)
    yield "registry", lambda s, say: _start_registry(settings, s, say)
    yield "inference log", lambda s, say: _start_actor(settings, actors.INFERENCE_LOG, "the inference log", s, say)
    yield "monitor", lambda s, say: _start_actor(settings, actors.MONITOR, "the monitor", s, say)
    yield "control API", lambda s, say: _start_control(settings, s, say)


def _ray_is_well(current: PlatformState) -> bool:
    if current.ray_address is None:
        return False
    if not current.ray_started:
        return True
    host, port = current.ray_address.split(":")
    return not processes.is_free(int(port), host) and any("raylet" in p.name() for p in processes.marked(current.mark))


def _start_mlflow(settings: Settings, current: PlatformState, say: Callable[[], None]) -> PlatformState | None:
    if processes.alive(current.mlflow_pid, current.mark) and mlflow_server.is_well(current.mlflow_url):
        return None
    say()
    pid, url = mlflow_server.start(settings, current.mark, set())
    return current.with_(mlflow_pid=pid, mlflow_url=url)  # it starts while Ray does; the registry waits for it


def _start_ray(settings: Settings, current: PlatformState, say: Callable[[], None]) -> PlatformState | None:
    if current.ray_address is not None:
        ray_node.connect(settings.home, current.ray_address)
        return None
    say()
    if settings.ray.address is not None:
        ray_node.connect(settings.home, settings.ray.address)
        ray_node.check_cluster()
        return current.with_(ray_address=settings.ray.address, ray_started=False)
    address, dashboard = ray_node.start_head(settings, current.mark)
    ray_node.connect(settings.home, address)
    ray_node.check_cluster()
    return current.with_(ray_address=address, ray_started=True, dashboard_url=dashboard)


def _start_registry(settings: Settings, current: PlatformState, say: Callable[[], None]) -> PlatformState | None:
    from rayplat.registry.client import RegistryClient

    with contextlib.suppress(RayplatError):
        RegistryClient.connect().heartbeat()
        return None
    say()
    # MLflow's server makes the database's tables; two processes doing so at once would collide.
    mlflow_server.wait(settings, int(current.mlflow_pid or 0), str(current.mlflow_url), current.mark)
    try:
        registry = RegistryClient.start(settings)
        registry.heartbeat()
        if not registry.tokens():
            _, secret = registry.create_token("owner", Role.ADMIN, None)
            secret_file(client.token_file(settings.home), secret + "\n")
    except RayplatError as e:
        raise PartFailed("the registry", str(e)) from e
    return current


def _start_actor(
    settings: Settings, name: str, what: str, current: PlatformState, say: Callable[[], None]
) -> PlatformState | None:
    if actors.find(name) is not None:
        with contextlib.suppress(RayplatError):
            actors.call(name, "heartbeat", timeout_s=15)
            return None
    say()
    from rayplat.monitor.actor import Monitor
    from rayplat.serve.inference_log import InferenceLogWriter

    if name == actors.INFERENCE_LOG:
        actors.start(name, InferenceLogWriter, settings, max_concurrency=1000)  # each host keeps two writes waiting
    else:
        actors.start(name, Monitor, settings)
    try:
        actors.call(name, "heartbeat", timeout_s=60)
    except RayplatError as e:
        raise PartFailed(what, str(e)) from e
    return current


def _start_control(settings: Settings, current: PlatformState, say: Callable[[], None]) -> PlatformState | None:
    from rayplat.api.deployment import control_is_running, run_control

    if current.serve_url is not None and control_is_running(CONTROL_APP):
        return None
    say()
    taken = {urlsplit(url).port or 0 for url in (current.mlflow_url, current.dashboard_url) if url}
    port = processes.free_port(settings.serve.http_port, taken)
    url = f"http://127.0.0.1:{port}"
    run_control(CONTROL_APP, settings, port, url, str(current.mlflow_url))
    return current.with_(serve_url=url)


def addresses(home: Path) -> dict[str, str]:
    """Where to look and where things lie."""
    current = state.require(home)
    return {
        "api": f"{current.serve_url}/api/v1/docs",
        "models": f"{current.serve_url}/v2/models",
        "mlflow": str(current.mlflow_url),
        "ray_dashboard": str(current.dashboard_url or current.ray_address),
        "data": str(home),
        "token": f"{client.token_file(home)} (admin)",
    }


def status(settings: Settings) -> list[PartStatus]:
    """Whether each part is well. Raises `Unavailable` where nothing was started in this home."""
    current = state.require(settings.home)
    mlflow_well = mlflow_server.is_well(current.mlflow_url)
    parts = [
        PartStatus("MLflow server", "up" if mlflow_well else "down", f"pid {current.mlflow_pid}", current.mlflow_url)
    ]
    if not _ray_is_well(current):
        return [PartStatus("Ray cluster", "down", "its processes are gone; `rayplat up` starts them", None), *parts]
    ray_node.connect(settings.home, str(current.ray_address))
    import ray

    resources = ray.cluster_resources()
    detail = f"{resources.get('CPU', 0):g} CPUs, {len(ray.nodes())} node(s)" + (
        "" if current.ray_started else ", attached"
    )
    parts.insert(0, PartStatus("Ray cluster", "up", detail, current.dashboard_url or current.ray_address))
    from rayplat.api.deployment import applications
    from rayplat.services.status import actor_status

    parts += [actor_status(name) for name in (actors.REGISTRY, actors.INFERENCE_LOG, actors.MONITOR)]
    for name, state_name, reason in applications():
        label = "control API" if name == CONTROL_APP else f"endpoint {name}"
        well = state_name == "RUNNING"
        parts.append(PartStatus(label, "up" if well else "failing", reason or state_name.lower(), current.serve_url))
    return parts


def down(settings: Settings) -> int:
    """Stop what `up` started in this home; the data stay. Returns the number of processes that were ended.

    Raises `NotFound` where nothing was started.
    """
    home = settings.home
    current = state.read(home) if home.exists() else None
    if current is None:
        raise NotFound("running platform", str(home), "there is nothing to stop; `rayplat up` starts one")
    with state.locked(home, "rayplat down"):
        return _stop(settings, current)


def _stop(settings: Settings, current: PlatformState) -> int:
    if not current.ray_started and current.ray_address is not None:
        _leave_attached_cluster(settings, current)
    else:
        _disconnect()
    ended = processes.end_marked(current.mark)
    if current.ray_started or current.ray_address is None:
        shutil.rmtree(ray_node.temp_dir(settings.home), ignore_errors=True)
    state.forget(settings.home)
    return ended


def _leave_attached_cluster(settings: Settings, current: PlatformState) -> None:
    """Take our applications and actors off a cluster that is not ours, and leave it running."""
    try:
        ray_node.connect(settings.home, str(current.ray_address))
    except PartFailed as e:
        log.warning("the attached cluster is gone: %s", e)
        return
    import ray

    from rayplat.api.deployment import remove_all

    remove_all(CONTROL_APP)
    for name in (actors.INFERENCE_LOG, actors.MONITOR, actors.REGISTRY):
        actor = actors.find(name)
        if actor is not None:
            ray.kill(actor)
    _disconnect()


def _disconnect() -> None:
    import sys

    if "ray" in sys.modules:
        sys.modules["ray"].shutdown()
