"""What `rayplat demo` promises, seen through the public ways."""

from __future__ import annotations

import json
from typing import Any

import pytest

from rayplat import Platform
from rayplat.demo import flights
from rayplat.errors import Forbidden, InvalidInput, NotFound
from rayplat.types import PromotionState, Role
from tests.e2e.conftest import Live

pytestmark = pytest.mark.e2e
MODEL = "flight-delay"


def test_an_interrupted_demo_says_so_in_one_line_and_the_next_one_works(live: Live) -> None:
    assert live.interrupted.returncode == 1
    errors = [line for line in live.interrupted.stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    assert "interrupted" in errors[0]
    assert "Traceback" not in live.interrupted.stderr
    statuses = [run.status for run in live.client().runs.list()]
    assert "RUNNING" not in statuses
    assert statuses.count("FINISHED") == 2
    assert len(statuses) == 3  # the interrupted one has ended too, as failed or killed
    flights = live.client().tables.get("flights")
    assert flights.latest.version >= 1  # both runs ingested: a new version, not a second copy
    assert flights.latest.row_count == 336_776


def test_figures(live: Live) -> None:
    result = live.result
    assert 0.66 <= result["auc"]["champion"] <= 0.80
    assert 0.71 <= result["auc"]["challenger"] <= 0.80
    replay = result["replay"]
    assert replay["requests"] >= 520
    assert replay["failed"] == replay["unnamed"] == 0
    assert replay["answered"] == sum(replay["by_version"].values()) == replay["requests"]
    assert len(replay["by_version"]) == 2
    assert result["inference_log"] == {"requests": replay["answered"], "rows": replay["answered"]}


def test_parity_of_what_both_versions_were_given(live: Live) -> None:
    client = live.client()
    timetable = {field.name for field in flights.SCHEDULE.fields}
    for version, answered in live.result["replay"]["by_version"].items():
        report = client.features.parity(MODEL, int(version))
        assert report.vectors >= answered  # the replay's, and those of other tests
        assert all(found.compared == report.vectors for found in report.features)
        assert {pin.table for pin in report.pins} <= {view.table for view in flights.VIEWS}
        known = [found for found in report.features if found.feature in timetable]
        assert known
        assert {found.mismatches for found in known} == {0}  # others change within a step of the replay's clock
    printed = live.rayplat.run("features", "parity", MODEL, version, "--limit", "10")
    assert printed.returncode == 0, printed.stderr
    assert "of 10 vectors differ" in printed.stdout


def test_the_report_is_complete_and_kept(live: Live) -> None:
    names = [step["step"] for step in live.result["steps"]]
    assert names[0] == "up"
    assert names[-1] == "monitor"
    assert json.loads((live.rayplat.home / "demo.json").read_text()) == live.result
    assert {"api", "mlflow", "ray_dashboard", "data"} <= set(live.result["addresses"])
    for drift in live.result["drift"]:
        assert drift["rows"] > 0
        assert drift["quality"]["labelled"] + drift["quality"]["unlabelled"] == drift["rows"]


def test_a_second_person_approved_each_move(live: Live) -> None:
    promotions = live.client().promotions.list(MODEL)
    went_live = (PromotionState.LIVE, PromotionState.SUPERSEDED)
    moved = [p for p in promotions if p.alias == "champion" and p.state in went_live]
    assert len(moved) == 2
    for promotion in moved:
        assert {a.approver for a in promotion.approvals}.isdisjoint({promotion.requester})
    head = live.client().aliases.get(MODEL, "champion")
    assert str(head.version) in live.result["replay"]["by_version"]
    generations = [h.generation for h in live.client().aliases.history(MODEL, "champion")]
    assert generations == list(range(len(generations), 0, -1))


def test_what_the_gates_and_the_rules_refused_is_in_the_report(live: Live) -> None:
    own, worse = live.result["refusals"]
    assert "does not approve their own promotion" in own["reasons"][0]
    assert any(reason.startswith("champion_interval: gain in auc -") for reason in worse["reasons"])
    refused = live.client().promotions.list(MODEL, PromotionState.REJECTED)
    assert worse["version"] in {promotion.version for promotion in refused}


def test_every_version_is_signed_and_its_evidence_is_paired(live: Live) -> None:
    client = live.client()
    for version in client.models.versions(MODEL):
        assert version.format == "torch_export"
        assert client.models.verify(MODEL, version.version).digest == version.digest
    first, second = live.result["promotions"]
    assert first["gain"] is None
    assert second["gain"]["auc"] > 3 * second["gain"]["standard_error"] > 0


def test_a_run_holds_what_a_model_was_made_from(live: Live) -> None:
    client = live.client()
    newest = client.models.versions(MODEL)[0]
    run = client.runs.get(newest.run_id)
    assert run.status == "FINISHED"
    assert run.metrics["holdout_auc"] == pytest.approx(newest.metrics["auc"])
    pinned = {pin.table for pin in newest.pins}
    assert {"flight_labels", *(view.table for view in flights.VIEWS)} <= pinned


def test_status_and_a_second_up(live: Live) -> None:
    parts = live.rayplat.json("status")
    assert {p["state"] for p in parts} == {"up"}
    assert any(p["part"] == "endpoint flight-delay--champion" for p in parts)
    again = live.rayplat.json("up")
    assert again["started"] == []


def test_predict_with_the_command_line(live: Live) -> None:
    key = live.client().tables.head("flights", limit=1)[0]["flight"]
    answer = live.rayplat.json("predict", MODEL, key, "--at", "2013-11-05T12:00:00")
    assert 0 <= answer["outputs"]["probability"][0] <= 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("table", "get", "nope"), "table 'nope'"),
        (("model", "versions", "nope"), "'nope'"),
        (("promote", MODEL, "1", "v2"), "shadow a version"),
        (("alias", "get", MODEL, "v2"), "v2"),
        (("predict", MODEL, "NO-SUCH-FLIGHT"), "NO-SUCH-FLIGHT"),
        (("predict", "nope", "x"), "nope"),
        (("job", "submit", "no/such/program.py"), "no/such/program.py"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_1(live: Live, arguments: tuple[str, ...], said: str) -> None:
    # A job's own arguments follow the program's name, so --home comes before it.
    done = live.rayplat.run(*arguments) if arguments[0] != "job" else _job(live, *arguments[2:])
    assert done.returncode == 1
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, done.stderr
    assert said in lines[0]


def _job(live: Live, program: str, *arguments: str) -> Any:
    import os
    import subprocess
    import sys

    return subprocess.run(
        [
            sys.executable,
            "-m",
            "rayplat.cli.main",
            "job",
            "submit",
            "--home",
            str(live.rayplat.home),
            program,
            *arguments,
        ],
        capture_output=True,
        text=True,
        env={k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "RAYPLAT_"))},
        timeout=300,
    )


def test_a_step_runs_as_a_job(live: Live) -> None:
    before = live.client().tables.get("flights").latest
    done = _job(live, "jobs/ingest.py")
    assert done.returncode == 0, done.stdout + done.stderr
    after = live.client().tables.get("flights").latest
    assert after.version == before.version + 1
    assert after.row_count == before.row_count


def test_people_and_roles(live: Live) -> None:
    owner = live.client()
    viewer = Platform(live.url, token=owner.tokens.create("just-looking", Role.VIEWER).secret)
    assert MODEL in viewer.models.list()
    newest = owner.models.versions(MODEL)[0].version
    with pytest.raises(Forbidden, match="developer"):
        viewer.promotions.request(MODEL, newest, "canary")
    with pytest.raises(Forbidden):
        viewer.promotions.rollback(MODEL, "champion", "because")


def test_rollback_reaches_the_endpoint(live: Live) -> None:
    owner = live.client()
    key = owner.tables.head("flights", limit=1)[0]["flight"]
    first, second = sorted(int(v) for v in live.result["replay"]["by_version"])
    assert owner.predict(MODEL, [key]).version == second
    assert owner.promotions.rollback(MODEL, "champion", "a test puts the first one back").version == first
    from rayplat.platform.processes import wait_until

    assert wait_until(lambda: owner.predict(MODEL, [key]).version == first, 30)
    assert owner.predict(MODEL, [key], version=second).version == second  # an exact number pins a version


def test_errors_come_back_as_themselves(live: Live) -> None:
    client = live.client()
    with pytest.raises(NotFound):
        client.endpoints.get(MODEL, "nope")
    with pytest.raises(NotFound):
        client.endpoints.create(MODEL, "nope")
    with pytest.raises(InvalidInput, match="limit"):
        client.tables.head("flights", limit=100_000)
    with pytest.raises(NotFound):
        client.tables.version("flights", version=10_000)
