from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from rayplat.platform.endpoints import adopt_file
from rayplat.registry.local import LocalRegistry
from rayplat.registry.record import audit, endpoints
from rayplat.types import EndpointSpec, Principal, Role
from tests.api.fakes import registry

ADMIN = Principal("root", Role.ADMIN)


@pytest.fixture
def record(empty_database: Path, tmp_path: Path) -> LocalRegistry:
    shutil.copy(empty_database, tmp_path / "rayplat.db")
    return registry(tmp_path / "rayplat.db", "sha256:" + "1" * 64)


def adopt(home: Path, record: Any) -> list[tuple[str, str]]:
    return adopt_file(home, record)


def test_what_an_earlier_release_served_is_taken_over_once(tmp_path: Path, record: LocalRegistry) -> None:
    assert adopt(tmp_path, record) == []
    file = tmp_path / "endpoints.json"
    file.write_text(json.dumps([["m", "champion"], ["m", "gone"], ["absent", "champion"]]))
    assert adopt(tmp_path, record) == [("m", "champion")]
    assert record.read(endpoints.listed) == [EndpointSpec("m")]
    assert record.read(audit.listed, 1)[0].actor == "rayplat"
    assert not file.exists()
    assert (tmp_path / "endpoints.json.imported").exists()
    record.write(endpoints.delete, "m", "champion", by=ADMIN)
    assert adopt(tmp_path, record) == []
    assert record.read(endpoints.listed) == []


@pytest.mark.parametrize("content", ["[", "7", '[["m"]]'])
def test_a_file_that_cannot_be_read_is_left_alone(tmp_path: Path, record: LocalRegistry, content: str) -> None:
    (tmp_path / "endpoints.json").write_text(content)
    assert adopt(tmp_path, record) == []
    assert (tmp_path / "endpoints.json").exists()
