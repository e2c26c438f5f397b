"""Operations on promotions: each call one transaction with its audit entry and its events.

The rules are in `rayplat.registry.promotion` and `gates`; here they meet the rows.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy import Connection

from rayplat.errors import Conflict, Corrupt, Forbidden, InvalidInput, NotFound
from rayplat.identity import require
from rayplat.registry import documents, promotion
from rayplat.registry.promotion import Step
from rayplat.registry.record import aliases, audit, events, policies, versions
from rayplat.registry.record import promotion_rows as store
from rayplat.registry.record import schema as tables
from rayplat.registry.record.database import Tx
from rayplat.types import (
    AliasHead,
    AliasPolicy,
    Approval,
    Evidence,
    GateResult,
    ModelVersion,
    Principal,
    Promotion,
    PromotionState,
    Role,
    VerificationEvidence,
    Waiver,
    check_alias,
)

_REASON_LENGTH = 2000
_S = PromotionState


# --- reading ------------------------------------------------------------------------------------------


def get(connection: Connection, promotion_id: str) -> Promotion:
    """One promotion with its approvals. Raises `NotFound`, or `Corrupt` for a row that cannot be read."""
    found = store.select(connection, tables.promotion.c.promotion_id == promotion_id, strict=True)
    if not found:
        raise NotFound("promotion", promotion_id, "'rayplat promotion list' shows the known ones")
    return found[0]


def listed(connection: Connection, model: str | None = None, state: PromotionState | None = None) -> list[Promotion]:
    """Promotions of one model or in one state, newest first."""
    wanted: sa.ColumnElement[bool] = sa.true()
    if model is not None:
        wanted &= tables.promotion.c.model == model
    if state is not None:
        wanted &= tables.promotion.c.state == PromotionState(state).value
    return store.select(connection, wanted)


def to_review(connection: Connection) -> list[Promotion]:
    """Promotions that broke the glass and that nobody has reviewed, newest first."""
    table = tables.promotion.c
    return store.select(connection, table.break_glass & table.reviewed_by.is_(None))


# --- asking and showing -------------------------------------------------------------------------------


def request(
    tx: Tx, model: str, number: int, alias: str, evidence: Evidence | None = None, *, by: Principal
) -> Promotion:
    """Ask that ``alias`` of ``model`` point at version ``number``; ``evidence`` may follow (`submit_evidence`).

    Needs a developer. Raises `NotFound`, `InvalidName`, `InvalidInput` for evidence that is no document, `Forbidden`
    where the policy takes evidence from others only, `Conflict` where it points there already or the version is
    retired.
    """
    require(by, Role.DEVELOPER)
    check_alias(alias)
    if (earlier := audit.replayed(tx, "promotion.request", f"{model}@{alias}", version=number)) is not None:
        return get(tx.connection, earlier.detail["promotion_id"])
    version, policy = versions.usable(tx.connection, model, number), _policy(tx, model, alias)
    asked = _new(tx, version, alias, policy, by)
    if evidence is not None:
        _check_evidence(tx, asked, evidence, by)
    store.insert(tx, asked)
    store.tell(tx, "promotion.requested", asked, by.name, {})
    judged = promotion.judge(asked) if evidence is None else promotion.with_evidence(asked, evidence)
    return _carried(tx, asked, judged, by, "promotion.request")


def submit_evidence(tx: Tx, promotion_id: str, evidence: Evidence, *, by: Principal) -> Promotion:
    """Hand in evidence: the whole document, with what was there before and what is new.

    A stage is decided as soon as its part is there. Exchanging the part of a decided stage makes the promotion stale.
    Raises like `request`, and `Conflict` for a closed or expired promotion.
    """
    require(by, Role.DEVELOPER)
    if audit.replayed(tx, "promotion.evidence", promotion_id=promotion_id) is not None:
        return get(tx.connection, promotion_id)
    asked = _open(tx, promotion_id)
    _check_evidence(tx, asked, evidence, by)
    return _carried(tx, asked, promotion.with_evidence(asked, evidence), by, "promotion.evidence")


def record_verification(tx: Tx, promotion_id: str, found: VerificationEvidence, *, by: Principal) -> Promotion:
    """What the platform saw of the bundle's bytes, signature, format and schema. For the platform only."""
    _check_platform(by)
    if audit.replayed(tx, "promotion.verification", promotion_id=promotion_id) is not None:
        return get(tx.connection, promotion_id)
    documents.check(found, "verification")
    asked = _open(tx, promotion_id)
    return _carried(tx, asked, promotion.with_verification(asked, found), by, "promotion.verification")


def record_custom_results(
    tx: Tx, promotion_id: str, results: tuple[GateResult, ...], evidence_digest: str, *, by: Principal
) -> Promotion:
    """What the custom gates have answered about the evidence with this digest (`documents.digest` of it). For the
    platform only. Raises `Conflict` where the evidence is another by now."""
    _check_platform(by)
    if audit.replayed(tx, "promotion.custom", promotion_id=promotion_id) is not None:
        return get(tx.connection, promotion_id)
    asked = _open(tx, promotion_id)
    now = documents.digest(asked.evidence)
    if evidence_digest != now:
        raise Conflict(
            f"the results are about evidence {evidence_digest}, the promotion has {now}: run the gates again"
        )
    return _carried(tx, asked, promotion.with_custom_results(asked, tuple(results)), by, "promotion.custom")


# --- deciding -----------------------------------------------------------------------------------------


def approve(tx: Tx, promotion_id: str, subject_digest: str | None = None, *, by: Principal) -> Promotion:
    """Approve what was seen: ``subject_digest`` (None: the present subject). With the last approval it is APPROVED
    and, where no cool-down was set, LIVE at once.

    Raises `Forbidden` (four eyes, named approvers, a service), `StaleGeneration`, `Conflict`, `Corrupt`.
    """
    seen = {} if subject_digest is None else {"subject_digest": subject_digest}
    if audit.replayed(tx, "promotion.approve", promotion_id=promotion_id, **seen) is not None:
        return get(tx.connection, promotion_id)
    asked = get(tx.connection, promotion_id)
    promotion.check_approver(asked, _version(tx, asked), by)
    given = Approval(by.name, "approve", asked.subject_digest, tx.at)
    if asked.state in promotion.OPEN:
        _check_ground(tx, asked)
    approved = promotion.approve(asked, given, subject_digest)
    store.add_approval(tx, asked, given)
    store.save(tx, asked, approved, by.name)
    store.log(tx, by.name, "promotion.approve", approved, {"missing": promotion.missing(approved)})
    return _go_live(tx, approved, by.name) if _is_due(approved, tx.at) else approved


def reject(tx: Tx, promotion_id: str, reason: str, *, by: Principal) -> Promotion:
    """Close an open promotion as an approver, with a reason."""
    require(by, Role.APPROVER)
    if audit.replayed(tx, "promotion.reject", promotion_id=promotion_id) is not None:
        return get(tx.connection, promotion_id)
    reason, asked = _reason(reason), get(tx.connection, promotion_id)
    given = Approval(by.name, "reject", asked.subject_digest, tx.at, reason)
    kept = tuple(a for a in asked.approvals if a.approver != by.name)
    closed = replace(asked, state=promotion.advance(asked.state, Step.REJECT), approvals=(*kept, given), reason=reason)
    store.add_approval(tx, asked, given)
    store.log(tx, by.name, "promotion.reject", closed, {"reason": reason})
    return store.save(tx, asked, closed, by.name)


def cancel(tx: Tx, promotion_id: str, reason: str = "", *, by: Principal) -> Promotion:
    """Withdraw an open promotion: its requester, or an approver."""
    if audit.replayed(tx, "promotion.cancel", promotion_id=promotion_id) is not None:
        return get(tx.connection, promotion_id)
    asked = get(tx.connection, promotion_id)
    if by.name != asked.requester:
        require(by, Role.APPROVER)
    reason = reason.strip()[:_REASON_LENGTH] or f"cancelled by {by.name}"
    closed = replace(asked, state=promotion.advance(asked.state, Step.CANCEL), reason=reason)
    store.log(tx, by.name, "promotion.cancel", closed, {"reason": reason})
    return store.save(tx, asked, closed, by.name)


def waive(tx: Tx, promotion_id: str, gate: str, reason: str, *, by: Principal) -> Promotion:
    """Let one gate that has not been decided yet be, should it fail: as an approver who neither asked for this nor
    made the version, with a reason. The verdict will say WAIVED. Whether bytes are intact and loading runs no code
    cannot be waived."""
    if audit.replayed(tx, "promotion.waive", promotion_id=promotion_id, gate=gate) is not None:
        return get(tx.connection, promotion_id)
    reason, asked = _reason(reason), _open(tx, promotion_id)
    promotion.check_approver(asked, _version(tx, asked), by)
    waived = promotion.with_waiver(asked, Waiver(gate, by.name, reason, tx.at))
    more = {"gate": gate, "reason": reason}
    store.tell(tx, "gate.waived", asked, by.name, more)
    return _carried(tx, asked, waived, by, "promotion.waive", more)


# --- past the rules, and back -------------------------------------------------------------------------


def break_glass(tx: Tx, model: str, number: int, alias: str, reason: str, *, by: Principal) -> Promotion:
    """Point the alias at a version now, past gates and approvals, in an emergency: an admin, with a reason.

    It stands out in the promotion, the audit log and the events, and stays in `to_review` until another person has
    reviewed it.
    """
    promotion.check_person(by, Role.ADMIN)
    check_alias(alias)
    if (earlier := audit.replayed(tx, "promotion.break_glass", f"{model}@{alias}", version=number)) is not None:
        return get(tx.connection, earlier.detail["promotion_id"])
    reason = _reason(reason)
    version, policy = versions.usable(tx.connection, model, number), _policy(tx, model, alias)
    asked = replace(_new(tx, version, alias, policy, by), break_glass=True, reason=reason)
    asked = promotion.with_subject(asked)
    store.insert(tx, asked)
    store.log(tx, by.name, "promotion.break_glass", asked, {"reason": reason})
    store.tell(tx, "break_glass.used", asked, by.name, {"reason": reason})
    return _go_live(tx, asked, by.name, Step.BREAK_GLASS)


def review(tx: Tx, promotion_id: str, reason: str, *, by: Principal) -> Promotion:
    """Say of a broken glass that it was looked at, and what came of it: an approver who neither broke it nor
    made the version or its run."""
    promotion.check_person(by)
    if audit.replayed(tx, "promotion.review", promotion_id=promotion_id) is not None:
        return get(tx.connection, promotion_id)
    reason, asked = _reason(reason), get(tx.connection, promotion_id)
    if not asked.break_glass or asked.reviewed_by is not None:
        raise Conflict(f"promotion {promotion_id} waits for no review")
    if by.name == asked.requester:
        raise Forbidden(by.name, "who broke the glass does not review it")
    promotion.check_not_author(_version(tx, asked), by)
    given = Approval(by.name, "review", asked.subject_digest, tx.at, reason)
    store.add_approval(tx, asked, given)
    store.log(tx, by.name, "promotion.review", asked, {"reason": reason})
    return store.save(tx, asked, replace(asked, reviewed_by=by.name, approvals=(*asked.approvals, given)), by.name)


def rollback(
    tx: Tx,
    model: str,
    alias: str,
    reason: str,
    *,
    version: int | None = None,
    generation: int | None = None,
    by: Principal,
) -> AliasHead:
    """Point ``alias`` back at what was live before, or at the named version or generation that was: no gate and no
    second person, as it is for emergencies; audited. Raises `Conflict` when there is nothing to go back to."""
    require(by, Role.APPROVER)
    named = {} if version is None else {"to": version}
    earlier = audit.replayed(tx, "alias.rollback", f"{model}@{alias}", **named)
    history = aliases.history(tx.connection, model, alias)
    if earlier is not None:
        return next(h for h in history if h.generation == earlier.detail["generation"])
    reason, now = _reason(reason), history[0]
    if version is None and generation is None:
        target = promotion.rollback_target(reversed(history))
    else:
        target = promotion.named_target(history, version, generation)
    head = aliases.move(tx, replace(target, moved_by=by.name, removed=False), now.generation)
    detail = {"from": now.version, "to": head.version, "generation": head.generation, "reason": reason}
    audit.append(tx, by.name, "alias.rollback", f"{model}@{alias}", detail)
    events.emit(tx, "alias.rolled_back", f"{model}@{alias}", {"by": by.name, **detail})
    for live in _live(tx, model, alias):
        if live.promotion_id != target.promotion_id:
            store.save(tx, live, _stepped(live, Step.ROLL_BACK), by.name)
    if target.promotion_id is not None:
        restored = get(tx.connection, target.promotion_id)
        if restored.state is not _S.LIVE:
            store.save(tx, restored, _stepped(restored, Step.RESTORE), by.name)
    _stale_others(tx, model, alias)
    return head


def tick(tx: Tx) -> list[Promotion]:
    """What time alone changes: approved promotions whose cool-down is over go live, overdue ones expire, and those
    whose alias or policy has moved go stale. Called every few seconds; returns what it changed."""
    changed = [after for asked in store.opened(tx.connection) if (after := _ticked(tx, asked)) is not None]
    for live in store.select(tx.connection, tables.promotion.c.state == _S.LIVE.value):
        head = aliases.find(tx.connection, live.model, live.alias)
        if head is None or head.promotion_id != live.promotion_id:
            changed.append(store.save(tx, live, _stepped(live, Step.SUPERSEDE), store.PLATFORM))
            store.log_also(tx, store.PLATFORM, "promotion.supersede", changed[-1], {})
    return changed


# --- inside -------------------------------------------------------------------------------------------


def _new(tx: Tx, version: ModelVersion, alias: str, policy: AliasPolicy, by: Principal) -> Promotion:
    head = aliases.last_live(tx.connection, version.model, alias)
    if head is not None and head.version == version.version and aliases.find(tx.connection, version.model, alias):
        raise Conflict(f"{version.model}@{alias} already points at version {version.version}")
    return promotion.with_subject(
        Promotion(
            promotion_id=f"prm-{secrets.token_hex(6)}",
            model=version.model,
            version=version.version,
            digest=version.digest,
            alias=alias,
            expected_generation=aliases.generation(tx.connection, version.model, alias),
            state=_S.REQUESTED,
            requester=by.name,
            created_at=tx.at,
            subject_digest="",
            policy=policy,
            baseline_version=None if head is None else head.version,
            expires_at=tx.at + timedelta(seconds=policy.expires_s),
        )
    )


def _carried(
    tx: Tx, before: Promotion, after: Promotion, by: Principal, action: str, more: Mapping[str, object] | None = None
) -> Promotion:
    """Store how far it was carried; a free alias that asks for no approval is approved and live by then."""
    after = promotion.settle(after, tx.at)
    store.log(tx, by.name, action, after, {"failed_gates": promotion.failures(after), **(more or {})})
    store.save(tx, before, after, by.name)
    return _go_live(tx, after, by.name) if _is_due(after, tx.at) else after


def _go_live(tx: Tx, asked: Promotion, by: str, step: Step = Step.GO_LIVE) -> Promotion:
    head = AliasHead(asked.model, asked.alias, asked.version, asked.digest, 0, tx.at, by, asked.promotion_id)
    head = aliases.move(tx, head, asked.expected_generation)
    for other in _live(tx, asked.model, asked.alias):
        store.save(tx, other, _stepped(other, Step.SUPERSEDE), by)
    live = store.save(tx, asked, _stepped(asked, step), by)
    store.log_also(tx, by, "promotion.live", live, {"generation": head.generation, "from": asked.baseline_version})
    _stale_others(tx, asked.model, asked.alias)
    return live


def _ticked(tx: Tx, asked: Promotion) -> Promotion | None:
    """An open promotion after a tick, None where nothing changed."""
    reason = _moved_ground(tx, asked)
    if reason is not None:
        return store.go_stale(tx, asked, reason)
    if asked.expires_at is not None and tx.at >= asked.expires_at:
        closed = replace(_stepped(asked, Step.EXPIRE), reason=f"not live by {asked.expires_at.isoformat()}")
        store.log_also(tx, store.PLATFORM, "promotion.expire", closed, {})
        return store.save(tx, asked, closed, store.PLATFORM)
    if not _is_due(asked, tx.at):
        return None
    try:
        promotion.check_passed(asked)
    except Corrupt as e:  # the others must not wait for it
        return store.go_stale(tx, asked, f"it is not what was approved: {e}")
    return _go_live(tx, asked, asked.approvals[-1].approver if asked.approvals else asked.requester)


def _is_due(asked: Promotion, now: datetime) -> bool:
    return asked.state is _S.APPROVED and asked.live_after is not None and now >= asked.live_after


def _moved_ground(tx: Tx, asked: Promotion) -> str | None:
    """Why an open promotion no longer stands on what it was asked on, None where it does."""
    now = aliases.generation(tx.connection, asked.model, asked.alias)
    if now != asked.expected_generation:
        return f"the alias moved from generation {asked.expected_generation} to {now}"
    policy = _policy(tx, asked.model, asked.alias)
    if asked.policy is None or policy.digest != asked.policy.digest:
        return "the alias's policy was changed"
    return None


def _check_ground(tx: Tx, asked: Promotion) -> None:
    """Raises `StaleGeneration` also before a tick has noted that it is stale."""
    reason = _moved_ground(tx, asked)
    if reason is not None:
        promotion.advance(promotion.stale(asked, reason).state, Step.APPROVE)


def _stale_others(tx: Tx, model: str, alias: str) -> None:
    """Whoever waits to replace an older generation of this alias has to be judged anew."""
    for other in store.opened(tx.connection, model, alias):
        store.go_stale(tx, other, "the alias moved after it was requested")


def _live(tx: Tx, model: str, alias: str) -> list[Promotion]:
    table = tables.promotion.c
    return store.select(tx.connection, (table.model == model) & (table.alias == alias) & (table.state == _S.LIVE.value))


def _stepped(asked: Promotion, step: Step) -> Promotion:
    return replace(asked, state=promotion.advance(asked.state, step))


def _open(tx: Tx, promotion_id: str) -> Promotion:
    """The promotion, if it is open and in time."""
    asked = get(tx.connection, promotion_id)
    promotion.advance(asked.state, Step.CANCEL)
    promotion.check_in_time(asked, tx.at)
    return asked


def _check_evidence(tx: Tx, asked: Promotion, evidence: Evidence, by: Principal) -> None:
    documents.check(evidence, "evidence")
    allowed = asked.policy.evidence_from if asked.policy is not None else ()
    if allowed and by.name not in allowed:
        raise Forbidden(by.name, f"the policy of {asked.model}@{asked.alias} takes evidence from {', '.join(allowed)}")
    if evidence.experiment is not None and evidence.experiment.first_outcome_at > tx.at:
        first = evidence.experiment.first_outcome_at.isoformat()
        raise InvalidInput(
            "evidence.experiment.first_outcome_at", f"{first} is still to come: it is {tx.at.isoformat()}"
        )


def _check_platform(by: Principal) -> None:
    require(by, Role.ADMIN)
    if by.name != store.PLATFORM:
        raise Forbidden(by.name, "this is found by the platform itself, and handed in by nobody")


def _policy(tx: Tx, model: str, alias: str) -> AliasPolicy:
    return policies.find(tx.connection, model, alias, tx.defaults.max_parity_mismatch)


def _version(tx: Tx, asked: Promotion) -> ModelVersion:
    return versions.get(tx.connection, asked.model, asked.version)


def _reason(reason: str) -> str:
    if not isinstance(reason, str) or not reason.strip():
        raise InvalidInput("reason", "say why, in a few words: it is kept in the audit log")
    return reason.strip()[:_REASON_LENGTH]
