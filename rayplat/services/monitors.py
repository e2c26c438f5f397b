"""Verbs on monitoring: a drift and live-quality report of one model version over a window of event time."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from rayplat.registry.record import versions
from rayplat.services.verbs import Noun, route
from rayplat.types import DriftReport, Role


class Monitors(Noun):
    """Drift against the training baseline, and quality once labels have arrived."""

    NAME = "monitors"

    @route("GET", "/monitors/{model}/reports", Role.VIEWER)
    def list(self, model: str) -> tuple[DriftReport, ...]:
        """Reports made so far, newest first. Raises NotFound for an unknown model."""
        self._context.registry.read(versions.listed, model)
        return tuple(_actor_call("reports", model))

    @route("POST", "/monitors/{model}/reports", Role.DEVELOPER)
    def report(
        self, model: str, version: int, start: datetime, end: datetime, labels: str | None = None
    ) -> DriftReport:
        """Compare what ``version`` was asked between ``start`` and ``end`` (event time) with its baseline.

        ``labels`` names a table with the entity's key, ``late``-style label and the time it became known.
        """
        registered = self._context.registry.read(versions.get, model, version)
        report: DriftReport = _actor_call("report", model, version, registered.baseline, start, end, labels)
        return report


def _actor_call(method: str, *args: Any) -> Any:
    from rayplat import actors

    return actors.call(actors.MONITOR, method, *args)
