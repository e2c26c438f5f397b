"""The life of a promotion: states, verdicts, approvals, rollbacks. Pure; the record keeps it."""

from rayplat.registry.documents import finite
from rayplat.registry.promotion.approving import (
    approve,
    check_approver,
    check_in_time,
    check_not_author,
    check_passed,
    check_person,
    missing,
    settle,
)
from rayplat.registry.promotion.judging import (
    failures,
    judge,
    stale,
    waits_for,
    with_custom_results,
    with_evidence,
    with_experiment,
    with_subject,
    with_verification,
    with_waiver,
)
from rayplat.registry.promotion.rollbacks import named_target, rollback_target
from rayplat.registry.promotion.states import NEXT, OPEN, Step, advance
from rayplat.registry.promotion.subject import check_intact, check_subject, evidence_digest, subject_digest

__all__ = [
    "NEXT",
    "OPEN",
    "Step",
    "advance",
    "approve",
    "check_approver",
    "check_in_time",
    "check_intact",
    "check_not_author",
    "check_passed",
    "check_person",
    "check_subject",
    "evidence_digest",
    "failures",
    "finite",
    "judge",
    "missing",
    "named_target",
    "rollback_target",
    "settle",
    "stale",
    "subject_digest",
    "waits_for",
    "with_custom_results",
    "with_evidence",
    "with_experiment",
    "with_subject",
    "with_verification",
    "with_waiver",
]
