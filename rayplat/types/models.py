"""Artifacts, runs, models, versions and aliases."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from rayplat.types.data import TableVersion


@dataclass(frozen=True)
class ArtifactRef:
    digest: str
    kind: str
    size_bytes: int


@dataclass(frozen=True)
class RunInfo:
    """One tracked run. A metric that is no finite number is None."""

    run_id: str
    experiment: str
    name: str
    status: str
    started_at: datetime
    ended_at: datetime | None
    params: dict[str, str]
    metrics: dict[str, float | None]
    tags: dict[str, str]


@dataclass(frozen=True)
class FeatureSpec:
    """One model input. ``kind`` is ``numeric`` (float32, NaN = missing) or ``categorical`` (string; unknown
    and missing values share one embedding). ``nullable`` false: a missing value or NaN is refused."""

    name: str
    kind: str
    nullable: bool = True


@dataclass(frozen=True)
class ModelSpec:
    """What a model expects and where its features come from; stored beside the weights in the bundle.

    ``entity`` is the join key that a request carries (``flight``), ``views`` are names of feature views in
    lookup order mapped to their definition digest; how long a row counts is said there. ``outputs`` are FP32 [n].
    """

    model: str
    entity: str
    features: tuple[FeatureSpec, ...]
    views: dict[str, str]
    outputs: tuple[str, ...] = ("probability",)
    params: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ModelVersion:
    """One registered version. ``digest`` is the content digest of the bundle's tree."""

    model: str
    version: int
    digest: str
    run_id: str
    author: str
    created_at: datetime
    training_set: str
    pins: tuple[TableVersion, ...]
    metrics: dict[str, float]
    baseline: str | None = None


@dataclass(frozen=True)
class AliasHead:
    """Where an alias points. ``generation`` grows by one with each move and never repeats."""

    model: str
    alias: str
    version: int
    digest: str
    generation: int
    moved_at: datetime
    moved_by: str
    promotion_id: str | None = None
