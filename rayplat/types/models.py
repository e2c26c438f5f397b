"""Artifacts, runs, models, versions and aliases."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from rayplat.types.data import TableVersion


@dataclass(frozen=True)
class ArtifactRef:
    """What was put. ``new_bytes`` counts the payload bytes that had to be stored: 0 where all was there."""

    digest: str
    kind: str
    size_bytes: int
    new_bytes: int = field(default=0, compare=False)


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


class VersionState(enum.StrEnum):
    """Of a model version. ``retired``: no alias may be pointed at it any more, until it is restored; ``deleted``:
    its bytes may go, its row and number stay for ever."""

    ACTIVE = "active"
    RETIRED = "retired"
    DELETED = "deleted"


@dataclass(frozen=True)
class ModelVersion:
    """One registered version. ``digest`` is the content digest of the bundle's tree, ``payload_digest`` the same
    without what differs from run to run (ids, times), ``statement`` the digest of the signed provenance statement.
    ``author`` has registered it, ``run_author`` has trained it as far as the tracked run says (empty: it does not)."""

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
    format: str = ""
    code_digest: str | None = None
    env_digest: str | None = None
    payload_digest: str | None = None
    statement: str | None = None
    state: VersionState = VersionState.ACTIVE
    run_author: str = ""


@dataclass(frozen=True)
class AliasHead:
    """Where an alias points. ``generation`` grows by one with each move and never repeats, removals included.

    ``removed`` is only found in a history: from then on there was no such alias, until its next generation.
    """

    model: str
    alias: str
    version: int
    digest: str
    generation: int
    moved_at: datetime
    moved_by: str
    promotion_id: str | None = None
    removed: bool = False


@dataclass(frozen=True)
class RecordPin:
    """Somebody's word that an artifact (its digest) or a model version (``<model>/<number>``) must be kept."""

    kind: str
    target: str
    pinned_by: str
    reason: str
    at: datetime


@dataclass(frozen=True)
class Owner:
    """Who answers for a model, a table or an endpoint; ``team`` is empty where none was named."""

    kind: str
    name: str
    owner: str
    team: str
    set_by: str
    at: datetime
