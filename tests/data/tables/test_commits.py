"""Writers in processes of their own that are killed at work: nothing is lost, nothing comes twice."""

from __future__ import annotations

from pathlib import Path

from benchmarks.data import commits


def test_killed_writers_lose_nothing_and_repeat_nothing(tmp_path: Path) -> None:
    found = commits.run(tmp_path, writers=3, commits=5, kills=3)
    assert (found.lost, found.twice) == (0, 0)
    assert found.kills == 3
    assert found.versions == 1 + 3 * 5
