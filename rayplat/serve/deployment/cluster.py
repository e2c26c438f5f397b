"""Ray Serve's own account of its applications: what runs, why something does not, and whether there is room.

Blocking calls, for processes that are no Serve replicas. Knows nothing of models.
"""

from __future__ import annotations

import re
import threading
import time
from dataclasses import dataclass
from typing import Any

from rayplat import resources
from rayplat.errors import PartFailed, Unavailable, Unschedulable

_UNSCHEDULABLE_S = 6.0
_FAILED = ("DEPLOY_FAILED", "UNHEALTHY", "gone")

_handles: dict[str, Any] = {}  # by the id of the one that Serve keeps, which is another after a restart of Serve
_lock = threading.Lock()


def applications() -> dict[str, dict[str, Any]]:
    """Serve's details of each application by name; empty where Serve does not run."""
    from ray.serve.context import _get_global_client

    client = _get_global_client(raise_if_no_controller_running=False)
    if client is None:
        return {}
    found: dict[str, dict[str, Any]] = client.get_serve_details()["applications"]
    return found


def states() -> dict[str, str]:
    """Name to ``RUNNING``, ``DEPLOYING``, ``DEPLOY_FAILED``, …"""
    return {name: text(details["status"]) for name, details in applications().items()}


def live_replicas(details: dict[str, Any]) -> list[str]:
    """The ids of an application's replicas that take requests."""
    return [
        replica["replica_id"]
        for deployment in details["deployments"].values()
        for replica in deployment["replicas"]
        if text(replica["state"]) == "RUNNING"
    ]


def handle(name: str) -> Any:
    """The handle of an application for any thread or loop. Raises Serve's error where there is no such application.

    Not the one that Serve keeps for the process: that one belongs to the event loop that calls it first.
    """
    from ray import serve
    from ray.serve.handle import DeploymentHandle

    known: Any = serve.get_app_handle(name)
    with _lock:
        found = _handles.get(known.handle_id)
        if found is None:
            found = DeploymentHandle(known.deployment_name, known.app_name)
            found._init(_run_router_in_separate_loop=True)
            _handles[known.handle_id] = found
    return found


def broadcast(name: str, method: str, *args: Any, timeout_s: float = 10.0) -> list[Any]:
    """What ``method`` of each live replica gives; none where there is no replica. Raises `Unavailable` where there is
    no such application or a replica does not answer, and what the method raises."""
    from ray.exceptions import GetTimeoutError, RayActorError
    from ray.serve.exceptions import RayServeException

    try:
        found: list[Any] = handle(name).broadcast(method, *args).results(timeout_s=timeout_s)
    except RayServeException as e:
        raise Unavailable(f"the application {name}", "it does not run; `rayplat serve list` shows what does") from e
    except (RayActorError, GetTimeoutError, TimeoutError) as e:
        raise Unavailable(f"the application {name}", f"a replica did not answer ({type(e).__name__})") from e
    return found


def wait_until_running(name: str, what: str, timeout_s: float) -> None:
    """Return once the application runs. Raises `PartFailed` with Serve's reason where it does not come to that."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        details = applications().get(name)
        state = text(details["status"]) if details else "gone"
        if state == "RUNNING":
            return
        if state in _FAILED:
            raise PartFailed(what, reason(details))
        time.sleep(0.1)
    raise PartFailed(what, f"it was not ready within {timeout_s:.0f} s: {reason(applications().get(name))}")


def reason(details: dict[str, Any] | None) -> str:
    """The last telling line of what Serve reports: the exception's own text, without its traceback."""
    if details is None:
        return "its application is gone"
    texts = [d["message"] for d in details["deployments"].values()] + [details["message"]]
    for found in texts:
        lines = [line.strip() for line in str(found).splitlines() if line.strip()]
        telling = [line for line in lines if "Error" in line.partition(":")[0] or line.startswith("rayplat.")]
        if telling:
            return re.sub(r"^rayplat\.errors\.\w+: ", "", telling[-1])
        if lines:
            return lines[-1]
    return "Serve gives no reason"


def check_room(what: str, cpus: float, gpus: float = 0.0) -> None:
    """Raise `Unschedulable` when no node gets ``cpus`` and ``gpus`` free within a few seconds."""
    deadline = time.monotonic() + _UNSCHEDULABLE_S
    while True:
        rooms = _rooms()
        if any(room.cpus + 1e-9 >= cpus and room.gpus + 1e-9 >= gpus for room in rooms):
            return
        if time.monotonic() > deadline:
            break
        time.sleep(0.25)
    free = max((room.cpus for room in rooms), default=0.0)
    total = sum(room.all_cpus for room in rooms)
    held = sorted(resources.holders().items(), key=lambda e: (-e[1], e[0]))[:5]
    names = ", ".join(f"{who} ({n:g})" for who, n in held) or "running tasks"
    reserves = f"a host reserves {cpus:g} CPU, at most {free:g} of {total:g} are free on one node; held by {names}"
    if gpus:
        most = max((room.gpus for room in rooms), default=0.0)
        reserves = f"a host reserves {gpus:g} GPU beside {cpus:g} CPU, at most {most:g} GPU are free on one node"
    raise Unschedulable(what, reserves)


def text(value: Any) -> str:
    return str(getattr(value, "value", value))


@dataclass(frozen=True)
class _Room:
    cpus: float
    gpus: float
    all_cpus: float


def _rooms() -> list[_Room]:
    import ray
    from ray._private.state import available_resources_per_node

    free = available_resources_per_node()
    return [
        _Room(
            free.get(node["NodeID"], {}).get("CPU", 0.0),
            free.get(node["NodeID"], {}).get("GPU", 0.0),
            node["Resources"].get("CPU", 0.0),
        )
        for node in ray.nodes()
        if node["Alive"]
    ]
