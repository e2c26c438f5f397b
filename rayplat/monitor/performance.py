"""Live quality: scores joined with the labels that arrived later. Pure numpy."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rayplat.errors import InvalidInput
from rayplat.types import QualityReport

Floats = npt.NDArray[np.float64]


def quality(version: int, scores: npt.ArrayLike, labels: npt.ArrayLike, min_rows: int) -> QualityReport:
    """Quality of one model version. ``scores`` [n] are probabilities, ``labels`` [n] are 0, 1 or NaN (no label
    yet, or never one). All metrics but the counts are None below ``min_rows`` labelled rows; the AUC is also None
    where only one class is there. Raises `InvalidInput` for other labels, scores or lengths."""
    score, label = np.asarray(scores, dtype=np.float64), np.asarray(labels, dtype=np.float64)
    if score.shape != label.shape or score.ndim != 1:
        raise InvalidInput("labels", f"shape {label.shape} does not fit scores of shape {score.shape}")
    known = ~np.isnan(label)
    score, label = score[known], label[known]
    if not np.isin(label, (0.0, 1.0)).all():
        raise InvalidInput("labels", "must be 0, 1 or missing")
    if not ((score >= 0) & (score <= 1)).all():
        raise InvalidInput("scores", "must be probabilities between 0 and 1")
    labelled = len(label)
    counts = (version, len(known), labelled, len(known) - labelled)
    if labelled < max(min_rows, 1):
        return QualityReport(*counts, None, None, None, None)
    return QualityReport(
        *counts,
        auc=auc(score, label),
        log_loss=log_loss(score, label),
        positive_rate=float(label.mean()),
        mean_score=float(score.mean()),
        calibration_error=calibration_error(score, label),
    )


def auc(scores: Floats, labels: Floats) -> float | None:
    """Area under the ROC curve: the chance that a positive outranks a negative, ties counting half
    (Mann and Whitney 1947). None where a class is missing."""
    positive = labels == 1
    n_positive, n_negative = int(positive.sum()), int((~positive).sum())
    if not n_positive or not n_negative:
        return None
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    mean_rank = last - (counts - 1) / 2  # ranks from 1, ties share their mean
    rank_sum = float(mean_rank[inverse][positive].sum())
    return (rank_sum - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative)


def log_loss(scores: Floats, labels: Floats) -> float:
    """Mean negative log likelihood in nats; scores are kept 1e-7 away from 0 and 1 (they are float32)."""
    safe = np.clip(scores, 1e-7, 1 - 1e-7)
    return float(-np.mean(np.where(labels == 1, np.log(safe), np.log1p(-safe))))


def calibration_error(scores: Floats, labels: Floats, bins: int = 10) -> float:
    """Expected calibration error: mean distance between score and positive rate over ``bins`` groups of equal
    size, ordered by score (Naeini, Cooper, Hauskrecht 2015, with quantile bins)."""
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    rates = (np.bincount(inverse, weights=labels) / counts)[inverse]  # equal scores share their positive rate
    order = np.argsort(scores, kind="stable")
    groups = [group for group in np.array_split(order, bins) if len(group)]
    gaps = [abs(float(scores[group].mean() - rates[group].mean())) * len(group) for group in groups]
    return sum(gaps) / len(scores)
