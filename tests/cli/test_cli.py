"""The command line: output, exit codes, one line for an error."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from rayplat import settings as settings_module
from rayplat.artifacts import keys
from rayplat.cli.main import app
from rayplat.platform import doctor, lifecycle, state

runner = CliRunner()


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RAYPLAT_HOME", str(tmp_path / "home"))
    for name in ("RAYPLAT_URL", "RAYPLAT_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "home"


@pytest.mark.parametrize("command", [["down"], ["status"], ["table", "list"], ["predict", "m", "k"], ["env"]])
def test_nothing_runs(command: list[str]) -> None:
    done = runner.invoke(app, command)
    assert done.exit_code == 1
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert "rayplat up" in lines[0]


@pytest.mark.parametrize("command", [["table", "get"], ["nope"], ["up", "--nope"], ["token", "create"]])
def test_wrong_usage_is_2(command: list[str]) -> None:
    assert runner.invoke(app, command).exit_code == 2


def test_a_home_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = runner.invoke(app, ["up", "--home", str(tmp_path / "file" / "home")])
    assert done.exit_code == 1
    assert "cannot be written" in done.stderr
    assert "--home" in done.stderr


def test_a_remote_platform_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    monkeypatch.setenv("RAYPLAT_TOKEN", "rpt_x")
    done = runner.invoke(app, ["model", "list", "--url", f"http://127.0.0.1:{port}"])
    assert done.exit_code == 1
    assert "cannot be reached" in done.stderr


def test_a_remote_platform_needs_a_token() -> None:
    done = runner.invoke(app, ["model", "list", "--url", "http://127.0.0.1:1"])
    assert done.exit_code == 1
    assert "RAYPLAT_TOKEN" in done.stderr


def test_doctor_names_a_port_in_use_and_what_to_do(home: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        port = taken.getsockname()[1]
        home.mkdir()
        (home / "rayplat.toml").write_text(f"[mlflow]\nport = {port}\n")
        done = runner.invoke(app, ["doctor", "--json"])
    findings = {f["check"]: f for f in json.loads(done.stdout)}
    assert findings["port of the MLflow page"]["level"] == "warning"
    assert "next free port" in findings["port of the MLflow page"]["advice"]
    assert findings["ray"]["level"] == "ok"
    assert all(f["advice"] for f in findings.values() if f["level"] != "ok")


def test_a_damaged_state_file_is_named(home: Path) -> None:
    home.mkdir()
    state.path(home).write_text("{")
    done = runner.invoke(app, ["table", "list"])
    assert done.exit_code == 1
    assert "platform.json" in done.stderr.replace("\n", "")


def test_an_unknown_setting_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYPLAT_SERVE__NOPE", "1")
    done = runner.invoke(app, ["doctor"])
    assert done.exit_code == 1
    assert "serve.nope" in done.stderr


def test_down_as_json(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifecycle, "down", lambda settings: 7)
    assert json.loads(runner.invoke(app, ["down", "--json"]).stdout) == {"ended": 7, "home": str(home)}


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_an_evidence_file_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "evidence.json").write_bytes(content)
    file = tmp_path / "evidence.json"
    done = runner.invoke(app, ["promote", "m", "1", "champion", "--evidence", f"@{file}"])
    assert done.exit_code == 1
    assert done.stderr.startswith("error: evidence: ")
    assert str(file) in done.stderr.replace("\n", "")


def _defect(*_: object) -> None:
    raise ZeroDivisionError("a [defect]\nof ours")


@pytest.mark.parametrize("writable", [True, False])
def test_a_defect_is_one_line_and_its_traceback_a_file(
    home: Path, monkeypatch: pytest.MonkeyPatch, writable: bool
) -> None:
    if writable:
        home.mkdir()
    monkeypatch.setattr(state, "require", _defect)
    done = runner.invoke(app, ["table", "list"])
    assert done.exit_code == 1
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("error: internal error: ZeroDivisionError: a [defect] of ours; the traceback is in ")
    file = Path(done.stderr.split()[-1])
    assert (file == home / "logs" / "cli.log") is writable
    assert "in _defect" in file.read_text()
    if not writable:
        file.unlink()


def test_a_reader_that_goes_away_is_no_defect(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: object) -> None:
        raise BrokenPipeError(32, "Broken pipe")

    home.mkdir()
    monkeypatch.setattr(state, "require", gone)
    done = runner.invoke(app, ["table", "list"])
    assert done.exit_code == 1
    assert "internal error" not in done.stderr
    assert not (home / "logs").exists()


def test_doctor_finds_the_folder_that_stands_in_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Below a folder that may not be searched, `Path.exists` raises on Python 3.11 and 3.12; root may search all."""
    closed = tmp_path / "closed"
    closed.mkdir()
    real_stat, real_access = os.stat, os.access

    def stat(path: Any, *args: Any, **kwargs: Any) -> os.stat_result:
        if isinstance(path, str | Path) and closed in Path(path).parents:
            raise PermissionError(13, "Permission denied", str(path))
        return real_stat(path, *args, **kwargs)

    settings = settings_module.load(closed / "home", environ={})
    monkeypatch.setattr(os, "stat", stat)
    monkeypatch.setattr(os, "access", lambda path, mode: path != closed and real_access(path, mode))
    findings = {f.check: f for f in doctor.examine(settings)}
    assert findings["home"].level == "error"
    assert str(closed) in findings["home"].detail
    assert "--home" in findings["home"].advice


def test_doctor_names_a_signing_key_that_others_can_read(home: Path) -> None:
    settings = settings_module.load(home, environ={})
    assert {f.check: f for f in doctor.examine(settings)}["signing key"].level == "ok"
    keys.ensure(settings.keys_folder)
    (settings.keys_folder / keys.PRIVATE).chmod(0o644)
    found = {f.check: f for f in doctor.examine(settings)}["signing key"]
    assert found.level == "error"
    assert "chmod 600" in found.detail


def test_doctor_asks_for_the_memory_that_the_readme_asks_for() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    assert f"{doctor.MIN_MEMORY_BYTES >> 30} GiB of free memory" in readme
    assert f"{doctor.MIN_DISK_BYTES >> 30} GiB of disk" in readme
