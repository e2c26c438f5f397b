"""Operations of an import: versions and aliases of another MLflow registry, taken over with their numbers.

`rayplat.registry.adopt` reads the other registry and stores the bytes; here each version and each alias becomes part
of the record, in one transaction with its audit entry. The same again changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import sqlalchemy as sa
from sqlalchemy import Connection

from rayplat.errors import Conflict
from rayplat.identity import require
from rayplat.registry.candidate import Candidate
from rayplat.registry.record import aliases, audit, events, lineage, mlflow_rows, policies, rows, versions
from rayplat.registry.record.database import Tx
from rayplat.registry.record.schema import adoption, model_version
from rayplat.types import (
    AdoptedAlias,
    AdoptedVersion,
    AliasHead,
    ModelVersion,
    Principal,
    Role,
    VersionState,
    check_alias,
)

ACTION = "model.adopt"
MOVED_BY = "import"


@dataclass(frozen=True)
class Imported:
    """A version as another registry has it. ``number`` is its number there and ``last_number`` the model's highest
    there, ``source`` its address, ``made_ms`` its creation in milliseconds since 1970 UTC, ``origin`` a digest of all
    that identifies it there."""

    candidate: Candidate
    number: int
    last_number: int
    author: str
    source: str
    made_ms: int
    origin: str
    description: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)


def known(connection: Connection, model: str) -> dict[str, int]:
    """Origin to the version here, of everything that was imported into ``model``."""
    found = sa.select(adoption.c.origin, adoption.c.version).where(adoption.c.model == model)
    return {row.origin: row.version for row in connection.execute(found)}


def version(tx: Tx, imported: Imported, *, by: Principal) -> AdoptedVersion:
    """Register ``imported`` under its own number where that is free, else above all numbers of both registries.

    The other registry's author is kept where ``by`` is an admin: a developer's import is the developer's own. Needs a
    developer. Raises `InvalidInput`, and `Conflict` where the same bytes were deleted here.
    """
    require(by, Role.DEVELOPER)
    candidate = imported.candidate
    candidate.check()
    number = known(tx.connection, candidate.model).get(imported.origin)
    if number is not None:
        there = versions.get(tx.connection, candidate.model, number)
        return AdoptedVersion(imported.number, number, there.digest, False)
    same = (model_version.c.model == candidate.model) & (model_version.c.digest == candidate.digest)
    row = tx.connection.execute(sa.select(model_version).where(same)).first()
    if row is not None and row.state == VersionState.DELETED:
        raise Conflict(f"the same bytes were version {row.version} of {candidate.model} here, which was deleted")
    if row is None:
        number = _number(tx.connection, imported)
        author = imported.author if by.role.includes(Role.ADMIN) else by.name
        made_at = rows.from_us(imported.made_ms * 1000)
        _add(tx, imported, ModelVersion(version=number, author=author, created_at=made_at, **vars(candidate)), by)
    else:
        number = int(row.version)
    if row is not None and mlflow_rows.is_source_of(candidate.digest, imported.source):
        return AdoptedVersion(
            imported.number, number, candidate.digest, False
        )  # a version of ours, seen through MLflow
    noted = {"model": candidate.model, "origin": imported.origin, "version": number, "at": rows.to_us(tx.at)}
    tx.connection.execute(sa.insert(adoption).values(**noted))
    tx.wrote(adoption, noted)
    if row is not None:
        detail = {"digest": candidate.digest, "number_there": imported.number, "origin": imported.origin}
        audit.append(tx, by.name, "model.match", f"{candidate.model}/{number}", detail)
    return AdoptedVersion(imported.number, number, candidate.digest, row is None)


def alias(tx: Tx, model: str, name: str, number: int, *, by: Principal) -> AdoptedAlias:
    """Point ``model``@``name`` at version ``number``, as it was in the other registry; moved by ``import``.

    Needs a developer, for a protected alias an admin. Raises `Conflict` where it points elsewhere here: an import
    moves nothing that the record has decided.
    """
    require(by, Role.DEVELOPER)
    check_alias(name)
    head = aliases.find(tx.connection, model, name)
    if head is not None and head.version == number:
        return AdoptedAlias(name, number, False)
    if head is not None:
        raise Conflict(f"{model}@{name} points at version {head.version} here: move it by a promotion")
    if policies.find(tx.connection, model, name).protected:
        require(by, Role.ADMIN)
    there = versions.get(tx.connection, model, number)
    generation = aliases.generation(tx.connection, model, name)
    moved = aliases.move(tx, AliasHead(model, name, number, there.digest, 0, tx.at, MOVED_BY), generation)
    detail = {"version": number, "digest": there.digest, "generation": moved.generation}
    audit.append(tx, by.name, ACTION, f"{model}@{name}", detail)
    return AdoptedAlias(name, number, True)


def model(tx: Tx, name: str, description: str, tags: Mapping[str, str], *, by: Principal) -> None:
    """What the other registry says about a model, where MLflow's page here says nothing yet. Needs a developer."""
    require(by, Role.DEVELOPER)
    mlflow_rows.describe_model(tx.connection, name, description, dict(tags))


def _number(connection: Connection, imported: Imported) -> int:
    name = imported.candidate.model
    mine = sa.select(model_version.c.version).where(model_version.c.model == name)
    taken = set(connection.scalars(mine))
    row = mlflow_rows.made(connection, name, imported.number)
    if imported.number not in taken and row in (None, (imported.source, imported.made_ms)):
        return imported.number
    last: int = max(*taken, 0, mlflow_rows.last_version(connection, name), imported.last_number)
    return last + 1


def _add(tx: Tx, imported: Imported, new: ModelVersion, by: Principal) -> None:
    columns = rows.model_version_columns(new)
    tx.connection.execute(sa.insert(model_version).values(**columns))
    tx.wrote(model_version, columns)
    mlflow_rows.add_version(tx.connection, new, tx.defaults.artifacts_root)
    mlflow_rows.describe_version(tx.connection, new, imported.description, dict(imported.tags))
    lineage.registered(tx, new)
    detail = {
        "digest": new.digest,
        "run_id": new.run_id,
        "author": new.author,
        "run_author": new.run_author,
        "made_by": imported.author,
        "number_there": imported.number,
        "source": imported.source,
        "origin": imported.origin,
    }
    subject = f"{new.model}/{new.version}"
    audit.append(tx, by.name, ACTION, subject, detail)
    events.emit(tx, "model.adopted", subject, {"by": by.name, **detail})
