"""One whole training on two workers: the run, the bundle, the figures; and what is said when it cannot be."""

from __future__ import annotations

import time

import numpy as np
import pytest

from rayplat.artifacts.bundle import load_bundle
from rayplat.errors import PartFailed, Unschedulable
from rayplat.settings import TrainSettings
from rayplat.train.evaluation import evaluate
from rayplat.train.plan import TrainPlan
from rayplat.train.tabular import NetParams
from rayplat.train.trainer import train

pytestmark = pytest.mark.ray


def _plan(training_set, toy, folder, **changes) -> TrainPlan:
    fields = {
        **TrainPlan.resources(TrainSettings()),
        "views": {"schedule": "sha256:" + "2" * 64},
        "required": ("origin", "hour"),
        "params": NetParams(batch_size=128, epochs=3),
        "trials": 2,
        **changes,
    }
    return TrainPlan("flight-delay", "flights", training_set, toy.holdout, folder, **fields)


def test_a_training_from_table_to_tracked_bundle(ray_cluster, tables, training_set, toy, tracking, scratch):
    rows = toy.rows(6000)
    pinned = training_set(rows)
    result = train(_plan(pinned, toy, scratch), tables, tracking)

    assert 0.68 < result.metrics["auc"] < 0.85
    assert result.metrics == evaluate(result.folder, tables, pinned, toy.holdout)
    assert result.metrics["unlabelled"] > 0
    assert result.metrics["rows"] + result.metrics["unlabelled"] < rows.num_rows / 4

    info = tracking.get(result.run_id)
    assert info.status == "FINISHED"
    assert info.metrics["holdout_auc"] == pytest.approx(result.metrics["auc"])
    assert info.params["workers"] == "2"
    assert info.params["lr"] == str(result.params.lr)
    assert info.tags["rayplat.data"] == "training_set_toy@0"
    client = tracking._client()
    assert [m.step for m in client.get_metric_history(result.run_id, "train_loss")] == [0, 1, 2]
    contexts = {i.tags[0].value for i in client.get_run(result.run_id).inputs.dataset_inputs}
    assert contexts == {"training"}  # the toy set is its own only source, and MLflow keeps one context per data set
    files = {f.path for folder in ("plots", "tuning", "model") for f in client.list_artifacts(result.run_id, folder)}
    assert {"plots/roc.png", "plots/calibration.png", "tuning/trials.json", "model/MLmodel"} <= files

    model = load_bundle(tracking.download_model(result.run_id, scratch / "again"))
    model.warm_up()
    assert model.spec == result.spec
    assert (model.spec.entity, model.spec.views) == ("flight", {"schedule": "sha256:" + "2" * 64})
    _assert_mlflow_reads_it(result.folder, model)


def _assert_mlflow_reads_it(folder, model):
    import mlflow.pyfunc
    import mlflow.pytorch
    import pandas as pd
    import torch

    columns = {"origin": ["A", "B"], "dest": ["X", None], "hour": [6.0, 20.0], "wind": [3.0, None], "empty": [None] * 2}
    expected = model.predict(columns)["probability"]
    frame = pd.DataFrame(columns).astype({"empty": float})
    assert np.allclose(mlflow.pyfunc.load_model(str(folder)).predict(frame)["probability"], expected)
    graph = mlflow.pytorch.load_model(str(folder))
    assert np.allclose(graph(*map(torch.from_numpy, model.encoding.encode(columns))).detach(), expected)


def test_what_cannot_be_placed_is_said_within_ten_seconds(ray_cluster, tables, training_set, toy, tracking, scratch):
    plan = _plan(training_set(toy.rows(500)), toy, scratch, workers=3)
    started = time.monotonic()
    with pytest.raises(Unschedulable, match=r"needs 2\.45 CPU.*not enough CPU at all"):
        train(plan, tables, tracking)
    assert time.monotonic() - started < 13  # ten to wait, and the record of the failed run
    assert tracking.runs("flights", limit=1)[0].status == "FAILED"


def test_an_error_on_a_worker_comes_back_and_fails_the_run(ray_cluster, tables, training_set, toy, tracking, scratch):
    plan = _plan(training_set(toy.rows(500)), toy, scratch, trials=0, workers=1, params=NetParams(width=-1))
    with pytest.raises(PartFailed, match=r"(?s)training failed: .*width"):
        train(plan, tables, tracking)
    newest = tracking.runs("flights", limit=1)[0]
    assert newest.status == "FAILED"
    assert newest.tags["rayplat.error"].startswith("PartFailed")
