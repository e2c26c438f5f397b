"""Between rows of the record and the platform's values: times, JSON columns, one function for each value."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any

from rayplat.artifacts.manifest import canonical
from rayplat.registry.chain import ROWS
from rayplat.registry.documents import finite
from rayplat.types import (
    AliasHead,
    Approval,
    AuditEntry,
    ModelVersion,
    PrincipalKind,
    Role,
    Signal,
    TableVersion,
    TokenInfo,
    VersionState,
)

Row = Any  # sqlalchemy.Row: its columns are known by name only
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def to_us(at: datetime) -> int:
    """Microseconds since 1970 UTC, exactly."""
    return (at - _EPOCH) // timedelta(microseconds=1)


def from_us(us: int) -> datetime:
    return _EPOCH + timedelta(microseconds=us)


def to_json(value: Any) -> str:
    """Canonical JSON text; floats that JSON lacks become strings (`documents.finite`)."""
    return canonical(finite(value)).decode()


def model_version(row: Row) -> ModelVersion:
    return ModelVersion(
        model=row.model,
        version=row.version,
        digest=row.digest,
        run_id=row.run_id,
        author=row.author,
        created_at=from_us(row.created_at),
        training_set=row.training_set,
        pins=tuple(TableVersion(**pin) for pin in json.loads(row.pins)),
        metrics=_metrics(json.loads(row.metrics)),
        baseline=row.baseline,
        format=row.format,
        code_digest=row.code_digest,
        env_digest=row.env_digest,
        payload_digest=row.payload_digest,
        statement=row.statement,
        state=VersionState(row.state),
        run_author=row.run_author,
    )


def model_version_columns(version: ModelVersion) -> dict[str, Any]:
    return {
        **vars(version),
        "created_at": to_us(version.created_at),
        "pins": to_json([asdict(pin) for pin in version.pins]),
        "metrics": to_json(version.metrics),
        "state": version.state.value,
    }


def alias_head(row: Row) -> AliasHead:
    return AliasHead(
        model=row.model,
        alias=row.alias,
        version=row.version,
        digest=row.digest,
        generation=row.generation,
        moved_at=from_us(row.moved_at),
        moved_by=row.moved_by,
        promotion_id=row.promotion_id,
        removed=bool(getattr(row, "removed", False)),  # a head in the table of heads is there
    )


def alias_head_columns(head: AliasHead) -> dict[str, Any]:
    """Columns of ``rp_alias_history``; those of ``rp_alias_head`` are the same without ``removed``."""
    return {**vars(head), "moved_at": to_us(head.moved_at)}


def approval(row: Row) -> Approval:
    return Approval(row.approver, row.decision, row.subject_digest, from_us(row.at), row.reason)


def audit_entry(row: Row) -> AuditEntry:
    """Without the digests of rows, which are for `crosscheck`."""
    detail = {name: value for name, value in json.loads(row.detail).items() if name != ROWS}
    return AuditEntry(row.seq, from_us(row.at), row.actor, row.action, row.subject, detail)


def signal(row: Row) -> Signal:
    numbers = _metrics(json.loads(row.numbers))
    return Signal(row.model, row.version, row.kind, bool(row.bad), row.detail, from_us(row.at), row.by, numbers)


def token_info(row: Row) -> TokenInfo:
    return TokenInfo(
        token_id=row.token_id,
        principal=row.principal,
        role=Role(row.role),
        created_at=from_us(row.created_at),
        created_by=row.created_by,
        expires_at=None if row.expires_at is None else from_us(row.expires_at),
        revoked_at=None if row.revoked_at is None else from_us(row.revoked_at),
        kind=PrincipalKind(row.kind),
        last_used_at=None if row.last_used_at is None else from_us(row.last_used_at),
    )


def _metrics(found: dict[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in found.items()}
