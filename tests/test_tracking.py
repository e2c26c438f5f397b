"""Runs in a real MLflow database."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import pytest

from rayplat.errors import InvalidInput, NotFound, Unavailable
from rayplat.tracking import Tracking
from rayplat.types import TableVersion

pytestmark = pytest.mark.services  # MLflow's own store

TABLE = TableVersion("weather", "/t/weather", "id-1", 3, "sha256:" + "a" * 64, "sha256:" + "b" * 64, 10)


@pytest.fixture(scope="module")
def tracking(tmp_path_factory) -> Tracking:
    folder = tmp_path_factory.mktemp("mlflow")
    found = Tracking(f"sqlite:///{folder / 'mlflow.db'}")
    found._client().create_experiment("flights", artifact_location=str(folder / "files"))
    return found


def test_a_run_keeps_what_was_logged(tracking):
    with tracking.start_run("flights", "first", {"rayplat.model": "m"}) as run:
        run.log_params({"lr": 0.1, "features": 14})
        run.log_metrics({"loss": 0.7}, step=0)
        run.log_metrics({"loss": 0.5}, step=1)
        run.log_table([{"lr": 0.1, "auc": 0.7}], "tuning/trials.json")
    info = tracking.get(run.run_id)
    assert (info.experiment, info.name, info.status) == ("flights", "first", "FINISHED")
    assert info.params == {"lr": "0.1", "features": "14"}
    assert info.metrics == {"loss": 0.5}
    assert info.tags["rayplat.model"] == "m"
    assert info.ended_at is not None
    assert info.started_at <= info.ended_at


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), SystemExit(0)])
def test_a_run_that_is_left_by_an_exception_has_failed(tracking, error):
    with pytest.raises(type(error)), tracking.start_run("flights", "broken") as run:
        raise error
    info = tracking.get(run.run_id)
    assert info.status == "FAILED"
    assert info.tags["rayplat.error"].startswith(type(error).__name__)


def test_dataset_versions_are_told_apart(tracking):
    """MLflow keeps one entry per name and digest: two versions with one digest would show the first one's source."""
    sources = []
    for table in (TABLE, replace(TABLE, version=4), replace(TABLE, table_id="id-2")):
        with tracking.start_run("flights", "data") as run:
            run.log_tables([table], "training")
        (dataset,) = tracking._client().get_run(run.run_id).inputs.dataset_inputs
        sources.append(json.loads(dataset.dataset.source))
    assert [(s["version"], s["table_id"]) for s in sources] == [(3, "id-1"), (4, "id-1"), (3, "id-2")]


def test_newest_runs_first_and_by_experiment(tracking):
    with tracking.start_run("flights", "older"):
        pass
    with tracking.start_run("flights", "newer") as newer:
        pass
    assert tracking.runs("flights", limit=1)[0].run_id == newer.run_id
    assert len(tracking.runs(limit=2)) == 2
    with pytest.raises(NotFound, match="'nothing' does not exist"):
        tracking.runs("nothing")


def test_compare_shows_only_what_differs(tracking):
    ids = []
    for lr, auc in ((0.1, 0.7), (0.2, 0.72)):
        with tracking.start_run("flights", "compared") as run:
            run.log_params({"lr": lr, "seed": 0})
            run.log_metrics({"auc": auc})
        ids.append(run.run_id)
    assert tracking.compare(ids) == {
        "auc": {ids[0]: 0.7, ids[1]: 0.72},
        "lr": {ids[0]: "0.1", ids[1]: "0.2"},
    }
    with pytest.raises(InvalidInput):
        tracking.compare([ids[0], ids[0]])


@pytest.mark.parametrize("run_id", ["0" * 32, "../../etc", "x y"])
def test_an_unknown_run_is_not_found(tracking, run_id):
    with pytest.raises(NotFound, match="run"):
        tracking.get(run_id)


def test_a_server_that_is_not_there_is_unavailable(monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:1"):
        Tracking("http://127.0.0.1:1").runs()


def test_a_request_does_not_import_feast():
    """Feast hooks into MLflow's HTTP client; 9 s of CPU and 220 MB in every process that reports a metric."""
    code = (
        "import sys; from rayplat.tracking import prepare_mlflow; prepare_mlflow();"
        "from mlflow.tracking.request_header.registry import resolve_request_headers;"
        "resolve_request_headers(); assert 'feast' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
