from __future__ import annotations

from pathlib import Path

from rayplat.serve.served import forget, remember, remembered


def test_what_is_served_is_remembered_until_it_is_not(tmp_path: Path) -> None:
    assert remembered(tmp_path) == []
    for alias in ("champion", "challenger", "champion"):
        remember(tmp_path, "m", alias)
    assert remembered(tmp_path) == [("m", "challenger"), ("m", "champion")]
    forget(tmp_path, "m", "challenger")
    forget(tmp_path, "m", "never-was")
    assert remembered(tmp_path) == [("m", "champion")]
