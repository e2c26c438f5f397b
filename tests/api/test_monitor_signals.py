"""A drift report's verdict is in the record, for whoever acts on it."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from rayplat.data.tables import Tables
from rayplat.registry.record import signals
from rayplat.services import monitors
from rayplat.services.monitors import Monitors
from rayplat.services.verbs import Context
from rayplat.settings import Settings
from rayplat.types import ColumnDrift, DriftReport
from tests.api.fakes import AUTHOR, DIGEST, registry

START, END = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC)


def report(verdict: str, drifted: bool) -> DriftReport:
    column = ColumnDrift("temp", "psi", 0.5, 0.2, 1000, 900, drifted, "")
    return DriftReport("m", 1, START, END, 900, "sha256:0", (column,), None, None, verdict)


@pytest.mark.parametrize(
    ("verdict", "drifted", "bad"), [("drift", True, [True]), ("stable", False, [False]), ("not enough rows", False, [])]
)
def test_a_verdict_becomes_a_signal(
    settings: Settings,
    empty_database: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    verdict: str,
    drifted: bool,
    bad: list[bool],
) -> None:
    record = registry(Path(shutil.copy(empty_database, tmp_path / "rayplat.db")), DIGEST)
    nothing: Any = None
    tables = Tables(settings.tables_uri)
    context = Context(settings, record, tables, nothing, nothing, nothing, "", AUTHOR)
    monkeypatch.setattr(monitors, "_actor_call", lambda *_: report(verdict, drifted))
    Monitors(context).report("m", 1, START, END)
    found = record.read(signals.listed, "m")
    assert [signal.bad for signal in found] == bad
    if drifted:
        assert (found[0].kind, found[0].detail) == ("drift", "900 rows, drifted: temp")
