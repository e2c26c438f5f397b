"""What a promotion is decided on, measured: candidate and baseline on the same pinned holdout rows.

Differences come with standard errors of the paired rows (DeLong for the AUC, the mean of per-row differences for
losses), over all rows and by segment. Deciding is the gates' work.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from rayplat.artifacts.bundle import LoadedModel, load_bundle
from rayplat.errors import InvalidInput
from rayplat.registry.statistics import PairedDifference, paired_auc, paired_mean
from rayplat.scoring import auc
from rayplat.train import evaluation
from rayplat.train.evaluation import Holdout
from rayplat.types import Comparison, Evidence, FairnessEvidence, FairnessGroup, LatencyEvidence, TrainingSet

if TYPE_CHECKING:
    import pyarrow as pa

    from rayplat.data.tables import Tables

Array = npt.NDArray[Any]
_CLIP = 1e-7  # as in `scoring.log_loss`
_MOST_SEGMENTS = 200
_HIGHER_IS_BETTER = {"auc": True, "log_loss": False, "brier": False}


@dataclass(frozen=True)
class Measured:
    """What to measure beside the metrics. ``segments`` are columns whose values are compared one by one; scores of at
    least ``threshold`` count as positive for the fairness among them; ``requests`` single rows are timed (0: none)."""

    segments: tuple[str, ...] = ()
    threshold: float = 0.5
    requests: int = 200


def evaluate(
    candidate: Path,
    baseline: tuple[int, Path] | None,
    tables: Tables,
    training_set: TrainingSet,
    since: datetime,
    measured: Measured | None = None,
) -> Evidence:
    """Evidence for the bundle ``candidate``, against ``baseline`` = (version, bundle) where the alias points at one.

    Both score the same labelled rows of ``training_set`` at or after ``since``; the set must have every feature of
    both. Raises `InvalidInput`, `SchemaMismatch`.
    """
    wanted = measured or Measured()
    new, old = load_bundle(candidate), None if baseline is None else load_bundle(baseline[1])
    columns = [*evaluation.feature_names(new), *(evaluation.feature_names(old) if old else ()), *wanted.segments]
    rows, unlabelled = evaluation.labelled_rows(tables, training_set, since, columns)
    labels = evaluation.labels_of(rows, training_set)
    scores = evaluation.predict(new, rows)
    base = None if old is None else evaluation.predict(old, rows)
    groups = segments(rows, wanted.segments)
    return Evidence(
        dataset=training_set.digest,
        rows=len(labels),
        candidate=evaluation.metrics(Holdout(labels, scores, unlabelled)),
        baseline_version=None if baseline is None else baseline[0],
        baseline=None if base is None else evaluation.metrics(Holdout(labels, base, unlabelled)),
        comparisons=comparisons(labels, scores, base, groups),
        latency=latency(new, rows, candidate, wanted.requests) if wanted.requests else None,
        fairness=fairness(labels, scores, groups, wanted.threshold) if groups else None,
    )


def comparisons(
    labels: Array, candidate: Array, baseline: Array | None, groups: Mapping[str, Array]
) -> tuple[Comparison, ...]:
    """AUC, log loss and Brier score over all rows and, by AUC, in each group (``column=value`` to row numbers)."""
    found = [_compare(name, "", labels, candidate, baseline) for name in _HIGHER_IS_BETTER]
    for segment, rows in groups.items():
        base = None if baseline is None else baseline[rows]
        found += [_compare(name, segment, labels[rows], candidate[rows], base) for name in ("auc", "log_loss")]
    return tuple(found)


def fairness(labels: Array, scores: Array, groups: Mapping[str, Array], threshold: float) -> FairnessEvidence:
    """Counts of each group when scores of at least ``threshold`` count as positive."""
    positive, predicted = np.asarray(labels) > 0.5, np.asarray(scores) >= threshold
    counted = [
        FairnessGroup(
            segment=segment,
            rows=len(rows),
            positives=int(positive[rows].sum()),
            predicted_positives=int(predicted[rows].sum()),
            true_positives=int((positive & predicted)[rows].sum()),
        )
        for segment, rows in groups.items()
    ]
    return FairnessEvidence(threshold, tuple(counted))


def segments(rows: pa.Table, columns: Sequence[str]) -> dict[str, Array]:
    """Row numbers by ``column=value``; a missing value is ``null``. Raises `InvalidInput` for a column with more than
    200 values: that is no segmentation."""
    found: dict[str, Array] = {}
    for column in columns:
        encoded = rows[column].combine_chunks().dictionary_encode(null_encoding="encode")
        values, codes = encoded.dictionary.to_pylist(), encoded.indices.to_numpy(zero_copy_only=False)
        if len(values) > _MOST_SEGMENTS:
            raise InvalidInput(
                "segments", f"{column!r} has {len(values)} values, at most {_MOST_SEGMENTS} make segments"
            )
        for code, value in enumerate(values):
            found[f"{column}={'null' if value is None else value}"] = np.flatnonzero(codes == code)
    return found


def latency(model: LoadedModel, rows: pa.Table, bundle: Path, requests: int) -> LatencyEvidence:
    """Time of encoding and scoring single rows, one after the other, in this process; bytes of the bundle's files.

    It is the model's own share of an answer: no network, no feature lookup.
    """
    taken = []
    for n in np.linspace(0, rows.num_rows - 1, requests + 1).astype(int):
        began = time.perf_counter()
        model.predict_encoded(*model.encoding.encode_table(rows.slice(int(n), 1)))
        taken.append((time.perf_counter() - began) * 1000)
    p50, p99 = np.percentile(taken[1:], [50, 99])  # the first one warms up
    size = sum(file.stat().st_size for file in Path(bundle).rglob("*") if file.is_file())
    return LatencyEvidence(requests, float(p50), float(p99), size)


def _compare(name: str, segment: str, labels: Array, candidate: Array, baseline: Array | None) -> Comparison:
    found = _paired(name, labels, candidate, candidate if baseline is None else baseline)
    first = auc(labels, candidate) if name == "auc" else found.first
    better = _HIGHER_IS_BETTER[name]
    if baseline is None:
        return Comparison(name, segment, len(labels), first, None, None, None, better)
    second = auc(labels, baseline) if name == "auc" else found.second
    return Comparison(name, segment, len(labels), first, second, first - second, found.standard_error, better)


def _paired(name: str, labels: Array, one: Array, other: Array) -> PairedDifference:
    if name == "auc":
        return paired_auc(labels, one, other)
    loss = _log_losses if name == "log_loss" else _squares
    return paired_mean(loss(labels, one), loss(labels, other))


def _log_losses(labels: Array, scores: Array) -> Array:
    y, p = np.asarray(labels, np.float64), np.clip(np.asarray(scores, np.float64), _CLIP, 1 - _CLIP)
    return np.asarray(-(y * np.log(p) + (1 - y) * np.log1p(-p)))


def _squares(labels: Array, scores: Array) -> Array:
    return np.asarray((np.asarray(scores, np.float64) - np.asarray(labels, np.float64)) ** 2)
