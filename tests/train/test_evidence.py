from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from rayplat.artifacts.bundle import write_bundle
from rayplat.errors import InvalidInput
from rayplat.registry import documents
from rayplat.registry.gates import Case, decide
from rayplat.registry.statistics import paired_auc
from rayplat.scoring import auc, brier, log_loss
from rayplat.train import evaluation, evidence, loop
from rayplat.train.evidence import Measured
from rayplat.train.tabular import NetParams, build_net, encode, export, feature_specs, fit
from rayplat.types import GateSpec, ModelSpec, Verdict


def sample(n: int = 4000) -> tuple[Any, Any, Any, Any]:
    random = np.random.default_rng(0)
    labels = (random.random(n) < 0.3).astype(np.float32)
    signal = labels + random.normal(size=n)
    better, worse = (1 / (1 + np.exp(-(signal + random.normal(size=n) * s))) for s in (0.3, 1.5))
    return labels, better.astype(np.float32), worse.astype(np.float32), random.choice(["AA", "UA"], n)


def test_figures_and_errors_of_the_same_rows() -> None:
    labels, better, worse, _ = sample()
    found = {c.metric: c for c in evidence.comparisons(labels, better, worse, {})}
    for name, measure in (("auc", auc), ("log_loss", log_loss), ("brier", brier)):
        one = found[name]
        assert (one.candidate, one.baseline) == pytest.approx((measure(labels, better), measure(labels, worse)))
        assert one.difference == pytest.approx(measure(labels, better) - measure(labels, worse))
        assert one.higher_is_better is (name == "auc")
    assert found["auc"].standard_error == pytest.approx(paired_auc(labels, better, worse).standard_error)
    drawn = np.random.default_rng(1).integers(0, len(labels), (300, len(labels)))
    gaps = [log_loss(labels[i], better[i]) - log_loss(labels[i], worse[i]) for i in drawn]
    assert found["log_loss"].standard_error == pytest.approx(np.std(gaps), rel=0.15)


def test_without_a_baseline_there_is_nothing_to_compare_with() -> None:
    labels, better, _, _ = sample()
    (found, *_) = evidence.comparisons(labels, better, None, {})
    assert (found.baseline, found.difference, found.standard_error) == (None, None, None)
    assert found.candidate == pytest.approx(auc(labels, better))


def test_segments_share_out_the_rows_and_their_counts_add_up() -> None:
    labels, better, worse, carrier = sample()
    rows = pa.table({"carrier": pa.array([None, *carrier[1:]]), "row": range(len(labels))})
    groups = evidence.segments(rows, ["carrier"])
    assert sorted(groups) == ["carrier=AA", "carrier=UA", "carrier=null"]
    assert sum(map(len, groups.values())) == len(labels)
    found = evidence.fairness(labels, better, groups, 0.5)
    assert sum(g.positives for g in found.groups) == int(labels.sum())
    assert sum(g.predicted_positives for g in found.groups) == int((better >= 0.5).sum())
    segments = [c for c in evidence.comparisons(labels, better, worse, groups) if c.segment == "carrier=AA"]
    assert [(c.metric, c.rows) for c in segments] == [(m, len(groups["carrier=AA"])) for m in ("auc", "log_loss")]
    with pytest.raises(InvalidInput, match="'row' has 4000 values"):
        evidence.segments(rows, ["row"])


def bundle(folder: Path, toy: Any, features: tuple[str, ...], epochs: int) -> Path:
    """A net trained for a moment on the first rows, as a bundle."""
    table = toy.rows()
    table = table.filter(pc.is_valid(table["label"]))
    fitted = fit(table, feature_specs(table.schema, features))
    rows, params = encode(table, fitted, "label"), NetParams(batch_size=128)
    net = build_net(fitted, params, 0)
    loop.fit(net, rows, NetParams(epochs=epochs), loop.Schedule(len(rows) // 128, 128, 0), lambda _: None)
    example = {name: table[name].slice(0, 2).to_pylist() for name in features}
    spec = ModelSpec("toy", "flight", fitted.encoding.features, {})
    write_bundle(folder, export(net, fitted), spec, fitted.encoding, example)
    return folder


def test_evidence_of_two_bundles_carries_the_better_one_through_the_gates(
    toy: Any, tables: Any, training_set: Any, tmp_path: Path
) -> None:
    pinned = training_set(toy.rows(20_000, seed=7))
    good = bundle(tmp_path / "good", toy, ("origin", "hour", "wind"), 4)
    poor = bundle(tmp_path / "poor", toy, ("dest",), 1)
    wanted = Measured(segments=("origin",), threshold=0.3, requests=20)
    found = evidence.evaluate(good, (1, poor), tables, pinned, toy.holdout, wanted)
    assert (found.dataset, found.baseline_version) == (pinned.digest, 1)
    assert found.candidate == evaluation.evaluate(good, tables, pinned, toy.holdout)
    assert found.baseline == evaluation.evaluate(poor, tables, pinned, toy.holdout)
    specs = (
        GateSpec("pinned_dataset", {"dataset": pinned.digest}),
        GateSpec("champion_interval", {"metric": "auc", "min_gain": 0.05}),
        GateSpec("champion_interval", {"metric": "log_loss"}),
        GateSpec("segments", {"column": "origin", "required": ["A", "B"]}),
        GateSpec("latency_budget", {"p99_ms": 1000, "min_requests": 20}),
        GateSpec("size_budget", {"max_bytes": 10_000_000}),
    )
    results = decide(specs, "evaluate", Case("sha256:" + "a" * 64, 1, found))
    assert [r.verdict for r in results] == [Verdict.PASS] * len(specs), results
    swapped = evidence.evaluate(poor, (1, good), tables, pinned, toy.holdout, Measured(requests=0))
    failed = decide(specs[1:3], "evaluate", Case("sha256:" + "a" * 64, 1, swapped))
    assert [r.verdict for r in failed] == [Verdict.FAIL] * 2
    assert decide((GateSpec("fairness", {"column": "origin"}),), "evaluate", Case("sha256:" + "a" * 64, 1, found))
    first = evidence.evaluate(good, None, tables, pinned, toy.holdout, wanted)
    assert (first.baseline_version, first.baseline, first.comparisons[0].difference) == (None, None, None)
    assert documents.check(found, "evidence") is found
