"""Verbs on the platform as a whole."""

from __future__ import annotations

from rayplat import actors
from rayplat.errors import RayplatError
from rayplat.services.verbs import Noun, route
from rayplat.types import PartStatus, Role


class Status(Noun):
    """Whether each part that runs on the cluster is well."""

    NAME = "parts"

    @route("GET", "/status", Role.VIEWER)
    def list(self) -> tuple[PartStatus, ...]:
        """The platform's actors, as they answer now."""
        return tuple(actor_status(name) for name in (actors.REGISTRY, actors.INFERENCE_LOG, actors.MONITOR))


def actor_status(name: str) -> PartStatus:
    """Ask one platform actor how it is."""
    try:
        beat = actors.call(name, "heartbeat", timeout_s=10)
    except RayplatError as e:
        return PartStatus(name, "down", str(e))
    return PartStatus(name, "up", ", ".join(f"{k} {v}" for k, v in beat.items() if k not in ("part", "at")))
