from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from rayplat.cli import connection
from rayplat.cli.main import app
from rayplat.serve.deployment import plan, spec
from rayplat.types import EndpointSpec, ServingApplied, ServingPlan, StepOutcome

TEXT = "endpoints:\n- model: m\n"


class FakeEndpoints:
    def __init__(self) -> None:
        self.applied: list[dict[str, Any]] = []
        self.outcome, self.served = "done", False

    def plan(self, spec: str, prune: bool) -> ServingPlan:
        present = [plan.Present(EndpointSpec("m"))] if self.served else []
        return plan.make(_parsed(spec), present, prune)

    def apply(self, **given: Any) -> ServingApplied:
        self.applied.append(given)
        steps = self.plan(given["spec"], given["prune"]).steps
        detail = "the bundle is damaged" if self.outcome == "failed" else ""
        return ServingApplied(tuple(StepOutcome(s.action, s.model, s.alias, self.outcome, detail) for s in steps))

    def export(self) -> str:
        return "endpoints:\n- model: m\n  log:\n    redact: ['[red]age[/red]']\n"


def _parsed(text: str) -> tuple[EndpointSpec, ...]:
    return spec.parse(text)


@pytest.fixture
def endpoints(monkeypatch: pytest.MonkeyPatch) -> FakeEndpoints:
    fake = FakeEndpoints()
    monkeypatch.setattr(connection, "platform", lambda home, url: SimpleNamespace(endpoints=fake))
    return fake


@pytest.fixture
def file(tmp_path: Path) -> str:
    (tmp_path / "serving.yaml").write_text(TEXT)
    return str(tmp_path / "serving.yaml")


def run(*words: str, stdin: str | None = None) -> Any:
    return CliRunner().invoke(app, ["serve", *words], input=stdin)


def test_the_plan_is_shown_and_carried_out_as_it_was_shown(endpoints: FakeEndpoints, file: str) -> None:
    shown = run("apply", file, "--dry-run")
    assert shown.exit_code == 0
    assert "create" in shown.stdout
    assert "it is not served yet" in shown.stdout
    assert endpoints.applied == []
    done = run("apply", file, "--yes", "--prune")
    assert done.exit_code == 0, done.output
    digest = endpoints.plan(TEXT, True).digest
    assert endpoints.applied == [{"spec": TEXT, "prune": True, "expected": digest}]
    assert "done" in done.stdout


def test_nothing_is_changed_where_nobody_can_agree(endpoints: FakeEndpoints, file: str) -> None:
    for words in ((), ("--json",)):
        refused = run("apply", file, *words)
        assert refused.exit_code == 1
        assert "--yes" in refused.stderr
    assert endpoints.applied == []


def test_what_is_as_wanted_needs_no_agreement(endpoints: FakeEndpoints, file: str) -> None:
    endpoints.served = True
    done = run("apply", file)
    assert (done.exit_code, "nothing to do" in done.stdout) == (0, True)
    assert json.loads(run("apply", file, "--json").stdout)["steps"] == []
    assert endpoints.applied == []


def test_a_step_that_failed_is_told_and_the_exit_says_so(endpoints: FakeEndpoints, file: str) -> None:
    endpoints.outcome = "failed"
    done = run("apply", file, "--yes")
    assert done.exit_code == 1
    assert "the bundle is damaged" in done.stderr
    assert "0 of 1 steps were taken; the same command does what is left" in done.stderr
    as_json = run("apply", file, "--yes", "--json")
    assert (as_json.exit_code, json.loads(as_json.stdout)["outcomes"][0]["outcome"]) == (1, "failed")


def test_bad_files_are_refused_in_one_line(endpoints: FakeEndpoints, tmp_path: Path) -> None:
    bad = tmp_path / "bad.yaml"
    for content, problem in ((b"endpoints: [{model: m, replica: 2}]", "endpoints[0].replica"), (b"\xff\xfe", "UTF-8")):
        bad.write_bytes(content)
        done = run("apply", str(bad), "--yes")
        assert done.exit_code == 1
        assert problem in done.stderr
    assert "does not exist" in run("apply", str(tmp_path / "no.yaml")).stderr
    assert "cannot be read" in run("apply", str(tmp_path)).stderr


def test_what_is_served_is_written_as_it_is(endpoints: FakeEndpoints) -> None:
    assert run("export").stdout == endpoints.export()
    assert json.loads(run("export", "--json").stdout) == {"spec": endpoints.export()}
