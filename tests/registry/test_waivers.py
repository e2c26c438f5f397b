"""Waivers: an approver's, for one target, with a reason, until a time; on record and told."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from rayplat.errors import Conflict, Forbidden, InvalidInput, NotFound
from rayplat.registry.record import audit, versions, waivers
from rayplat.registry.record.database import Record
from rayplat.registry.record.schema import outbox
from rayplat.types import Principal, PrincipalKind, Role, WaiverInfo
from tests.registry.desk import ANN, BOB, EVE, Desk, candidate

ANN_APPROVES_LATER = replace(BOB, name="ann")
DIGEST = "sha256:" + "a" * 64
WHY = "scored by an outside team, to be replaced in June"


def give(record: Record, target: str = DIGEST, kind: str = "format", by=BOB, key=None, **more) -> WaiverInfo:
    return record.write(lambda tx: waivers.waive(tx, kind, target, more.pop("reason", WHY), by=by, **more), key)


def found(record: Record, target: str = DIGEST, kind: str = "format", at=None) -> WaiverInfo | None:
    return record.read(lambda c: waivers.find(c, kind, target, at))


def test_a_waiver_holds_for_its_target_only(either: Desk) -> None:
    given = give(either.record)
    assert found(either.record) == given == either.record.read(lambda c: waivers.get(c, given.waiver_id))
    assert found(either.record, "sha256:" + "b" * 64) is None
    assert found(either.record, kind="gate") is None
    assert either.record.read(waivers.listed) == [given]


def test_it_stands_out_on_record_and_outside(either: Desk) -> None:
    given = give(either.record)
    entry = either.record.read(lambda c: audit.listed(c, 1))[0]
    assert (entry.actor, entry.action, entry.subject) == ("bob", "waiver.create", f"format:{DIGEST}")
    assert entry.detail["reason"] == WHY
    newest = sa.select(outbox.c.event).order_by(outbox.c.seq.desc()).limit(1)
    assert either.record.read(lambda c: c.scalar(newest)) == "waiver.created"
    either.record.write(lambda tx: waivers.revoke(tx, given.waiver_id, "replaced by a safe format", by=BOB))
    assert either.record.read(lambda c: c.scalar(newest)) == "waiver.revoked"


def test_it_ends_by_time_or_by_revocation(desk: Desk) -> None:
    record, soon = desk.record, datetime.now(UTC) + timedelta(hours=1)
    given = give(record, expires_at=soon)
    assert found(record) == given
    assert found(record, at=soon) is None
    ended = record.write(lambda tx: waivers.revoke(tx, given.waiver_id, "no longer needed here", by=BOB))
    assert (ended.revoked_by, found(record)) == ("bob", None)
    with pytest.raises(Conflict, match="was revoked"):
        record.write(lambda tx: waivers.revoke(tx, given.waiver_id, "no longer needed here", by=BOB))


@pytest.mark.parametrize("by", [ANN, EVE])
def test_only_an_approver_gives_or_ends_one(by, desk: Desk) -> None:
    with pytest.raises(Forbidden, match="takes a person's token"):
        give(desk.record, by=Principal("ci", Role.ADMIN, PrincipalKind.SERVICE))
    with pytest.raises(Forbidden, match="approver"):
        give(desk.record, by=by)
    given = give(desk.record)
    with pytest.raises(Forbidden, match="approver"):
        desk.record.write(lambda tx: waivers.revoke(tx, given.waiver_id, "no longer needed here", by=by))
    assert found(desk.record) == given


@pytest.mark.parametrize(
    "wrong",
    [
        {"reason": ""},
        {"reason": "because"},
        {"reason": "x" * 2001},
        {"target": "model.pkl"},
        {"target": "sha256:" + "A" * 64},
        {"kind": "all"},
        {"kind": "gate", "target": "nogate"},
        {"kind": "gate", "target": "p/" + "g" * 300},
        {"expires_at": datetime.now(UTC) - timedelta(seconds=1)},
        {"expires_at": datetime(2100, 1, 1)},
    ],
)
def test_what_is_no_waiver_changes_nothing(wrong, desk: Desk) -> None:
    with pytest.raises(InvalidInput):
        give(desk.record, **wrong)
    assert desk.record.read(waivers.listed) == []


def test_the_same_call_again_makes_one_waiver(desk: Desk) -> None:
    assert give(desk.record, key="k") == give(desk.record, key="k")
    assert len(desk.record.read(waivers.listed)) == 1


def test_an_unknown_one(desk: Desk) -> None:
    with pytest.raises(NotFound, match="waiver list"):
        desk.record.read(lambda c: waivers.get(c, "nope"))


def test_who_made_the_bytes_does_not_waive_them(desk: Desk) -> None:
    ours = replace(candidate(7, "elsewhere"), run_author="carl")
    digest = ours.digest
    give(desk.record, digest, by=ANN_APPROVES_LATER)
    desk.write(versions.register, ours, by=ANN)
    for by in (ANN_APPROVES_LATER, replace(BOB, name="carl")):
        with pytest.raises(Forbidden, match="does not judge it"):
            give(desk.record, digest, by=by)
        if by.name == "ann":  # given before the version was there: it does not count for this one
            assert desk.read(waivers.find, "format", digest, but_by=("ann", "carl")) is None
    given = give(desk.record, digest)
    assert desk.read(waivers.find, "format", digest, but_by=("ann", "carl")) == given
