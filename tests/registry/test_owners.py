from __future__ import annotations

import pytest

from rayplat.errors import Forbidden, InvalidInput, InvalidName, NotFound
from rayplat.registry.record import audit, owners
from tests.registry.desk import ANN, BOB, EVE, MODEL, ROOT, Desk


def test_an_owner_hands_over_and_an_admin_may_too(either: Desk) -> None:
    first = either.write(owners.set_owner, "model", MODEL, "ann", "delays", by=ANN)
    assert either.read(owners.get, "model", MODEL) == first
    with pytest.raises(Forbidden, match="is owned by ann: only they, or an admin"):
        either.write(owners.set_owner, "model", MODEL, "bob", by=BOB)
    either.write(owners.set_owner, "model", MODEL, "bob", "delays", by=ANN)
    either.write(owners.set_owner, "model", MODEL, "ann@example.org", "ops", by=ROOT)
    now = either.read(owners.get, "model", MODEL)
    assert (now.owner, now.team, now.set_by) == ("ann@example.org", "ops", "root")
    newest = either.read(audit.listed, 1)[0]
    assert (newest.action, newest.detail["was"]) == ("owner.set", ["bob", "delays"])


def test_tables_and_endpoints_have_owners_too(either: Desk) -> None:
    either.write(owners.set_owner, "table", "flights", "ann", by=ANN)
    either.write(owners.set_owner, "endpoint", "flight-delay--champion", "bob", by=ROOT)
    assert [(o.kind, o.name) for o in either.read(owners.listed)] == [
        ("endpoint", "flight-delay--champion"),
        ("table", "flights"),
    ]
    assert [o.name for o in either.read(owners.listed, None, "ann")] == ["flights"]
    assert either.read(owners.find, "model", MODEL) is None
    with pytest.raises(NotFound, match="nobody has been named yet"):
        either.read(owners.get, "model", MODEL)


def test_bad_owners_are_refused(desk: Desk) -> None:
    for arguments, error, rule in (
        (("alias", "champion", "ann"), InvalidInput, "known kinds: model, table, endpoint"),
        (("model", "absent", "ann"), NotFound, "model 'absent'"),
        (("table", "../x", "ann"), InvalidName, "table: "),
        (("table", "flights", "Ann Smith"), InvalidName, "principal: "),
        (("table", "flights", "ann", "Team A"), InvalidName, "team: "),
    ):
        with pytest.raises(error, match=rule):
            desk.write(owners.set_owner, *arguments, by=ANN)
    with pytest.raises(Forbidden):
        desk.write(owners.set_owner, "table", "flights", "eve", by=EVE)
    assert desk.read(owners.listed) == []
