"""MLflow's own registry rows, kept in step so that its page and ``models:/name@alias`` show what the record says.

They are a projection: written in the record's transaction, never read to decide anything but the next version number.
"""

from __future__ import annotations

import functools
import time
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.exc import OperationalError

from rayplat.artifacts.locations import parse, tree_uri
from rayplat.errors import InvalidInput
from rayplat.registry.record.prepared import Prepared
from rayplat.types import AliasHead, ModelVersion

_INIT_TIMEOUT_S = 60.0
_RUN_ID_LENGTH, _SOURCE_LENGTH = 32, 500
_DELETED = "Deleted_Internal"  # MLflow's stage of a version that was deleted
_READY = "READY"
_WORKSPACE = "default"


def _table(name: str, **columns: Any) -> sa.Table:
    common = [sa.Column("workspace", sa.String(63)), sa.Column("name", sa.String(256))]
    return sa.Table(name, sa.MetaData(), *common, *(sa.Column(column, kind) for column, kind in columns.items()))


# What is used of MLflow's tables: to ask MLflow for them would cost its import, 2 to 4 s at the actor's every start.
# A test compares them with MLflow's own.
_MODELS = _table(
    "registered_models",
    creation_time=sa.BigInteger,
    last_updated_time=sa.BigInteger,
    description=sa.String(5000),
)
_MODEL_TAGS = _table("registered_model_tags", key=sa.String(250), value=sa.String(5000))
_VERSIONS = _table(
    "model_versions",
    version=sa.Integer,
    creation_time=sa.BigInteger,
    last_updated_time=sa.BigInteger,
    description=sa.String(5000),
    user_id=sa.String(256),
    current_stage=sa.String(20),
    source=sa.String(_SOURCE_LENGTH),
    storage_location=sa.String(500),
    run_id=sa.String(_RUN_ID_LENGTH),
    run_link=sa.String(500),
    status=sa.String(20),
)
_VERSION_TAGS = _table("model_version_tags", version=sa.Integer, key=sa.String(250), value=sa.Text)
_ALIASES = _table("registered_model_aliases", alias=sa.String(256), version=sa.Integer)
TABLES = (_MODELS, _MODEL_TAGS, _VERSIONS, _VERSION_TAGS, _ALIASES)


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
    return int(connection.scalar(sa.select(sa.func.max(_VERSIONS.c.version)).where(_VERSIONS.c.name == model)) or 0)


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
    key = {"workspace": _WORKSPACE, "name": version.model, "version": version.version}
    _upsert(connection, _VERSIONS, key, always, {**new, "current_stage": "None"})
    undelete = sa.update(_VERSIONS).where(_same(_VERSIONS, key), _VERSIONS.c.current_stage == _DELETED)
    connection.execute(undelete.values(current_stage="None", **new))
    tags = {"digest": version.digest, "author": version.author, "training_set": version.training_set}
    for name, value in tags.items():
        _upsert(connection, _VERSION_TAGS, {**key, "key": f"rayplat.{name}"}, {"value": value}, {})


def made(connection: Connection, model: str, version: int) -> tuple[str | None, int | None] | None:
    """(source, creation in milliseconds) of a version here, also a deleted one; None where the number is free."""
    key = {"workspace": _WORKSPACE, "name": model, "version": version}
    found = sa.select(_VERSIONS.c.source, _VERSIONS.c.creation_time).where(_same(_VERSIONS, key))
    row = connection.execute(found).first()
    return None if row is None else (row.source, row.creation_time)


def describe_version(connection: Connection, version: ModelVersion, description: str, tags: dict[str, str]) -> None:
    """Add words and tags to a version's row; what it has and what the record writes stay."""
    key = {"workspace": _WORKSPACE, "name": version.model, "version": version.version}
    _describe(connection, _VERSIONS, _VERSION_TAGS, key, description, tags)


def describe_model(connection: Connection, model: str, description: str, tags: dict[str, str]) -> None:
    """The same for a model."""
    key = {"workspace": _WORKSPACE, "name": model}
    _describe(connection, _MODELS, _MODEL_TAGS, key, description, tags)


def _describe(
    connection: Connection, table: sa.Table, tag: sa.Table, key: dict[str, Any], description: str, tags: dict[str, str]
) -> None:
    empty = sa.or_(table.c.description.is_(None), table.c.description == "")
    if description:
        connection.execute(sa.update(table).where(_same(table, key), empty).values(description=description))
    there = set(connection.scalars(sa.select(tag.c.key).where(_same(tag, key))))
    new = {k: v for k, v in tags.items() if k not in there and not k.startswith("rayplat.")}
    if new:
        connection.execute(sa.insert(tag), [{**key, "key": k, "value": v} for k, v in new.items()])


def aliases(connection: Connection) -> dict[tuple[str, str], int]:
    """(model, alias) to version, of every model MLflow knows."""
    wanted = sa.select(_ALIASES.c.name, _ALIASES.c.alias, _ALIASES.c.version).where(_ALIASES.c.workspace == _WORKSPACE)
    return {(row.name, row.alias): row.version for row in connection.execute(wanted)}


def sources(connection: Connection) -> dict[tuple[str, int], tuple[str | None, str | None]]:
    """(model, version) to source and storage location, of every version MLflow has and did not delete."""
    there = (_VERSIONS.c.workspace == _WORKSPACE) & (_VERSIONS.c.current_stage != _DELETED)
    wanted = sa.select(_VERSIONS.c.name, _VERSIONS.c.version, _VERSIONS.c.source, _VERSIONS.c.storage_location).where(
        there
    )
    return {(row.name, row.version): (row.source, row.storage_location) for row in connection.execute(wanted)}


def set_alias(connection: Connection, head: AliasHead) -> None:
    """MLflow's alias row, made or moved; also where somebody deleted the model on MLflow's page."""
    key = {"workspace": _WORKSPACE, "name": head.model, "alias": head.alias}
    if not _changed(connection, _ALIASES, key, {"version": head.version}):
        _touch_model(connection, head.model, int(head.moved_at.timestamp() * 1000))
        connection.execute(sa.insert(_ALIASES), {**key, "version": head.version})


def delete_version(connection: Connection, version: ModelVersion, at: datetime) -> None:
    """As MLflow deletes one: its row stays with the stage ``Deleted_Internal`` and without what it pointed at."""
    same = (
        (_VERSIONS.c.workspace == _WORKSPACE)
        & (_VERSIONS.c.name == version.model)
        & (_VERSIONS.c.version == version.version)
    )
    gone = {
        "current_stage": _DELETED,
        "source": "REDACTED-SOURCE-PATH",
        "run_link": "REDACTED-RUN-LINK",
        "run_id": "REDACTED-RUN-ID",
        "user_id": None,
        "description": None,
        "last_updated_time": int(at.timestamp() * 1000),
    }
    connection.execute(sa.update(_VERSIONS).where(same).values(**gone))


def delete_alias(connection: Connection, model: str, alias: str) -> None:
    """Remove MLflow's alias row; nothing where there is none."""
    key = {"workspace": _WORKSPACE, "name": model, "alias": alias}
    connection.execute(sa.delete(_ALIASES).where(_same(_ALIASES, key)))


def _touch_model(connection: Connection, name: str, at_ms: int) -> None:
    key = {"workspace": _WORKSPACE, "name": name}
    _upsert(connection, _MODELS, key, {"last_updated_time": at_ms}, {"creation_time": at_ms})


def _upsert(
    connection: Connection, table: sa.Table, key: dict[str, Any], row: dict[str, Any], new: dict[str, Any]
) -> None:
    """Set ``row`` where ``key`` is, or insert it with the columns in ``new``. The fence keeps other writers out."""
    if not _changed(connection, table, key, row):
        connection.execute(sa.insert(table), {**key, **row, **new})


def _changed(connection: Connection, table: sa.Table, key: dict[str, Any], row: dict[str, Any]) -> bool:
    """Set ``row`` where ``key`` is; whether it is there."""
    at = {f"its_{name}": value for name, value in key.items()}
    return _update(table, tuple(key))(connection, {**row, **at}).rowcount > 0


@functools.cache
def _update(table: sa.Table, key: tuple[str, ...]) -> Prepared:
    return Prepared(sa.update(table).where(*(table.c[name] == sa.bindparam(f"its_{name}") for name in key)))


def _same(table: sa.Table, key: dict[str, Any]) -> sa.ColumnElement[bool]:
    return sa.and_(*(table.c[name] == value for name, value in key.items()))
