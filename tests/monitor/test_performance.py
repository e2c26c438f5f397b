"""Live quality against scikit-learn, and the cases without a figure."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics

from rayplat import scoring
from rayplat.errors import InvalidInput
from rayplat.monitor import performance


def test_figures_agree_with_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    scores = np.round(rng.random(3000), 2)  # many ties
    labels = (rng.random(3000) < scores).astype(float)
    found = performance.quality(3, scores, labels, 500)
    assert (found.version, found.predictions, found.labelled, found.unlabelled) == (3, 3000, 3000, 0)
    assert found.auc == pytest.approx(metrics.roc_auc_score(labels, scores))
    assert found.log_loss == pytest.approx(metrics.log_loss(labels, np.clip(scores, 1e-7, 1 - 1e-7)))
    assert found.positive_rate == labels.mean()
    assert found.mean_score == pytest.approx(scores.mean())
    assert found.calibration_error is not None
    assert found.calibration_error < 0.04


def test_calibration_error_is_the_distance_of_a_constant_score() -> None:
    labels = np.repeat([0.0, 1.0], [700, 300])  # sorted: ties must not follow the order of rows
    assert scoring.calibration_error(labels, np.full(1000, 0.8)) == pytest.approx(0.5)


def test_rows_without_a_label_are_counted_and_left_out() -> None:
    scores, labels = np.array([0.9, 0.1, 0.5]), np.array([1.0, 0.0, np.nan])
    found = performance.quality(1, scores, labels, 2)
    assert (found.predictions, found.labelled, found.unlabelled, found.auc) == (3, 2, 1, 1.0)


def test_no_figures_below_the_minimum_or_without_labels() -> None:
    for labels in ([1.0, 0.0], [np.nan, np.nan]):
        found = performance.quality(1, [0.5, 0.6], labels, 3)
        assert {found.auc, found.log_loss, found.positive_rate, found.mean_score} == {None}
    assert performance.quality(1, [], [], 0).auc is None


def test_one_class_has_no_auc_but_a_loss() -> None:
    found = performance.quality(1, [0.2, 0.4], [0.0, 0.0], 1)
    assert found.auc is None
    assert found.log_loss == pytest.approx(-(np.log(0.8) + np.log(0.6)) / 2)


def test_a_certain_but_wrong_score_has_a_finite_loss() -> None:
    assert np.isfinite(scoring.log_loss(np.array([0.0, 1.0]), np.array([1.0, 0.0])))


@pytest.mark.parametrize(
    ("scores", "labels", "text"),
    [([0.5], [1.0, 0.0], "shape"), ([0.5], [2.0], "0, 1 or missing"), ([1.5], [1.0], "between 0 and 1")],
)
def test_bad_input_is_named(scores: list[float], labels: list[float], text: str) -> None:
    with pytest.raises(InvalidInput, match=text):
        performance.quality(1, scores, labels, 1)
