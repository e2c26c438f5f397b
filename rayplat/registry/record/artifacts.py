"""Operations on artifacts: which exist, who or which run made them, and which of them something still needs.

The bytes are in the store (`rayplat.artifacts.store`); before a digest is written down here, `ArtifactStore.touch` it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import sqlalchemy as sa
from sqlalchemy import Connection

from rayplat.artifacts.manifest import check_digest
from rayplat.errors import InvalidInput, NotFound
from rayplat.identity import require
from rayplat.registry.record import audit, lineage, rows
from rayplat.registry.record.database import Tx
from rayplat.registry.record.schema import alias_head, alias_history, model_version, pin, promotion
from rayplat.registry.record.schema import artifact as table
from rayplat.types import ArtifactInfo, ArtifactRef, GcReport, Principal, PromotionState, Role, VersionState
from rayplat.types.lineage import artifact_node, run_node

KINDS = ("dataset", "file", "model", "plot", "profile", "report", "statement", "tree")
KEPT_LIVE = 3
"""How many of the versions that were live last under each alias keep their bytes, for a rollback."""

_ENDED = (
    PromotionState.SUPERSEDED,
    PromotionState.ROLLED_BACK,
    PromotionState.REJECTED,
    PromotionState.EXPIRED,
    PromotionState.STALE,
    PromotionState.CANCELLED,
)
_RUN = re.compile(r"[0-9A-Za-z_-]{1,64}")
_LARGEST, _MAX_LIMIT = 2**63 - 1, 10_000


def add(tx: Tx, ref: ArtifactRef, run_id: str | None = None, *, by: Principal) -> ArtifactInfo:
    """Note that ``ref`` was put, by a person or in a run; the same again returns the first note."""
    require(by, Role.DEVELOPER)
    check_digest("digest", ref.digest)
    if ref.kind not in KINDS:
        raise InvalidInput("kind", f"{str(ref.kind)[:40]!r} is no kind of artifact; known: {', '.join(KINDS)}")
    if type(ref.size_bytes) is not int or not 0 <= ref.size_bytes <= _LARGEST:
        raise InvalidInput("size_bytes", f"{ref.size_bytes!r} is no number of bytes")
    if run_id is not None and not (isinstance(run_id, str) and _RUN.fullmatch(run_id)):
        raise InvalidInput("run_id", f"{str(run_id)[:80]!r} is no id of a run")
    same = (table.c.digest == ref.digest) & (table.c.run_id == (run_id or ""))
    row = tx.connection.execute(sa.select(table).where(same)).first()
    if row is not None:
        return _info(row)
    made = ArtifactInfo(ref.digest, ref.kind, ref.size_bytes, run_id, by.name, tx.at)
    columns = {**vars(made), "run_id": run_id or "", "created_at": rows.to_us(tx.at)}
    tx.connection.execute(sa.insert(table).values(**columns))
    tx.wrote(table, columns)
    if run_id is not None:
        lineage.link(tx, run_node(run_id), artifact_node(ref.digest), lineage.MADE, run_id)
    detail = {"kind": made.kind, "size_bytes": made.size_bytes, "run_id": run_id}
    audit.append(tx, by.name, "artifact.add", made.digest, detail)
    return made


def collected(tx: Tx, report: GcReport, *, by: Principal) -> None:
    """Note which objects garbage collection has deleted; `ArtifactInfo` of them stays. Needs an admin."""
    require(by, Role.ADMIN)
    detail = {"deleted": list(report.deleted), "size_bytes": report.size_bytes}
    audit.append(tx, by.name, "artifact.gc", "artifacts", detail)


def listed(
    connection: Connection, kind: str | None = None, run_id: str | None = None, limit: int = 100
) -> list[ArtifactInfo]:
    """The newest ``limit`` artifacts, newest first, of one kind or of one run."""
    if not 1 <= limit <= _MAX_LIMIT:
        raise InvalidInput("limit", f"{limit} is not between 1 and {_MAX_LIMIT}")
    newest = sa.select(table).order_by(table.c.created_at.desc(), table.c.digest, table.c.run_id).limit(limit)
    if kind is not None:
        newest = newest.where(table.c.kind == kind)
    if run_id is not None:
        newest = newest.where(table.c.run_id == run_id)
    return [_info(row) for row in connection.execute(newest)]


def get(connection: Connection, digest: str) -> ArtifactInfo:
    """The artifact, as it was first put. Raises `NotFound`."""
    check_digest("digest", digest)
    first = sa.select(table).where(table.c.digest == digest).order_by(table.c.created_at, table.c.run_id).limit(1)
    row = connection.execute(first).first()
    if row is None:
        raise NotFound("artifact", digest, "'rayplat artifact list' shows those on record")
    return _info(row)


def roots(connection: Connection) -> dict[str, set[str]]:
    """Digests that must stay, by why: what garbage collection asks (`rayplat.artifacts.gc`).

    A version needs its tree, its baseline profile, its signed statement, and what else its run has put on record: the
    documents of its data, reports and plots.
    """
    needed: dict[tuple[str, int], set[str]] = {}
    versions: set[str] = set()
    for row in connection.execute(sa.select(model_version)):
        digests = {digest for digest in (row.digest, row.baseline, row.statement) if digest}
        needed[row.model, row.version] = digests
        if row.state != VersionState.DELETED:
            versions |= digests

    def of(found: Iterable[rows.Row]) -> set[str]:
        return {d for row in found for d in (row.digest, *needed.get((row.model, row.version), ()))}

    pinned = connection.execute(sa.select(pin.c.target).where(pin.c.kind == "artifact"))
    open_ones = sa.select(promotion).where(promotion.c.state.not_in([state.value for state in _ENDED]))
    runs = sa.select(model_version.c.run_id).where(model_version.c.state != VersionState.DELETED.value)
    return {
        "run": set(connection.scalars(sa.select(table.c.digest).where(table.c.run_id.in_(runs)))),
        "alias": of(connection.execute(sa.select(alias_head))),
        "rollback": of(_live_last(connection)),
        "pin": {row.target for row in pinned},
        "promotion": of(connection.execute(open_ones)),
        "model version": versions,
    }


def _live_last(connection: Connection) -> list[rows.Row]:
    """Of each alias, the moves to the last `KEPT_LIVE` different versions."""
    newest = sa.select(alias_history).order_by(alias_history.c.generation.desc())
    kept: dict[tuple[str, str], dict[int, rows.Row]] = {}
    for row in connection.execute(newest):
        seen = kept.setdefault((row.model, row.alias), {})
        if row.version in seen or len(seen) < KEPT_LIVE:
            seen[row.version] = row
    return [row for seen in kept.values() for row in seen.values()]


def _info(row: rows.Row) -> ArtifactInfo:
    at = rows.from_us(row.created_at)
    return ArtifactInfo(row.digest, row.kind, row.size_bytes, row.run_id or None, row.created_by, at)
