"""The two pictures of a training: ROC and calibration on the holdout, as PNG files. No display is needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from rayplat.scoring import auc
from rayplat.train.evaluation import Holdout

_POINTS = 200
_BUCKETS = 10


def write(holdout: Holdout, folder: Path) -> None:
    """``roc.png`` and ``calibration.png`` in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    _roc(holdout, folder / "roc.png")
    _calibration(holdout, folder / "calibration.png")


def roc_points(holdout: Holdout) -> tuple[Any, Any]:
    """False and true positive rates along falling thresholds, thinned to at most 200 points."""
    order = np.argsort(-holdout.scores, kind="stable")
    hits = holdout.labels[order] > 0.5
    true, false = np.cumsum(hits) / max(1, hits.sum()), np.cumsum(~hits) / max(1, (~hits).sum())
    keep = np.linspace(0, len(hits) - 1, min(_POINTS, len(hits))).astype(int)
    return np.concatenate([[0.0], false[keep]]), np.concatenate([[0.0], true[keep]])


def calibration_points(holdout: Holdout) -> tuple[Any, Any]:
    """Mean score and share of positives in buckets of equally many rows."""
    order = np.argsort(holdout.scores, kind="stable")
    buckets = [b for b in np.array_split(order, _BUCKETS) if len(b)]
    means = [(holdout.scores[b].mean(), holdout.labels[b].mean()) for b in buckets]
    return np.array([m[0] for m in means]), np.array([m[1] for m in means])


def _roc(holdout: Holdout, path: Path) -> None:
    figure, axes = _figure("false positive rate", "true positive rate")
    axes.plot(*roc_points(holdout), label=f"AUC {auc(holdout.labels, holdout.scores):.3f}")
    axes.plot([0, 1], [0, 1], color="grey", linewidth=0.8)
    axes.legend(loc="lower right")
    figure.savefig(path, dpi=100)


def _calibration(holdout: Holdout, path: Path) -> None:
    figure, axes = _figure("mean predicted probability", "share of positives")
    means, shares = calibration_points(holdout)
    top = float(max(means.max(), shares.max())) * 1.05
    axes.plot(means, shares, marker="o")
    axes.plot([0, top], [0, top], color="grey", linewidth=0.8)
    figure.savefig(path, dpi=100)


def _figure(xlabel: str, ylabel: str) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    return figure, axes
