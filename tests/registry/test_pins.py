from __future__ import annotations

import pytest

from rayplat.errors import Conflict, Forbidden, InvalidInput, NotFound
from rayplat.registry.record import audit, pins, versions
from tests.registry.desk import ANN, BOB, EVE, HOLDOUT, MODEL, ROOT, Desk

VERSION = f"{MODEL}/1"


def test_each_person_has_one_pin_on_a_thing(either: Desk) -> None:
    either.write(pins.pin, "version", VERSION, "the report quotes it", by=ANN)
    either.write(pins.pin, "version", VERSION, "so does mine", by=BOB)
    either.write(pins.pin, "version", VERSION, "the report of 2026 quotes it", by=ANN)
    either.write(pins.pin, "artifact", HOLDOUT, "the holdout", by=ANN)
    found = either.read(pins.listed, "version", VERSION)
    assert {p.pinned_by: p.reason for p in found} == {"ann": "the report of 2026 quotes it", "bob": "so does mine"}
    assert len(either.read(pins.listed)) == 3
    assert [p.target for p in either.read(pins.listed, "artifact")] == [HOLDOUT]
    assert [e.action for e in either.read(audit.listed, 4)] == ["pin.add"] * 4


def test_a_pin_goes_by_its_owner_or_an_admin(either: Desk) -> None:
    for who in (ANN, BOB):
        either.write(pins.pin, "version", VERSION, "needed", by=who)
    with pytest.raises(Forbidden, match="the pin is ann's: only they, or an admin"):
        either.write(pins.unpin, "version", VERSION, "ann", by=BOB)
    either.write(pins.unpin, "version", VERSION, by=BOB)
    either.write(pins.unpin, "version", VERSION, "ann", by=ROOT)
    with pytest.raises(NotFound, match="pinned by nobody"):
        either.write(pins.unpin, "version", VERSION, by=ANN)
    assert either.read(pins.listed) == []


def test_bad_pins_are_refused(desk: Desk) -> None:
    desk.write(versions.delete, MODEL, 3, "gone", by=ROOT)
    before = desk.read(audit.listed)
    for kind, target, reason, error, rule in (
        ("model", VERSION, "x", InvalidInput, "cannot be pinned; known kinds: artifact, version"),
        ("version", VERSION, "  ", InvalidInput, "say why"),
        ("version", MODEL, "x", InvalidInput, "is no '<model>/<number>'"),
        ("version", f"{MODEL}/01", "x", InvalidInput, "is no '<model>/<number>'"),
        ("version", f"{MODEL}/9", "x", NotFound, "the newest are"),
        ("version", f"{MODEL}/3", "x", Conflict, "was deleted"),
        ("artifact", "sha256:1", "x", InvalidInput, "is no digest"),
    ):
        with pytest.raises(error, match=rule):
            desk.write(pins.pin, kind, target, reason, by=ANN)
    with pytest.raises(Forbidden):
        desk.write(pins.pin, "version", VERSION, "x", by=EVE)
    assert desk.read(pins.listed) == []
    assert desk.read(audit.listed) == before
