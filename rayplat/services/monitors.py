"""Verbs on monitoring: a drift and live-quality report of one model version over a window of event time."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from rayplat.monitor.drift import DRIFT, STABLE
from rayplat.registry.record import signals, versions
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

        ``labels`` names a table with the entity's key, ``late``-style label and the time it became known. The verdict
        goes into the record as a signal of kind ``drift``, which a canary may watch.
        """
        registered = self._context.registry.read(versions.get, model, version)
        report: DriftReport = _actor_call("report", model, version, registered.baseline, start, end, labels)
        self._tell(report)
        return report

    def _tell(self, report: DriftReport) -> None:
        """Put the verdict into the record, where there were rows enough for one."""
        if report.verdict not in (DRIFT, STABLE):
            return
        drifted = [column.column for column in report.columns if column.drifted]
        detail = f"{report.rows} rows, drifted: {', '.join(drifted) or 'none'}"
        numbers = {"rows": float(report.rows), "drifted": float(len(drifted))}
        if report.quality is not None and report.quality.auc is not None:
            numbers["auc"] = report.quality.auc
        self._context.registry.write(
            signals.put,
            report.model,
            report.version,
            "drift",
            report.verdict == DRIFT,
            detail=detail,
            numbers=numbers,
            by=self._context.principal,
        )


def _actor_call(method: str, *args: Any) -> Any:
    from rayplat import actors

    return actors.call(actors.MONITOR, method, *args)
