"""Operations on model versions: registered once by content, never changed, numbered together with MLflow's."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy import Connection

from rayplat.errors import NotFound
from rayplat.identity import require
from rayplat.registry.candidate import Candidate
from rayplat.registry.record import audit, mlflow_rows, rows
from rayplat.registry.record.database import Tx
from rayplat.registry.record.schema import model_version
from rayplat.types import ModelVersion, Principal, Role

_LAST_NUMBER = 2**31 - 1  # what the column holds; a larger one is an error of the driver, not an empty answer


def register(tx: Tx, candidate: Candidate, *, by: Principal) -> ModelVersion:
    """The version of ``candidate``, new or, for a digest this model already has, the one that exists."""
    require(by, Role.DEVELOPER)
    candidate.check()
    same = (model_version.c.model == candidate.model) & (model_version.c.digest == candidate.digest)
    row = tx.connection.execute(sa.select(model_version).where(same)).first()
    if row is not None:
        return rows.model_version(row)
    ours = tx.connection.scalar(
        sa.select(sa.func.max(model_version.c.version)).where(model_version.c.model == candidate.model)
    )
    number = max(int(ours or 0), mlflow_rows.last_version(tx.connection, candidate.model)) + 1
    version = ModelVersion(version=number, author=by.name, created_at=tx.at, **vars(candidate))
    tx.connection.execute(sa.insert(model_version).values(**rows.model_version_columns(version)))
    mlflow_rows.add_version(tx.connection, version)
    detail = {"digest": version.digest, "run_id": version.run_id, "training_set": version.training_set}
    audit.append(tx, by.name, "model.register", f"{version.model}/{number}", detail)
    return version


def models(connection: Connection) -> list[str]:
    """Names of all registered models, sorted."""
    return list(connection.scalars(sa.select(model_version.c.model).distinct().order_by(model_version.c.model)))


def listed(connection: Connection, model: str) -> list[ModelVersion]:
    """Every version, newest first. Raises `NotFound` for an unknown model."""
    found = sa.select(model_version).where(model_version.c.model == model).order_by(model_version.c.version.desc())
    versions = [rows.model_version(row) for row in connection.execute(found)]
    if not versions:
        raise NotFound("model", model, "'rayplat model list' shows the registered ones")
    return versions


def get(connection: Connection, model: str, version: int) -> ModelVersion:
    """One version. Raises `NotFound`, saying whether the model or the version is unknown."""
    wanted = (model_version.c.model == model) & (model_version.c.version == version)
    possible = 1 <= version <= _LAST_NUMBER
    row = connection.execute(sa.select(model_version).where(wanted)).first() if possible else None
    if row is None:
        known = ", ".join(str(v.version) for v in listed(connection, model)[:5])
        raise NotFound("model version", f"{model}/{version}", f"the newest are {known}")
    return rows.model_version(row)
