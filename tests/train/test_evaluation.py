"""Metrics against scikit-learn, the plausible bound, and the pinned holdout."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn import metrics as reference

from rayplat.scoring import auc, brier, log_loss
from rayplat.train.evaluation import Holdout, leakage_suspected, metrics
from rayplat.train.plots import calibration_points, roc_points, write


def _sample(seed: int, ties: bool) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    labels = (random.random(500) < 0.3).astype(np.float32)
    scores = np.clip(0.3 * labels + random.random(500) * 0.7, 0.01, 0.99).astype(np.float32)
    return labels, np.round(scores, 1).clip(0.1, 0.9) if ties else scores


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_metrics_agree_with_scikit_learn(seed, ties):
    labels, scores = _sample(seed, ties)
    assert auc(labels, scores) == pytest.approx(reference.roc_auc_score(labels, scores))
    assert log_loss(labels, scores) == pytest.approx(reference.log_loss(labels, scores.astype(float)), abs=1e-9)
    assert brier(labels, scores) == pytest.approx(reference.brier_score_loss(labels, scores))


def test_auc_needs_both_classes_and_real_scores():
    assert math.isnan(auc(np.ones(3), np.array([0.1, 0.2, 0.3])))
    assert math.isnan(auc(np.array([0, 1]), np.array([0.1, np.nan])))
    assert auc(np.array([0, 1]), np.array([0.5, 0.5])) == 0.5


def test_certain_scores_keep_the_log_loss_finite():
    assert math.isfinite(log_loss(np.array([1.0, 0.0]), np.array([0.0, 1.0])))


@pytest.mark.parametrize(
    ("value", "suspected"), [(0.69, False), (0.76, False), (0.80, False), (0.81, True), (0.885, True)]
)
def test_a_figure_too_good_to_be_true_is_suspected(value, suspected):
    assert leakage_suspected(value) is suspected


def test_an_auc_that_is_no_number_is_suspected():
    assert leakage_suspected(float("nan"))


def test_all_metrics_of_a_holdout():
    labels, scores = _sample(0, ties=False)
    found = metrics(Holdout(labels, scores, unlabelled=7))
    assert found["rows"] == 500
    assert found["unlabelled"] == 7
    assert found["positive_rate"] == pytest.approx(labels.mean())


def test_plots_are_png_files(tmp_path):
    holdout = Holdout(*_sample(0, ties=False), unlabelled=0)
    write(holdout, tmp_path)
    assert all((tmp_path / name).read_bytes().startswith(b"\x89PNG") for name in ("roc.png", "calibration.png"))


def test_curves_end_where_they_must():
    holdout = Holdout(*_sample(1, ties=False), unlabelled=0)
    false, true = roc_points(holdout)
    assert (false[0], true[0], false[-1], true[-1]) == (0.0, 0.0, 1.0, 1.0)
    assert (np.diff(true) >= 0).all()
    means, _ = calibration_points(holdout)
    assert (np.diff(means) >= 0).all()
