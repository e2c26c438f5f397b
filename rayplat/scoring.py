"""How well probabilities fit outcomes: pure functions of labels [n] (0 or 1) and scores [n], for holdouts and for live
answers alike, so that both figures mean the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def auc(labels: Array, scores: Array) -> float:
    """Area under the ROC curve: the chance that a positive outranks a negative, ties counting half
    (Mann and Whitney 1947). NaN where a class is missing or a score is NaN."""
    positive = np.asarray(labels) > 0.5
    n_positive = int(positive.sum())
    n_negative = len(positive) - n_positive
    if not n_positive or not n_negative:
        return float("nan")
    values, group, counts = np.unique(np.asarray(scores), return_inverse=True, return_counts=True)
    if np.isnan(values).any():
        return float("nan")
    ends = np.cumsum(counts)
    ranks = (ends - (counts - 1) / 2)[group]  # ranks from 1, ties share their mean
    return float((ranks[positive].sum() - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative))


def log_loss(labels: Array, scores: Array) -> float:
    """Mean negative log likelihood in nats; scores are kept 1e-7 away from 0 and 1 (they are float32)."""
    y = np.asarray(labels, dtype=np.float64)
    p = np.clip(np.asarray(scores, dtype=np.float64), 1e-7, 1 - 1e-7)
    return float(-np.mean(y * np.log(p) + (1 - y) * np.log1p(-p)))


def brier(labels: Array, scores: Array) -> float:
    """Mean squared difference of probability and outcome."""
    return float(np.mean((np.asarray(scores, dtype=np.float64) - np.asarray(labels, dtype=np.float64)) ** 2))


def calibration_error(labels: Array, scores: Array, bins: int = 10) -> float:
    """Expected calibration error: mean distance between score and positive rate over ``bins`` groups of equal
    size, ordered by score (Naeini, Cooper, Hauskrecht 2015, with quantile bins)."""
    scores, labels = np.asarray(scores, dtype=np.float64), np.asarray(labels, dtype=np.float64)
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    rates = (np.bincount(inverse, weights=labels) / counts)[inverse]  # equal scores share their positive rate
    order = np.argsort(scores, kind="stable")
    groups = [group for group in np.array_split(order, bins) if len(group)]
    gaps = [abs(float(scores[group].mean() - rates[group].mean())) * len(group) for group in groups]
    return sum(gaps) / len(scores)
