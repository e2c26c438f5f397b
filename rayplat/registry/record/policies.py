"""Operations on alias policies: what a version must go through before an alias points at it.

The most telling policy holds: of model and alias, then of the model, then of the alias, then ``*`` for all, then the
built-in one, which protects every alias.
"""

from __future__ import annotations

import functools

import sqlalchemy as sa
from sqlalchemy import Connection

from rayplat.errors import NotFound
from rayplat.identity import require
from rayplat.registry import documents
from rayplat.registry.promotion import policy as rules
from rayplat.registry.record import audit, promotion_rows, rows
from rayplat.registry.record.database import Tx
from rayplat.registry.record.prepared import Prepared
from rayplat.registry.record.schema import alias_policy
from rayplat.types import AliasPolicy, Principal, Role

_HOLDING = Prepared(
    sa.select(alias_policy.c.model, alias_policy.c.alias, alias_policy.c.policy).where(
        alias_policy.c.model.in_([sa.bindparam("m"), rules.ANY]),
        alias_policy.c.alias.in_([sa.bindparam("a"), rules.ANY]),
    )
)


def set(tx: Tx, policy: AliasPolicy, *, by: Principal) -> AliasPolicy:
    """Set the policy of ``policy.model``@``policy.alias`` (``*``: every one). Promotions it applies to go stale.

    Needs an admin. Raises `InvalidInput` naming the field, the gate and its parameter.
    """
    require(by, Role.ADMIN)
    policy = rules.check(policy)
    said, subject = documents.plain(policy), f"{policy.model}@{policy.alias}"
    if audit.replayed(tx, "policy.set", subject, policy=said) is not None:
        return get(tx.connection, policy.model, policy.alias)
    before = _stored(tx.connection, policy.model, policy.alias)
    if before is not None and before.digest == policy.digest:
        return before
    columns = {
        "policy": documents.text(policy),
        "digest": policy.digest,
        "set_by": by.name,
        "at": rows.to_us(tx.at),
    }
    if before is None:
        tx.connection.execute(sa.insert(alias_policy).values(model=policy.model, alias=policy.alias, **columns))
    else:
        tx.connection.execute(sa.update(alias_policy).where(_of(policy.model, policy.alias)).values(**columns))
    tx.wrote(alias_policy, {"model": policy.model, "alias": policy.alias, **columns})
    detail = {"policy": said, "before": None if before is None else before.digest}
    audit.append(tx, by.name, "policy.set", subject, detail)
    _stale(tx)
    return policy


def remove(tx: Tx, model: str, alias: str, *, by: Principal) -> None:
    """Forget a policy, so that the next less telling one holds. Needs an admin. Raises `NotFound`."""
    require(by, Role.ADMIN)
    if audit.replayed(tx, "policy.remove", f"{model}@{alias}") is not None:
        return
    before = get(tx.connection, model, alias)
    tx.connection.execute(sa.delete(alias_policy).where(_of(model, alias)))
    tx.wrote(alias_policy, {"model": model, "alias": alias})
    audit.append(tx, by.name, "policy.remove", f"{model}@{alias}", {"before": before.digest})
    _stale(tx)


def get(connection: Connection, model: str, alias: str) -> AliasPolicy:
    """The policy that was set for exactly this pair, ``*`` included. Raises `NotFound`."""
    found = _stored(connection, model, alias)
    if found is None:
        raise NotFound("alias policy", f"{model}@{alias}", "'rayplat policy list' shows the ones that were set")
    return found


def find(connection: Connection, model: str, alias: str, max_parity_mismatch: float | None = None) -> AliasPolicy:
    """The policy that holds for an alias. ``max_parity_mismatch`` (a setting) goes into the built-in one."""
    stored = {(row.model, row.alias): row.policy for row in _HOLDING(connection, {"m": model, "a": alias}).rows}
    found = next((stored[pair] for pair in rules.resolution(model, alias) if pair in stored), None)
    return rules.builtin(max_parity_mismatch) if found is None else _parsed(found)


def listed(connection: Connection) -> list[AliasPolicy]:
    """Every policy that was set, by model and alias. The audit log has their history (``policy.set``)."""
    found = sa.select(alias_policy.c.policy).order_by(alias_policy.c.model, alias_policy.c.alias)
    return [documents.parse(AliasPolicy, text, "alias policy") for text in connection.scalars(found)]


def _stale(tx: Tx) -> None:
    """Open promotions that were judged by another policy than the one that now holds have to be asked for anew."""
    for asked in promotion_rows.opened(tx.connection):
        now = find(tx.connection, asked.model, asked.alias, tx.defaults.max_parity_mismatch)
        if asked.policy is None or asked.policy.digest != now.digest:
            promotion_rows.go_stale(tx, asked, "the alias's policy was changed")


def _stored(connection: Connection, model: str, alias: str) -> AliasPolicy | None:
    text = connection.scalar(sa.select(alias_policy.c.policy).where(_of(model, alias)))
    return None if text is None else _parsed(text)


@functools.lru_cache(maxsize=256)
def _parsed(text: str) -> AliasPolicy:
    return documents.parse(AliasPolicy, text, "alias policy")


def _of(model: str, alias: str) -> sa.ColumnElement[bool]:
    return (alias_policy.c.model == model) & (alias_policy.c.alias == alias)
