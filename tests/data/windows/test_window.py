"""Declarations and plans: what they derive and what they refuse."""

from __future__ import annotations

import pickle
from datetime import timedelta

import pyarrow as pa
import pytest

from rayplat.data.windows import FUNCTIONS, TilePlan, Window, fold
from rayplat.data.windows.plan import LADDER, MOST_TILES
from rayplat.errors import InvalidInput, SchemaMismatch
from tests.data.windows.oracle import START, TIME

HOUR = timedelta(hours=1)


def plan(*windows: Window, keys: tuple[str, ...] = ("k",), tile: timedelta | None = None) -> TilePlan:
    return TilePlan(keys, "t", windows, tile)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("w", "x", "median", HOUR), "median"),
        (("w", "x", "sum", timedelta(0)), "positive"),
        (("w", "x", "sum", -HOUR), "positive"),
        (("w", "x", "sum", timedelta(microseconds=0.4)), "1 microsecond"),
        (("w", "x", "sum", timedelta(days=40_000)), "100 years"),
        (("", "x", "sum", HOUR), "name"),
        (("w", "", "sum", HOUR), "column"),
        (("w", "x", "sum", HOUR, None, "int64"), "dtype goes with"),
        (("w", "x", "last", HOUR, None, "float16"), "dtype goes with"),
        (("w", "x", "max", HOUR, None, "string"), "numbers and timestamps"),
    ],
)
def test_bad_windows_are_refused(arguments: tuple, reason: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(InvalidInput, match=reason):
        Window(*arguments)


def test_bad_plans_are_refused() -> None:
    w = Window("w", "x", "sum", HOUR)
    with pytest.raises(InvalidInput, match="two of this name"):
        plan(w, Window("w", "y", "sum", HOUR))
    with pytest.raises(InvalidInput, match="at least one"):
        plan()
    with pytest.raises(InvalidInput, match="named twice"):
        plan(w, keys=("k", "k"))
    with pytest.raises(InvalidInput, match="tile"):
        plan(w, tile=timedelta(0))
    for taken in ("clock", "tile_start", "event_times", "x__raw", "x__sum_lo"):
        with pytest.raises(InvalidInput, match="rename the key"):
            plan(w, keys=(taken,))


def test_the_tile_length_comes_from_the_ladder() -> None:
    for length, tile in [
        (timedelta(microseconds=1), "0:01:00"),
        (timedelta(minutes=256), "0:01:00"),
        (timedelta(minutes=257), "0:05:00"),
        (timedelta(days=7), "1:00:00"),
        (timedelta(days=30), "3:00:00"),
        (timedelta(days=256), "1 day, 0:00:00"),
        (timedelta(days=1_500), "7 days, 0:00:00"),
        (timedelta(days=4_000), "21 days, 0:00:00"),
    ]:
        made = plan(Window("a", "x", "sum", length), Window("b", "x", "sum", timedelta(microseconds=1)))
        assert str(made.tile_length) == tile
        assert length <= made.tile_length * MOST_TILES
    assert plan(Window("a", "x", "sum", HOUR), tile=timedelta(seconds=7)).tile_length == timedelta(seconds=7)
    assert list(LADDER) == sorted(LADDER)


def test_a_plan_derives_clocks_columns_and_states() -> None:
    made = plan(
        Window("a", "x", "mean", HOUR),
        Window("b", "y", "stddev", HOUR, "seen"),
        Window("c", "x", "last", HOUR * 2),
        Window("d", "x", "count", HOUR, "seen"),
    )
    assert [(c.name, c.columns, c.states) for c in made.clocks] == [
        ("t", ("x",), (("sum", "last"),)),
        ("seen", ("y", "x"), (("sum", "squares", "min", "max"), ())),
    ]
    assert made.clocks[0].lengths_us == (3_600_000_000, 7_200_000_000)
    assert made.source_columns == ("k", "t", "seen", "x", "y")
    assert made.identity == ("k", "clock", "tile_start")
    assert [w.result_dtype for w in made.windows] == ["double", "double", "double", "int64"]
    copy = pickle.loads(pickle.dumps(made))
    assert copy == made
    assert hash(copy) == hash(made)


SOURCE = pa.schema([("k", "string"), ("t", TIME), ("x", "double"), ("s", "string"), ("d", pa.date32())])


@pytest.mark.parametrize(
    ("window", "keys", "reason"),
    [
        (Window("w", "nope", "sum", HOUR), ("k",), "no such column"),
        (Window("w", "x", "sum", HOUR), ("nope",), "no such column"),
        (Window("w", "x", "sum", HOUR, "nope"), ("k",), "no such column"),
        (Window("w", "x", "sum", HOUR, "s"), ("k",), "a clock is a timestamp column"),
        (Window("w", "x", "sum", HOUR), ("x",), "keys are strings or integers"),
        (Window("w", "s", "sum", HOUR), ("k",), "sum .w. needs numbers"),
        (Window("w", "t", "mean", HOUR), ("k",), "mean .w. needs numbers"),
        (Window("w", "s", "stddev", HOUR), ("k",), "needs numbers"),
        (Window("w", "s", "max", HOUR), ("k",), "not for text"),
        (Window("w", "s", "last", HOUR), ("k",), "declares double, the column is string"),
        (Window("w", "x", "last", HOUR, None, "string"), ("k",), "declares string, the column is double"),
        (Window("w", "d", "count", HOUR), ("k",), "not date32"),
    ],
)
def test_events_that_do_not_fit_are_refused(window: Window, keys: tuple[str, ...], reason: str) -> None:
    with pytest.raises(SchemaMismatch, match=reason):
        fold(plan(window, keys=keys), SOURCE.empty_table())


@pytest.mark.parametrize("value", [2**53 + 2, -(2**53) - 2, 2**63 - 1])
def test_integers_that_doubles_cannot_tell_apart_are_refused(value: int) -> None:
    for function in FUNCTIONS:
        table = pa.table({"k": ["a"], "t": pa.array([START], TIME), "x": pa.array([value], pa.int64())})
        with pytest.raises(InvalidInput, match=r"beyond 2\*\*53"):
            fold(plan(Window("w", "x", function, HOUR)), table)
