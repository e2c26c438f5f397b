"""Operations on aliases: where they point, where they ever pointed, and the compare-and-set that moves one.

A removal counts as a generation too: generations grow by one and never repeat, so that who decided on an earlier one
is told. `move` is how promotions move an alias; `set` and `remove` are for aliases that no policy protects.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from rayplat.errors import Forbidden, InvalidInput, NotFound, StaleGeneration
from rayplat.identity import require
from rayplat.registry.record import audit, events, lineage, mlflow_rows, policies, rows, versions
from rayplat.registry.record.database import Tx
from rayplat.registry.record.prepared import Prepared
from rayplat.registry.record.schema import alias_head, alias_history
from rayplat.types import AliasHead, AuditEntry, Principal, Role, check_alias

_REASON_LENGTH = 2000
# Built once: a move is what many wait for, and to build a statement takes SQLAlchemy longer than to run it.
_FIND = Prepared(
    sa.select(alias_head).where(
        alias_head.c.model == sa.bindparam("model"), alias_head.c.alias == sa.bindparam("alias")
    )
)
_GENERATION = sa.select(sa.func.max(alias_history.c.generation)).where(
    alias_history.c.model == sa.bindparam("model"), alias_history.c.alias == sa.bindparam("alias")
)
_MOVE = Prepared(
    sa.update(alias_head).where(
        alias_head.c.model == sa.bindparam("its_model"),
        alias_head.c.alias == sa.bindparam("its_alias"),
        alias_head.c.generation == sa.bindparam("its_generation"),
    )
)
_CREATE, _KEEP = Prepared(sa.insert(alias_head)), Prepared(sa.insert(alias_history))


def find(connection: Connection, model: str, alias: str) -> AliasHead | None:
    """Where the alias points, None where it does not exist."""
    row = _FIND(connection, {"model": model, "alias": alias}).first()
    return None if row is None else rows.alias_head(row)


def get(connection: Connection, model: str, alias: str) -> AliasHead:
    """Where the alias points. Raises `NotFound`."""
    head = find(connection, model, alias)
    if head is None:
        known = ", ".join(h.alias for h in listed(connection, model)) or "none yet"
        raise NotFound("alias", f"{model}@{alias}", f"aliases of this model: {known}")
    return head


def listed(connection: Connection, model: str | None = None) -> list[AliasHead]:
    """Heads of one model, or of all, by name."""
    heads = sa.select(alias_head).order_by(alias_head.c.model, alias_head.c.alias)
    if model is not None:
        heads = heads.where(alias_head.c.model == model)
    return [rows.alias_head(row) for row in connection.execute(heads)]


def of_model(connection: Connection, model: str) -> list[AliasHead]:
    """Where each alias of a model points. Raises `NotFound` for an unknown model."""
    versions.listed(connection, model)
    return listed(connection, model)


def generation(connection: Connection, model: str, alias: str) -> int:
    """How often the alias was moved or removed, to compare and set on: 0 where it never existed."""
    return int(connection.scalar(_GENERATION, {"model": model, "alias": alias}) or 0)


def history(connection: Connection, model: str, alias: str) -> list[AliasHead]:
    """Every head the alias ever had and every removal, newest first. Raises `NotFound` where it never existed."""
    found = _history(connection, model, alias)
    if not found:
        get(connection, model, alias)
    return found


def last_live(connection: Connection, model: str, alias: str) -> AliasHead | None:
    """The head that a new version is compared with: the present one or, of an alias that was removed, the last it had.

    None where nothing was ever live there."""
    head = find(connection, model, alias)
    if head is not None:
        return head
    found = _history(connection, model, alias, alias_history.c.removed.is_(sa.false()), 1)
    return found[0] if found else None


def at(connection: Connection, model: str, alias: str, moment: datetime) -> AliasHead | None:
    """Where the alias pointed at ``moment`` (with a time zone); None before it existed and while it was removed."""
    if moment.tzinfo is None:
        raise InvalidInput("moment", f"{moment.isoformat()} has no time zone")
    found = _history(connection, model, alias, alias_history.c.moved_at <= rows.to_us(moment), 1)
    return found[0] if found and not found[0].removed else None


def set(
    tx: Tx, model: str, alias: str, version: int, expected_generation: int | None = None, *, by: Principal
) -> AliasHead:
    """Point a free alias at ``version``, if it is still at ``expected_generation`` (None: wherever it is now).

    Raises `Forbidden` for a protected alias, `StaleGeneration`, `NotFound`, `InvalidName`, and `Conflict` for a version
    that is retired or deleted.
    """
    require(by, Role.DEVELOPER)
    if (earlier := audit.replayed(tx, "alias.set", f"{model}@{alias}", version=version)) is not None:
        return _at_generation(tx, model, alias, earlier)
    check_alias(alias)
    target = versions.usable(tx.connection, model, version)
    _check_free(tx, model, alias, by)
    before = find(tx.connection, model, alias)
    if expected_generation is None:
        expected_generation = before.generation if before else generation(tx.connection, model, alias)
    wanted = AliasHead(model, alias, version, target.digest, 0, tx.at, by.name)
    head = _point(tx, wanted, expected_generation, before)
    audit.append(tx, by.name, "alias.set", f"{model}@{alias}", _detail(head, before))
    return head


def move(tx: Tx, head: AliasHead, expected_generation: int) -> AliasHead:
    """Point the alias where ``head`` says, if it is still at ``expected_generation`` (`generation`).

    Head, history, MLflow's row, lineage and the event change together; ``head.generation`` and its time are set here.
    The caller has decided that it may, and writes the audit entry. Raises `StaleGeneration` when somebody else moved
    it first, `Conflict` for a version that is retired or deleted.
    """
    check_alias(head.alias)
    versions.usable(tx.connection, head.model, head.version)
    return _point(tx, head, expected_generation, find(tx.connection, head.model, head.alias))


def remove(
    tx: Tx, model: str, alias: str, expected_generation: int | None = None, reason: str = "", *, by: Principal
) -> AliasHead:
    """Remove a free alias, or as an admin, with a reason, a protected one. Its history and its generations go on.

    Returns the removal as it stands in the history. Raises `Forbidden`, `StaleGeneration`, `NotFound`.
    """
    require(by, Role.DEVELOPER)
    if (earlier := audit.replayed(tx, "alias.remove", f"{model}@{alias}")) is not None:
        return _at_generation(tx, model, alias, earlier)
    before = get(tx.connection, model, alias)
    if not (by.role.includes(Role.ADMIN) and reason.strip()):
        _check_free(tx, model, alias, by)
    if expected_generation not in (None, before.generation):
        raise _stale(before, before.generation, expected_generation)
    gone = replace(
        before, generation=before.generation + 1, moved_at=tx.at, moved_by=by.name, promotion_id=None, removed=True
    )
    tx.connection.execute(sa.delete(alias_head).where(alias_head.c.model == model, alias_head.c.alias == alias))
    tx.wrote(alias_head, {"model": model, "alias": alias})
    columns = rows.alias_head_columns(gone)
    _KEEP(tx.connection, columns)
    tx.wrote(alias_history, columns)
    mlflow_rows.delete_alias(tx.connection, model, alias)
    detail = {**_detail(gone, before), "reason": reason.strip()[:_REASON_LENGTH]}
    audit.append(tx, by.name, "alias.remove", f"{model}@{alias}", detail)
    events.emit(tx, "alias.removed", f"{model}@{alias}", {"by": by.name, **detail})
    tx.moved.append(gone)
    return gone


def _point(tx: Tx, head: AliasHead, expected: int | None, before: AliasHead | None) -> AliasHead:
    now = before.generation if before else generation(tx.connection, head.model, head.alias)
    if now != expected:
        raise _stale(head, now, expected)
    head = replace(head, generation=now + 1, moved_at=tx.at, removed=False)
    columns = rows.alias_head_columns(head)
    _KEEP(tx.connection, columns)
    tx.wrote(alias_history, columns)
    del columns["removed"]
    if before is None:
        _CREATE(tx.connection, columns)
    else:
        at = {"its_model": head.model, "its_alias": head.alias, "its_generation": now}
        _MOVE(tx.connection, {**columns, **at})
    tx.wrote(alias_head, columns)
    mlflow_rows.set_alias(tx.connection, head)
    lineage.moved(tx, head)
    body = {"by": head.moved_by, "promotion_id": head.promotion_id, **_detail(head, before)}
    events.emit(tx, "alias.moved", f"{head.model}@{head.alias}", body)
    tx.moved.append(head)
    return head


def _check_free(tx: Tx, model: str, alias: str, by: Principal) -> None:
    if policies.find(tx.connection, model, alias).protected:
        raise Forbidden(by.name, f"{model}@{alias} is protected: it moves by an approved promotion ('rayplat promote')")


def _at_generation(tx: Tx, model: str, alias: str, earlier: AuditEntry) -> AliasHead:
    """What an earlier call with this key made."""
    made = alias_history.c.generation == earlier.detail["generation"]
    return _history(tx.connection, model, alias, made)[0]


def _history(
    connection: Connection, model: str, alias: str, more: sa.ColumnElement[bool] | None = None, limit: int | None = None
) -> list[AliasHead]:
    wanted = (alias_history.c.model == model) & (alias_history.c.alias == alias)
    heads = sa.select(alias_history).where(wanted if more is None else wanted & more)
    heads = heads.order_by(alias_history.c.generation.desc()).limit(limit)
    return [rows.alias_head(row) for row in connection.execute(heads)]


def _stale(head: AliasHead, now: int, expected: int | None) -> StaleGeneration:
    return StaleGeneration(
        f"{head.model}@{head.alias} is at generation {now}, not {expected}: "
        "somebody moved it; read it again and decide anew"
    )


def _detail(head: AliasHead, before: AliasHead | None) -> dict[str, Any]:
    was = before.version if before else None
    return {"from": was, "version": head.version, "digest": head.digest, "generation": head.generation}
