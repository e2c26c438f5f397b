"""Tiles: what a row holds, and that patching equals folding anew, bit for bit."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayplat.data.windows import TilePlan, Window, evaluate, fold, patch, touched
from rayplat.errors import Conflict, SchemaMismatch
from tests.data.windows import oracle
from tests.data.windows.oracle import START, TIME, events

HOUR = timedelta(hours=1)
PLAN = oracle.plan(timedelta(hours=6))
IDENTITY = [(name, "ascending") for name in PLAN.identity]


def without(tiles: pa.Table, gone: pa.Table) -> pa.Table:
    names = list(PLAN.identity)
    rows = tiles.select(names).append_column("row", pa.array(np.arange(tiles.num_rows)))
    left = rows.join(gone.select(names), names, join_type="left anti")["row"]
    return tiles.take(left.take(pc.sort_indices(left)))


def bits(tiles: pa.Table) -> list[object]:
    """The rows in order; doubles as their bits."""
    columns = tiles.sort_by(IDENTITY).combine_chunks().columns
    return [c.fill_null(0.5).to_numpy().tobytes() if c.type == pa.float64() else c for c in columns]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**20), st.integers(1, 150), st.integers(0, 149), st.integers(0, 60))
def test_patched_equals_folded_anew_bit_for_bit(seed: int, rows: int, late_from: int, deleted: int) -> None:
    table = events(rows, seed, step_s=7_200)
    rng = np.random.default_rng(seed)
    early, late = table.slice(0, late_from), table.slice(late_from)
    gone = rng.random(rows) < deleted / 100
    deleted_rows, kept = table.filter(pa.array(gone, pa.bool_())), table.filter(pa.array(~gone, pa.bool_()))
    before = fold(PLAN, early)
    found = patch(PLAN, before, late, deleted_rows)
    shuffled = kept.take(rng.permutation(kept.num_rows))
    after = pa.concat_tables([without(without(before, found.changed), found.emptied), found.changed])
    assert bits(after) == bits(fold(PLAN, shuffled))
    hit = pa.concat_tables([touched(PLAN, late), touched(PLAN, deleted_rows)])
    assert without(found.changed, hit).num_rows == 0


def test_only_touched_tiles_are_needed_and_changed() -> None:
    table, late = events(600, 2), events(5, 77)
    tiles, hit = fold(PLAN, table), touched(PLAN, late)
    few = without(tiles, without(tiles, hit))
    assert 0 < few.num_rows < tiles.num_rows
    assert bits(patch(PLAN, few, late, None).changed) == bits(patch(PLAN, tiles, late, None).changed)
    assert patch(PLAN, tiles, None, None).changed.num_rows == 0
    assert patch(PLAN, tiles, late.slice(0, 0), None).emptied.num_rows == 0


def test_deleting_everything_empties_the_tiles() -> None:
    table = events(50, 3)
    tiles = fold(PLAN, table)
    found = patch(PLAN, tiles, None, table)
    assert found.changed.num_rows == 0
    assert found.emptied.sort_by(IDENTITY).equals(tiles.select(list(PLAN.identity)).sort_by(IDENTITY))


def test_a_deleted_event_that_is_not_there_is_a_conflict() -> None:
    plan = TilePlan(("k",), "t", (Window("s", "x", "sum", HOUR),))
    event = pa.table({"k": ["a"], "t": pa.array([START], TIME), "x": [1.5]})
    tiles = fold(plan, event)
    for rows in (
        event.set_column(2, "x", pa.array([1.0])),
        event.set_column(0, "k", pa.array(["b"])),
        event.set_column(1, "t", pa.array([START + timedelta(microseconds=1)], TIME)),
        pa.concat_tables([event, event]),
    ):
        with pytest.raises(Conflict, match="deleted event is not in the tiles"):
            patch(plan, tiles, None, rows)
    assert patch(plan, tiles, None, event).emptied.num_rows == 1
    assert patch(plan, tiles, event, event).changed.equals(tiles)


def test_a_tile_row_holds_state_and_events() -> None:
    windows = tuple(Window(f, "x", f, HOUR) for f in oracle.NUMERIC)
    plan = TilePlan(("k",), "t", windows, HOUR)
    times = [START + timedelta(minutes=m) for m in (5, 5, 30, 90)]
    table = pa.table({"k": ["a", "a", "a", None], "t": pa.array(times, TIME), "x": [3.0, -0.0, None, 1.0]})
    [row] = fold(plan, table).to_pylist()
    assert row["k"] == "a"
    assert row["clock"] == "t"
    assert row["tile_start"] == START
    assert row["event_times"] == times[:2]  # no value, no event
    assert row["x__raw"] == [0.0, 3.0]
    assert (row["x__n"], row["x__sum"], row["x__sum_lo"], row["x__squares"]) == (2, 3.0, 0.0, 9.0)
    assert (row["x__min"], row["x__max"], row["x__last"]) == (0.0, 3.0, 3.0)
    assert row["x__distinct"] == [0.0, 3.0]
    assert (len(row["x__sketch"]), row["x__sketch_level"]) == (2, 0)


def test_times_in_other_units_and_zones_fall_into_the_same_tiles() -> None:
    plan = TilePlan(("k",), "t", (Window("s", "x", "sum", HOUR),), HOUR)
    moment = pa.array([START - timedelta(days=365 * 60), START], TIME)
    table = pa.table({"k": ["a", "a"], "t": moment, "x": [1.0, 2.0]})
    expected = fold(plan, table)
    for dtype in (pa.timestamp("us"), pa.timestamp("s", tz="UTC"), pa.timestamp("ms", tz="Asia/Tokyo")):
        assert fold(plan, table.set_column(1, "t", moment.cast(dtype))).equals(expected)
    beside = pc.add(moment.cast(pa.timestamp("ns", tz="UTC")).cast(pa.int64()), 999).cast(pa.timestamp("ns", tz="UTC"))
    assert fold(plan, table.set_column(1, "t", beside)).equals(expected)
    starts = expected["tile_start"].cast(pa.int64()).to_numpy()
    assert (starts % plan.tile_us == 0).all()


def test_keys_of_every_permitted_type() -> None:
    for dtype in (pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string()), pa.int16(), pa.uint32()):
        values = [1, 2] if pa.types.is_integer(dtype) else ["a", "b"]
        plan = TilePlan(("k",), "t", (Window("s", "x", "sum", HOUR),))
        table = pa.table({"k": pa.array(values, dtype), "t": pa.array([START] * 2, TIME), "x": [1.0, 2.0]})
        found = evaluate(plan, fold(plan, table), pa.table({"k": table["k"]}), table["t"])
        assert found["s"].to_pylist() == [1.0, 2.0]


def test_a_column_of_nulls_has_the_type_that_is_declared() -> None:
    windows = (Window("w", "w", "last", HOUR, dtype="string"), Window("x", "x", "sum", HOUR))
    plan = TilePlan(("k",), "t", windows)
    table = pa.table({"k": ["a"], "t": pa.array([START], TIME), "w": pa.array(["b"]), "x": [1.0]})
    nothing = table.set_column(2, "w", pa.nulls(1)).set_column(3, "x", pa.nulls(1))
    tiles = fold(plan, table)
    assert fold(plan, nothing).schema == tiles.schema
    assert patch(plan, tiles, nothing, None).changed.num_rows == 0


def test_rows_of_another_kind_cannot_patch() -> None:
    plan = TilePlan(("k",), "t", (Window("n", "x", "count", HOUR),))
    table = pa.table({"k": ["a"], "t": pa.array([START], TIME), "x": [1.0]})
    tiles = fold(plan, table)
    with pytest.raises(SchemaMismatch, match="tiles hold double"):
        patch(plan, tiles, table.set_column(2, "x", pa.array(["1"])), None)
    with pytest.raises(SchemaMismatch, match="keys of string"):
        patch(plan, tiles, table.set_column(0, "k", pa.array([1])), None)
