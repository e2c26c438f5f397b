"""Drift between two profiles, as effect sizes with thresholds that know the sample sizes. Pure.

No p-values: sketches of a million rows make every difference significant, and the tests that whylogs ships raise
false alarms in 16 to 100 % of windows without drift. A statistic drifts when it exceeds both a floor (below it the
difference does not matter) and what chance alone reaches in one of a hundred reports (below it the difference may
not exist). That hundredth is shared out over all statistics of the report (Bonferroni).

Formulas: PSI as in Siddiqi, Credit Risk Scorecards (2006); Jensen-Shannon distance as in Lin (1991), base 2, so
bounded by 1; the chance of PSI as in Yurdakul & Naranjo (2020), that PSI is about chi2 (B-1) * (1/n + 1/m).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import chdtri, ndtri

from rayplat.monitor.summary import CATEGORICAL, LEVELS, NUMERIC, ColumnSummary
from rayplat.types import ColumnDrift

STABLE, DRIFT, NOT_ENOUGH_ROWS = "stable", "drift", "not enough rows"
_CATEGORIES = 50
_CATEGORY_SHARE = 0.01
_INNER = (LEVELS > 0.01) & (LEVELS < 0.99)
_STATISTICS_PER_COLUMN = 3

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class DriftRules:
    """Floors of the effect sizes, and when to give no verdict.

    ``psi``: population stability index on ten bins. ``wasserstein``: distance in standard deviations of the
    baseline, both without the outer hundredths. ``js2``: Jensen-Shannon distance, base 2. ``unseen``: share of
    rows in categories that the baseline never held. ``null_rate``: change of the share without a value.
    ``min_rows``: fewer rows get no verdict. ``false_alarms``: accepted share of reports on unchanged data that
    name any column.
    """

    psi: float = 0.25
    wasserstein: float = 0.2
    js2: float = 0.2
    unseen: float = 0.02
    null_rate: float = 0.05
    min_rows: int = 500
    false_alarms: float = 0.01


@dataclass(frozen=True)
class Comparison:
    """``statistics`` is everything that was computed; ``columns`` the decisive one of each column (the largest in
    units of its threshold), the strongest first; ``prediction`` that of the model's scores."""

    columns: tuple[ColumnDrift, ...]
    prediction: ColumnDrift | None
    statistics: tuple[ColumnDrift, ...]
    verdict: str


def compare(
    baseline: Mapping[str, ColumnSummary],
    window: Mapping[str, ColumnSummary],
    rules: DriftRules,
    prediction: str = "prediction",
) -> Comparison:
    """Every column of ``baseline`` against the same column of ``window``; one that is missing there counts as all
    null. Columns that only the window has are not looked at."""
    rows = max((summary.n for summary in window.values()), default=0)
    base_rows = max((summary.n for summary in baseline.values()), default=0)
    enough = min(rows, base_rows) >= rules.min_rows
    alpha = rules.false_alarms / (_STATISTICS_PER_COLUMN * max(len(baseline), 1))
    absent = ColumnSummary(rows, rows, "empty")
    statistics: list[ColumnDrift] = []
    decisive: dict[str, ColumnDrift] = {}
    for name, before in baseline.items():
        found = _column(name, before, window.get(name, absent), rules, alpha, enough)
        statistics += found
        decisive[name] = max(found, key=_strength)
    score = decisive.pop(prediction, None)
    columns = tuple(sorted(decisive.values(), key=_strength, reverse=True))
    judged = [*columns, score] if score else columns
    verdict = NOT_ENOUGH_ROWS if not enough else DRIFT if any(c.drifted for c in judged) else STABLE
    return Comparison(columns, score, tuple(statistics), verdict)


def _strength(found: ColumnDrift) -> float:
    return found.value / max(found.threshold, 1e-9) + (1e12 if found.drifted else 0.0)


def _column(
    name: str, before: ColumnSummary, now: ColumnSummary, rules: DriftRules, alpha: float, enough: bool
) -> list[ColumnDrift]:
    """The statistics of one column: the null rate always, the shape where both sides have values of one kind."""
    pair = _Pair(name, before, now, rules, alpha)
    found: list[ColumnDrift] = []
    if before.kind == now.kind and before.present and now.present:
        judge = enough and min(before.present, now.present) >= rules.min_rows
        if before.kind == NUMERIC:
            found += [pair.psi(judge), pair.wasserstein(judge)]
        elif before.kind == CATEGORICAL:
            found += [pair.js2(judge)] + ([pair.unseen(judge)] if before.top_is_complete else [])
    return [*found, pair.null_rate(enough)]


@dataclass(frozen=True)
class _Pair:
    """One column before and now. ``alpha`` is the chance of a false alarm that one statistic may use up."""

    name: str
    before: ColumnSummary
    now: ColumnSummary
    rules: DriftRules
    alpha: float

    def _result(self, statistic: str, value: float, threshold: float, judge: bool, note: str) -> ColumnDrift:
        note = note if judge else f"{NOT_ENOUGH_ROWS}; {note}"
        drifted = judge and value > threshold
        counts = (self.before.n, self.now.n)
        return ColumnDrift(self.name, statistic, float(value), float(threshold), *counts, bool(drifted), note)

    @property
    def _noise(self) -> float:
        """1/n + 1/m: the variance of a difference of two means, in units of the values' variance."""
        return 1 / self.before.present + 1 / self.now.present

    def null_rate(self, judge: bool) -> ColumnDrift:
        before, now = self.before.null_rate, self.now.null_rate
        n, m = max(self.before.n, 1), max(self.now.n, 1)
        pooled = (before * n + now * m) / (n + m)
        chance = self._z * math.sqrt(pooled * (1 - pooled) * (1 / n + 1 / m))
        threshold = max(self.rules.null_rate, chance)
        note = f"nulls {before:.1%} → {now:.1%}"
        if before == now == 0 or not self.now.n:
            note = "no nulls" if self.now.n else "no rows"
        return self._result("null_rate", abs(now - before) if self.now.n else 0.0, threshold, judge, note)

    def psi(self, judge: bool) -> ColumnDrift:
        cuts = _cuts(self.before)
        old, new = (_shares(side.cdf(cuts), side.present) for side in (self.before, self.now))
        value = float(np.sum((new - old) * np.log(new / old)))
        chance = float(chdtri(len(cuts), self.alpha)) * self._noise
        return self._result("psi", value, max(self.rules.psi, chance), judge, self._moments)

    def wasserstein(self, judge: bool) -> ColumnDrift:
        # Without the outer hundredth at each end: in heavy tails a handful of rows would decide.
        old, new = np.asarray(self.before.quantiles)[_INNER], np.asarray(self.now.quantiles)[_INNER]
        unit = max(float(old.std()), 1e-6 * abs(self.before.mean)) or 1.0  # a constant has no deviation
        # The empirical CDFs differ at x by a normal of deviation sqrt(F(1-F)(1/n+1/m)); taking its upper quantile
        # at every x at once bounds the distance from above.
        middle = (LEVELS[_INNER][1:] + LEVELS[_INNER][:-1]) / 2
        steps = (np.diff(old) + np.diff(new)) / 2
        spread = float(np.sum(steps * np.sqrt(middle * (1 - middle)))) / unit
        chance = self._z * spread * math.sqrt(self._noise)
        value = float(np.mean(np.abs(new - old))) / unit
        return self._result("wasserstein_sd", value, max(self.rules.wasserstein, chance), judge, self._moments)

    def js2(self, judge: bool) -> ColumnDrift:
        names, old, new = _categories(self.before, self.now)
        value = math.sqrt(max(_js_divergence(old, new), 0.0))
        chance = math.sqrt(chdtri(max(len(names) - 1, 1), self.alpha) * self._noise / 8 / math.log(2))
        most = int(np.argmax(np.abs(new - old)))
        note = f"{names[most]} {old[most]:.1%} → {new[most]:.1%}"
        return self._result("js2", value, max(self.rules.js2, chance), judge, note)

    def unseen(self, judge: bool) -> ColumnDrift:
        known = {item for item, _ in self.before.top}
        fresh = [(item, count) for item, count in self.now.top if item not in known]
        value = sum(count for _, count in fresh) / self.now.present
        # What a sample has not seen has about the weight of what it saw once (Good and Turing).
        once = max(sum(count == 1 for _, count in self.before.top), 1) / self.before.present
        chance = once + self._z * math.sqrt(once * self._noise)
        shown = ", ".join(f"{item} {count / self.now.present:.1%}" for item, count in fresh[:3])
        note = f"new: {shown}" + (f" and {len(fresh) - 3} more" if len(fresh) > 3 else "") if fresh else "nothing new"
        return self._result("unseen_share", value, max(self.rules.unseen, chance), judge, note)

    @property
    def _z(self) -> float:
        return float(ndtri(1 - self.alpha / 2))

    @property
    def _moments(self) -> str:
        return f"mean {self.before.mean:.4g} → {self.now.mean:.4g}"


def _cuts(before: ColumnSummary) -> Floats:
    """The deciles of the baseline, each once. A (nearly) constant column also gets a bin below its value.

    They lie a millionth above the values: the window's may have passed through float32 on their way.
    """
    tenths = np.arange(1, 10) / 10
    deciles: Floats = np.unique(np.quantile(np.asarray(before.quantiles), tenths, method="inverted_cdf"))
    slack: Floats = 1e-6 * np.maximum(np.abs(deciles), before.stddev)
    return deciles + slack if len(deciles) > 1 else np.array([*(deciles - slack), *(deciles + slack)])


def _shares(cdf: Floats, n: int) -> Floats:
    """Shares of the bins between the cut points, each with half a row added so that none is zero."""
    counts: Floats = np.diff(np.r_[0.0, cdf, 1.0]) * n
    return (counts + 0.5) / (n + 0.5 * len(counts))


def _categories(before: ColumnSummary, now: ColumnSummary) -> tuple[list[str], Floats, Floats]:
    """Names and shares of the categories that hold at least a hundredth of all rows, at most 50; all others
    together are the last one. Both sides choose: picked from one side alone, its chance peaks would look like drift."""
    counts = [dict(side.top) for side in (before, now)]
    pooled = Counter(counts[0]) + Counter(counts[1])
    least = _CATEGORY_SHARE * (before.present + now.present)
    names = [item for item, count in pooled.most_common(_CATEGORIES) if count >= least]
    shares = []
    for side, count in zip((before, now), counts, strict=True):
        own = [count.get(name, 0) / side.present for name in names]
        shares.append(np.asarray([*own, max(1 - sum(own), 0.0)]))
    return [*(repr(name) for name in names), "all others"], shares[0], shares[1]


def _js_divergence(p: Floats, q: Floats) -> float:
    """Jensen-Shannon divergence of two distributions in bits."""
    middle = (p + q) / 2
    total = 0.0
    for side in (p, q):
        held = side > 0
        total += float(np.sum(side[held] * np.log2(side[held] / middle[held]))) / 2
    return total
