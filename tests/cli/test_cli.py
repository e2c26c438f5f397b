"""The command line: output, exit codes, one line for an error."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rayplat.cli.main import app
from rayplat.platform import state

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
