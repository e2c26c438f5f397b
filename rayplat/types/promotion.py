"""Gates, policies, promotions and the audit trail. What they decide on is in `rayplat.types.evidence`."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from rayplat.types.evidence import Evidence, VerificationEvidence


class Verdict(enum.StrEnum):
    """``WAIVED``: the gate failed, and an approver let it be, with a reason."""

    PASS = "pass"
    FAIL = "fail"
    WAIVED = "waived"


@dataclass(frozen=True)
class GateResult:
    """One verdict. ``gate`` is the gate's name, with ``#2`` and so on where a policy has it more than once; ``stage``
    is ``verify``, ``evaluate``, ``shadow`` or ``compare``."""

    gate: str
    verdict: Verdict
    reason: str
    stage: str = "evaluate"


@dataclass(frozen=True)
class GateSpec:
    """One gate that a policy asks for. ``params`` are plain JSON values, checked when the policy is set."""

    gate: str
    params: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class AliasPolicy:
    """What a version must go through before ``model``@``alias`` points at it; ``*`` stands for every model or alias.

    A ``protected`` alias moves by promotion only. ``approvers``, where given, are the only ones who may approve;
    ``evidence_from`` the only ones who may hand in evidence. An approved promotion waits ``cooldown_s`` before it goes
    live, and one that is not approved within ``expires_s`` of its request expires; both in seconds. ``digest`` is of
    the canonical JSON of all the rest and is set by the record.
    """

    model: str
    alias: str
    protected: bool
    gates: tuple[GateSpec, ...]
    min_approvals: int = 1
    approvers: tuple[str, ...] = ()
    evidence_from: tuple[str, ...] = ()
    cooldown_s: float = 0.0
    expires_s: float = 604_800.0
    digest: str = ""


class PromotionState(enum.StrEnum):
    """Drawn in ``docs/promotion.md``; the steps between them are in `rayplat.registry.promotion`."""

    REQUESTED = "requested"
    VERIFIED = "verified"
    EVALUATED = "evaluated"
    SHADOWED = "shadowed"
    COMPARED = "compared"
    AWAITING_APPROVAL = "awaiting_approval"
    APPROVED = "approved"
    LIVE = "live"
    SUPERSEDED = "superseded"
    ROLLED_BACK = "rolled_back"
    REJECTED = "rejected"
    EXPIRED = "expired"
    STALE = "stale"
    CANCELLED = "cancelled"


@dataclass(frozen=True)
class Approval:
    """``decision`` is ``approve``, ``reject`` or ``review`` (of a break-glass)."""

    approver: str
    decision: str
    subject_digest: str
    at: datetime
    reason: str = ""


@dataclass(frozen=True)
class Waiver:
    """An approver's word that one gate of one promotion need not pass."""

    gate: str
    by: str
    reason: str
    at: datetime


@dataclass(frozen=True)
class Experiment:
    """The design of a promotion's A/B test, as recorded before its first outcome. ``power`` is the chance to find a
    gain of the design's ``min_effect``."""

    promotion_id: str
    design_digest: str
    started_at: datetime
    started_by: str
    power: float


@dataclass(frozen=True)
class Promotion:
    """A request to point ``alias`` at ``version``. ``subject_digest`` binds model, version, model bytes, alias, the
    generation it replaces, the policy, and the evidence with its verdicts: an approval names it, and is void for
    anything else.

    ``reason`` says why it ended where it did not go live. ``live_after`` is the end of the cool-down of an approved
    one. ``break_glass``: it went live past all gates and approvals, and waits for a review until ``reviewed_by``.
    """

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
    policy: AliasPolicy | None = None
    verification: VerificationEvidence | None = None
    waivers: tuple[Waiver, ...] = ()
    custom_results: tuple[GateResult, ...] = ()
    experiment: Experiment | None = None
    baseline_version: int | None = None
    expires_at: datetime | None = None
    live_after: datetime | None = None
    reason: str = ""
    break_glass: bool = False
    reviewed_by: str | None = None


@dataclass(frozen=True)
class AuditEntry:
    seq: int
    at: datetime
    actor: str
    action: str
    subject: str
    detail: dict[str, Any]
