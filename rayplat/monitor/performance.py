"""Live quality: scores joined with the labels that arrived later. Pure."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from rayplat import scoring
from rayplat.errors import InvalidInput
from rayplat.types import QualityReport


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
    area = scoring.auc(label, score)
    return QualityReport(
        *counts,
        auc=area if math.isfinite(area) else None,
        log_loss=scoring.log_loss(label, score),
        positive_rate=float(label.mean()),
        mean_score=float(score.mean()),
        calibration_error=scoring.calibration_error(label, score),
    )
