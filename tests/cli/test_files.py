"""Commands that work on files here: the audit log's export is checked without any platform."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rayplat.cli.main import app
from rayplat.registry import audit_export
from tests.api.fakes import DIGEST, registry

runner = CliRunner()


@pytest.fixture
def export(tmp_path: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RAYPLAT_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("RAYPLAT_URL", raising=False)
    made = registry(Path(shutil.copy(empty_database, tmp_path / "rayplat.db")), DIGEST)
    file = tmp_path / "audit.jsonl"
    made.record.read(lambda connection: audit_export.export(connection, file))
    made.record.close()
    return file


def test_an_export_is_checked_without_a_platform(export: Path) -> None:
    done = runner.invoke(app, ["audit", "verify", str(export), "--json"])
    assert done.exit_code == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["problem"], report["signatures"]) == (None, False)
    assert report["entries"] >= 3


def test_an_edited_export_is_exit_code_1_and_the_entry_is_named(export: Path) -> None:
    export.write_text(export.read_text().replace('"grace"', '"mallory"', 1))
    done = runner.invoke(app, ["audit", "verify", str(export)])
    assert done.exit_code == 1
    assert "edited" in done.stdout


@pytest.mark.parametrize(
    ("content", "said"), [(None, "does not exist"), ("hello\n", "no export|not that of an export")]
)
def test_what_is_no_export(export: Path, content: str | None, said: str) -> None:
    other = export.with_name("other")
    if content is not None:
        other.write_text(content)
    done = runner.invoke(app, ["audit", "verify", str(other)])
    assert done.exit_code == 1
    assert len(done.stderr.splitlines()) == 1
    assert any(part in done.stderr for part in said.split("|"))


def test_a_key_that_is_none_is_named(export: Path) -> None:
    done = runner.invoke(app, ["audit", "verify", str(export), "--public-key", str(export)])
    assert done.exit_code == 1
    assert "PEM public key" in done.stderr.replace("\n", " ")
