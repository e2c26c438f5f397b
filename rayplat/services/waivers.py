"""Verbs on waivers: an approver's word that one thing may pass, with a reason and an end."""

from __future__ import annotations

from datetime import datetime

from rayplat.registry.record import waivers
from rayplat.services.verbs import Noun, route
from rayplat.types import Role, WaiverInfo


class Waivers(Noun):
    """Models whose loading runs code, let through one by one: each for one digest, with a reason."""

    NAME = "waivers"

    @route("GET", "/waivers", Role.VIEWER)
    def list(self) -> tuple[WaiverInfo, ...]:
        """All waivers ever given, newest first, ended ones too."""
        return tuple(self._context.registry.read(waivers.listed, waivers.FORMAT))

    @route("POST", "/waivers", Role.APPROVER)
    def create(self, digest: str, reason: str, expires_at: datetime | None = None) -> WaiverInfo:
        """Let the model tree with this digest be promoted and loaded although that runs code from it."""
        return self._context.registry.write(
            waivers.waive, waivers.FORMAT, digest, reason, expires_at, by=self._context.principal
        )

    @route("POST", "/waivers/{waiver_id}/revoke", Role.APPROVER)
    def revoke(self, waiver_id: str, reason: str) -> WaiverInfo:
        """End a waiver: nothing new is promoted or loaded by it."""
        return self._context.registry.write(waivers.revoke, waiver_id, reason, by=self._context.principal)
