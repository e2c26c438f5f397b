"""Sums of doubles without loss that matters, so that a window's value does not depend on the way it was put together.

Error-free transformations: TwoSum (Knuth, The Art of Computer Programming, volume 2, 4.2.2), TwoProduct (Dekker, A
floating-point technique for extending the available precision, 1971), pairs of doubles (the same; the addition is that
of Li et al., Design, implementation and testing of extended and mixed precision BLAS, 2002), and sums by cascading the
errors (Ogita, Rump and Oishi, Accurate sum and dot product, 2005).

`prefixes` gives running sums whose rounding errors are summed too, level by level, until none is left: the difference
of two of them is the exact sum of what lies between, however large what lies before. Infinite values are kept out of
the running sums and counted, so that they end with the window that holds them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Pair = tuple[Floats, Floats]

_LEVELS = 6
_HUGE = 2.0**900
_SHRINK = 2.0**-200
_SPLIT = 2.0**27 + 1.0


def as_ieee() -> np.errstate:
    """Infinities and what becomes of them are values here, not mishaps: no warnings."""
    return np.errstate(invalid="ignore", over="ignore", divide="ignore", under="ignore")


def two_sum(a: Floats, b: Floats) -> Pair:
    """``s + e == a + b`` exactly and ``s`` is their rounded sum; ``e`` is NaN where ``s`` is not finite."""
    s = a + b
    back = s - a
    return s, (a - (s - back)) + (b - back)


def two_product(a: Floats, b: Floats) -> Pair:
    """``p + e == a * b`` exactly and ``p`` is their rounded product, unless that over- or underflows."""
    p = a * b
    t = _SPLIT * a
    a_hi = t - (t - a)
    a_lo = a - a_hi
    t = _SPLIT * b
    b_hi = t - (t - b)
    b_lo = b - b_hi
    return p, ((a_hi * b_hi - p) + a_hi * b_lo + a_lo * b_hi) + a_lo * b_lo


def squares(x: Floats) -> Pair:
    """``x * x`` as pairs; infinite where it overflows."""
    hi, lo = two_product(x, x)
    return hi, np.where(np.isfinite(lo), lo, 0.0)


def add_pairs(a: Pair, b: Pair) -> Pair:
    """The sum of two pairs, to a relative error of about 2**-105; infinite and NaN as IEEE sums are."""
    s, e = two_sum(a[0], b[0])
    t, f = two_sum(a[1], b[1])
    hi, lo = _ordered(s, e + t)
    hi, lo = _ordered(hi, lo + f)
    if np.isnan(lo).any():
        whole = np.isfinite(s)
        return np.where(whole, hi, s), np.where(whole & np.isfinite(hi), lo, 0.0)
    return hi, lo


def sum_segments(hi: Floats, lo: Floats, counts: Ints) -> Pair:
    """Sums of consecutive runs of ``counts`` (all positive) pairs along the last axis of ``(rows, terms)``.

    Pairs are added in a tree whose shape depends on the length of the run alone, so the bits of a run's sum do not
    depend on its neighbours.
    """
    out_hi, out_lo = np.empty((len(hi), len(counts))), np.empty((len(hi), len(counts)))
    runs = np.arange(len(counts))
    starts = np.cumsum(counts) - counts
    while len(runs):
        done = counts == 1
        out_hi[:, runs[done]], out_lo[:, runs[done]] = hi[:, starts[done]], lo[:, starts[done]]
        runs, starts, counts = runs[~done], starts[~done], counts[~done]
        halves = (counts + 1) // 2
        ends = np.cumsum(halves)
        place = np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - halves, halves)
        left = np.repeat(starts, halves) + 2 * place
        alone = 2 * place + 1 >= np.repeat(counts, halves)
        right = np.where(alone, left, left + 1)
        other = np.where(alone, 0.0, hi[:, right]), np.where(alone, 0.0, lo[:, right])
        hi, lo = add_pairs((hi[:, left], lo[:, left]), other)
        starts, counts = ends - halves, halves
    return out_hi, out_lo


@dataclass(frozen=True)
class Prefixes:
    """Running sums of terms ``(rows, n)``: ``levels`` of ``(rows, n + 1)`` whose total at a place is the exact sum of
    the terms before it. ``huge`` holds those of the terms near the largest double, shrunk; ``infinite`` counts the
    positive, negative and NaN terms. Both are None where there are none."""

    levels: tuple[Floats, ...]
    huge: Prefixes | None = None
    infinite: Ints | None = None

    def rows(self, rows: Sequence[int]) -> Prefixes:
        """Those of some rows."""
        if len(rows) == len(self.levels[0]):
            return self
        chosen = list(rows)
        huge = None if self.huge is None else self.huge.rows(chosen)
        infinite = None if self.infinite is None else self.infinite[:, chosen]
        return Prefixes(tuple(level[chosen] for level in self.levels), huge, infinite)

    def between(self, start: Ints, end: Ints) -> Pair:
        """The sums of terms ``start`` to ``end`` (excluded) as pairs ``(rows, len(start))``; the first is rounded."""
        hi, lo = _difference(self.levels[0], start, end)
        if len(self.levels) > 1:
            rest: Floats | float = 0.0
            for level in self.levels[1:]:
                for term in _difference(level, start, end):
                    hi, e = two_sum(hi, term)
                    lo, f = two_sum(lo, e)
                    rest = rest + f
            s, e = two_sum(hi, lo)
            hi, lo = _ordered(s, e + rest)
        if self.huge is not None:
            big = tuple(x / _SHRINK for x in self.huge.between(start, end))
            hi, lo = add_pairs((hi, lo), (big[0], np.where(np.isfinite(big[0]), big[1], 0.0)))
        if self.infinite is not None:
            up, down, neither = self.infinite[:, :, end] - self.infinite[:, :, start] > 0
            hi = np.where(up, np.inf, np.where(down, -np.inf, hi))
            hi = np.where(neither | (up & down), np.nan, hi)
            lo = np.where(np.isfinite(hi), lo, 0.0)
        return hi, lo


def prefixes(terms: Floats) -> Prefixes:
    """Running sums along the last axis of ``(rows, n)``."""
    if terms.size == 0:
        return Prefixes((np.zeros((len(terms), terms.shape[1] + 1)),))
    top, bottom = terms.max(), terms.min()
    if bottom > -_HUGE and top < _HUGE:
        return Prefixes(_cascade(terms))
    infinite = None
    if not (np.isfinite(top) and np.isfinite(bottom)):
        kinds = np.stack([terms == np.inf, terms == -np.inf, np.isnan(terms)])
        infinite = np.concatenate([np.zeros((*kinds.shape[:2], 1), np.int64), np.cumsum(kinds, axis=2)], axis=2)
        terms = np.where(np.isfinite(terms), terms, 0.0)
    large = np.abs(terms) >= _HUGE
    huge = Prefixes(_cascade(np.where(large, terms * _SHRINK, 0.0))) if large.any() else None
    return Prefixes(_cascade(np.where(large, 0.0, terms)), huge, infinite)


@dataclass(frozen=True)
class Nested:
    """Runs of elements that end together: for each moment one per length, the shorter within the longer.

    They are cut into pieces that do not overlap, each from where one run begins to where the next shorter one does.
    ``places`` are where the pieces of a moment begin, the longest run's first, and where its runs end;
    ``empty (moments, lengths)`` marks pieces without elements, the last piece first; ``most`` is the longest run.
    """

    places: Ints
    empty: npt.NDArray[np.bool_]
    most: int

    @staticmethod
    def of(starts: Ints, ends: Ints) -> Nested:
        """``starts (lengths, moments)`` by ascending length, ``ends (moments)``."""
        cuts = np.concatenate([ends[None], starts]).T
        places = cuts[:, ::-1].reshape(-1)
        return Nested(places, cuts[:, 1:] >= cuts[:, :-1], int((cuts[:, 0] - cuts[:, -1]).max(initial=0)))

    def reduce(self, how: np.ufunc, padded: Floats, nothing: float) -> Floats:
        """``how`` over each run, ``(rows, lengths * moments)``: lowest, highest, or sums that are exact. ``padded``
        has one column more than there are elements, which holds ``nothing``."""
        moments, lengths = self.empty.shape
        pieces = how.reduceat(padded, self.places, axis=1).reshape(len(padded), moments, lengths + 1)[:, :, -2::-1]
        if self.empty.any():
            pieces = np.where(self.empty, nothing, pieces)
        found: Floats = how.accumulate(pieces, axis=2)
        return found.transpose(0, 2, 1).reshape(len(padded), -1)


def direct(padded: Floats, first: Ints, second: Ints, runs: Nested) -> Pair | None:
    """What `Prefixes.between` gives for the pairs in the rows ``first`` and ``second`` of ``padded`` (its last column
    is 0), for a few runs: each is added up for itself.

    Terms are cut into slices of so few bits that plain sums of a slice are exact (Rump, Ogita and Oishi, Accurate
    floating-point summation, 2008). None where that takes too many slices, or with infinite or huge terms.
    """
    rest, top = padded, _largest(padded)
    if not (top < _HUGE).all():
        return None
    room = int(np.frexp(float(runs.most + 2))[1])
    total, error = np.zeros((2, len(first), runs.empty.size))
    cut, left = np.empty_like(padded), np.empty_like(padded)
    for _ in range(_LEVELS):
        anchor = np.ldexp(1.0, np.frexp(top)[1] + room)
        np.add(rest, anchor, out=cut)
        cut -= anchor
        sums = runs.reduce(np.add, cut, 0.0)
        for rows in (first, second):
            total, e = two_sum(total, sums[rows])
            error = error + e
        rest = np.subtract(rest, cut, out=left)
        top = _largest(rest)
        if not top.any():
            return _ordered(total, error)
    return None


def _largest(terms: Floats) -> Floats:
    """The largest absolute value in each row, as a column."""
    found: Floats = np.maximum(terms.max(axis=1, keepdims=True), -terms.min(axis=1, keepdims=True))
    return found


def spread(count: Ints, total: Pair, square: Pair, span: Floats) -> Floats:
    """The sample standard deviation from count, sum, sum of squares and ``max - min``; NaN for fewer than two.

    ``sum(x**2) - sum(x)**2 / n`` in pairs. What cancellation and underflow leave is held to what the span permits:
    between ``span / sqrt(2 (n - 1))`` and ``span / 2 * sqrt(n / (n - 1))``; so it is 0 where all values are equal.
    """
    n = np.maximum(count, 2).astype(np.float64)
    p, e = two_product(total[0], total[0])
    e = e + 2.0 * total[0] * total[1]
    q = p / n
    r, f = two_product(q, n)
    s, d = two_sum(square[0], -q)
    deviation = s + (d + (square[1] - (((p - r) - f) + e) / n))
    found = np.sqrt(np.maximum(deviation, 0.0) / (n - 1.0))
    least, most = span / np.sqrt(2.0 * (n - 1.0)), span * (0.5 * np.sqrt(n / (n - 1.0)))
    found = np.clip(found, least, most)
    found = np.where(np.isfinite(square[0]) & np.isfinite(p), found, np.inf)
    found = np.where(span == 0.0, 0.0, found)
    found = np.where(np.isfinite(total[0]) & np.isfinite(span), found, np.nan)
    return np.where(count >= 2, found, np.nan)


def _ordered(a: Floats, b: Floats) -> Pair:
    """TwoSum for ``|a| >= |b|`` (Dekker)."""
    s = a + b
    return s, b - (s - a)


def _difference(level: Floats, start: Ints, end: Ints) -> Pair:
    return two_sum(level.take(end, axis=1), -level.take(start, axis=1))


def _cascade(terms: Floats) -> tuple[Floats, ...]:
    levels: list[Floats] = []
    while len(levels) < _LEVELS:
        sums = np.zeros((len(terms), terms.shape[1] + 1))
        np.cumsum(terms, axis=1, out=sums[:, 1:])  # one rounded addition after the other, so their errors are known
        levels.append(sums)
        before, after = sums[:, :-1], sums[:, 1:]
        back = after - before
        errors = (before - (after - back)) + (terms - back)
        if not errors.any():
            break
        terms = errors
    return tuple(levels)
