"""The benchmark of the online store at a small size: every figure is measured, with its peers."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.data import online


@pytest.mark.services
def test_every_store_and_peer_is_measured(tmp_path: Path) -> None:
    rows, raw = online.measure(tmp_path, quick=True)
    assert set(raw["ours"]) == {"sqlite", "redis", "postgres"}
    assert set(raw["feast"]) == {"sqlite", "redis"}
    assert len(rows) == 3 * 10
    assert all(row.value is not None and row.value > 0 for row in rows)
    assert sum(row.peers is not None for row in rows) == 2 * 4
