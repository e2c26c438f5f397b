"""Sums against exact arithmetic."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from rayplat.data.windows.exact import (
    Nested,
    add_pairs,
    as_ieee,
    direct,
    prefixes,
    squares,
    sum_segments,
    two_product,
    two_sum,
)
from rayplat.data.windows.values import smallest

numbers = st.floats(-1e200, 1e200, allow_subnormal=False).filter(lambda x: x == 0 or abs(x) > 1e-200)
ordinary = st.floats(-1e120, 1e120).filter(lambda x: x == 0 or abs(x) > 1e-120)


def one(x: float) -> np.ndarray:  # type: ignore[type-arg]
    return np.array([x])


@given(numbers, numbers)
def test_transformations_lose_nothing(a: float, b: float) -> None:
    s, e = two_sum(one(a), one(b))
    assert Fraction(s[0]) + Fraction(e[0]) == Fraction(a) + Fraction(b)


@given(ordinary, ordinary)
def test_products_lose_nothing(a: float, b: float) -> None:
    p, e = two_product(one(a), one(b))
    assert Fraction(p[0]) + Fraction(e[0]) == Fraction(a) * Fraction(b)
    hi, lo = squares(one(a))
    assert Fraction(hi[0]) + Fraction(lo[0]) == Fraction(a) ** 2


@given(st.lists(st.tuples(numbers, st.floats(-1, 1)), min_size=2, max_size=2))
def test_pairs_add_to_twice_the_precision(parts: list[tuple[float, float]]) -> None:
    pairs = [two_sum(one(hi), one(hi * 1e-16 * f)) for hi, f in parts]
    hi, lo = add_pairs(*pairs)
    exact = sum(Fraction(x[0]) for pair in pairs for x in pair)
    size = sum(abs(Fraction(pair[0][0])) for pair in pairs)
    assert abs(Fraction(hi[0]) + Fraction(lo[0]) - exact) <= size / 2**104


@settings(deadline=None)
@given(st.lists(numbers, min_size=1, max_size=60), st.data())
def test_runs_sum_as_exactly_as_fsum_by_every_way(values: list[float], data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(values)))
    end = data.draw(st.integers(start, len(values)))
    terms, run = np.array([values]), (np.array([start]), np.array([end]))
    exact = math.fsum(values[start:end])
    size = sum(abs(v) for v in values)
    with as_ieee():
        by_prefix = prefixes(terms).between(*run)[0][0, 0]
        padded, nested = np.array([[*values, 0.0], [0.0] * (len(values) + 1)]), Nested.of(run[0][None], run[1])
        by_cut = direct(padded, np.array([0]), np.array([1]), nested)
    assert abs(by_prefix - exact) <= 1e-15 * abs(exact) + 1e-80 * size
    if by_cut is not None:
        assert abs(by_cut[0][0, 0] - exact) <= 1e-15 * abs(exact)


@given(st.lists(st.lists(st.integers(-(2**40), 2**40), min_size=1, max_size=9), min_size=1, max_size=9))
def test_segments_of_integers_sum_exactly(segments: list[list[int]]) -> None:
    flat = np.array([[float(x) for s in segments for x in s]])
    hi, lo = sum_segments(flat, np.zeros_like(flat), np.array([len(s) for s in segments]))
    assert hi[0].tolist() == [sum(s) for s in segments]
    assert not lo.any()


def test_a_segment_does_not_depend_on_its_neighbours() -> None:
    rng = np.random.default_rng(0)
    x, rest = rng.normal(size=(1, 13)), rng.normal(size=(1, 40)) * 1e30
    zeros = np.zeros((1, 53))
    alone = sum_segments(x, zeros[:, :13], np.array([13]))
    beside = sum_segments(np.hstack([rest, x]), zeros, np.array([3, 37, 13]))
    assert (beside[0][0, -1], beside[1][0, -1]) == (alone[0][0, 0], alone[1][0, 0])


def test_infinities_follow_ieee_and_end_with_their_run() -> None:
    inf = float("inf")
    terms = np.array([[1.0, inf, 2.0, -inf, 3.0]])
    runs = [(0, 1), (0, 2), (2, 3), (2, 4), (1, 4), (4, 5)]
    start, end = np.array(runs).T
    with as_ieee():
        found = prefixes(terms).between(start, end)[0][0]
    np.testing.assert_array_equal(found, [1.0, inf, 2.0, -inf, np.nan, 3.0])


@given(st.lists(st.floats(allow_nan=False), min_size=1, max_size=80), st.data())
def test_the_smallest_of_any_run(values: list[float], data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(values)))
    end = data.draw(st.integers(start, len(values)))
    found = smallest(np.array([values]), np.array([start]), np.array([end]))
    assert found[0, 0] == min(values[start:end], default=math.inf)


@given(st.lists(st.integers(-9, 9), max_size=30), st.data())
def test_nested_runs_are_reduced_like_each_by_itself(values: list[int], data: st.DataObject) -> None:
    place = st.integers(0, len(values))
    cuts = [sorted(data.draw(st.lists(place, min_size=4, max_size=4)), reverse=True) for _ in range(3)]
    ends, starts = np.array(cuts).T[0], np.array(cuts).T[1:]
    nested = Nested.of(starts, ends)
    for how, whole, nothing in ((np.add, sum, 0.0), (np.minimum, min, np.inf), (np.maximum, max, -np.inf)):
        found = nested.reduce(how, np.array([[*values, nothing]]), nothing).reshape(starts.shape)
        for (length, moment), start in np.ndenumerate(starts):
            run = values[start : ends[moment]]
            assert found[length, moment] == (whole(run) if run else nothing)
