"""Platform actors: detached, restarted for ever, found by name. Which class they run is the starter's choice."""

from __future__ import annotations

import os
import sys
from typing import Any

from rayplat.errors import NotFound, RayplatError, Unavailable

_BEHIND = 15  # Ray's own default for workers

NAMESPACE = "rayplat"
RESOURCE = "rayplat"  # a node that may carry platform actors declares it; a laptop's only node does

REGISTRY = "rayplat-registry"
INFERENCE_LOG = "rayplat-inference-log"
MONITOR = "rayplat-monitor"
GRPC = "rayplat-grpc"
RELEASES = "rayplat-releases"


def give_way() -> None:
    """Let the worker that runs this task come after those that answer requests: for what computes for long. Nothing
    elsewhere. Workers run at the priority of everything else by themselves (`rayplat.platform.ray_node`)."""
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized() and ray.get_runtime_context().get_task_id() is not None:
        os.nice(max(0, _BEHIND - os.nice(0)))


def start(name: str, cls: type, *args: Any, max_concurrency: int = 16) -> Any:
    """The actor of that name, started with ``cls(*args)`` where there is none. It reserves no CPU."""
    import ray

    actor: Any = ray.remote(cls).options(
        name=name,
        namespace=NAMESPACE,
        lifetime="detached",
        get_if_exists=True,
        num_cpus=0,
        resources={RESOURCE: 0.001},
        max_restarts=-1,
        max_concurrency=max_concurrency,
    )
    return actor.remote(*args)


def find(name: str) -> Any | None:
    """The handle of a platform actor, or None."""
    import ray

    try:
        return ray.get_actor(name, namespace=NAMESPACE)
    except ValueError:
        return None


def call(name: str, method: str, *args: Any, timeout_s: float = 120) -> Any:
    """Call a platform actor and wait. Errors of our tree come back as themselves, its death as `Unavailable`."""
    import ray
    import ray.exceptions as rex

    actor = find(name)
    if actor is None:
        raise NotFound("actor", name, "see `rayplat status`; `rayplat up` starts what is missing")
    try:
        return ray.get(getattr(actor, method).remote(*args), timeout=timeout_s)
    except rex.RayTaskError as e:
        if isinstance(e.cause, RayplatError):
            raise e.cause from None
        raise
    except rex.GetTimeoutError as e:
        raise Unavailable(f"the actor {name}", f"{method} gave no answer within {timeout_s:g} s") from e
    except rex.RayActorError as e:
        raise Unavailable(f"the actor {name}", "it is restarting; try again") from e
