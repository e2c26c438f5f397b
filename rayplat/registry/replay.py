"""What the tables of the record must hold, told by the audit log alone.

`Replay` takes entries in their order and remembers, for each row, the digest of all its columns (`record.journal`), the
columns that an entry speaks of, and the number of that entry; `differences` compares with rows as they are. Entries of
the first release have no digests: a row that only they speak of is compared by what they say. Pure: it reads no
database.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from rayplat.types import AuditEntry, AuditProblem, Tampering

Key = tuple[Any, ...]
Rows = Mapping[str, Mapping[Key, Mapping[str, Any]]]
DIGEST = ""
"""The name of a row's digest among its columns."""

HEAD, HISTORY, VERSION = "rp_alias_head", "rp_alias_history", "rp_model_version"
PROMOTION, APPROVAL, POLICY = "rp_promotion", "rp_approval", "rp_alias_policy"
TOKEN, WEBHOOK, WAIVER = "rp_token", "rp_webhook", "rp_waiver"
TABLES = (HEAD, HISTORY, VERSION, PROMOTION, APPROVAL, POLICY, TOKEN, WEBHOOK, WAIVER)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

# Entries that moved an alias; the first release's approvals did so themselves.
_MOVES = ("alias.set", "alias.remove", "alias.rollback", "promotion.live", "promotion.approve", "model.adopt")
_DECISIONS = {"promotion.approve": "approve", "promotion.reject": "reject", "promotion.review": "review"}
_DECIDED = ("promotion.approve", "promotion.break_glass")
_NEEDS_DECISION = ("approved", "live")
_EDITED = "its columns are not what was written with entry"


@dataclass
class _Row:
    seq: int
    columns: dict[str, Any]


@dataclass
class Replay:
    """The rows that the entries so far have made."""

    rows: dict[str, dict[Key, _Row]] = field(default_factory=lambda: {table: {} for table in TABLES})
    digests: dict[str, dict[Key, tuple[int, str | None]]] = field(default_factory=dict)
    decided: set[str] = field(default_factory=set)

    def add(self, entry: AuditEntry) -> None:
        """Take one entry; a kind that says nothing about these tables is left out."""
        noun, _, verb = entry.action.partition(".")
        if noun == "policy":
            self._policy(entry, verb)
        elif noun == "token":
            self._token(entry, verb)
        elif noun == "webhook":
            self._webhook(entry, verb)
        elif noun == "waiver" and isinstance(entry.detail.get("waiver_id"), str):
            self._waiver(entry, verb)
        elif "/" in entry.subject and noun == "model":
            self._version(entry)
        elif entry.action in _MOVES and type(entry.detail.get("generation")) is int:
            self._move(entry)
        if noun == "promotion":
            self._promotion(entry)

    def note(self, seq: int, told: Mapping[str, list[list[Any]]]) -> None:
        """Take the digests that entry ``seq`` has: by table, each row's key and digest, None where it was deleted."""
        for table, found in told.items():
            for *key, digest in found:
                self.digests.setdefault(table, {})[tuple(key)] = (seq, digest)

    def _put(self, table: str, key: Key, seq: int, **columns: Any) -> None:
        self.rows[table][key] = _Row(seq, columns)

    def _change(self, table: str, key: Key, seq: int, **columns: Any) -> None:
        row = self.rows[table].get(key)
        if row is not None:
            row.seq, row.columns = seq, {**row.columns, **columns}

    def _move(self, entry: AuditEntry) -> None:
        model, _, alias = entry.subject.partition("@")
        said = entry.detail
        version = said.get("version", said.get("to"))
        of_version = self.rows[VERSION].get((model, version))
        digest = said.get("digest") or (of_version.columns.get("digest") if of_version else None)
        columns: dict[str, Any] = {"version": version, "generation": said["generation"]}
        if digest:
            columns["digest"] = digest
        if entry.action.startswith("alias."):
            columns["moved_by"] = entry.actor
        if entry.action == "alias.remove":
            self.rows[HEAD].pop((model, alias), None)
        else:
            self._put(HEAD, (model, alias), entry.seq, **columns)
        self._put(HISTORY, (model, alias, said["generation"]), entry.seq, **columns)

    def _version(self, entry: AuditEntry) -> None:
        model, _, number = entry.subject.rpartition("/")
        said, key = entry.detail, (model, int(number) if number.isdigit() else number)
        if entry.action in ("model.register", "model.adopt"):
            known: dict[str, Any] = {"author": entry.actor, "state": "active"}
            known |= {
                name: said[name]
                for name in ("digest", "run_id", "training_set", "author", "run_author")
                if name in said
            }
            self._put(VERSION, key, entry.seq, **known)
        else:
            new = {name: said[name] for name in ("digest", "state", "statement") if name in said}
            self._change(VERSION, key, entry.seq, **new)

    def _promotion(self, entry: AuditEntry) -> None:
        said, promotion_id = entry.detail, entry.detail.get("promotion_id")
        if not isinstance(promotion_id, str):
            return
        if (promotion_id,) not in self.rows[PROMOTION]:
            model, _, alias = entry.subject.partition("@")
            known: dict[str, Any] = {name: said[name] for name in ("version", "digest") if name in said}
            first = entry.action in ("promotion.request", "promotion.break_glass")
            if first:
                known["requester"] = entry.actor
            self._put(PROMOTION, (promotion_id,), entry.seq, model=model, alias=alias, **known)
        if entry.action in _DECISIONS:
            columns = {"decision": _DECISIONS[entry.action], "subject_digest": said.get("subject_digest")}
            self._put(APPROVAL, (promotion_id, entry.actor), entry.seq, **columns)
        if entry.action in _DECIDED:
            self.decided.add(promotion_id)

    def _policy(self, entry: AuditEntry, verb: str) -> None:
        model, _, alias = entry.subject.partition("@")
        if verb == "set" and "policy" in entry.detail:
            self._put(POLICY, (model, alias), entry.seq, policy=entry.detail["policy"])
        elif verb == "remove":
            self.rows[POLICY].pop((model, alias), None)

    def _token(self, entry: AuditEntry, verb: str) -> None:
        if verb == "create":
            known = {n: entry.detail[n] for n in ("principal", "role", "kind", "expires_at") if n in entry.detail}
            self._put(TOKEN, (entry.subject,), entry.seq, revoked=False, **known)
        elif verb == "revoke":
            self._change(TOKEN, (entry.subject,), entry.seq, revoked=True)

    def _waiver(self, entry: AuditEntry, verb: str) -> None:
        kind, _, target = entry.subject.partition(":")
        said, key = entry.detail, (entry.detail["waiver_id"],)
        if verb == "create":
            ends = said.get("expires_at")
            ends_us = None if ends is None else (datetime.fromisoformat(ends) - _EPOCH) // timedelta(microseconds=1)
            known = {"by": entry.actor, "reason": said.get("reason"), "expires_at": ends_us}
            self._put(WAIVER, key, entry.seq, kind=kind, target=target, revoked=False, **known)
        elif verb == "revoke":
            self._change(WAIVER, key, entry.seq, revoked=True)

    def _webhook(self, entry: AuditEntry, verb: str) -> None:
        if verb == "create":
            said = {"events": entry.detail.get("events"), "url_sha256": entry.detail.get("url_sha256")}
            self._put(WEBHOOK, (entry.subject,), entry.seq, **said)
        elif verb == "delete":
            self.rows[WEBHOOK].pop((entry.subject,), None)


def differences(replay: Replay, actual: Rows, most: int = 100) -> list[AuditProblem]:
    """Rows of the tables in ``actual`` that are not what the log says: changed, missing, or of no entry; at most
    ``most``."""
    found = []
    for table, there in actual.items():
        expected, digests = replay.rows.get(table, {}), replay.digests.get(table, {})
        for key in sorted({*expected, *digests, *there}, key=str):
            problem = _row(table, key, expected.get(key), there.get(key))
            if key in digests:
                problem = _covered(table, key, digests[key], there.get(key), problem)
            if problem is not None:
                found.append(problem)
    for (promotion_id,), row in actual[PROMOTION].items():
        if row.get("state") in _NEEDS_DECISION and promotion_id not in replay.decided:
            found.append(_problem(0, PROMOTION, (promotion_id,), f"it is {row['state']}, and nobody approved it"))
    return found[:most]


def _row(table: str, key: Key, expected: _Row | None, actual: Mapping[str, Any] | None) -> AuditProblem | None:
    """What entries say of single columns."""
    if expected is None:
        return _problem(0, table, key, "no entry of the audit log made it")
    if actual is None:
        return _problem(expected.seq, table, key, f"it is missing, entry {expected.seq} made it")
    wrong = [name for name, value in expected.columns.items() if not _same(actual.get(name), value)]
    said = "; ".join(f"{n} is {_short(actual.get(n))}, the log says {_short(expected.columns[n])}" for n in wrong)
    return _problem(expected.seq, table, key, f"{said} (entry {expected.seq})") if wrong else None


def _covered(
    table: str,
    key: Key,
    told: tuple[int, str | None],
    actual: Mapping[str, Any] | None,
    by_column: AuditProblem | None,
) -> AuditProblem | None:
    """What the newest digest says; ``by_column`` says it better where a single column is known."""
    seq, digest = told
    if actual is None:
        return None if digest is None else _problem(seq, table, key, f"it is missing, entry {seq} made it")
    if digest is None:
        return _problem(seq, table, key, f"no entry of the audit log made it after entry {seq} removed it")
    if actual.get(DIGEST) == digest:
        return None
    return by_column if by_column is not None and by_column.seq else _problem(seq, table, key, f"{_EDITED} {seq}")


def _same(one: Any, other: Any) -> bool:
    return bool(one == other) or json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def _problem(seq: int, table: str, key: Key, reason: str) -> AuditProblem:
    return AuditProblem(seq, Tampering.RECORD, f"{table} {'/'.join(map(str, key))}: {reason}")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
