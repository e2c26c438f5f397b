"""What plain MLflow code may not change: the rules that keep MLflow's rows and the record equal.

Each rule answers None (MLflow may go on) or a sentence that names the rule and what to do instead. A model that the
record does not know is none of its business. Reads only.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy import Connection

from rayplat.registry.record import aliases, policies, versions
from rayplat.registry.record.schema import model_version
from rayplat.types import VersionState


def knows(connection: Connection, model: str) -> bool:
    """Whether the record has a version of ``model`` that was not deleted."""
    return bool(_versions(connection, model))


def alias_set(connection: Connection, model: str, alias: str, version: int) -> str | None:
    """Pointing ``alias`` at ``version``; where it points there already, nothing changes."""
    head = aliases.find(connection, model, alias)
    if not knows(connection, model) or (head is not None and head.version == version):
        return None
    if _is_protected(connection, model, alias):
        return (
            f"{model}@{alias} is protected: it moves by a promotion with evidence and approval only. Ask for one with "
            f"`rayplat promote {model} {version} {alias}`"
        )
    return (
        f"{model}@{alias} is kept in rayplat's record, which MLflow's alias follows: move it with "
        f"`rayplat alias set {model} {alias} {version}`"
    )


def alias_delete(connection: Connection, model: str, alias: str) -> str | None:
    """Removing ``alias``; one that the record does not have may go."""
    if aliases.find(connection, model, alias) is None:
        return None
    if _is_protected(connection, model, alias):
        return (
            f"{model}@{alias} is protected and is not deleted through MLflow: go back to the version before with "
            f"`rayplat rollback {model} {alias} REASON`, or replace it with `rayplat promote`"
        )
    return (
        f"{model}@{alias} is kept in rayplat's record, which MLflow's alias follows: remove it with "
        f"`rayplat alias remove {model} {alias}`"
    )


def version_delete(connection: Connection, model: str, version: int) -> str | None:
    """Deleting a version."""
    if version not in _versions(connection, model):
        return None
    uses = versions.holders(connection, versions.get(connection, model, version))
    if uses:
        return (
            f"{model}/{version} is in use by {', '.join(uses)}: move or close those first, then `rayplat model delete`"
        )
    return (
        f"{model}/{version} is registered in rayplat's record, which keeps its history: delete it with "
        f"`rayplat model delete {model} {version} REASON`"
    )


def model_delete(connection: Connection, model: str) -> str | None:
    """Deleting a model with all its versions."""
    found = _versions(connection, model)
    if not found:
        return None
    held = [(n, versions.holders(connection, versions.get(connection, model, n))) for n in found]
    uses = [f"{use} (version {n})" for n, holders in held for use in holders]
    if uses:
        return f"{model} is in use by {', '.join(uses[:5])}: move or close those first, then `rayplat model delete`"
    return (
        f"{model} has {len(found)} versions in rayplat's record, which keeps their history: delete each with "
        f"`rayplat model delete {model} VERSION REASON`"
    )


def model_rename(connection: Connection, model: str, new_name: str) -> str | None:
    """Giving a model another name, or another model this name."""
    for name in (model, new_name):
        if knows(connection, name):
            return (
                f"{name} is registered in rayplat's record, where names, lineage and audit are for ever: register "
                "further versions under the other name"
            )
    return None


def stage_set(connection: Connection, model: str) -> str | None:
    """Moving a version to a stage."""
    if not knows(connection, model):
        return None
    return (
        f"{model} is registered in rayplat's record, which has aliases and no stages: use `rayplat promote {model} "
        "VERSION production` for a protected alias, `rayplat alias set` for a free one"
    )


def tag_change(connection: Connection, model: str, key: str) -> str | None:
    """Setting or deleting a tag of a version or a model."""
    if not key.startswith("rayplat.") or not knows(connection, model):
        return None
    return f"tags that begin with 'rayplat.' are written by the record for {model} and are not changed through MLflow"


def _versions(connection: Connection, model: str) -> list[int]:
    kept = model_version.c.state != VersionState.DELETED.value
    wanted = sa.select(model_version.c.version).where(model_version.c.model == model, kept)
    return list(connection.scalars(wanted.order_by(model_version.c.version)))


def _is_protected(connection: Connection, model: str, alias: str) -> bool:
    """Whether policy says so; without one every alias is."""
    return policies.find(connection, model, alias).protected
