"""Who may approve or waive, and what an approval does. Pure."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from rayplat.errors import Conflict, Corrupt, Forbidden
from rayplat.identity import require
from rayplat.registry.promotion.states import Step, advance
from rayplat.registry.promotion.subject import check_intact, check_subject
from rayplat.types import Approval, ModelVersion, Principal, PrincipalKind, Promotion, PromotionState, Role, Verdict


def check_approver(promotion: Promotion, version: ModelVersion, by: Principal) -> None:
    """Four eyes: `Forbidden` unless ``by`` is a person with the role who neither asked for this nor made the version
    or its run and, where the policy names approvers, is one of them."""
    check_person(by)
    if by.name == promotion.requester:
        raise Forbidden(by.name, "a requester does not approve their own promotion")
    check_not_author(version, by)
    named = promotion.policy.approvers if promotion.policy is not None else ()
    if named and by.name not in named:
        raise Forbidden(
            by.name, f"the policy of {promotion.model}@{promotion.alias} names as approvers {', '.join(named)}"
        )


def check_not_author(version: ModelVersion, by: Principal) -> None:
    """`Forbidden` for who registered the version, and for who ran what made it."""
    for role, name in (("author", version.author), ("run's author", version.run_author)):
        if by.name == name:
            raise Forbidden(by.name, f"the {role} of version {version.version} does not judge it: another person must")


def check_person(by: Principal, role: Role = Role.APPROVER) -> None:
    """`Forbidden` for a service, whatever its role: what needs judgement needs a person."""
    require(by, role)
    if by.kind is not PrincipalKind.PERSON:
        raise Forbidden(by.name, "a service does not approve, waive or break the glass: that takes a person's token")


def check_in_time(promotion: Promotion, now: datetime) -> None:
    """Raises `Conflict` for an open promotion whose time is up, also before somebody has noted it."""
    if promotion.expires_at is not None and now >= promotion.expires_at:
        raise Conflict(f"promotion {promotion.promotion_id} expired at {promotion.expires_at}: ask for it anew")


def check_passed(promotion: Promotion) -> None:
    """Raises `Corrupt` for a stored promotion that is not what its subject was taken over, or that only its state says
    has passed its gates or, where it is approved, has its approvals."""
    check_intact(promotion)
    failed = [r.gate for r in promotion.gates if r.verdict is Verdict.FAIL]
    lacking = missing(promotion) if promotion.state is PromotionState.APPROVED else 0
    if failed or lacking:
        found = f"{promotion.state}, {failed} failed, {lacking} approvals missing"
        raise Corrupt(f"promotion {promotion.promotion_id}", "one that passed", found)


def approve(promotion: Promotion, approval: Approval, named: str | None) -> Promotion:
    """After ``approval``, for the subject that was ``named`` (None: the present one): APPROVED once there are enough.

    Raises `Conflict` for another subject, a second approval by the same person, a closed or expired promotion, a bundle
    that the platform has not looked at (unless the alias is free);
    `Corrupt` for one whose row was changed, also where only its state says that its gates have passed.
    """
    advance(promotion.state, Step.APPROVE)
    check_in_time(promotion, approval.at)
    check_subject(promotion, named)
    check_passed(promotion)
    if promotion.verification is None and (promotion.policy is None or promotion.policy.protected):
        raise Conflict(
            f"the platform has not verified the bundle of {promotion.promotion_id} yet: call `promotions.verify` again"
        )
    if any(a.approver == approval.approver and a.decision == approval.decision for a in promotion.approvals):
        raise Conflict(f"{approval.approver} has approved promotion {promotion.promotion_id} already")
    return settle(replace(promotion, approvals=(*promotion.approvals, approval)), approval.at)


def settle(promotion: Promotion, now: datetime) -> Promotion:
    """APPROVED with the end of its cool-down, where an awaiting promotion has the approvals its policy asks for."""
    if promotion.state is not PromotionState.AWAITING_APPROVAL or missing(promotion) > 0:
        return promotion
    wait_s = promotion.policy.cooldown_s if promotion.policy is not None else 0.0
    after = advance(promotion.state, Step.APPROVE)
    return replace(promotion, state=after, live_after=now + timedelta(seconds=wait_s))


def missing(promotion: Promotion) -> int:
    """How many approvals of the present subject are still needed."""
    given = {
        a.approver
        for a in promotion.approvals
        if a.decision == "approve" and a.subject_digest == promotion.subject_digest
    }
    needed = promotion.policy.min_approvals if promotion.policy is not None else 1
    return max(0, needed - len(given))
