"""Frozen values that all layers share. No behaviour beyond small derived properties, no imports of ours
but errors. Times are timezone-aware UTC datetimes; sizes are bytes; durations are seconds.

Digests are strings ``sha256:<64 hex>``.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from rayplat.errors import InvalidName

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_VERSION_LIKE = re.compile(r"v?[0-9]+", re.IGNORECASE)


def check_name(kind: str, name: str) -> str:
    """``name`` itself, or `InvalidName`: lower case, digits, ``. _ -``, 1 to 63 characters."""
    if not isinstance(name, str) or not _NAME.fullmatch(name) or ".." in name:
        shown = repr(name if len(str(name)) <= 80 else str(name)[:77] + "...")
        raise InvalidName(kind, f"{shown} is no valid name: 1 to 63 of a-z 0-9 . _ - beginning with a letter or digit")
    return name


def check_alias(alias: str) -> str:
    """``alias`` itself, or `InvalidName` where it would shadow a version number or a reserved word, or has a dot."""
    check_name("alias", alias)
    if alias == "latest" or _VERSION_LIKE.fullmatch(alias):
        raise InvalidName("alias", f"{alias!r} would shadow a version number; choose a word such as 'champion'")
    if "." in alias:
        raise InvalidName("alias", f"{alias!r} holds a dot, which MLflow does not permit in an alias; use '-'")
    return alias


class Role(enum.StrEnum):
    """What a token may do; each role includes the ones before it."""

    VIEWER = "viewer"
    DEVELOPER = "developer"
    APPROVER = "approver"
    ADMIN = "admin"

    def includes(self, other: Role) -> bool:
        order = list(Role)
        return order.index(self) >= order.index(other)


@dataclass(frozen=True)
class Principal:
    """Who is calling: a person or a service. Tokens belong to a principal; rules speak of principals."""

    name: str
    role: Role


@dataclass(frozen=True)
class TokenInfo:
    token_id: str
    principal: str
    role: Role
    created_at: datetime
    created_by: str
    expires_at: datetime | None = None
    revoked_at: datetime | None = None


# --- data -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Column:
    """``dtype`` is the Arrow type's name: ``int64``, ``double``, ``string``, ``timestamp[us, tz=UTC]``."""

    name: str
    dtype: str
    nullable: bool = True


@dataclass(frozen=True)
class TableVersion:
    """The identity of one version of one Delta table. ``table_id`` tells a re-created table from the old one."""

    table: str
    uri: str
    table_id: str
    version: int
    manifest_digest: str
    schema_digest: str
    row_count: int


@dataclass(frozen=True)
class TableInfo:
    name: str
    columns: tuple[Column, ...]
    latest: TableVersion


@dataclass(frozen=True)
class Commit:
    """One row of a table's history."""

    version: int
    at: datetime
    operation: str
    run_id: str | None
    rows: int | None


@dataclass(frozen=True)
class Pin:
    """A version that `vacuum` keeps readable for ``by`` (``training_set:delays``), until unpinned. Several may pin the
    same version."""

    table: str
    version: int
    by: str
    reason: str
    at: datetime


@dataclass(frozen=True)
class VacuumReport:
    """What a vacuum removed or, as a ``dry_run``, would remove. Every version from ``kept_from`` on stays readable and
    every one in ``pinned``; ``examples`` are the first of the paths, relative to the table."""

    table: str
    dry_run: bool
    files: int
    size_bytes: int
    kept_from: int
    pinned: tuple[int, ...]
    examples: tuple[str, ...]


@dataclass(frozen=True)
class ChangeCount:
    """How many rows were inserted and deleted, net, in the versions after ``after`` up to ``upto``."""

    table: str
    after: int
    upto: int
    inserted: int
    deleted: int


@dataclass(frozen=True)
class SourceSpec:
    """A source of rows in plain values. ``kind`` is ``parquet``, ``csv``, ``json`` (``uri`` is a file, a folder or a
    pattern) or ``sql`` (``uri`` is a SQLAlchemy URL; ``table`` or ``query``, ``watermark``, ``key``). ``columns`` gives
    Arrow types by name, such as ``int64``, ``string``, ``timestamp[us, tz=UTC]``, ``decimal128(10, 2)``."""

    name: str
    kind: str
    uri: str = field(repr=False)
    columns: dict[str, str] | None = None
    table: str | None = None
    query: str | None = None
    watermark: str = ""
    key: tuple[str, ...] = ()
    delimiter: str = ","
    nulls: tuple[str, ...] = ("",)
    storage_options: dict[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class Ingested:
    """What one ingestion did: ``rows`` were added (0: nothing was new), ``watermark`` is up to where ``source`` has
    been read."""

    table: TableVersion
    source: str
    rows: int
    watermark: dict[str, Any]


@dataclass(frozen=True)
class FeatureViewInfo:
    """A declared feature view: ``digest`` changes with its definition, ``table`` holds its built rows. ``join_key``
    is the only one of ``join_keys``, or all of them with commas between. A view computed on request has the source
    ``request`` and neither entity nor table."""

    name: str
    digest: str
    entity: str
    join_key: str
    features: tuple[Column, ...]
    ttl_s: float | None
    source: str
    table: str
    join_keys: tuple[str, ...] = ()


@dataclass(frozen=True)
class FeatureVersion:
    """One applied version of a feature view; the ``current`` one is what its name means. ``built`` is the latest
    version of its table (None: never built), which holds the source at ``source_version``."""

    id: str
    digest: str
    current: bool
    table: str
    built: TableVersion | None
    source_version: int | None


@dataclass(frozen=True)
class Applied:
    """One declaration that was applied. ``change`` is ``new``, ``changed`` (another version beside the old ones) or
    ``same``."""

    kind: str
    name: str
    digest: str
    change: str


@dataclass(frozen=True)
class TrainingSet:
    """A point-in-time correct data set, written once. ``data`` is the Delta version that holds its rows;
    ``pins`` are the versions it was computed from; ``digest`` names all of that. ``join_key`` is the only one of
    ``keys``, or all of them with commas between."""

    name: str
    digest: str
    data: TableVersion
    pins: tuple[TableVersion, ...]
    features: tuple[str, ...]
    label: str
    event_time: str
    join_key: str
    keys: tuple[str, ...] = ()
    service: str = ""
    service_digest: str = ""


# --- runs, artifacts, models ----------------------------------------------------------------------


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


class Verdict(enum.StrEnum):
    PASS = "pass"
    FAIL = "fail"


@dataclass(frozen=True)
class ParityEvidence:
    """The part of a `ParityReport` that a gate decides on."""

    vectors: int
    mismatched: int


@dataclass(frozen=True)
class FeatureParity:
    """How far one feature's logged online values are from the point-in-time join at the same moments.

    ``compared`` is 0 for a feature that cannot be replayed: a request sent it, or what it is computed from.
    ``examples`` hold ``key``, ``at`` (ISO 8601), ``online``, ``offline`` of the first mismatches."""

    feature: str
    compared: int
    mismatches: int
    examples: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True)
class ParityReport:
    """Logged online feature vectors replayed through the point-in-time join at their log times. ``vectors`` is the
    number of logged rows, ``mismatched`` how many of them differ in at least one feature beyond ``tolerance``
    (relative); ``pins`` are the table versions they were compared with."""

    model: str
    version: int
    vectors: int
    mismatched: int
    tolerance: float
    features: tuple[FeatureParity, ...]
    pins: tuple[TableVersion, ...]

    @property
    def mismatch_rate(self) -> float:
        return self.mismatched / self.vectors if self.vectors else 0.0

    @property
    def evidence(self) -> ParityEvidence:
        """What a promotion is given of it."""
        return ParityEvidence(self.vectors, self.mismatched)


@dataclass(frozen=True)
class Evidence:
    """What an evaluation saw. ``dataset`` is the digest of the pinned holdout; metrics of candidate and of the
    version the alias pointed at (``baseline_version`` None: the alias did not exist); ``parity`` of the features
    between online and offline, where the policy asks for it."""

    dataset: str
    rows: int
    candidate: dict[str, float]
    baseline_version: int | None = None
    baseline: dict[str, float] | None = None
    parity: ParityEvidence | None = None


@dataclass(frozen=True)
class GateResult:
    gate: str
    verdict: Verdict
    reason: str


class PromotionState(enum.StrEnum):
    REQUESTED = "requested"
    REJECTED = "rejected"
    AWAITING_APPROVAL = "awaiting_approval"
    STALE = "stale"
    LIVE = "live"
    SUPERSEDED = "superseded"
    ROLLED_BACK = "rolled_back"


@dataclass(frozen=True)
class Approval:
    approver: str
    decision: str
    subject_digest: str
    at: datetime
    reason: str = ""


@dataclass(frozen=True)
class Promotion:
    """A request to point ``alias`` at ``version``. ``subject_digest`` binds model bytes, alias, the generation
    it replaces, and the evidence: an approval names it, and is void for anything else."""

    promotion_id: str
    model: str
    version: int
    digest: str
    alias: str
    expected_generation: int
    state: PromotionState
    requester: str
    created_at: datetime
    subject_digest: str
    evidence: Evidence | None = None
    gates: tuple[GateResult, ...] = ()
    approvals: tuple[Approval, ...] = ()


@dataclass(frozen=True)
class AuditEntry:
    seq: int
    at: datetime
    actor: str
    action: str
    subject: str
    detail: dict[str, Any]


# --- serving and monitoring -----------------------------------------------------------------------


@dataclass(frozen=True)
class Endpoint:
    """A served alias. ``replicas`` maps replica id to the generation it has acknowledged."""

    model: str
    alias: str
    route: str
    url: str
    version: int | None
    generation: int | None
    status: str
    replicas: dict[str, int]


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
