"""MLflow's own registry rows, kept in step so that its page and ``models:/name@alias`` show what the record says.

They are a projection: written in the record's transaction, never read to decide anything but the next version number.
"""

from __future__ import annotations

import time
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.exc import OperationalError

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


def last_version(connection: Connection, model: str) -> int:
    """The highest number MLflow ever gave a version of ``model``, deleted ones included; 0 if none."""
    table = _table("model_versions")
    return int(connection.scalar(sa.select(sa.func.max(table.c.version)).where(table.c.name == model)) or 0)


def add_version(connection: Connection, version: ModelVersion) -> None:
    """A READY model version whose source is the artifact's digest."""
    at_ms = int(version.created_at.timestamp() * 1000)
    _touch_model(connection, version.model, at_ms)
    key = {"workspace": _workspace(), "name": version.model, "version": version.version}
    source = f"rayplat://artifacts/{version.digest}"
    row = {
        "creation_time": at_ms,
        "last_updated_time": at_ms,
        "user_id": version.author[:256],
        "source": source,
        "storage_location": source,
        "run_id": version.run_id if len(version.run_id) <= _RUN_ID_LENGTH else None,
    }
    connection.execute(sa.insert(_table("model_versions")).values(**key, **row))
    tags = {"digest": version.digest, "author": version.author, "training_set": version.training_set}
    rows = [{**key, "key": f"rayplat.{name}", "value": value} for name, value in tags.items()]
    connection.execute(sa.insert(_table("model_version_tags")), rows)


def set_alias(connection: Connection, head: AliasHead) -> None:
    """MLflow's alias row, made or moved; also where somebody deleted the model on MLflow's page."""
    _touch_model(connection, head.model, int(head.moved_at.timestamp() * 1000))
    key = {"workspace": _workspace(), "name": head.model, "alias": head.alias}
    _upsert(connection, _table("registered_model_aliases"), key, {"version": head.version}, {})


def _touch_model(connection: Connection, name: str, at_ms: int) -> None:
    key = {"workspace": _workspace(), "name": name}
    _upsert(connection, _table("registered_models"), key, {"last_updated_time": at_ms}, {"creation_time": at_ms})


def _upsert(
    connection: Connection, table: sa.Table, key: dict[str, Any], row: dict[str, Any], new: dict[str, Any]
) -> None:
    """Set ``row`` where ``key`` is, or insert it with the columns in ``new``. The fence keeps other writers out."""
    same = sa.and_(*(table.c[name] == value for name, value in key.items()))
    if connection.execute(sa.update(table).where(same).values(**row)).rowcount == 0:
        connection.execute(sa.insert(table).values(**key, **row, **new))


def _table(name: str) -> sa.Table:
    import mlflow.store.model_registry.dbmodels.models  # noqa: F401 (fills the metadata)
    from mlflow.store.db.base_sql_model import Base

    found: sa.Table = Base.metadata.tables[name]
    return found


def _workspace() -> str:
    from mlflow.utils.workspace_utils import DEFAULT_WORKSPACE_NAME

    return str(DEFAULT_WORKSPACE_NAME)
