"""Tables, sources, feature views and training sets."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from rayplat.types.evidence import ParityEvidence


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
