"""MLflow's own registry rows, kept in step so that its page and ``models:/name@alias`` show what the record says.

They are a projection: written in the record's transaction, never read to decide anything but the next version number.
"""

from __future__ import annotations

import time

import sqlalchemy as sa
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from rayplat.types import AliasHead, ModelVersion

_INIT_TIMEOUT_S = 60.0
_RUN_ID_LENGTH = 32


def warm() -> None:
    """Import MLflow's models (2 to 4 s), so that the first write does not have to."""
    import mlflow.store.model_registry.dbmodels.models  # noqa: F401


def ensure_tables(engine: sa.Engine) -> None:
    """Create MLflow's tables where they are absent. Another process may be doing so: then wait for it, bounded."""
    from mlflow.store.db.utils import _all_tables_exist, _safe_initialize_tables

    deadline = time.monotonic() + _INIT_TIMEOUT_S
    while not _all_tables_exist(engine):  # type: ignore[no-untyped-call]
        try:
            _safe_initialize_tables(engine)
        except OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


def last_version(session: Session, model: str) -> int:
    """The highest number MLflow ever gave a version of ``model``, deleted ones included; 0 if none."""
    from mlflow.store.model_registry.dbmodels.models import SqlModelVersion

    highest: sa.Select[tuple[int | None]] = sa.select(sa.func.max(SqlModelVersion.version)).where(
        SqlModelVersion.name == model
    )
    return int(session.scalar(highest) or 0)


def add_version(session: Session, version: ModelVersion) -> None:
    """A READY model version whose source is the artifact's digest."""
    from mlflow.store.model_registry.dbmodels.models import SqlModelVersion, SqlModelVersionTag

    at_ms = int(version.created_at.timestamp() * 1000)
    _touch_model(session, version.model, at_ms)
    source = f"rayplat://artifacts/{version.digest}"
    session.add(
        SqlModelVersion(
            name=version.model,
            version=version.version,
            creation_time=at_ms,
            last_updated_time=at_ms,
            user_id=version.author[:256],
            source=source,
            storage_location=source,
            run_id=version.run_id if len(version.run_id) <= _RUN_ID_LENGTH else None,
        )
    )
    session.flush()
    tags = {"digest": version.digest, "author": version.author, "training_set": version.training_set}
    for key, value in tags.items():
        session.add(SqlModelVersionTag(name=version.model, version=version.version, key=f"rayplat.{key}", value=value))
    session.flush()


def set_alias(session: Session, head: AliasHead) -> None:
    """MLflow's alias row, made or moved; also where somebody deleted the model on MLflow's page."""
    from mlflow.store.model_registry.dbmodels.models import SqlRegisteredModelAlias
    from mlflow.utils.workspace_utils import DEFAULT_WORKSPACE_NAME

    _touch_model(session, head.model, int(head.moved_at.timestamp() * 1000))
    row = SqlRegisteredModelAlias(
        workspace=DEFAULT_WORKSPACE_NAME, name=head.model, alias=head.alias, version=head.version
    )
    session.merge(row)
    session.flush()


def _touch_model(session: Session, name: str, at_ms: int) -> None:
    from mlflow.store.model_registry.dbmodels.models import SqlRegisteredModel
    from mlflow.utils.workspace_utils import DEFAULT_WORKSPACE_NAME

    row = session.get(SqlRegisteredModel, (DEFAULT_WORKSPACE_NAME, name))
    if row is None:
        session.add(
            SqlRegisteredModel(
                workspace=DEFAULT_WORKSPACE_NAME, name=name, creation_time=at_ms, last_updated_time=at_ms
            )
        )
    else:
        row.last_updated_time = at_ms  # type: ignore[assignment]
    session.flush()
