"""What an approval is given for, as a digest: if any of it changes, the approval is void. Pure."""

from __future__ import annotations

from rayplat.errors import Conflict, Corrupt
from rayplat.registry import documents
from rayplat.types import Promotion


def evidence_digest(promotion: Promotion) -> str:
    """The digest of all that was seen: the evidence, what the platform verified, each verdict, each waiver."""
    return documents.digest(
        {
            "evidence": promotion.evidence,
            "verification": promotion.verification,
            "gates": promotion.gates,
            "waivers": promotion.waivers,
        }
    )


def subject_digest(promotion: Promotion) -> str:
    """These bytes as this version, to this alias in place of that generation, under this policy, on that evidence."""
    return documents.digest(
        {
            "model": promotion.model,
            "version": promotion.version,
            "digest": promotion.digest,
            "alias": promotion.alias,
            "expected_generation": promotion.expected_generation,
            "policy": None if promotion.policy is None else documents.digest(promotion.policy),
            "evidence": evidence_digest(promotion),
        }
    )


def check_subject(promotion: Promotion, approved: str | None) -> None:
    """Raises `Conflict` when the approver names another subject than this promotion's."""
    if approved is not None and approved != promotion.subject_digest:
        raise Conflict(
            f"the approval names {approved}, promotion {promotion.promotion_id} is about {promotion.subject_digest}: "
            "look at it again"
        )


def check_intact(promotion: Promotion) -> None:
    """Raises `Corrupt` where a stored promotion no longer is what its subject digest was taken over."""
    now = subject_digest(promotion)
    if now != promotion.subject_digest:
        raise Corrupt(f"promotion {promotion.promotion_id}", promotion.subject_digest, now)
