"""The registry's own chore: an anchor of the audit log, in its place, once there is something new."""

from __future__ import annotations

import pytest

from rayplat.artifacts import keys
from rayplat.artifacts.places.place import place_at
from rayplat.registry.anchors import AnchorLog, unseal
from rayplat.registry.local import LocalRegistry
from rayplat.registry.record import audit
from rayplat.registry.upkeep import Upkeep, anchoring
from rayplat.settings import Settings
from tests.registry.desk import Desk


def test_an_anchor_is_written_and_signed(desk: Desk, settings: Settings) -> None:
    upkeep = Upkeep([anchoring(LocalRegistry(desk.record), settings)], clock=iter(range(0, 1000, 10)).__next__)
    assert upkeep.tick() == ["anchors"]
    (note,) = AnchorLog(place_at(settings.anchors_root)).notes()
    newest = desk.read(audit.head)
    anchor = unseal(note, keys.trusted(settings.keys_folder))
    assert newest is not None
    assert (anchor.seq, anchor.hash) == (newest.seq, newest.hash)
    upkeep.tick()
    assert len(AnchorLog(place_at(settings.anchors_root)).notes()) == 1


def test_a_place_that_cannot_be_written_holds_up_nothing(
    desk: Desk, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    (settings.home / "anchors").write_text("a file where the folder should be")
    upkeep = Upkeep([anchoring(LocalRegistry(desk.record), settings)], clock=iter(range(0, 1000, 10)).__next__)
    assert upkeep.tick() == ["anchors"]
    assert "anchors" in caplog.text
    (settings.home / "anchors").unlink()
    upkeep.tick()
    assert len(AnchorLog(place_at(settings.anchors_root)).notes()) == 1
