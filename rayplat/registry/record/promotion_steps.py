"""The steps that operations on promotions consist of, and what time alone changes (`tick`).

None of them looks at who asks: that is what `promotions` (asking) and `decisions` (deciding) do.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta

from rayplat.errors import Conflict, Corrupt
from rayplat.registry import promotion
from rayplat.registry.promotion import Step
from rayplat.registry.record import aliases, policies
from rayplat.registry.record import promotion_rows as store
from rayplat.registry.record import schema as tables
from rayplat.registry.record.database import Tx
from rayplat.types import AliasHead, AliasPolicy, ModelVersion, Promotion, PromotionState

_S = PromotionState
REASON_LENGTH = 2000  # characters


def drawn_up(tx: Tx, version: ModelVersion, alias: str, by: str) -> Promotion:
    """A new promotion under the policy that holds now. Raises `Conflict` where the alias points there already."""
    policy = _policy(tx, version.model, alias)
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
            requester=by,
            created_at=tx.at,
            subject_digest="",
            policy=policy,
            baseline_version=None if head is None else head.version,
            expires_at=tx.at + timedelta(seconds=policy.expires_s),
        )
    )


def carried(
    tx: Tx, before: Promotion, after: Promotion, by: str, action: str, more: Mapping[str, object] | None = None
) -> Promotion:
    """Store how far it was carried; a free alias that asks for no approval is approved and live by then."""
    after = promotion.settle(after, tx.at)
    store.log(tx, by, action, after, {"failed_gates": promotion.failures(after), **(more or {})})
    store.save(tx, before, after, by)
    return go_live(tx, after, by) if is_due(after, tx.at) else after


def go_live(tx: Tx, asked: Promotion, by: str, step: Step = Step.GO_LIVE) -> Promotion:
    """Move the alias; what was live under it is superseded, and what waits for it goes stale."""
    head = AliasHead(asked.model, asked.alias, asked.version, asked.digest, 0, tx.at, by, asked.promotion_id)
    head = aliases.move(tx, head, asked.expected_generation)
    for other in live_ones(tx, asked.model, asked.alias):
        store.save(tx, other, stepped(other, Step.SUPERSEDE), by)
    live = store.save(tx, asked, stepped(asked, step), by)
    store.log_also(tx, by, "promotion.live", live, {"generation": head.generation, "from": asked.baseline_version})
    stale_others(tx, asked.model, asked.alias)
    return live


def tick(tx: Tx) -> list[Promotion]:
    """What time alone changes: approved promotions whose cool-down is over go live, overdue ones expire, and those
    whose alias or policy has moved go stale. Called every few seconds; returns what it changed."""
    changed = [after for asked in store.opened(tx.connection) if (after := _ticked(tx, asked)) is not None]
    for live in store.select(tx.connection, tables.promotion.c.state == _S.LIVE.value):
        head = aliases.find(tx.connection, live.model, live.alias)
        if head is None or head.promotion_id != live.promotion_id:
            changed.append(store.save(tx, live, stepped(live, Step.SUPERSEDE), store.PLATFORM))
            store.log_also(tx, store.PLATFORM, "promotion.supersede", changed[-1], {})
    return changed


def check_ground(tx: Tx, asked: Promotion) -> None:
    """Raises `StaleGeneration` also before a tick has noted that it is stale."""
    reason = _moved_ground(tx, asked)
    if reason is not None:
        promotion.advance(promotion.stale(asked, reason).state, Step.APPROVE)


def stale_others(tx: Tx, model: str, alias: str) -> None:
    """Whoever waits to replace an older generation of this alias has to be judged anew."""
    for other in store.opened(tx.connection, model, alias):
        store.go_stale(tx, other, "the alias moved after it was requested")


def live_ones(tx: Tx, model: str, alias: str) -> list[Promotion]:
    """What is live under the alias."""
    table = tables.promotion.c
    return store.select(tx.connection, (table.model == model) & (table.alias == alias) & (table.state == _S.LIVE.value))


def stepped(asked: Promotion, step: Step) -> Promotion:
    """One step on. Raises `Conflict` or `StaleGeneration` where it cannot take it."""
    return replace(asked, state=promotion.advance(asked.state, step))


def is_due(asked: Promotion, now: datetime) -> bool:
    """Whether it is approved and its cool-down is over."""
    return asked.state is _S.APPROVED and asked.live_after is not None and now >= asked.live_after


def _ticked(tx: Tx, asked: Promotion) -> Promotion | None:
    """An open promotion after a tick, None where nothing changed."""
    reason = _moved_ground(tx, asked)
    if reason is not None:
        return store.go_stale(tx, asked, reason)
    if asked.expires_at is not None and tx.at >= asked.expires_at:
        closed = replace(stepped(asked, Step.EXPIRE), reason=f"not live by {asked.expires_at.isoformat()}")
        store.log_also(tx, store.PLATFORM, "promotion.expire", closed, {})
        return store.save(tx, asked, closed, store.PLATFORM)
    if not is_due(asked, tx.at):
        return None
    try:
        promotion.check_passed(asked)
    except Corrupt as e:  # the others must not wait for it
        return store.go_stale(tx, asked, f"it is not what was approved: {e}")
    return go_live(tx, asked, asked.approvals[-1].approver if asked.approvals else asked.requester)


def _moved_ground(tx: Tx, asked: Promotion) -> str | None:
    """Why an open promotion no longer stands on what it was asked on, None where it does."""
    now = aliases.generation(tx.connection, asked.model, asked.alias)
    if now != asked.expected_generation:
        return f"the alias moved from generation {asked.expected_generation} to {now}"
    policy = _policy(tx, asked.model, asked.alias)
    if asked.policy is None or policy.digest != asked.policy.digest:
        return "the alias's policy was changed"
    return None


def _policy(tx: Tx, model: str, alias: str) -> AliasPolicy:
    return policies.find(tx.connection, model, alias, tx.defaults.max_parity_mismatch)
