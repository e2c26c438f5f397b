"""Tiles as bytes: the online answer is the offline one, with pushed events or without."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayplat.data.windows import Fetched, TilePlan, Window, answer, evaluate, fold, needed, pack, push
from rayplat.data.windows.blobs import Blobs
from rayplat.errors import Corrupt, InvalidInput
from tests.data.windows import oracle
from tests.data.windows.oracle import START, TIME, Shelf, events, same, us

PLAN = oracle.plan(timedelta(hours=2))
HOUR = timedelta(hours=1)


def asked(rows: int, seed: int) -> tuple[list[tuple[str, int]], list[int], pa.Table]:
    rng = np.random.default_rng(seed)
    keys = [(f"k{i}", int(g)) for i, g in zip(rng.integers(0, 4, rows), rng.integers(0, 2, rows), strict=True)]
    at = us(START) + rng.integers(0, 4 * 24 * 60, rows) * 60_000_000 + rng.integers(-1, 2, rows)
    table = pa.table({"who": [k for k, _ in keys], "group": [g for _, g in keys], "moment": pa.array(at, TIME)})
    return keys, at.tolist(), table


def mismatches(shelf: Shelf, tiles: pa.Table, seed: int, *, one_by_one: bool = False) -> list[object]:
    keys, at, table = asked(25, seed)
    expected = evaluate(PLAN, tiles, table, table["moment"])
    if one_by_one:
        each = [shelf.answer([key], [moment]) for key, moment in zip(keys, at, strict=True)]
        found = {name: [row[name][0] for row in each] for name in each[0]}
    else:
        found = shelf.answer(keys, at)
    return [
        (name, keys[i], at[i], value, found[name][i])
        for name in expected.column_names
        for i, value in enumerate(expected[name].to_pylist())
        if not same(found[name][i], value, 1e-12)
    ]


@pytest.mark.parametrize("one_by_one", [True, False])
def test_answers_equal_the_offline_values(one_by_one: bool) -> None:
    tiles = fold(PLAN, events(900, 6))
    assert mismatches(Shelf(PLAN, pack(PLAN, tiles)), tiles, 1, one_by_one=one_by_one) == []


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 2**20), st.integers(0, 119), st.integers(1, 5))
def test_pushed_events_count_once_before_and_after_their_tile_is_written(seed: int, known: int, pushes: int) -> None:
    table = events(120, seed, step_s=3_600)
    shelf = Shelf(PLAN, pack(PLAN, fold(PLAN, table.slice(0, known))))
    cuts = np.linspace(known, 120, pushes + 1).astype(int).tolist()
    for first, last in pairwise(cuts):
        for tile in pack(PLAN, fold(PLAN, table.slice(first, last - first))):
            place = (tile.key, tile.clock, tile.start_us)
            base = shelf.tiles[place].events if place in shelf.tiles else None
            shelf.pending[place] = push(base, shelf.pending.get(place), tile.events)
    whole = fold(PLAN, table)
    assert mismatches(shelf, whole, seed) == []
    written = Shelf(PLAN, pack(PLAN, whole))
    written.pending = shelf.pending
    assert mismatches(written, whole, seed) == []


def one_event(x: float | None = 1.0, word: str | None = "a", minute: int = 0) -> pa.Table:
    moment = pa.array([START + timedelta(minutes=minute)], TIME)
    columns = {"who": ["k"], "group": [1], "at": moment, "seen": pa.array([None], TIME)}
    return pa.table(
        columns | {"x": pa.array([x], pa.float64()), "y": pa.array([1]), "word": pa.array([word], "string")}
    )


def test_equal_events_count_as_often_as_they_were_pushed() -> None:
    pushed = pack(PLAN, fold(PLAN, one_event()))[0]
    base = pack(PLAN, fold(PLAN, pa.concat_tables([one_event()] * 2)))[0]

    def count(events: bytes | None, pending: bytes | None) -> float:
        shelf = Shelf(PLAN, [base._replace(events=events)] if events else [])
        if pending:
            shelf.pending[pushed.key, pushed.clock, pushed.start_us] = pending
        return shelf.answer([("k", 1)], [us(START)])["x_count_0"][0]

    once = push(None, None, pushed.events)
    twice = push(None, once, pushed.events)
    assert (count(None, once), count(None, twice)) == (1.0, 2.0)
    assert count(base.events, twice) == 2.0  # the tile holds both by now
    third = push(base.events, None, pushed.events)
    assert count(base.events, third) == 3.0
    other = pack(PLAN, fold(PLAN, one_event(x=2.0, word=None)))[0]
    both = push(base.events, push(None, None, pushed.events), other.events)
    assert count(base.events, both) == 3.0


def test_needed_names_the_ends() -> None:
    plan = TilePlan(("k",), "t", (Window("a", "x", "sum", HOUR), Window("b", "x", "sum", 3 * HOUR)), HOUR)
    hour, at = 3_600_000_000, us(START) + 1
    first, last, ends = needed(plan, at)
    assert (last - us(START), first - us(START)) == (0, -3 * hour)
    assert [e - us(START) for e in ends] == [-3 * hour, -hour, 0]


def test_only_the_events_that_are_named_are_needed() -> None:
    tiles = fold(PLAN, events(900, 6))
    shelf, at = Shelf(PLAN, pack(PLAN, tiles)), us(START) + 2 * 86_400_000_000
    fetched = shelf.fetch([("k1", 1)], [at])
    held = {s for s, e in zip(fetched.start_us, fetched.events, strict=True) if e is not None}
    assert held <= set(needed(PLAN, at).end_starts)
    assert len(held) < len(fetched.row)
    with pytest.raises(InvalidInput, match="its events are needed"):
        answer(PLAN, replace(fetched, events=[None] * len(fetched.row)), [at])


def test_a_tile_given_twice_is_refused() -> None:
    [tile] = pack(PLAN, fold(PLAN, one_event()))
    twice = [[0, 0], [tile.clock] * 2, [tile.start_us] * 2, [tile.moments] * 2, [tile.events] * 2, [None, None]]
    with pytest.raises(InvalidInput, match="twice"):
        answer(PLAN, Fetched(*twice), [us(START)])


def test_bytes_of_different_sizes_are_told_apart_where_their_mean_size_is_that_of_the_first() -> None:
    sizes = [7, 6, 8]  # words; at 14, where a third blob of 7 would begin, kind and columns seem to stand
    blobs = [np.array([2.0] * 3 + [0.0] * (size - 3)).tobytes() for size in sizes]
    read = Blobs.read(blobs, 2.0, 2)
    assert read.starts.tolist() == [0, 7, 13]
    assert read.head[:, :3].tolist() == [[2.0] * 3] * 3


def test_no_tiles_give_empty_windows() -> None:
    found = Shelf(PLAN, []).answer([("nobody", 0), ("k", 1)], [0, us(START)])
    assert found["x_count_0"] == [0.0, 0.0]
    assert found["y_sum_1"] == [0.0, 0.0]
    assert found["word_last_2"] == [None, None]
    assert found["x_mean_0"] == [None, None]


def test_bytes_of_something_else_are_refused() -> None:
    [tile] = pack(PLAN, fold(PLAN, one_event()))
    shelf = Shelf(PLAN, [tile])
    for wrong in (b"x", b"", tile.moments, tile.events[:-1], bytes(40)):
        shelf.tiles = {(tile.key, tile.clock, tile.start_us): tile._replace(events=wrong)}
        with pytest.raises(Corrupt):
            shelf.answer([("k", 1)], [us(START)])
    narrow = TilePlan(("k",), "at", (Window("a", "x", "sum", HOUR),), timedelta(hours=2))
    fewer = TilePlan(("who", "group"), "at", tuple(w for w in PLAN.windows if w.function == "count"), PLAN.tile)
    with pytest.raises(Corrupt, match="other windows"):
        answer(fewer, Shelf(PLAN, [tile]).fetch([tile.key], [us(START) + 5 * 3_600_000_000]), [us(START)])
    with pytest.raises(Corrupt, match="other windows"):
        answer(narrow, Shelf(PLAN, [tile]).fetch([tile.key], [us(START)]), [us(START)])
