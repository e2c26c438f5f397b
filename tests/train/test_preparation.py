"""The look at the training rows: pinned, labelled, before the holdout, and nothing else."""

from __future__ import annotations

from datetime import datetime

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from rayplat.errors import InvalidInput
from rayplat.train.plan import TrainPlan
from rayplat.train.preparation import prepare
from rayplat.train.tabular import NetParams
from rayplat.train.tuner import run_trial


def _plan(training_set, toy, scratch, **changes) -> TrainPlan:
    return TrainPlan("flight-delay", "flights", training_set, toy.holdout, scratch, **changes)


def test_only_labelled_rows_before_the_holdout_count(tables, training_set, toy, scratch):
    rows = toy.rows()
    pinned = training_set(rows)
    tables.append("training_set_toy", toy.rows(seed=5))  # a later version, which the pin must not see
    prepared = prepare(tables, _plan(pinned, toy, scratch))
    before = rows.filter(pc.less(rows["event_time"], pa.scalar(toy.holdout, pa.timestamp("us", "UTC"))))
    assert prepared.rows == before.num_rows - before["label"].null_count
    assert len(prepared.trial) + len(prepared.valid) == prepared.rows
    assert len(prepared.valid) == pytest.approx(prepared.rows * 30 / 122, rel=0.15)
    assert set(prepared.example) == set(toy.features)


def test_excluded_features_are_gone_and_required_ones_marked(tables, training_set, toy, scratch):
    plan = _plan(training_set(toy.rows(500)), toy, scratch, exclude=("empty",), required=("hour",))
    features = prepare(tables, plan).fitted.encoding.features
    assert [f.name for f in features] == ["origin", "dest", "hour", "wind"]
    assert [f.name for f in features if not f.nullable] == ["hour"]


def test_one_class_is_nothing_to_learn_from(tables, training_set, toy, scratch):
    rows = toy.rows(200)
    rows = rows.set_column(rows.schema.get_field_index("label"), "label", pa.array([0] * 200, pa.int8()))
    with pytest.raises(InvalidInput, match="must hold both 0 and 1"):
        prepare(tables, _plan(training_set(rows), toy, scratch))


def test_a_trial_measures_on_the_month_before_the_holdout(tables, training_set, toy, scratch):
    prepared = prepare(tables, _plan(training_set(toy.rows()), toy, scratch))
    measured = run_trial(NetParams(batch_size=128), prepared.fitted, prepared.trial, prepared.valid, seed=0)
    assert 0.6 < measured["auc"] < 0.9
    assert measured["log_loss"] < 0.7


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"holdout_from": datetime(2013, 10, 1)}, "holdout_from"),
        ({"workers": 0}, "workers"),
        ({"exclude": ("speed",)}, "exclude"),
        ({"exclude": ("origin", "dest", "hour", "wind", "empty")}, "features"),
        ({"model": "../x"}, "model"),
    ],
)
def test_a_plan_that_cannot_be_carried_out_is_refused(training_set, toy, scratch, changes, field):
    fields = {"model": "m", "experiment": "e", "holdout_from": toy.holdout, "folder": scratch, **changes}
    with pytest.raises(InvalidInput) as refused:
        TrainPlan(training_set=training_set(toy.rows(50)), **fields)
    assert refused.value.field == field
