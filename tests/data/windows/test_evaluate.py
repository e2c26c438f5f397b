"""Windows over tiles: equal to their definition at any moment, by any path, and blind to the future."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayplat.data.windows import TileKernel, TilePlan, Window, evaluate, fold, pack, patch
from rayplat.errors import InvalidInput, SchemaMismatch
from tests.data.windows import oracle
from tests.data.windows.oracle import START, TIME, Definition, events, same, us

MINUTE = timedelta(minutes=1)


def spine(rows: int, seed: int = 9) -> pa.Table:
    """Keys and moments: at events, a microsecond beside them, at tile edges, null, unknown."""
    rng = np.random.default_rng(seed)
    at = us(START) + rng.integers(0, 4 * 24 * 60, rows) * 60_000_000 + rng.integers(-1, 2, rows)
    return pa.table(
        {
            "who": pa.array([f"k{i}" for i in rng.integers(0, 4, rows)], mask=rng.random(rows) < 0.03),
            "group": rng.integers(0, 2, rows),
            "moment": pa.array(at, TIME, mask=rng.random(rows) < 0.03),
        }
    )


@pytest.mark.parametrize("tile", [None, timedelta(hours=5, microseconds=7), timedelta(days=30)])
@pytest.mark.parametrize("moments", [3, 150], ids=["from tiles", "from events"])
def test_equals_the_definition(tile: timedelta | None, moments: int) -> None:
    plan, table, asked = oracle.plan(tile), events(500), spine(moments)
    found = evaluate(plan, fold(plan, table), asked, asked["moment"]).to_pylist()
    definition = Definition(plan, table)
    assert len(found) == moments
    for row, values in zip(asked.to_pylist(), found, strict=True):
        for window in plan.windows:
            expected = definition.value(window, (row["who"], row["group"]), row["moment"])
            assert same(values[window.name], expected, 1e-12), (window, row)


def test_equals_pandas_rolling() -> None:
    table = events(2_000, 5).drop_null()
    frame = table.to_pandas().sort_values(["at", "x"]).reset_index(drop=True)
    functions = {"count": "count", "sum": "sum", "mean": "mean", "min": "min", "max": "max", "stddev": "std"}
    windows = tuple(Window(f, "x", f, timedelta(hours=5)) for f in functions)
    plan = TilePlan(("who",), "at", windows)
    for who, own in frame.groupby("who"):
        rolled = own.set_index("at")["x"].rolling("5h")
        asked = pa.table({"who": [who] * len(own)})
        found = evaluate(plan, fold(plan, table), asked, pa.array(own["at"], TIME)).to_pandas()
        last = ~own["at"].duplicated(keep="last").to_numpy()  # pandas gives part of a moment to all but its last row
        for name, method in functions.items():
            expected = getattr(rolled, method)().to_numpy()[last]
            np.testing.assert_allclose(found[name].to_numpy(np.float64)[last], expected, rtol=1e-9, atol=1e-9)


def test_the_edges_are_exact_to_the_microsecond() -> None:
    plan = TilePlan(("k",), "t", (Window("n", "x", "count", timedelta(hours=1)),), timedelta(minutes=15))
    tiles = fold(plan, pa.table({"k": ["a"], "t": pa.array([START], TIME), "x": [1.0]}))
    beside = [timedelta(microseconds=d) for d in (-1, 0, 1)]
    moments = [START + edge + d for edge in (timedelta(0), timedelta(hours=1)) for d in beside]
    found = evaluate(plan, tiles, pa.table({"k": ["a"] * 6}), pa.array(moments, TIME))
    assert found["n"].to_pylist() == [0, 1, 1, 1, 0, 0]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**20), st.integers(1, 10 * 60 * 60), st.integers(0, 2 * 24 * 60))
def test_planted_future_events_change_nothing(seed: int, length_s: int, now_min: int) -> None:
    now = START + now_min * MINUTE
    functions = ("count", "sum", "mean", "min", "max", "stddev", "last", "distinct_count", "approx_distinct_count")
    plan = TilePlan(("who",), "at", tuple(Window(f, "x", f, timedelta(seconds=length_s)) for f in functions))
    table = events(200, seed)
    planted = table.slice(0, 60).set_column(
        2, "at", pa.array([now + timedelta(microseconds=1 + i**3) for i in range(60)], TIME)
    )
    planted = planted.set_column(4, "x", pa.array(np.linspace(1e9, 2e9, 60)))
    asked = pa.table({"who": [f"k{i}" for i in range(3)]})
    moments = pa.array([now] * 3, TIME)
    before = evaluate(plan, fold(plan, table), asked, moments)
    after = evaluate(plan, fold(plan, pa.concat_tables([table, planted])), asked, moments)
    past = table.filter(pa.array([t is not None and t <= now for t in table["at"].to_pylist()]))
    assert after.equals(before)
    assert after.equals(evaluate(plan, fold(plan, past), asked, moments))


def test_infinite_values_end_with_their_window() -> None:
    values = [1.0, float("inf"), 2.0, float("-inf"), 3.0, 1e308, 1e308, -1e308, 5.0, 7.0]
    times = [START + i * MINUTE for i in range(len(values))]
    names = ("sum", "mean", "min", "max", "stddev", "last")
    plan = TilePlan(("k",), "t", tuple(Window(n, "x", n, 2 * MINUTE) for n in names), MINUTE)
    tiles = fold(plan, pa.table({"k": ["a"] * len(values), "t": pa.array(times, TIME), "x": values}))
    for moments in (times, times[-1:]):
        found = evaluate(plan, tiles, pa.table({"k": ["a"] * len(moments)}), pa.array(moments, TIME))
        assert found["sum"].to_pylist()[-1] == 12.0
        assert found["stddev"].to_pylist()[-1] == pytest.approx(2**0.5, rel=1e-15)
    found = evaluate(plan, tiles, pa.table({"k": ["a"] * len(values)}), pa.array(times, TIME))
    inf = float("inf")
    assert found["sum"].to_pylist() == [1.0, inf, inf, -inf, -inf, 1e308, inf, 0.0, -1e308, 12.0]
    assert found["max"].to_pylist() == [1.0, inf, inf, 2.0, 3.0, 1e308, 1e308, 1e308, 5.0, 7.0]


def test_what_lies_before_a_window_leaves_no_trace() -> None:
    values = [1e300, 1e30, 1e16, 0.1, 0.2, 0.3]
    times = [START + i * MINUTE for i in range(6)]
    plan = TilePlan(("k",), "t", (Window("s", "x", "sum", 3 * MINUTE), Window("d", "x", "stddev", 3 * MINUTE)))
    tiles = fold(plan, pa.table({"k": ["a"] * 6, "t": pa.array(times, TIME), "x": values}))
    found = evaluate(plan, tiles, pa.table({"k": ["a"] * 6}), pa.array(times, TIME))
    assert found["s"].to_pylist()[-1] == 0.6
    assert found["d"].to_pylist()[-1] == pytest.approx(0.1, rel=1e-12)


@pytest.mark.parametrize("value", [0.1, 1e15 + 0.3, 1e-200, 1e200, 3.0])
def test_the_spread_of_equal_values_is_zero(value: float) -> None:
    plan = TilePlan(("k",), "t", (Window("d", "x", "stddev", timedelta(days=1)),))
    times = [START + i * MINUTE for i in range(7)]
    tiles = fold(plan, pa.table({"k": ["a"] * 7, "t": pa.array(times, TIME), "x": [value] * 7}))
    found = evaluate(plan, tiles, pa.table({"k": ["a"] * 7}), pa.array(times, TIME))
    assert found["d"].to_pylist() == [None] + [0.0] * 6


def test_a_large_mean_does_not_drown_the_spread() -> None:
    values = [1e9 + x for x in (0.1, 0.2, 0.4, 0.8)]
    exact = float(np.std(np.array([int(x * 2**23) for x in values], np.longdouble) / 2**23, ddof=1))
    plan = TilePlan(("k",), "t", (Window("d", "x", "stddev", timedelta(days=1)),))
    times = [START + i * MINUTE for i in range(4)]
    tiles = fold(plan, pa.table({"k": ["a"] * 4, "t": pa.array(times, TIME), "x": values}))
    found = evaluate(plan, tiles, pa.table({"k": ["a"]}), pa.array(times[-1:], TIME))
    assert found["d"].to_pylist()[0] == pytest.approx(exact, rel=1e-12)


def test_of_one_moment_the_largest_value_is_last() -> None:
    times = pa.array([START, START, START, START + MINUTE], TIME)
    windows = (
        Window("x", "x", "last", timedelta(hours=1)),
        Window("w", "w", "last", timedelta(hours=1), dtype="string"),
    )
    plan = TilePlan(("k",), "t", windows)
    table = pa.table({"k": ["a"] * 4, "t": times, "x": [2.0, 9.0, None, None], "w": ["b", "a", "c", None]})
    for order in ([0, 1, 2, 3], [3, 2, 1, 0]):
        tiles = fold(plan, table.take(order))
        found = evaluate(plan, tiles, pa.table({"k": ["a"]}), pa.array([START + MINUTE], TIME))
        assert found.to_pylist() == [{"x": 9.0, "w": "c"}]


def test_values_of_every_type() -> None:
    windows = (
        Window("flag", "flag", "last", timedelta(days=1), dtype="bool"),
        Window("rate", "flag", "mean", timedelta(days=1)),
        Window("big", "big", "max", timedelta(days=1), dtype="int64"),
        Window("first", "when", "min", timedelta(days=1), dtype="timestamp[us, tz=UTC]"),
        Window("kinds", "when", "distinct_count", timedelta(days=1)),
        Window("many", "big", "approx_distinct_count", timedelta(days=1)),
    )
    plan = TilePlan(("k",), "t", windows)
    times = pa.array([START, START + MINUTE], TIME)
    table = pa.table({"k": [7, 7], "t": times, "flag": [True, False], "big": [2**53 - 1, 3], "when": times})
    for moment in (START + MINUTE, START + timedelta(hours=23)):
        found = evaluate(plan, fold(plan, table), pa.table({"k": pa.array([7], pa.int32())}), pa.array([moment], TIME))
        expected = {"flag": False, "rate": 0.5, "big": 2**53 - 1, "first": START, "kinds": 2, "many": 2}
        assert found.to_pylist() == [expected]
    assert found.schema.types == [pa.bool_(), pa.float64(), pa.int64(), TIME, pa.int64(), pa.int64()]


def test_no_events_give_empty_windows_and_null_keys_nulls() -> None:
    plan = TilePlan(("k",), "t", tuple(Window(f, "x", f, MINUTE) for f in oracle.NUMERIC))
    empty = fold(plan, pa.table({"k": pa.array([], pa.string()), "t": pa.array([], TIME), "x": pa.array([], "double")}))
    found = evaluate(plan, empty, pa.table({"k": ["a", None, "a"]}), pa.array([START, START, None], TIME)).to_pylist()
    zero = ("count", "sum", "distinct_count", "approx_distinct_count")
    assert found[0] == {f: 0 if f in zero else None for f in oracle.NUMERIC}
    assert found[1:] == [dict.fromkeys(oracle.NUMERIC)] * 2


@pytest.mark.parametrize("dtype", [pa.float64(), pa.float32(), pa.decimal128(5, 1), pa.int32()], ids=str)
def test_integer_keys_may_come_as_floats_with_holes(dtype: pa.DataType) -> None:
    plan = TilePlan(("k", "g"), "t", (Window("n", "x", "count", MINUTE), Window("s", "x", "last", MINUTE)))
    events = {"k": [1001, 1002], "g": ["a", "a"], "t": pa.array([START] * 2, TIME), "x": [1.0, 2.0]}
    keys = pa.chunked_array([pa.array([1002, None], dtype), pa.array([1001, 9], dtype)])
    asked = pa.table({"k": keys, "g": ["a"] * 4})
    found = evaluate(plan, fold(plan, pa.table(events)), asked, pa.array([START] * 4, TIME)).to_pydict()
    assert found == {"n": [1, None, 1, 0], "s": [2.0, None, 1.0, None]}


def test_floats_that_are_no_integer_keys() -> None:
    plan, at = TilePlan(("k",), "t", (Window("n", "x", "count", MINUTE),)), pa.array([START] * 2, TIME)
    tiles = fold(plan, pa.table({"k": [1, 2], "t": at, "x": [1.0, 2.0]}))
    holes = pa.table({"k": [float("nan"), 2.0]})
    assert evaluate(plan, tiles, holes, at)["n"].to_pylist() == [None, 1]
    for value, message in ((1.5, "k: .*no whole numbers"), (2.0**54, "k: .*too large"), (np.inf, "k: .*too large")):
        with pytest.raises(SchemaMismatch, match=message):
            evaluate(plan, tiles, pa.table({"k": [1.0, value]}), at)
    texts = fold(plan, pa.table({"k": ["1", "2"], "t": at, "x": [1.0, 2.0]}))
    with pytest.raises(SchemaMismatch, match=r"k: .*string"):
        evaluate(plan, texts, holes, at)


def test_many_distinct_values_are_estimated_alike_by_every_path() -> None:
    rng, many = np.random.default_rng(3), 30_000
    at = pa.array(us(START) + rng.integers(0, 86_400_000_000, many), TIME)
    table = pa.table({"k": ["a"] * many, "t": at, "x": rng.integers(0, 20_000, many)})
    lengths = [timedelta(hours=h) for h in (1, 6, 24)]
    windows = [Window(f"{f}_{i}", "x", f, n) for f in oracle.NUMERIC[-2:] for i, n in enumerate(lengths)]
    plan = TilePlan(("k",), "t", tuple(windows), timedelta(hours=3))
    tiles, end = fold(plan, table), START + timedelta(hours=23, minutes=30)
    few = evaluate(plan, tiles, pa.table({"k": ["a"]}), pa.array([end], TIME))
    moments = pa.array([end] + [START + i * MINUTE for i in range(0, 1440, 9)], TIME)
    all_of_them = evaluate(plan, tiles, pa.table({"k": ["a"] * len(moments)}), moments)
    assert all_of_them.slice(0, 1).equals(few)
    for i in range(3):
        exact, estimate = (all_of_them[f"{f}_{i}"].to_numpy() for f in oracle.NUMERIC[-2:])
        known = exact > 0
        assert (np.abs(estimate[known] / exact[known] - 1) < 0.12).all()
        assert (estimate[exact <= 2048] == exact[exact <= 2048]).all()


def test_a_kernel_reads_the_tiles_it_says() -> None:
    plan, table = oracle.plan(timedelta(hours=1)), events(800, 4)
    tiles, kernel, asked = fold(plan, table), TileKernel(plan), spine(40, 3)
    first, last = START + timedelta(days=1), START + timedelta(days=1, hours=5)
    asked = asked.filter(pa.array([m is not None and first <= m <= last for m in asked["moment"].to_pylist()]))
    some = tiles.select(list(kernel.columns)).filter(kernel.wanted(first, last))
    assert 0 < some.num_rows < tiles.num_rows
    found = kernel.prepare(some).features(asked, asked["moment"])
    assert found.equals(evaluate(plan, tiles, asked, asked["moment"]))
    assert kernel.reach == timedelta(days=2, hours=1)
    assert kernel.keys == ("who", "group")


def test_tiles_of_other_windows_are_refused() -> None:
    plan = TilePlan(("k",), "t", (Window("n", "x", "count", MINUTE),))
    tiles = fold(plan, pa.table({"k": ["a"], "t": pa.array([START], TIME), "x": [1.0]}))
    wider = TilePlan(("k",), "t", (Window("n", "x", "sum", MINUTE),))
    with pytest.raises(SchemaMismatch, match="x__sum"):
        evaluate(wider, tiles, pa.table({"k": ["a"]}), pa.array([START], TIME))
    with pytest.raises(SchemaMismatch, match="int64"):
        evaluate(plan, tiles, pa.table({"k": [1]}), pa.array([START], TIME))
    with pytest.raises(SchemaMismatch, match="timestamp"):
        evaluate(plan, tiles, pa.table({"k": ["a"]}), pa.array([1.0]))
    with pytest.raises(InvalidInput, match="1 moments for 2 keys"):
        evaluate(plan, tiles, pa.table({"k": ["a", "b"]}), pa.array([START], TIME))


def test_many_keys_over_thousands_of_years() -> None:
    """Key and time together take more than 64 bits."""
    plan = TilePlan(
        ("k",), "t", (Window("s", "x", "sum", timedelta(days=2)), Window("d", "x", "distinct_count", MINUTE))
    )
    years = pa.array([-8_000_000_000_000_000, 0, 250_000_000_000_000_000] * 60, TIME)
    table = pa.table({"k": np.repeat(np.arange(60), 3), "t": years, "x": np.arange(180.0)})
    found = evaluate(plan, fold(plan, table), table, table["t"])
    assert found["s"].to_pylist() == table["x"].to_pylist()
    assert found["d"].to_pylist() == [1] * 180
    before = pa.array(years.cast(pa.int64()).to_numpy() - 1, TIME)
    assert evaluate(plan, fold(plan, table), table, before)["s"].to_pylist() == [0.0] * 180


def test_tiles_may_come_back_in_larger_types() -> None:
    plan = TilePlan(("k",), "t", (Window("w", "w", "last", MINUTE, dtype="string"),))
    table = pa.table({"k": ["a"], "t": pa.array([START], TIME), "w": ["x"]})
    tiles = fold(plan, table)
    larger = {"k": pa.large_string(), "clock": pa.string_view(), "w__raw": pa.large_list(pa.large_string())}
    wide = tiles.cast(pa.schema([f.with_type(larger.get(f.name, f.type)) for f in tiles.schema]))
    assert evaluate(plan, wide, table, table["t"])["w"].to_pylist() == ["x"]
    assert pack(plan, wide) == pack(plan, tiles)
    assert patch(plan, wide, table, None).changed["w__n"].to_pylist() == [2]
