"""Evidence, gates, promotions and the audit trail."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import datetime
from typing import Any


class Verdict(enum.StrEnum):
    PASS = "pass"
    FAIL = "fail"


@dataclass(frozen=True)
class ParityEvidence:
    """The part of a `ParityReport` that a gate decides on."""

    vectors: int
    mismatched: int


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
