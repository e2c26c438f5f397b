"""Expressions: what they compute, that all ways of computing agree, and that they survive JSON."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pyarrow.dataset as pads
import pytest

from rayplat.data.features import Expr, col, lit
from rayplat.data.features import expressions as fx
from rayplat.errors import InvalidInput, SchemaMismatch

TIME = pa.timestamp("us", tz="UTC")
ROWS = pa.table(
    {
        "a": pa.array([1, 2, None, -4], pa.int64()),
        "b": pa.array([0.5, float("nan"), None, -2.0]),
        "s": ["Ab", "ab c", None, ""],
        "yes": [True, False, None, True],
        "t": pa.array([0, 3_600_000_000, None, 1_383_307_199_999_999], TIME),
        "u": pa.array([1_500_000, 0, 5, 1_383_307_199_999_999], TIME),
    }
)
NAN = float("nan")
CASES: list[tuple[Expr, list[object]]] = [
    (col("a") + 1, [2, 3, None, -3]),
    (1 - col("a"), [0, -1, None, 5]),
    (col("a") * col("b"), [0.5, NAN, None, 8.0]),
    (col("a") / 2, [0.5, 1.0, None, -2.0]),
    (1 / (col("a") - 1), [float("inf"), 1.0, None, -0.2]),
    (-abs(col("a")), [-1, -2, None, -4]),
    (col("a") > 1, [False, True, None, False]),
    ((col("a") == 1) | col("b").is_nan(), [True, True, None, False]),
    ((col("a") > 0) & ~col("yes"), [False, True, None, False]),
    (col("a").is_null(), [False, False, True, False]),
    (col("s").is_in("ab c", ""), [False, True, False, True]),
    (col("a").fill_null(0), [1, 2, 0, -4]),
    (fx.coalesce(col("a"), col("b"), 7), [1.0, 2.0, 7.0, -4.0]),
    (fx.if_else(col("yes"), col("a"), 0), [1, 0, None, -4]),
    (fx.least(col("a"), col("b")), [0.5, 2.0, None, -4.0]),
    (fx.greatest(col("a"), 1), [1, 2, None, 1]),
    (fx.concat(col("s"), "x", separator="-"), ["Ab-x", "ab c-x", None, "-x"]),
    (fx.floor(col("b")), [0.0, NAN, None, -2.0]),
    (fx.ceil(col("b")), [1.0, NAN, None, -2.0]),
    ((col("b") * 1.26).round(1), [0.6, NAN, None, -2.5]),
    (fx.log(col("a")), [0.0, pytest.approx(0.6931471805599453), None, NAN]),
    (fx.exp(fx.log1p(col("a"))), [2.0, pytest.approx(3.0), None, NAN]),
    (fx.power(col("a"), 2), [1.0, 4.0, None, 16.0]),
    (fx.sqrt(col("a") + 4), [pytest.approx(5**0.5), pytest.approx(6**0.5), None, 0.0]),
    (fx.hour(col("t")), [0, 1, None, 11]),
    (fx.hour(col("t"), "America/New_York"), [19, 20, None, 7]),
    (fx.weekday(col("t")), [3, 3, None, 4]),
    (fx.year(col("t")) * 10_000 + fx.month(col("t")) * 100 + fx.day(col("t")), [19700101, 19700101, None, 20131101]),
    (fx.minute(col("t")), [0, 0, None, 59]),
    ((col("u") - col("t")).seconds(), [1.5, -3600.0, None, 0.0]),
    (col("t") + timedelta(hours=1) > datetime(1970, 1, 1, 1, tzinfo=UTC), [False, True, None, True]),
    (fx.lower(col("s")) == "ab", [True, False, None, False]),
    (fx.length(fx.upper(col("s"))), [2, 4, None, 0]),
    (fx.contains(col("s"), " ") | fx.starts_with(col("s"), "A"), [True, True, None, False]),
    (col("a").cast("double"), [1.0, 2.0, None, -4.0]),
    (lit(3) + 4, [7, 7, 7, 7]),
    (lit(None), [None] * 4),
]


@pytest.mark.parametrize(("expression", "expected"), CASES, ids=[str(case[0]) for case in CASES])
def test_values(expression: Expr, expected: list[object]) -> None:
    for rows in (ROWS, {name: ROWS[name] for name in ROWS.column_names}):
        assert _plain(expression.evaluate(rows)) == _plain(expected)
    scanned = pads.dataset(ROWS).scanner(columns={"x": expression.to_arrow()}).to_table()["x"]
    assert _plain(scanned) == _plain(expected)
    again = Expr.from_dict(json.loads(json.dumps(expression.to_dict())))
    assert again == expression
    assert hash(again) == hash(expression)
    assert _plain(again.evaluate(ROWS)) == _plain(expected)


def _plain(values: object) -> list[object]:
    found = values if isinstance(values, list) else values.to_pylist()  # type: ignore[attr-defined]
    return ["nan" if value != value else value for value in found]


def test_columns_are_named_once_in_order() -> None:
    assert (col("b") + col("a") * col("b")).columns == ("b", "a")
    assert str((col("a") + 1 > 2) & ~col("yes")) == "(((a + 1) > 2) & not(yes))"
    assert str(col("t") < datetime(2013, 1, 1)) == "(t < '2013-01-01T00:00:00+00:00')"


def test_expressions_compare_by_what_they_say() -> None:
    assert col("a") + 1 == col("a") + 1
    assert col("a") + 1 != col("a") + 2
    assert col("a") != None  # noqa: E711
    assert col("a") != col("b")
    with pytest.raises(InvalidInput, match=r"no truth value of its own; combine with & \| ~"):
        assert col("a") > 1


def test_what_cannot_be_computed_is_refused() -> None:
    with pytest.raises(SchemaMismatch, match=r"nope: no such column for \(nope \+ 1\); there are a, b"):
        (col("nope") + 1).evaluate(ROWS)
    with pytest.raises(InvalidInput, match="overflow"):
        (col("a") + (2**63 - 1)).evaluate(ROWS)
    with pytest.raises(InvalidInput, match=r"expression \(s \* 2\)"):
        (col("s") * 2).evaluate(ROWS)
    with pytest.raises(InvalidInput, match="truncated"):
        (col("a") / 3).cast("int64").evaluate(ROWS)
    with pytest.raises(InvalidInput, match="names no Arrow type"):
        col("a").cast("number")
    with pytest.raises(InvalidInput, match="is no constant"):
        lit(NAN)
    with pytest.raises(InvalidInput, match="is no number, string"):
        _ = col("a") > [1]  # type: ignore[operator]
    with pytest.raises(InvalidInput, match="known operation"):
        Expr.from_dict({"op": "add", "args": [{"col": "a"}, {"op": "eval", "args": []}]})
