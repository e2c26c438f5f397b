"""Endpoints, drift and live quality."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True)
class Endpoint:
    """A served alias. ``replicas`` maps replica id to the generation it has acknowledged; of a pooled one, the worker
    that holds it."""

    model: str
    alias: str
    route: str
    url: str
    version: int | None
    generation: int | None
    status: str
    replicas: dict[str, int]
    placement: str = "dedicated"


@dataclass(frozen=True)
class ColumnDrift:
    """One column of a drift report. ``statistic`` names the effect size and its unit (``psi``, ``js2``)."""

    column: str
    statistic: str
    value: float
    threshold: float
    n_baseline: int
    n_window: int
    drifted: bool
    note: str = ""


@dataclass(frozen=True)
class QualityReport:
    """Live quality: predictions joined with the labels that have arrived. Metrics are None below ``min_rows``."""

    version: int
    predictions: int
    labelled: int
    unlabelled: int
    auc: float | None
    log_loss: float | None
    positive_rate: float | None
    mean_score: float | None
    calibration_error: float | None = None


@dataclass(frozen=True)
class DriftReport:
    model: str
    version: int
    window_start: datetime
    window_end: datetime
    rows: int
    baseline: str
    columns: tuple[ColumnDrift, ...]
    prediction: ColumnDrift | None
    quality: QualityReport | None
    verdict: str


@dataclass(frozen=True)
class PartStatus:
    """One part of the platform in ``rayplat status``: ``state`` is ``up``, ``down`` or ``failing``."""

    part: str
    state: str
    detail: str
    address: str | None = None
