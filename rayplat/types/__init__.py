"""Frozen values that all layers share. No behaviour beyond small derived properties, no imports of ours
but errors. Times are timezone-aware UTC datetimes; sizes are bytes; durations are seconds.

Digests are strings ``sha256:<64 hex>``.
"""

from rayplat.types.data import (
    Applied,
    ChangeCount,
    Column,
    Commit,
    FeatureParity,
    FeatureVersion,
    FeatureViewInfo,
    Ingested,
    ParityReport,
    Pin,
    SourceSpec,
    TableInfo,
    TableVersion,
    TrainingSet,
    VacuumReport,
)
from rayplat.types.identity import Principal, Role, TokenInfo
from rayplat.types.models import AliasHead, ArtifactRef, FeatureSpec, ModelSpec, ModelVersion, RunInfo
from rayplat.types.names import check_alias, check_name
from rayplat.types.promotion import (
    Approval,
    AuditEntry,
    Evidence,
    GateResult,
    ParityEvidence,
    Promotion,
    PromotionState,
    Verdict,
)
from rayplat.types.serving import ColumnDrift, DriftReport, Endpoint, PartStatus, QualityReport

__all__ = [
    "AliasHead",
    "Applied",
    "Approval",
    "ArtifactRef",
    "AuditEntry",
    "ChangeCount",
    "Column",
    "ColumnDrift",
    "Commit",
    "DriftReport",
    "Endpoint",
    "Evidence",
    "FeatureParity",
    "FeatureSpec",
    "FeatureVersion",
    "FeatureViewInfo",
    "GateResult",
    "Ingested",
    "ModelSpec",
    "ModelVersion",
    "ParityEvidence",
    "ParityReport",
    "PartStatus",
    "Pin",
    "Principal",
    "Promotion",
    "PromotionState",
    "QualityReport",
    "Role",
    "RunInfo",
    "SourceSpec",
    "TableInfo",
    "TableVersion",
    "TokenInfo",
    "TrainingSet",
    "VacuumReport",
    "Verdict",
    "check_alias",
    "check_name",
]
