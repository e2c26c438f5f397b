"""A record with something in every table, and an edit of every column of every table behind the registry's back."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import NamedTuple

import sqlalchemy as sa

from rayplat import identity
from rayplat.registry import standard_webhooks
from rayplat.registry.record import (
    adoptions,
    aliases,
    artifacts,
    audit,
    crosscheck,
    decisions,
    endpoints,
    experiments,
    owners,
    pins,
    policies,
    releases,
    schema,
    signals,
    tokens,
    versions,
    waivers,
    webhooks,
)
from rayplat.registry.record.database import Record
from rayplat.types import (
    AliasPolicy,
    ArtifactRef,
    Canary,
    EndpointSpec,
    ExperimentDesign,
    Release,
    Role,
    Shadow,
    TokenInfo,
)
from tests.registry.desk import ANN, BOB, MODEL, ROOT, Desk, candidate

DESIGN = ExperimentDesign("accepted", "proportion", 0.05, 0.02, 0.09, 40_000, min_samples=500)
# What an edit may change unseen, and why that is so.
EXCEPTIONS = {
    "rp_schema.*": "read by the first release only, which then refuses to open",
    "rp_lease.*": "counts writes and incarnations: a writer whose epoch was edited stops",
    "rp_outbox.*": "pruned by design: messages, whose truth is in the log",
    "rp_lineage_sent.*": "how far the lineage server was told",
    "rp_token.last_used_at": "noted without a decision",
    **{
        f"rp_webhook.{name}": "how far the delivery is, which goes on without a decision"
        for name in ("state", "position", "failures", "next_try_at", "last_error", "last_delivered_at")
    },
}


class Edit(NamedTuple):
    """``sql`` changes one row of ``table``, the one that was stored last."""

    name: str
    table: sa.Table
    sql: str

    def key(self, connection: sa.Connection) -> str:
        """The primary key of that row, as a problem names it."""
        columns = ", ".join(f'"{c.name}"' for c in self.table.primary_key.columns)
        newest = f"select {columns} from {self.table.name} order by rowid desc limit 1"
        return "/".join(map(str, connection.exec_driver_sql(newest).one()))


def edits() -> Iterator[Edit]:
    """One for each column that is not excepted, and a deleted row for each table."""
    for table in schema.metadata.sorted_tables:
        if f"{table.name}.*" in EXCEPTIONS:
            continue
        newest = f"where rowid = (select max(rowid) from {table.name})"
        for column in table.columns:
            if f"{table.name}.{column.name}" not in EXCEPTIONS:
                change = f'update {table.name} set "{column.name}" = {_other(column)} {newest}'
                yield Edit(f"edited {table.name}.{column.name}", table, change)
        yield Edit(f"deleted {table.name}", table, f"delete from {table.name} {newest}")


def noticed(connection: sa.Connection, edit: Edit) -> list[str]:
    """What the check says of the record with ``edit`` in it, which is taken back."""
    newest = audit.head(connection)
    known = {} if newest is None else {newest.seq: newest.hash}
    connection.exec_driver_sql(edit.sql)
    problem = audit.check(connection, known).problem
    if problem is not None:
        connection.rollback()
        return [str(problem)]
    return [found.reason for found in crosscheck.check_record(connection)]


def fill(record: Record) -> None:
    """Something of everything that the check knows."""
    desk = Desk(record)
    for n in (1, 2, 3):
        desk.register(n)
    _promote(desk)
    _decide(desk)
    _note(desk)
    _serve(desk)


def _promote(desk: Desk) -> None:
    desk.go_live(1, 2)
    desk.write(decisions.rollback, MODEL, "champion", "it was worse", by=BOB)
    desk.go_live(3)
    for free in ("scratch", "lab"):
        desk.write(policies.set, AliasPolicy(MODEL, free, False, ()), by=ROOT)
    desk.write(policies.remove, MODEL, "lab", by=ROOT)
    for version in (1, 2, 3):
        desk.write(aliases.set, MODEL, "scratch", version, by=ANN)
    desk.write(aliases.remove, MODEL, "scratch", by=ANN)
    desk.write(versions.retire, MODEL, 2, "worse", by=ANN)
    desk.write(versions.sign, MODEL, 1, "sha256:" + "e" * 64, by=ANN)
    asked = desk.request(1)
    desk.write(experiments.start, asked.promotion_id, DESIGN, by=ANN)
    desk.write(decisions.reject, asked.promotion_id, "not again", by=BOB)


def _decide(desk: Desk) -> None:
    for name, role, by in (("owner", Role.ADMIN, None), ("ann", Role.DEVELOPER, ROOT)):
        secret, token_id = identity.new_token()
        wanted = TokenInfo(token_id, name, role, datetime.now(UTC), "")
        desk.write(tokens.create, wanted, identity.hash_token(secret), by)
    desk.write(tokens.revoke, wanted.token_id, by=ROOT)
    ends = datetime(2999, 1, 1, tzinfo=UTC)
    waived = desk.write(waivers.waive, "format", "sha256:" + "a" * 64, "replaced in June", by=BOB)
    desk.write(waivers.revoke, waived.waiver_id, "has been replaced", by=BOB)
    desk.write(waivers.waive, "format", "sha256:" + "b" * 64, "replaced in July", ends, by=BOB)
    for n in (1, 2):
        found = desk.write(
            webhooks.create, f"https://hooks.example.com/{n}", ("*",), standard_webhooks.new_secret(), by=ROOT
        )
    desk.write(webhooks.delete, found.webhook_id, by=ROOT)


def _note(desk: Desk) -> None:
    for owner in ("ann", "bob"):
        desk.write(owners.set_owner, "model", MODEL, owner, "delays", by=ROOT)
    desk.write(pins.pin, "version", f"{MODEL}/1", "shown to the customer", by=ANN)
    desk.write(pins.pin, "version", f"{MODEL}/1", "asked for", by=BOB)
    desk.write(pins.unpin, "version", f"{MODEL}/1", by=BOB)
    desk.write(artifacts.add, ArtifactRef("sha256:" + "f" * 64, "report", 7), "f" * 32, by=ANN)
    for n in (1, 4):
        there = adoptions.Imported(
            candidate(n), n, 4, "carol", f"s3://elsewhere/{n}", 1_700_000_000_000, f"sha256:{n:064x}"
        )
        desk.write(adoptions.version, there, by=ROOT)


def _serve(desk: Desk) -> None:
    for alias in ("champion", "v3"):
        desk.write(endpoints.put, EndpointSpec(MODEL, alias), by=ANN)
    desk.write(endpoints.delete, MODEL, "v3", by=ANN)
    desk.write(releases.put, Release(MODEL, shadows=(Shadow("3", 0.5),)), 0, by=ANN)
    desk.write(releases.put, Release(MODEL, canary=Canary("3")), 1, by=BOB)
    for bad in (True, False):
        desk.write(signals.put, MODEL, 3, "drift", bad, detail="psi 0.4", numbers={"psi": 0.4}, by=ANN)


def _other(column: sa.Column[object]) -> str:
    """Another value than the row has, which its type permits."""
    name = f'"{column.name}"'
    if isinstance(column.type, sa.Boolean):
        return f"not {name}"
    if isinstance(column.type, sa.Integer | sa.Float):
        return f"coalesce({name}, 0) + 1000"
    return f"coalesce({name}, '') || 'x'"
