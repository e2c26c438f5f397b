"""What a part says of itself fits into a table: what matters most comes first."""

from __future__ import annotations

import pytest

from rayplat import actors
from rayplat.services.status import actor_status


def test_the_outcome_of_the_audit_stands_first(monkeypatch: pytest.MonkeyPatch) -> None:
    beat = {"part": "registry", "epoch": 1, "audit": "intact", "at": 0}
    monkeypatch.setattr(actors, "call", lambda name, method, timeout_s: beat)
    assert actor_status("rayplat-registry").detail == "audit intact, epoch 1"
