"""The join against its contract row by row and against DuckDB, on rows with every kind of edge."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayplat.data.point_in_time import FeatureRows, index, join
from rayplat.data.point_in_time.kernel import AsOf
from rayplat.errors import InvalidInput, SchemaMismatch
from tests.data.point_in_time.oracle import BASE, TIME, brute_force, duckdb_asof, moments, sides

TTL = timedelta(microseconds=50)
KINDS = ("string", "integer", "wide", "composite")


def keys(kind: str) -> tuple[str, ...]:
    return ("k", "k2") if kind == "composite" else ("k",)


def same(left: pa.Table, right: pa.Table) -> bool:
    """Equal with NaN equal to NaN and apart from null."""
    return bool(left.to_pandas().equals(right.to_pandas())) and all(
        left[name].null_count == right[name].null_count for name in left.column_names
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("ttl", "created", "known_by"), [(None, False, False), (TTL, True, False), (TTL, True, True)])
def test_equals_the_contract(kind: str, ttl: timedelta | None, created: bool, known_by: bool) -> None:
    spine, features = sides(np.random.default_rng(7), kind, 4_000, 6_000, hot=0.02)
    since = "created" if created else None
    side = FeatureRows(features, keys(kind), ("value", "number"), ttl=ttl, created=since, known_by=known_by)
    found = join(spine, [side])
    assert found["row"].to_pylist() == list(range(4_000))
    expected = brute_force(spine, features, keys(kind), ttl=ttl, created=created, known_by=known_by)
    assert found["number"].to_pylist() == expected
    assert same(found.select(["value"]), features.select(["value"]).take(found["number"]))


@pytest.mark.parametrize("hot", [0.0, 0.5])
@pytest.mark.parametrize("kind", KINDS)
def test_a_million_rows_equal_duckdb(kind: str, hot: float) -> None:
    """65,000 spine and 65,000 feature rows in each of eight cases: 1,040,000 rows, not one of them wrong."""
    spine, features = sides(np.random.default_rng(len(kind)), kind, 65_000, 65_000, keys=3_000, hot=hot)
    ttl = TTL if hot else timedelta(microseconds=17)
    found = join(spine, [FeatureRows(features, keys(kind), ("number",), ttl=ttl, created="created")])
    expected = duckdb_asof(spine, features, keys(kind), ttl=ttl, created=True)
    wrong = pa.compute.fill_null(found["number"].combine_chunks(), -1) != pa.compute.fill_null(expected, -1)
    assert int(np.sum(np.asarray(wrong))) == 0
    assert 0 < expected.null_count < 65_000


small = st.integers(0, 6)
feature_row = st.tuples(
    st.none() | small, st.none() | small, st.none() | st.integers(0, 9), st.none() | st.floats(width=32)
)
spine_row = st.tuples(st.none() | small, st.none() | st.integers(-1, 9))


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(
    st.lists(feature_row, max_size=14),
    st.lists(spine_row, max_size=8),
    st.none() | st.integers(0, 4),
    st.sampled_from([(False, False), (True, False), (True, True)]),
    st.sampled_from([1, 10**6, 2**58]),
)
def test_any_small_join_equals_the_contract(
    rows: list[Any], asked: list[Any], ttl_us: int | None, by: tuple[bool, bool], scale: int
) -> None:
    """``scale`` stretches time: up to spans that, with a key, no longer fit into 64 bits."""
    created, known_by = by

    def at(values: list[int | None]) -> pa.Array:
        return pa.array([None if v is None else v * scale for v in values], TIME)

    features = pa.table(
        {
            "k": pa.array([row[0] for row in rows], pa.int64()),
            "event_time": at([row[1] for row in rows]),
            "created": at([row[2] for row in rows]),
            "value": pa.array([row[3] for row in rows], pa.float64()),
            "number": pa.array(range(len(rows)), pa.int64()),
        }
    )
    spine = pa.table({"k": pa.array([row[0] for row in asked], pa.int64()), "event_time": at([r[1] for r in asked])})
    reach = None if ttl_us is None else timedelta(microseconds=ttl_us * min(scale, 2**56))
    since = "created" if created else None
    found = join(spine, [FeatureRows(features, "k", ("value", "number"), ttl=reach, created=since, known_by=known_by)])
    expected = brute_force(spine, features, ("k",), ttl=reach, created=created, known_by=known_by)
    assert found["number"].to_pylist() == expected
    assert same(found.select(["value"]), features.select(["value"]).take(pa.array(expected, pa.int64())))


def test_ends_of_the_ttl_are_inclusive_to_the_microsecond() -> None:
    features = pa.table({"k": ["a"], "event_time": moments(np.array([100])), "value": [1.0]})
    spine = pa.table({"k": ["a"] * 5, "event_time": moments(np.array([99, 100, 149, 150, 151]))})
    found = join(spine, [FeatureRows(features, "k", ("value",), ttl=TTL)])
    assert found["value"].to_pylist() == [None, 1.0, 1.0, 1.0, None]
    found = join(spine, [FeatureRows(features, "k", ("value",), ttl=timedelta(0))])
    assert found["value"].to_pylist() == [None, 1.0, None, None, None]


def test_what_was_created_later_was_not_known() -> None:
    features = pa.table(
        {
            "k": ["a"] * 4,
            "event_time": moments(np.array([10, 20, 20, 30])),
            "created": moments(np.array([11, 25, 99, 0]), np.array([False, False, False, True])),
            "value": [1, 2, 3, 4],
        }
    )
    spine = pa.table({"k": ["a"] * 6, "event_time": moments(np.array([10, 11, 24, 25, 29, 30]))})
    side = FeatureRows(features, "k", ("value",), created="created", known_by=True)
    assert join(spine, [side])["value"].to_pylist() == [None, 1, 1, 2, 2, 4]


def test_times_without_a_zone_are_utc() -> None:
    features = pa.table({"k": ["a"], "event_time": pa.array([datetime(2013, 1, 1)]), "value": [1.0]})
    early = datetime(2012, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)
    spine = pa.table({"k": ["a", "a"], "event_time": pa.array([early, datetime(2013, 1, 1, tzinfo=UTC)], TIME)})
    assert join(spine, [FeatureRows(features, "k", ("value",))])["value"].to_pylist() == [None, 1.0]


@pytest.mark.parametrize("feature_unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("spine_unit", ["s", "ms", "us", "ns"])
def test_units_are_compared_exactly(feature_unit: str, spine_unit: str) -> None:
    """An event one tick after T is not known at T, in whatever unit the two are; before 1970 too."""
    ticks = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}
    event, moment = ticks[feature_unit], ticks[spine_unit]
    for sign in (1, -1):
        at = sign * 5 * 10**9  # nanoseconds; both units hold it
        times = pa.array([at // event, at // event + 1], pa.timestamp(feature_unit))
        features = pa.table({"k": [1, 1], "event_time": times, "value": [1, 2]})
        asked = [at - moment, at, at + moment]
        spine = pa.table({"k": [1] * 3, "event_time": pa.array([a // moment for a in asked], pa.timestamp(spine_unit))})
        expected = [None if a < at else 2 if a >= at + event else 1 for a in asked]
        assert join(spine, [FeatureRows(features, "k", ("value",))])["value"].to_pylist() == expected
        zero = FeatureRows(features, "k", ("value",), ttl=timedelta(0))
        exact = [1 if a == at else 2 if a == at + event else None for a in asked]
        assert join(spine, [zero])["value"].to_pylist() == exact


def test_moments_and_ttls_at_the_ends_of_64_bits() -> None:
    low, high = -(2**63) + 1, 2**63 - 1
    features = pa.table({"k": [1] * 3, "event_time": pa.array([low, 0, high], TIME), "value": [1, 2, 3]})
    asked = pa.array([low, low + 1, -1, 0, high - 1, high], TIME)
    spine = pa.table({"k": [1] * 6, "event_time": asked})
    found = join(spine, [FeatureRows(features, "k", ("value",))])
    assert found["value"].to_pylist() == [1, 1, 1, 2, 2, 3]
    found = join(spine, [FeatureRows(features, "k", ("value",), ttl=timedelta.max)])
    assert found["value"].to_pylist() == [1, 1, 1, 2, 2, 3]
    found = join(spine, [FeatureRows(features, "k", ("value",), ttl=timedelta(days=1))])
    assert found["value"].to_pylist() == [1, 1, None, 2, None, 3]
    in_nanoseconds = pa.table({"k": [1], "event_time": pa.array([0], pa.timestamp("ns")), "value": [1]})
    found = join(spine, [FeatureRows(in_nanoseconds, "k", ("value",), ttl=timedelta(days=1))])
    assert found["value"].to_pylist() == [None, None, None, 1, None, None]


@pytest.mark.parametrize(("spine_rows", "feature_rows"), [(0, 10), (10, 0), (0, 0)])
@pytest.mark.parametrize("kind", KINDS)
def test_empty_sides(kind: str, spine_rows: int, feature_rows: int) -> None:
    spine, features = sides(np.random.default_rng(1), kind, spine_rows, feature_rows)
    side = FeatureRows(features, keys(kind), ("value",), ttl=TTL, created="created", known_by=True)
    found = join(spine, [side])
    if not feature_rows:
        assert found["value"].null_count == spine_rows
    assert found.num_rows == spine_rows
    assert found.schema.field("value").type == pa.float64()


def test_a_spine_of_nulls_only() -> None:
    features = pa.table({"k": ["a"], "event_time": moments(np.array([1])), "value": [1]})
    for spine in (
        pa.table({"k": pa.nulls(2), "event_time": moments(np.array([1, 2]))}),
        pa.table({"k": ["a", "a"], "event_time": pa.nulls(2)}),
        pa.table({"k": pa.nulls(2, pa.string()), "event_time": pa.nulls(2, TIME)}),
    ):
        assert join(spine, [FeatureRows(features, "k", ("value",), ttl=TTL)])["value"].to_pylist() == [None, None]


KEY_TYPES = [
    (pa.array([1, 2, 3], pa.int64()), pa.array([3, 1, 9], pa.int8())),
    (pa.array([1, 2, 3], pa.uint16()), pa.array([3.0, 1.0, float("nan")])),
    (pa.array([1, 2, 3]), pa.array([3, 1, 9]).cast(pa.decimal128(38, 0))),
    (pa.array(["1", "2", "3"]).dictionary_encode(), pa.array(["3", "1", "9"], pa.large_string())),
    (pa.array(["1", "2", "3"]), pa.array(["3", "1", "9"]).dictionary_encode()),
    (pa.array([b"1", b"2", b"3"]), pa.array([b"3", b"1", b"9"], pa.binary(1))),
    (pa.array([date(2020, 1, d) for d in (1, 2, 3)]), pa.array([date(2020, 1, d) for d in (3, 1, 9)], pa.date64())),
    (pa.array([-(2**63), 0, 2**63 - 1]), pa.array([2**63 - 1, -(2**63), 5])),
    (pa.array([1, 2, 3], pa.timestamp("us")), pa.array([3, 1, 9], pa.timestamp("us", "UTC"))),
]


@pytest.mark.parametrize("pair", KEY_TYPES, ids=[f"{a.type} {b.type}" for a, b in KEY_TYPES])
def test_equal_keys_of_different_columns(pair: tuple[pa.Array, pa.Array]) -> None:
    features = pa.table({"k": pair[0], "event_time": moments(np.array([1, 1, 1])), "value": ["x", "y", "z"]})
    spine = pa.table({"k": pair[1], "event_time": moments(np.array([1, 1, 1]))})
    assert join(spine, [FeatureRows(features, "k", ("value",))])["value"].to_pylist() == ["z", "x", None]


def test_boolean_keys() -> None:
    features = pa.table({"k": [True, False], "event_time": moments(np.array([1, 1])), "value": [1, 0]})
    spine = pa.table({"k": [False, None, True], "event_time": moments(np.array([1, 1, 1]))})
    assert join(spine, [FeatureRows(features, "k", ("value",))])["value"].to_pylist() == [0, None, 1]


def test_three_wide_keys_are_told_apart() -> None:
    rng = np.random.default_rng(3)
    numbers = rng.integers(-(2**62), 2**62, (3, 200))[:, rng.integers(0, 200, 900)]
    columns = {f"k{i}": pa.array(rng.permutation(numbers[i])) for i in range(3)}
    features = pa.table({**columns, "event_time": moments(np.arange(900) % 3), "number": pa.array(np.arange(900))})
    spine = features.drop_columns(["number"]).slice(100, 500)
    features = features.append_column("created", pa.nulls(900, TIME))
    side = FeatureRows(features, ("k0", "k1", "k2"), ("number",))
    assert join(spine, [side])["number"].to_pylist() == brute_force(spine, features, ("k0", "k1", "k2"))


def test_several_views_lead_from_one_to_the_next() -> None:
    at = moments(np.array([10, 10]))
    spine = pa.table({"flight": ["f1", "f2"], "event_time": at, "label": [0, 1]})
    flights = pa.table({"flight": ["f1", "f2"], "event_time": moments(np.array([1, 1])), "origin": ["JFK", None]})
    weather = pa.table({"origin": ["JFK"], "event_time": moments(np.array([5])), "temp": [20.0], "label": [7]})
    sides = [FeatureRows(flights, "flight", ("origin",)), index(FeatureRows(weather, "origin", ("temp", "label")))]
    assert join(spine, sides).select(["origin", "temp", "label"]).to_pylist() == [
        {"origin": "JFK", "temp": 20.0, "label": 0},
        {"origin": None, "temp": None, "label": 1},
    ]


@pytest.mark.parametrize("known_by", [False, True])
def test_what_is_carried_past_a_moment_is_all_that_matters_after_it(known_by: bool) -> None:
    spine, features = sides(np.random.default_rng(11), "integer", 1_500, 6_000, keys=40)
    split = 300
    later = spine.filter(pa.compute.field("event_time") >= moments(np.array([split]))[0])
    side = FeatureRows(features, "k", ("number",), created="created", known_by=known_by)
    old = features.filter(pa.compute.field("event_time") < moments(np.array([split]))[0])
    new = features.filter(pa.compute.field("event_time") >= moments(np.array([split]))[0])
    carried = side.kernel().carry(old, BASE + split)
    assert 40 <= carried.num_rows < old.num_rows // (2 if known_by else 20)
    again = FeatureRows(pa.concat_tables([carried, new]), "k", ("number",), created="created", known_by=known_by)
    assert later.num_rows > 500
    assert join(later, [again])["number"].to_pylist() == join(later, [side])["number"].to_pylist()


def test_bad_columns_are_named() -> None:
    spine, features = sides(np.random.default_rng(1), "integer", 3, 3)
    side = FeatureRows(features, "k", ("value",))
    with pytest.raises(SchemaMismatch, match="k: join key"):
        join(spine.drop_columns(["k"]), [side])
    with pytest.raises(SchemaMismatch, match="event_time: the spine"):
        join(spine.drop_columns(["event_time"]), [side])
    with pytest.raises(SchemaMismatch, match=r"event_time.*timestamp"):
        join(spine.set_column(1, "event_time", pa.array([1, 2, 3])), [side])
    with pytest.raises(SchemaMismatch, match=r"number: a timestamp is needed, got int64"):
        index(FeatureRows(features, "k", ("value",), event_time="number"))
    with pytest.raises(SchemaMismatch, match=r"valu: the feature rows have no such column; they have k, "):
        index(FeatureRows(features, "k", ("valu",)))
    with pytest.raises(SchemaMismatch, match=r"k: the spine has string, the feature rows have int64"):
        join(spine.set_column(0, "k", pa.array(["1", "2", "3"])), [side])
    with pytest.raises(SchemaMismatch, match=r"value: double holds values that are no key"):
        index(FeatureRows(features.set_column(3, "value", pa.array([0.5, 1, 2])), "value", ("number",)))
    with pytest.raises(SchemaMismatch, match=r"k: list<item: int64> is no key"):
        index(FeatureRows(features.set_column(0, "k", pa.array([[1], [2], [3]])), "k", ("value",)))


def test_bad_settings_are_refused() -> None:
    with pytest.raises(InvalidInput, match="ttl"):
        AsOf(("k",), ("value",), ttl=timedelta(seconds=-1))
    with pytest.raises(InvalidInput, match="known_by"):
        AsOf(("k",), ("value",), known_by=True)
    with pytest.raises(InvalidInput, match="key"):
        AsOf((), ("value",))


@pytest.mark.parametrize("known_by", [False, True])
def test_bursts_in_a_span_that_does_not_fit_into_64_bits_with_its_keys(known_by: bool) -> None:
    """Thousands of years and keys by the million: some rows of a burst can only be told apart by their exact times."""
    rng = np.random.default_rng(6)

    def rows(count: int) -> dict[str, Any]:
        bursts = rng.integers(-3, 3, count) * 10**16 + rng.integers(0, 400, count)
        return {"k": pa.array(rng.integers(0, 4, count) * 1_000_000), "event_time": moments(bursts)}

    features = pa.table({**rows(5_000), "number": pa.array(np.arange(5_000))})
    since = features["event_time"].cast(pa.int64()).to_numpy() + rng.integers(-3, 60, 5_000)
    features = features.append_column("created", pa.array(since).cast(TIME))
    spine = pa.table(rows(2_000))
    for ttl in (None, TTL):
        side = FeatureRows(features, "k", ("number",), ttl=ttl, created="created", known_by=known_by)
        assert index(side).axis.cut > 3
        expected = brute_force(spine, features, ("k",), ttl=ttl, created=True, known_by=known_by)
        assert join(spine, [side])["number"].to_pylist() == expected


def test_a_null_among_the_values_of_a_dictionary_is_no_key() -> None:
    keys = pa.DictionaryArray.from_arrays(pa.array([0, 1, 0]), pa.array(["a", None]))
    times = pa.array([1, 2, 3], pa.timestamp("us"))
    rows = pa.table({"k": keys, "event_time": times, "x": [0, 1, 2]})
    spine = pa.table({"k": keys, "event_time": pa.array([9, 9, 9], pa.timestamp("us"))})
    assert join(spine, [FeatureRows(rows, "k", ("x",))])["x"].to_pylist() == [2, None, 2]
    with np.errstate(all="raise"):
        plain = spine.set_column(0, "k", pa.array(["a", None, "b"]))
        assert join(plain, [FeatureRows(rows, "k", ("x",))])["x"].to_pylist() == [2, None, None]


def test_names_that_come_twice_are_refused() -> None:
    moment = pa.array([1], pa.timestamp("us"))
    rows = pa.table({"k": ["a"], "event_time": moment, "x": [0]})
    for names, message in ((("k", "k"), "key: a column"), (("k",), "features: a column")):
        with pytest.raises(InvalidInput, match=message):
            FeatureRows(rows, names, ("x", "x")).kernel()
    spine = pa.table([pa.array(["a"]), pa.array(["b"]), moment], names=["k", "k", "event_time"])
    with pytest.raises(SchemaMismatch, match="k: the spine has two columns"):
        join(spine, [FeatureRows(rows, "k", ("x",))])
