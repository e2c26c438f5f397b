"""Jobs through a fake of Ray's job client, which raises as the real one does (`dashboard_sdk._raise_error`)."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from rayplat.cli import jobs
from rayplat.cli.main import app
from rayplat.platform import ray_node, state

runner = CliRunner()


class FakeJobs:
    """One job, ``job-1``, which has ended well."""

    def submit_job(self, entrypoint: str, runtime_env: dict[str, Any]) -> str:
        return "job-1"

    def get_job_status(self, job_id: str) -> str:
        self._known(job_id)
        return "SUCCEEDED"

    def get_job_logs(self, job_id: str) -> str:
        self._known(job_id)
        return "hello\n"

    def stop_job(self, job_id: str) -> bool:
        self._known(job_id)
        return True

    async def tail_job_logs(self, job_id: str) -> AsyncIterator[str]:
        yield "hello\n"

    def _known(self, job_id: str) -> None:
        if job_id == "broken":
            raise RuntimeError("Request failed with status code 500: no agent.")
        if job_id != "job-1":
            raise RuntimeError(f"Request failed with status code 404: Job {job_id} does not exist.")


@pytest.fixture
def program(tmp_path: Path) -> str:
    (tmp_path / "train.py").write_text("")
    return str(tmp_path / "train.py")


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RAYPLAT_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(jobs, "client", lambda home: FakeJobs())


@pytest.fixture
def attached(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A home whose platform is attached to a cluster of others."""
    home = tmp_path / "home"
    monkeypatch.setenv("RAYPLAT_HOME", str(home))
    home.mkdir()
    state.write(home, replace(state.new_state(), ray_address="10.0.0.1:6379"))
    return home


@pytest.mark.parametrize("verb", ["logs", "stop"])
def test_an_unknown_job(fake: None, verb: str) -> None:
    done = runner.invoke(app, ["job", verb, "NOPE"])
    assert done.exit_code == 1
    assert done.stderr.startswith("error: job 'NOPE' does not exist")


def test_a_job_api_that_fails(fake: None) -> None:
    done = runner.invoke(app, ["job", "logs", "broken"])
    assert done.exit_code == 1
    assert "the job API is not available" in done.stderr


def test_logs_and_stop_as_json(fake: None) -> None:
    assert json.loads(runner.invoke(app, ["job", "logs", "job-1", "--json"]).stdout) == {
        "job_id": "job-1",
        "logs": "hello\n",
    }
    stopped = runner.invoke(app, ["job", "stop", "job-1", "--json"])
    assert json.loads(stopped.stdout) == {"job_id": "job-1", "stopped": True}


@pytest.mark.parametrize("wait", ["--wait", "--no-wait"])
def test_submit_as_json_prints_one_document(fake: None, program: str, wait: str) -> None:
    done = runner.invoke(app, ["job", "submit", program, wait, "--json"])
    assert done.exit_code == 0
    assert json.loads(done.stdout) == {"job_id": "job-1", "status": "SUCCEEDED"}
    assert ("hello" in done.stderr) is (wait == "--wait")


def test_submit_prints_the_log_or_the_id(fake: None, program: str) -> None:
    assert runner.invoke(app, ["job", "submit", program]).stdout == "hello\n"
    assert runner.invoke(app, ["job", "submit", program, "--no-wait"]).stdout == "job-1\n"


def test_an_attached_cluster_has_its_own_job_command(attached: Path) -> None:
    done = runner.invoke(app, ["job", "logs", "job-1"])
    assert done.exit_code == 1
    assert "attached to a cluster" in done.stderr


def test_env_of_an_attached_cluster_names_only_what_is_known(attached: Path) -> None:
    assert json.loads(runner.invoke(app, ["env", "--json"]).stdout) == {"RAYPLAT_HOME": str(attached)}


def test_env_of_an_own_cluster(attached: Path) -> None:
    own = replace(state.new_state(), ray_address="h:1", ray_started=True, dashboard_url="http://h:2")
    state.write(attached, own)
    assert "RAY_AUTH_TOKEN_PATH" not in runner.invoke(app, ["env"]).stdout
    ray_node.token_file(attached).write_text("secret")
    values = json.loads(runner.invoke(app, ["env", "--json"]).stdout)
    assert values == {**ray_node.auth_env(attached), "RAY_ADDRESS": "http://h:2", "RAYPLAT_HOME": str(attached)}
    assert "export RAY_ADDRESS=http://h:2\n" in runner.invoke(app, ["env"]).stdout
