"""Drift: where MLflow's rows no longer say what the record says, because somebody changed them around it.

Whoever holds the database's address can write there. It moves nothing that is served, since endpoints follow the
record; it is found, reported, audited and set back. Versions that only MLflow has are none of ours.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace

import sqlalchemy as sa
from sqlalchemy import Connection

from rayplat.identity import require
from rayplat.registry.record import aliases, audit, events, mlflow_rows, rows
from rayplat.registry.record.database import Tx
from rayplat.registry.record.schema import model_version
from rayplat.types import AliasDrift, DriftKind, ModelVersion, Principal, Role, VersionState

EVENT = "alias.drift"


def find(connection: Connection) -> tuple[AliasDrift, ...]:
    """Every difference, versions before aliases, by name; empty where all is well."""
    ours = _versions(connection)
    return (*_of_versions(connection, ours), *_of_aliases(connection, {v.model for v in ours.values()}))


def repair(tx: Tx, *, by: Principal) -> tuple[AliasDrift, ...]:
    """Set MLflow's rows back to the record; what was found, each with an audit entry and an event. Needs an admin."""
    require(by, Role.ADMIN)
    found = find(tx.connection)
    if not found:
        return found
    heads = {(h.model, h.alias): h for h in aliases.listed(tx.connection)}
    ours = _versions(tx.connection)
    for drift in found:
        if drift.kind is DriftKind.EXTRA:
            mlflow_rows.delete_alias(tx.connection, drift.model, drift.alias)
        elif drift.alias:
            mlflow_rows.set_alias(tx.connection, heads[(drift.model, drift.alias)])
        else:
            version = ours[(drift.model, int(drift.version or 0))]
            mlflow_rows.add_version(tx.connection, version, tx.defaults.artifacts_root)
        subject = f"{drift.model}@{drift.alias}" if drift.alias else f"{drift.model}/{drift.version}"
        detail = {**asdict(drift), "kind": drift.kind.value}
        audit.append(replace(tx, key=None), by.name, EVENT, subject, detail)  # a key belongs to one entry only
        events.emit(tx, EVENT, subject, detail)
    return found


def _versions(connection: Connection) -> dict[tuple[str, int], ModelVersion]:
    kept = sa.select(model_version).where(model_version.c.state != VersionState.DELETED.value)
    found = connection.execute(kept.order_by(model_version.c.model, model_version.c.version))
    return {(row.model, row.version): rows.model_version(row) for row in found}


def _of_versions(connection: Connection, ours: dict[tuple[str, int], ModelVersion]) -> Iterator[AliasDrift]:
    sources = mlflow_rows.sources(connection)
    for (model, number), version in ours.items():
        if (model, number) not in sources:
            yield AliasDrift(DriftKind.VERSION_DELETED, model, "", number, version.digest, "")
            continue
        for source in sources[(model, number)]:
            if not mlflow_rows.is_source_of(version.digest, source):
                yield AliasDrift(DriftKind.SOURCE_CHANGED, model, "", number, version.digest, str(source))
                break


def _of_aliases(connection: Connection, models: set[str]) -> Iterator[AliasDrift]:
    wanted = {(h.model, h.alias): h.version for h in aliases.listed(connection)}
    found = mlflow_rows.aliases(connection)
    for key in sorted(wanted.keys() | found.keys()):
        model, alias = key
        version, there = wanted.get(key), found.get(key)
        if version == there or (version is None and model not in models):
            continue
        kind = DriftKind.EXTRA if version is None else DriftKind.MISSING if there is None else DriftKind.MOVED
        yield AliasDrift(kind, model, alias, version, _text(version), _text(there))


def _text(version: int | None) -> str:
    return "" if version is None else f"version {version}"
