"""MLflow's own registry rows, kept in step so that its page and ``models:/name@alias`` show what the record says.

They are a projection: written in the record's transaction, never read to decide anything but the next version number.
"""

from __future__ import annotations

import time
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.exc import OperationalError

from rayplat.artifacts.locations import parse, tree_uri
from rayplat.errors import InvalidInput
from rayplat.types import AliasHead, ModelVersion

_INIT_TIMEOUT_S = 60.0
_RUN_ID_LENGTH, _SOURCE_LENGTH = 32, 500
_DELETED = "Deleted_Internal"  # MLflow's stage of a version that was deleted
_READY = "READY"


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


def source_of(digest: str, artifacts_root: str) -> str:
    """Where MLflow loads a version from: its tree in the store, or without a known store a mere name of it."""
    source = tree_uri(artifacts_root, digest) if artifacts_root else f"rayplat://artifacts/{digest}"
    if len(source) > _SOURCE_LENGTH:
        raise InvalidInput(
            "artifacts.root", f"{artifacts_root[:80]!r}… is too long: MLflow keeps {_SOURCE_LENGTH} bytes"
        )
    return source


def is_source_of(digest: str, source: str | None) -> bool:
    """Whether ``source`` can give nothing but the tree ``digest``, wherever the store lies."""
    if source == source_of(digest, ""):
        return True
    try:
        found = parse(str(source))
    except InvalidInput:
        return False
    return found.tree == digest and not found.path


def add_version(connection: Connection, version: ModelVersion, artifacts_root: str = "") -> None:
    """A READY model version whose source is the artifact's tree below ``artifacts_root`` (a folder or ``s3://…``).

    A row that is there (a version adopted in place, or one that somebody deleted) keeps what else it says.
    """
    at_ms = int(version.created_at.timestamp() * 1000)
    _touch_model(connection, version.model, at_ms)
    source = source_of(version.digest, artifacts_root)
    run_id = version.run_id if len(version.run_id) <= _RUN_ID_LENGTH else None
    always = {"source": source, "storage_location": source, "status": _READY, "run_id": run_id}
    new = {"creation_time": at_ms, "last_updated_time": at_ms, "user_id": version.author[:256]}
    key = {"workspace": _workspace(), "name": version.model, "version": version.version}
    versions = _table("model_versions")
    _upsert(connection, versions, key, always, new)
    undelete = sa.update(versions).where(_same(versions, key), versions.c.current_stage == _DELETED)
    connection.execute(undelete.values(current_stage="None", **new))
    tags = {"digest": version.digest, "author": version.author, "training_set": version.training_set}
    for name, value in tags.items():
        _upsert(connection, _table("model_version_tags"), {**key, "key": f"rayplat.{name}"}, {"value": value}, {})


def aliases(connection: Connection) -> dict[tuple[str, str], int]:
    """(model, alias) to version, of every model MLflow knows."""
    table = _table("registered_model_aliases")
    wanted = sa.select(table.c.name, table.c.alias, table.c.version).where(table.c.workspace == _workspace())
    return {(row.name, row.alias): row.version for row in connection.execute(wanted)}


def sources(connection: Connection) -> dict[tuple[str, int], tuple[str | None, str | None]]:
    """(model, version) to source and storage location, of every version MLflow has and did not delete."""
    table = _table("model_versions")
    there = (table.c.workspace == _workspace()) & (table.c.current_stage != _DELETED)
    wanted = sa.select(table.c.name, table.c.version, table.c.source, table.c.storage_location).where(there)
    return {(row.name, row.version): (row.source, row.storage_location) for row in connection.execute(wanted)}


def set_alias(connection: Connection, head: AliasHead) -> None:
    """MLflow's alias row, made or moved; also where somebody deleted the model on MLflow's page."""
    _touch_model(connection, head.model, int(head.moved_at.timestamp() * 1000))
    key = {"workspace": _workspace(), "name": head.model, "alias": head.alias}
    _upsert(connection, _table("registered_model_aliases"), key, {"version": head.version}, {})


def delete_version(connection: Connection, version: ModelVersion, at: datetime) -> None:
    """As MLflow deletes one: its row stays with the stage ``Deleted_Internal`` and without what it pointed at."""
    table = _table("model_versions")
    same = (table.c.workspace == _workspace()) & (table.c.name == version.model) & (table.c.version == version.version)
    gone = {
        "current_stage": _DELETED,
        "source": "REDACTED-SOURCE-PATH",
        "run_link": "REDACTED-RUN-LINK",
        "run_id": "REDACTED-RUN-ID",
        "user_id": None,
        "description": None,
        "last_updated_time": int(at.timestamp() * 1000),
    }
    connection.execute(sa.update(table).where(same).values(**gone))


def delete_alias(connection: Connection, model: str, alias: str) -> None:
    """Remove MLflow's alias row; nothing where there is none."""
    table = _table("registered_model_aliases")
    key = {"workspace": _workspace(), "name": model, "alias": alias}
    connection.execute(sa.delete(table).where(_same(table, key)))


def _touch_model(connection: Connection, name: str, at_ms: int) -> None:
    key = {"workspace": _workspace(), "name": name}
    _upsert(connection, _table("registered_models"), key, {"last_updated_time": at_ms}, {"creation_time": at_ms})


def _upsert(
    connection: Connection, table: sa.Table, key: dict[str, Any], row: dict[str, Any], new: dict[str, Any]
) -> None:
    """Set ``row`` where ``key`` is, or insert it with the columns in ``new``. The fence keeps other writers out."""
    if connection.execute(sa.update(table).where(_same(table, key)).values(**row)).rowcount == 0:
        connection.execute(sa.insert(table).values(**key, **row, **new))


def _same(table: sa.Table, key: dict[str, Any]) -> sa.ColumnElement[bool]:
    return sa.and_(*(table.c[name] == value for name, value in key.items()))


def _table(name: str) -> sa.Table:
    import mlflow.store.model_registry.dbmodels.models  # noqa: F401 (fills the metadata)
    from mlflow.store.db.base_sql_model import Base

    found: sa.Table = Base.metadata.tables[name]
    return found


def _workspace() -> str:
    from mlflow.utils.workspace_utils import DEFAULT_WORKSPACE_NAME

    return str(DEFAULT_WORKSPACE_NAME)
