"""Whether work fits on the cluster now, said before anything is started.

What Ray cannot place waits for ever without a word. Here a trial placement is given seconds, and the refusal names
what is wanted, what is free and who holds the rest. Loads Ray only when it is asked.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from rayplat.errors import Unschedulable

Bundle = Mapping[str, float]


def require_resources(what: str, bundles: Sequence[Bundle], timeout_s: float = 6.0) -> None:
    """Return once ``bundles`` could be placed together (they are released again), or raise `Unschedulable` after
    ``timeout_s`` and the moment it takes to ask who holds what: within 10 s in all."""
    import ray
    from ray.util.placement_group import placement_group, remove_placement_group

    group = placement_group([dict(bundle) for bundle in bundles], strategy="PACK")
    try:
        if group.wait(timeout_seconds=timeout_s):
            return
        demand, total, free = _sum(bundles), ray.cluster_resources(), ray.available_resources()
    finally:
        remove_placement_group(group)
    raise Unschedulable(what, explain(demand, total, free, holders()))


def explain(
    demand: Mapping[str, float], total: Mapping[str, float], free: Mapping[str, float], held: Mapping[str, float]
) -> str:
    """One line: the demand, what of it is free, and the holders of CPU by name, largest first."""
    wanted = ", ".join(f"{n:g} {name}" for name, n in sorted(demand.items()))
    left = ", ".join(f"{free.get(name, 0.0):g} of {total.get(name, 0.0):g} {name}" for name in sorted(demand))
    if short := [name for name, n in sorted(demand.items()) if n > total.get(name, 0.0) + 1e-9]:
        advice = f"the cluster has not enough {', '.join(short)} at all: add a node or ask for less per worker"
    else:
        names = ", ".join(f"{name} ({n:g} CPU)" for name, n in sorted(held.items(), key=lambda e: (-e[1], e[0]))[:8])
        advice = f"held by {names or 'running tasks'}: stop one of them, add a node, or ask for less per worker"
    return f"it needs {wanted} and {left} are free; {advice}"


def holders() -> dict[str, float]:
    """CPUs held by live actors and placement groups, by name (class name where an actor has none)."""
    import ray
    from ray.util.placement_group import placement_group_table
    from ray.util.state import list_actors
    from ray.util.state.exception import RayStateApiException

    held: dict[str, float] = defaultdict(float)
    for group_id, group in placement_group_table().items():
        if group["state"] == "CREATED":
            cpus = sum(bundle.get("CPU", 0.0) for bundle in group["bundles"].values())
            held[f"placement group {group['name'] or group_id[:12]}"] += cpus
    address = ray.get_runtime_context().gcs_address  # without it, a second cluster on the machine is an error
    alive: list[Any] = [("state", "=", "ALIVE")]
    with suppress(RayStateApiException, ConnectionError):  # the dashboard is down; the figures above still help
        for actor in list_actors(address, filters=alive, detail=True, timeout=3, limit=1000):
            if not actor.placement_group_id:
                held[actor.name or actor.class_name] += float((actor.required_resources or {}).get("CPU", 0.0))
    return {name: cpus for name, cpus in held.items() if cpus > 0}


def _sum(bundles: Sequence[Bundle]) -> dict[str, float]:
    total: Counter[str] = Counter()
    for bundle in bundles:
        total.update(bundle)
    return dict(total)
