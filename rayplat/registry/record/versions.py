"""Operations on model versions: registered once by content, never changed, numbered together with MLflow's.

A version that nothing points at can be retired (no alias may be pointed at it until it is restored) or deleted; its
row and its number stay for ever.
"""

from __future__ import annotations

from dataclasses import replace

import sqlalchemy as sa
from sqlalchemy import Connection

from rayplat.artifacts.manifest import check_digest
from rayplat.errors import Conflict, InvalidInput, NotFound
from rayplat.identity import require
from rayplat.registry import release_rules
from rayplat.registry.candidate import Candidate
from rayplat.registry.record import audit, events, lineage, mlflow_rows, release_rows, rows
from rayplat.registry.record.database import Tx
from rayplat.registry.record.prepared import Prepared
from rayplat.registry.record.schema import alias_head, model_version, pin, promotion
from rayplat.types import ModelVersion, Principal, PromotionState, Role, VersionState

_LAST_NUMBER = 2**31 - 1  # what the column holds; a larger one is an error of the driver, not an empty answer
_REASON_LENGTH = 2000
_GET = Prepared(
    sa.select(model_version).where(
        model_version.c.model == sa.bindparam("model"), model_version.c.version == sa.bindparam("version")
    )
)
_S = PromotionState
_OPEN = set(_S) - {_S.LIVE, _S.SUPERSEDED, _S.ROLLED_BACK, _S.REJECTED, _S.EXPIRED, _S.STALE, _S.CANCELLED}


def register(tx: Tx, candidate: Candidate, *, by: Principal) -> ModelVersion:
    """The version of ``candidate``, new or, for a digest this model already has, the one that exists.

    Raises `Conflict` where that one was deleted: it does not come back.
    """
    require(by, Role.DEVELOPER)
    candidate.check()
    same = (model_version.c.model == candidate.model) & (model_version.c.digest == candidate.digest)
    row = tx.connection.execute(sa.select(model_version).where(same)).first()
    if row is not None:
        return _not_deleted(rows.model_version(row))
    ours = tx.connection.scalar(
        sa.select(sa.func.max(model_version.c.version)).where(model_version.c.model == candidate.model)
    )
    number = max(int(ours or 0), mlflow_rows.last_version(tx.connection, candidate.model)) + 1
    version = ModelVersion(version=number, author=by.name, created_at=tx.at, **vars(candidate))
    columns = rows.model_version_columns(version)
    tx.connection.execute(sa.insert(model_version).values(**columns))
    tx.wrote(model_version, columns)
    mlflow_rows.add_version(tx.connection, version, tx.defaults.artifacts_root)
    lineage.registered(tx, version)
    detail = {"digest": version.digest, "run_id": version.run_id, "training_set": version.training_set}
    detail |= {"run_author": version.run_author}
    audit.append(tx, by.name, "model.register", _name(version), detail)
    events.emit(tx, "model.registered", _name(version), {"by": by.name, "format": version.format, **detail})
    return version


def models(connection: Connection) -> list[str]:
    """Names of all registered models, sorted."""
    return list(connection.scalars(sa.select(model_version.c.model).distinct().order_by(model_version.c.model)))


def listed(connection: Connection, model: str, deleted: bool = True) -> list[ModelVersion]:
    """Every version, newest first, with the deleted ones unless told otherwise. Raises `NotFound` for an unknown
    model."""
    found = sa.select(model_version).where(model_version.c.model == model).order_by(model_version.c.version.desc())
    versions = [rows.model_version(row) for row in connection.execute(found)]
    if not versions:
        raise NotFound("model", model, "'rayplat model list' shows the registered ones")
    return [v for v in versions if deleted or v.state is not VersionState.DELETED]


def get(connection: Connection, model: str, version: int) -> ModelVersion:
    """One version, in whatever state. Raises `NotFound`, saying whether the model or the version is unknown."""
    if isinstance(version, bool) or not isinstance(version, int):
        raise InvalidInput("version", f"{version!r} is no number of a version")
    possible = 1 <= version <= _LAST_NUMBER
    row = _GET(connection, {"model": model, "version": version}).first() if possible else None
    if row is None:
        known = ", ".join(str(v.version) for v in listed(connection, model)[:5])
        raise NotFound("model version", f"{model}/{version}", f"the newest are {known}")
    return rows.model_version(row)


def usable(connection: Connection, model: str, version: int) -> ModelVersion:
    """A version that an alias may be pointed at. Raises `NotFound`, or `Conflict` for one retired or deleted."""
    found = _not_deleted(get(connection, model, version))
    if found.state is VersionState.RETIRED:
        raise Conflict(f"version {version} of {model} is retired: restore it first")
    return found


def sign(tx: Tx, model: str, version: int, statement: str, *, by: Principal) -> ModelVersion:
    """Keep the digest of the version's signed statement, which speaks of its number and so comes after `register`.

    The same again is no error. Raises `Conflict` where it has another one: what was signed stays.
    """
    require(by, Role.DEVELOPER)
    check_digest("statement", statement)
    found = _not_deleted(get(tx.connection, model, version))
    if found.statement == statement:
        return found
    if found.statement is not None:
        raise Conflict(f"version {version} of {model} is signed already, by the statement {found.statement}")
    same = (model_version.c.model == model) & (model_version.c.version == version)
    tx.connection.execute(sa.update(model_version).where(same).values(statement=statement))
    tx.wrote(model_version, {"model": model, "version": version})
    audit.append(tx, by.name, "model.sign", _name(found), {"digest": found.digest, "statement": statement})
    return replace(found, statement=statement)


def retire(tx: Tx, model: str, version: int, reason: str, *, by: Principal) -> ModelVersion:
    """No alias may be pointed at the version until it is restored. Raises `Conflict` naming what points at it."""
    require(by, Role.DEVELOPER)
    return _enter(tx, _not_deleted(get(tx.connection, model, version)), VersionState.RETIRED, reason, by)


def restore(tx: Tx, model: str, version: int, reason: str, *, by: Principal) -> ModelVersion:
    """Take back `retire`. Raises `Conflict` for a deleted version."""
    require(by, Role.DEVELOPER)
    return _enter(tx, _not_deleted(get(tx.connection, model, version)), VersionState.ACTIVE, reason, by)


def delete(tx: Tx, model: str, version: int, reason: str, *, by: Principal) -> ModelVersion:
    """Give the version up for good: its bytes are no longer kept, MLflow shows it no more. Needs an approver.

    Raises `Conflict` naming the alias, pin or open promotion that points at it.
    """
    require(by, Role.APPROVER)
    return _enter(tx, get(tx.connection, model, version), VersionState.DELETED, reason, by)


def holders(connection: Connection, version: ModelVersion) -> list[str]:
    """What points at a version, in words: aliases, pins (of the version or its bytes), open promotions, the release in
    force."""
    mine = [version.model, version.version]
    at = sa.select(alias_head.c.alias).where(alias_head.c.model == mine[0], alias_head.c.version == mine[1])
    found = [f"alias {alias!r}" for alias in connection.scalars(at.order_by(alias_head.c.alias))]
    is_version = (pin.c.kind == "version") & (pin.c.target == _name(version))
    is_content = (pin.c.kind == "artifact") & (pin.c.target == version.digest)
    pins = sa.select(pin.c.pinned_by, pin.c.reason).where(is_version | is_content).order_by(pin.c.pinned_by)
    found += [f"a pin of {row.pinned_by} ({row.reason[:80]})" for row in connection.execute(pins)]
    asked = sa.select(promotion.c.promotion_id, promotion.c.state).where(
        promotion.c.model == mine[0], promotion.c.version == mine[1], promotion.c.state.in_(sorted(_OPEN))
    )
    asked = asked.order_by(promotion.c.promotion_id)
    found += [f"promotion {row.promotion_id} ({row.state})" for row in connection.execute(asked)]
    named = release_rules.targets(release_rows.in_force(connection, version.model))
    return found + (["the release in force"] if str(mine[1]) in named else [])


_VERBS = {VersionState.RETIRED: "retire", VersionState.ACTIVE: "restore", VersionState.DELETED: "delete"}


def _enter(tx: Tx, version: ModelVersion, state: VersionState, reason: str, by: Principal) -> ModelVersion:
    """Change the state; again is no error."""
    if version.state is state:
        return version
    if not isinstance(reason, str) or not reason.strip():
        raise InvalidInput("reason", "say why, in a few words: it is kept in the audit log")
    found = [] if state is VersionState.ACTIVE else holders(tx.connection, version)
    if found:
        raise Conflict(f"version {version.version} of {version.model} is in use by {', '.join(found)}")
    same = (model_version.c.model == version.model) & (model_version.c.version == version.version)
    tx.connection.execute(sa.update(model_version).where(same).values(state=state.value))
    tx.wrote(model_version, {"model": version.model, "version": version.version})
    if state is VersionState.DELETED:
        mlflow_rows.delete_version(tx.connection, version, tx.at)
    detail = {"digest": version.digest, "state": state.value, "reason": reason.strip()[:_REASON_LENGTH]}
    audit.append(tx, by.name, f"model.{_VERBS[state]}", _name(version), detail)
    events.emit(tx, f"model.{_VERBS[state]}d", _name(version), {"by": by.name, **detail})
    return replace(version, state=state)


def _not_deleted(version: ModelVersion) -> ModelVersion:
    if version.state is VersionState.DELETED:
        raise Conflict(f"version {version.version} of {version.model} was deleted, and does not come back")
    return version


def _name(version: ModelVersion) -> str:
    return f"{version.model}/{version.version}"
