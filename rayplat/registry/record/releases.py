"""Operations on releases: how the requests to a model's default alias are answered. Every change is one write.

A split or a canary answers production requests with another version, as a move of the alias would. So where the alias
is protected, sending more requests elsewhere takes an approver, a person; pausing, rolling back, sending fewer, shadows
and headers for testers are any developer's. A target that is an alias follows its alias: name an exact version where
nobody may move it meanwhile.
"""

from __future__ import annotations

from dataclasses import replace

import sqlalchemy as sa
from sqlalchemy import Connection

from rayplat.errors import Conflict, Forbidden, InvalidInput, NotFound, StaleGeneration
from rayplat.identity import require
from rayplat.registry import documents, release_rules
from rayplat.registry.record import (
    aliases,
    audit,
    endpoints,
    events,
    policies,
    promotions,
    release_rows,
    rows,
    versions,
)
from rayplat.registry.record.database import Tx
from rayplat.registry.record.schema import release as table
from rayplat.registry.release_rules import PRIMARY
from rayplat.types import Canary, CanaryState, Principal, PrincipalKind, PromotionState, Release, Role

_OWN = "rayplat"  # the platform itself, which moves a canary along the steps that somebody was allowed to set
_CLOSED = (PromotionState.REJECTED, PromotionState.EXPIRED, PromotionState.STALE, PromotionState.CANCELLED)


def put(tx: Tx, release: Release, expected_generation: int, *, by: Principal) -> Release:
    """Put ``release`` in force if its model's is still at ``expected_generation``; every host obeys it as a whole.

    The record sets generation, time and author, and when a canary's step began. Needs a developer; what sends more
    requests away from a protected alias, or loosens a canary's limits, needs an approver who is a person. Raises
    `InvalidInput` naming the field, `NotFound` for a target that does not exist, `StaleGeneration`, `Forbidden`, and
    `Conflict` where the default alias is served by the pool.
    """
    require(by, Role.DEVELOPER)
    release_rules.check(release)
    said = documents.plain(_asked(release))
    if (earlier := audit.replayed(tx, "release.put", release.model, asked=said)) is not None:
        return at(tx.connection, release.model, earlier.detail["generation"])
    before = get(tx.connection, release.model)
    if before.generation != expected_generation:
        raise StaleGeneration(
            f"the release of {release.model} is at generation {before.generation}, not {expected_generation}: "
            "somebody changed it; read it again and decide anew"
        )
    if _asked(before) == _asked(release):
        return before
    _check_targets(tx.connection, before, release)
    _check_placement(tx.connection, before, release)
    _check_allowed(tx.connection, before, release, by)
    canary = _clocked(tx, before.canary, release.canary)
    generation = before.generation + 1
    made = replace(release, generation=generation, canary=canary, changed_at=tx.at, changed_by=by.name)
    _write(tx, made, before, said)
    return made


def examine(connection: Connection, release: Release, by: Principal) -> Release:
    """The release in force, where `put` would take ``release`` instead; nothing is written. Raises like `put`."""
    require(by, Role.DEVELOPER)
    release_rules.check(release)
    before = get(connection, release.model)
    _check_targets(connection, before, release)
    _check_placement(connection, before, release)
    _check_allowed(connection, before, release, by)
    return before


def get(connection: Connection, model: str) -> Release:
    """The release in force; generation 0 for a model that never had one: its alias answers everything."""
    return release_rows.in_force(connection, model)


def at(connection: Connection, model: str, generation: int) -> Release:
    """An earlier release. Raises `NotFound`."""
    wanted = sa.select(table.c.release).where(table.c.model == model, table.c.generation == generation)
    text = connection.scalar(wanted)
    if text is None:
        raise NotFound("release", f"{model} generation {generation}")
    return release_rows.parsed(text)


def history(connection: Connection, model: str, limit: int = 100) -> list[Release]:
    """The newest ``limit`` (1 to 1,000) releases of a model, newest first."""
    if not 1 <= limit <= 1000:
        raise InvalidInput("limit", f"{limit} is not between 1 and 1000")
    found = sa.select(table.c.release).where(table.c.model == model).order_by(table.c.generation.desc()).limit(limit)
    return [release_rows.parsed(text) for text in connection.scalars(found)]


def listed(connection: Connection) -> list[Release]:
    """The release in force of every model that ever had one, by model."""
    newest = sa.select(table.c.model, sa.func.max(table.c.generation).label("generation")).group_by(table.c.model)
    head = newest.subquery()
    same = (table.c.model == head.c.model) & (table.c.generation == head.c.generation)
    found = sa.select(table.c.release).join(head, same).order_by(table.c.model)
    return [release_rows.parsed(text) for text in connection.scalars(found)]


def version_at(connection: Connection, model: str, target: str) -> int:
    """The version that a target is at this moment. Raises `NotFound`."""
    number = release_rules.version_of(target)
    return aliases.get(connection, model, target).version if number is None else number


def _check_targets(connection: Connection, before: Release, release: Release) -> None:
    """What is named already needs no second look: a rollback must never fail because its target is gone."""
    if before.generation == 0:
        aliases.get(connection, release.model, PRIMARY)
    known = set(release_rules.targets(before))
    for target in release_rules.targets(release):
        if target not in known:
            versions.usable(connection, release.model, version_at(connection, release.model, target))
    split = release.split
    if split is None or split.promotion_id is None or split == before.split:
        return
    asked = promotions.get(connection, split.promotion_id)
    if asked.model != release.model:
        raise InvalidInput("split.promotion_id", f"{split.promotion_id} is a promotion of {asked.model}")
    if asked.state in _CLOSED or asked.experiment is None:
        reason = f"it is {asked.state.value}" if asked.state in _CLOSED else "no design of an A/B test is recorded"
        raise Conflict(f"promotion {split.promotion_id} cannot be tested: {reason}")
    shared = [version_at(connection, release.model, share.target) for share in split.shares]
    if asked.version not in shared:
        raise InvalidInput("split.shares", f"none is version {asked.version}, which {split.promotion_id} is about")


def _check_placement(connection: Connection, before: Release, release: Release) -> None:
    """The pool answers for the alias alone: a release would be in the record and nowhere else. The way back is free."""
    more = release_rules.exposes_more(before, release) or set(release.shadows) - set(before.shadows)
    if not (more and release_rules.reached(release)):
        return
    spec = endpoints.find(connection, release.model, PRIMARY)
    if spec is not None and spec.placement == "pooled":
        raise Conflict(
            f"{release.model}@{PRIMARY} is served by the pool, which knows no splits, shadows or canaries: give it a "
            "host of its own first, with 'placement: dedicated' in its serving spec (`rayplat serve apply`)"
        )


def _check_allowed(connection: Connection, before: Release, release: Release, by: Principal) -> None:
    if by.name == _OWN or not release_rules.exposes_more(before, release):
        return
    if not policies.find(connection, release.model, PRIMARY).protected:
        return
    subject = f"{release.model}@{PRIMARY} is protected: to send more of its requests to other versions needs"
    if not by.role.includes(Role.APPROVER):
        raise Forbidden(by.name, f"{subject} the role approver")
    if by.kind is not PrincipalKind.PERSON:
        raise Forbidden(by.name, f"{subject} a person's token, this is a service's")


def _clocked(tx: Tx, before: Canary | None, canary: Canary | None) -> Canary | None:
    """A step begins when it is written, whoever says what."""
    if canary is None:
        return None
    if before is not None and _step(before) == _step(canary):
        return replace(canary, since=before.since)
    return replace(canary, since=tx.at)


def _step(canary: Canary) -> tuple[object, ...]:
    return canary.target, canary.steps, canary.step, canary.state


def _asked(release: Release) -> Release:
    """What the caller decides: all but what the record sets."""
    canary = None if release.canary is None else replace(release.canary, since=None)
    return replace(release, generation=0, changed_at=None, changed_by="", canary=canary)


def _write(tx: Tx, made: Release, before: Release, said: dict[str, object]) -> None:
    columns = {
        "model": made.model,
        "generation": made.generation,
        "release": documents.text(made),
        "changed_at": rows.to_us(tx.at),
        "changed_by": made.changed_by,
    }
    tx.connection.execute(sa.insert(table).values(**columns))
    tx.wrote(table, columns)
    audit.append(tx, made.changed_by, "release.put", made.model, {"generation": made.generation, "asked": said})
    body = {"by": made.changed_by, "generation": made.generation, "release": documents.plain(made)}
    events.emit(tx, "release.changed", made.model, body)
    was, now = before.canary, made.canary
    if now is not None and now.state is CanaryState.ROLLED_BACK and (was is None or was.state is not now.state):
        told = {"by": made.changed_by, "target": now.target, "reason": now.reason, "generation": made.generation}
        events.emit(tx, "canary.rolled_back", made.model, told)
    tx.released.append(made)
