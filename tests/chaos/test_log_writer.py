"""The inference log's writer killed ten times under load: every acknowledged row is stored, and none twice."""

from __future__ import annotations

from pathlib import Path

from rayplat.settings import Settings
from tests.serve.log.test_writer import killed_under_load


def test_the_writer_is_killed_ten_times_under_load(settings: Settings, tmp_path: Path) -> None:
    recorded, found = killed_under_load(settings, tmp_path, kills=10, rows_per_s=1000)
    assert recorded > 2000
    assert sorted(found, key=int) == [str(i) for i in range(recorded)]
