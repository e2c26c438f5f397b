"""Verbs on the platform as a whole."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rayplat import actors
from rayplat.artifacts import keys
from rayplat.errors import RayplatError
from rayplat.registry.record import webhooks
from rayplat.services.verbs import Noun, route
from rayplat.types import PartStatus, Role, WebhookState

if TYPE_CHECKING:
    from rayplat.registry.calls import Registry
    from rayplat.settings import Settings


class Status(Noun):
    """Whether each part that runs on the cluster is well."""

    NAME = "parts"

    @route("GET", "/status", Role.VIEWER)
    def list(self) -> tuple[PartStatus, ...]:
        """The platform's actors, as they answer now, the key that signs, and webhooks."""
        names = (actors.REGISTRY, actors.INFERENCE_LOG, actors.MONITOR, actors.RELEASES)
        found = [actor_status(name) for name in names]
        return (*found, *registry_parts(self._context.registry, self._context.settings))


def registry_parts(registry: Registry, settings: Settings) -> tuple[PartStatus, ...]:
    """What hangs on the registry: the key that signs models and anchors, and webhooks where there are any."""
    try:
        receivers = registry.read(webhooks.listed)
    except RayplatError:
        return (_key(settings),)  # the registry's own line says what is the matter
    if not receivers:
        return (_key(settings),)
    parked = [w.webhook_id for w in receivers if w.state is WebhookState.PARKED]
    detail = f"{len(receivers)} receivers" + (f", parked: {', '.join(parked)}" if parked else "")
    return _key(settings), PartStatus("webhooks", "failing" if parked else "up", detail)


def _key(settings: Settings) -> PartStatus:
    try:
        key = keys.load(settings.signing_key or settings.keys_folder / keys.PRIVATE)
    except RayplatError as e:
        return PartStatus("signing key", "failing", str(e))
    return PartStatus(
        "signing key", "up", f"id {key.public.key_id[:16]}, public half {keys.PUBLIC} in {settings.keys_folder}"
    )


def actor_status(name: str) -> PartStatus:
    """Ask one platform actor how it is."""
    try:
        beat = actors.call(name, "heartbeat", timeout_s=10)
    except RayplatError as e:
        return PartStatus(name, "down", str(e))
    told = sorted((k for k in beat if k not in ("part", "at")), key=lambda k: k != "audit")  # first: a table cuts
    return PartStatus(name, "up", ", ".join(f"{k} {beat[k]}" for k in told))
