"""Windowed views online: exact at any moment, whatever was materialized, late, taken back or pushed.

Truth is `evaluate` on the events that are known, which other tests hold to brute force.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from rayplat.data.features import Entity, FeatureView, Window
from rayplat.data.features.build import rows_of
from rayplat.data.online import OnlineFeatures, OnlineStore, open_store
from rayplat.data.online.materialize import advance
from rayplat.data.online.push import from_columns, push
from rayplat.data.online.store import Batch
from rayplat.data.tables import Tables
from rayplat.data.windows import FUNCTIONS, evaluate, fold
from rayplat.errors import InvalidInput, NotFound, SchemaMismatch, Unavailable
from rayplat.settings import Settings
from tests.data.declared import START, TIME
from tests.data.online.world import apply, build

HOUR = timedelta(hours=1)
ROUTE = Entity("route", ("origin", "gate"), ("string", "int64"))
TRIPS = FeatureView(
    "trips",
    ROUTE,
    "trips",
    "left",
    windows=(
        *(Window(f"fare_{f}_{n}", "fare", f, HOUR * n) for f in FUNCTIONS for n in (1, 5, 30)),
        Window("toll_sum", "toll", "sum", HOUR * 7),
        Window("late_mean", "delay", "mean", HOUR * 3, event_time="landed"),
        Window("place_last", "place", "last", HOUR * 9, dtype="string"),
        Window("places", "place", "distinct_count", HOUR * 9),
    ),
    tile=HOUR,
)
KEYS = [("JFK", 1), ("JFK", 2), ("Zürich", 1)]
NAMES = TRIPS.feature_names


def at(hours: float) -> datetime:
    return START + timedelta(hours=hours)


def trips(count: int = 300, seed: int = 1, first: float = 0.0, last: float = 48.0) -> pa.Table:
    rng = np.random.default_rng(seed)
    left = np.sort(rng.uniform(first, last, count))
    landed = left + rng.exponential(2, count)
    key = rng.integers(0, len(KEYS), count)
    fare, toll, delay = rng.normal(20, 5, count).round(1), rng.integers(0, 4, count), rng.normal(5, 9, count)
    return pa.table(
        {
            "origin": [KEYS[k][0] for k in key],
            "gate": pa.array([KEYS[k][1] for k in key], pa.int64()),
            "left": pa.array([at(h) for h in left], TIME),
            "landed": pa.array([at(h) if h < 47 else None for h in landed], TIME),
            "fare": pa.array([None if i % 11 == 0 else v for i, v in enumerate(fare)], pa.float64()),
            "toll": pa.array(toll, pa.int64()),
            "delay": delay,
            "place": pa.array([None if i % 7 == 0 else f"place {i % 5} ü" for i in range(count)]),
        }
    )


def known(events: pa.Table, upto: datetime) -> pa.Table:
    """What was known at ``upto``: a landing later than that has no time yet."""
    events = events.filter(pc.field("left") <= pa.scalar(upto, TIME))
    early = pc.less_equal(events["landed"], pa.scalar(upto, TIME))
    return events.set_column(3, "landed", pc.if_else(pc.fill_null(early, False), events["landed"], None))


def truth(events: pa.Table, keys: list[tuple[str, int]], moments: list[datetime]) -> dict[str, list[Any]]:
    asked = pa.table({"origin": [k[0] for k in keys], "gate": pa.array([k[1] for k in keys], pa.int64())})
    tiles = fold(TRIPS.plan, events.select(list(TRIPS.plan.source_columns)))
    found = evaluate(TRIPS.plan, tiles, asked, pa.array(moments, TIME))
    return {name: found[name].to_pylist() for name in NAMES}


def same(found: dict[str, list[Any]], expected: dict[str, list[Any]]) -> None:
    for name in NAMES:
        for got, wanted in zip(found[name], expected[name], strict=True):
            if isinstance(wanted, float):
                assert got == pytest.approx(wanted, rel=1e-9, abs=1e-9), name
            else:
                assert got == wanted, name
                assert type(got) is type(wanted), name


def asked(*hours: float) -> tuple[list[tuple[str, int]], list[datetime]]:
    pairs = [(key, at(h)) for key in [*KEYS, ("nobody", 0)] for h in hours]
    return [key for key, _ in pairs], [moment for _, moment in pairs]


@pytest.fixture
def tables(settings: Settings) -> Tables:
    made = Tables(settings.tables_uri)
    made.create("trips", trips())
    made.create(TRIPS.table, rows_of(TRIPS, trips()))
    return made


@pytest.fixture
def store(settings: Settings) -> OnlineStore:
    return apply(settings, [TRIPS])


@pytest.fixture
def online(settings: Settings, store: OnlineStore) -> OnlineFeatures:
    return OnlineFeatures(settings, {TRIPS.name: TRIPS.digest()}, TRIPS.keys)


Check = Callable[..., None]


@pytest.fixture
def check(online: OnlineFeatures) -> Check:
    """Online values equal those of ``events`` at the given hours."""

    def run(events: pa.Table, *hours: float) -> None:
        keys, moments = asked(*hours)
        same(online.read(keys, moments).values, truth(events, keys, moments))

    return run


def test_windows_are_exact_at_any_moment(store: OnlineStore, tables: Tables, check: Check) -> None:
    assert advance(store, tables, TRIPS, at(60)) > 100
    check(trips(), 0, 0.5, 3, 10.25, 29.999, 30, 47.3, 50, 78.5, 100)


def test_what_was_known_at_a_moment_step_by_step(store: OnlineStore, tables: Tables, check: Check) -> None:
    for upto in (0.2, 0.9, 1.0, 5.5, 5.7, 26, 26.1, 60):
        advance(store, tables, TRIPS, at(upto))
        check(known(trips(), at(upto)), upto, upto + 0.4, upto + 3, max(upto - 2.2, 0))
    assert advance(store, tables, TRIPS, at(60)) == 0
    assert advance(store, tables, TRIPS, at(10)) == 0
    advance(store, tables, TRIPS, at(10), fresh=True)
    check(known(trips(), at(10)), 9, 10, 12)


def test_states(store: OnlineStore, tables: Tables, online: OnlineFeatures) -> None:
    advance(store, tables, TRIPS, at(60))
    rows = online.read([KEYS[0], KEYS[0], ("nobody", 1), (None, 1)], [at(48), at(300), at(48), at(48)])
    assert rows.status["trips"] == ["present", "missing", "missing", "missing"]
    assert rows.found.tolist() == [True, False, False, False]
    assert rows.values["fare_count_30"][1:] == [0, 0, None]
    assert rows.values["fare_mean_30"][1:] == [None, None, None]
    assert np.isnan(rows.columns["fare_mean_30"][1])


def test_windows_before_the_horizon_are_said_to_be_unkept(
    store: OnlineStore, tables: Tables, online: OnlineFeatures
) -> None:
    advance(store, tables, TRIPS, at(48), keep=HOUR * 2)
    rows = online.read([KEYS[0]] * 3, [at(46), at(45.5), at(20)])
    assert rows.status["trips"] == ["present", "unkept", "unkept"]
    assert rows.values["fare_count_30"][1:] == [None, None]
    expected = truth(trips(), [KEYS[0]] * 3, [at(46), at(45.5), at(20)])
    assert rows.values["fare_count_30"][0] == expected["fare_count_30"][0]
    assert rows.values["fare_sum_5"][:2] == pytest.approx(expected["fare_sum_5"][:2])
    assert rows.values["fare_sum_1"] == pytest.approx(expected["fare_sum_1"])


def test_tiles_out_of_reach_are_dropped_and_late_ones_not_taken(
    store: OnlineStore, tables: Tables, online: OnlineFeatures, check: Check
) -> None:
    advance(store, tables, TRIPS, at(34), keep=HOUR)
    advance(store, tables, TRIPS, at(35), keep=HOUR)
    assert online.read([KEYS[0]], at(34)).status["trips"] == ["present"]
    advance(store, tables, TRIPS, at(48), keep=HOUR)
    assert online.read([KEYS[0]], at(34)).status["trips"] == ["unkept"]
    check(known(trips(), at(48)), 47, 48, 49)
    old = trips(20, seed=3, last=2)
    tables.overwrite(TRIPS.table, rows_of(TRIPS, pa.concat_tables([trips(), old])))
    advance(store, tables, TRIPS, at(48), keep=HOUR)
    check(known(trips(), at(48)), 47, 48, 49)


def test_late_and_deleted_events_are_followed(store: OnlineStore, tables: Tables, check: Check) -> None:
    advance(store, tables, TRIPS, at(60))
    late = pa.concat_tables([trips(), trips(40, seed=5, first=20, last=30)])
    tables.overwrite(TRIPS.table, rows_of(TRIPS, late))
    advance(store, tables, TRIPS, at(60))
    check(late, 21, 30, 48)
    kept = trips().filter(pc.field("left") < pa.scalar(at(25), TIME))
    tables.overwrite(TRIPS.table, rows_of(TRIPS, kept))
    advance(store, tables, TRIPS, at(60))
    check(kept, 21, 30, 48)


def test_pushed_events_count_at_once_and_once(store: OnlineStore, tables: Tables, check: Check) -> None:
    advance(store, tables, TRIPS, at(30))
    base, fresh = known(trips(), at(30)), trips(30, seed=9, first=28, last=33)
    for n in range(0, 30, 7):
        push(store, None, "trips", fresh.slice(n, 7))
    both = pa.concat_tables([base, fresh])
    check(both, 30, 31.7, 34, 60)
    everything = pa.concat_tables([trips(), fresh])
    tables.overwrite(TRIPS.table, rows_of(TRIPS, everything))
    advance(store, tables, TRIPS, at(60))
    check(everything, 30, 31.7, 34, 60)


def test_the_same_event_pushed_twice_counts_twice(store: OnlineStore, tables: Tables, check: Check) -> None:
    advance(store, tables, TRIPS, at(60))
    one = trips().slice(100, 1)
    push(store, None, "trips", one)
    push(store, None, "trips", one)
    thrice = pa.concat_tables([trips(), one, one])
    check(thrice, 20, 30, 48)
    tables.overwrite(TRIPS.table, rows_of(TRIPS, pa.concat_tables([trips(), one])))
    advance(store, tables, TRIPS, at(60))
    check(thrice, 20, 30, 48)


def test_a_push_before_the_first_materialization(store: OnlineStore, tables: Tables, check: Check) -> None:
    fresh = trips(30, seed=9)
    push(store, None, "trips", fresh)
    check(fresh, 10, 48)
    advance(store, tables, TRIPS, at(60))
    check(pa.concat_tables([trips(), fresh]), 10, 48)


def test_a_fresh_materialization_forgets_what_was_pushed(store: OnlineStore, tables: Tables, check: Check) -> None:
    push(store, None, "trips", trips(30, seed=9))
    advance(store, tables, TRIPS, at(60), fresh=True)
    check(trips(), 10, 48)


def test_push_to_table_store_or_both(store: OnlineStore, tables: Tables, check: Check) -> None:
    advance(store, tables, TRIPS, at(60))
    fresh = trips(5, seed=9)
    done = push(store, tables, TRIPS, fresh, to="offline")
    assert (done.rows, done.version) == ({}, 1)
    check(trips(), 10, 48)
    done = push(store, tables, TRIPS, fresh, to="both")
    assert (done.rows, done.version) == ({TRIPS.id: 5}, 2)
    assert tables.read("trips").num_rows == 310
    check(pa.concat_tables([trips(), fresh]), 10, 48)


def test_a_push_that_does_not_fit_changes_nothing(store: OnlineStore, tables: Tables, check: Check) -> None:
    advance(store, tables, TRIPS, at(60))
    fresh = trips(5, seed=9)
    with pytest.raises(SchemaMismatch, match="fare"):
        push(store, tables, "trips", fresh.drop_columns(["fare"]), to="both")
    with pytest.raises(SchemaMismatch, match="left"):
        push(store, tables, "trips", fresh.set_column(2, "left", pa.array(["now"] * 5)), to="both")
    with pytest.raises(NotFound, match="no applied feature view reads it"):
        push(store, tables, "nothing", fresh)
    with pytest.raises(InvalidInput, match="sideways"):
        push(store, tables, "trips", fresh, to="sideways")
    with pytest.raises(InvalidInput, match="only 'online'"):
        push(store, None, "trips", fresh, to="offline")
    assert tables.version("trips").version == 0
    check(trips(), 10, 48)


def test_a_push_to_both_is_in_the_table_when_the_store_fails(
    store: OnlineStore, tables: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    def down(*_: object) -> None:
        raise Unavailable("the online store", "it was stopped")

    monkeypatch.setattr(type(store), "amend", down)
    with pytest.raises(Unavailable):
        push(store, tables, "trips", trips(5, seed=9), to="both")
    assert tables.read("trips").num_rows == 305


def test_a_push_reaches_every_version_of_its_views(
    settings: Settings, store: OnlineStore, online: OnlineFeatures
) -> None:
    changed = replace(TRIPS, windows=TRIPS.windows[:3])
    apply(settings, [changed])
    assert push(store, None, "trips", trips(20)).rows == {TRIPS.id: 20, changed.id: 20}
    new = OnlineFeatures(settings, {"trips": changed.digest()}, TRIPS.keys)
    for name in changed.feature_names:
        assert new.read(KEYS, at(48)).values[name] == online.read(KEYS, at(48)).values[name]


def test_rebuilt_tables_keep_what_was_pushed(
    store: OnlineStore, tables: Tables, settings: Settings, check: Check
) -> None:
    advance(store, tables, TRIPS, at(60))
    fresh = trips(10, seed=9)
    push(store, None, "trips", fresh)
    other = Tables(settings.tables_uri + "2")
    build(other, TRIPS, trips(200, seed=4))
    advance(store, other, TRIPS, at(60))
    check(pa.concat_tables([trips(200, seed=4), fresh]), 10, 48)


def test_events_as_json_carries_them(store: OnlineStore, tables: Tables, check: Check) -> None:
    schema = tables.scan("trips").schema
    rows = trips(3, seed=9)
    columns = {
        name: [v.isoformat() if isinstance(v, datetime) else v for v in rows[name].to_pylist()]
        for name in rows.column_names
    }
    assert from_columns(columns, schema) == rows
    naive = from_columns({"left": ["2013-11-01T00:00:00"]}, schema)
    assert naive["left"].to_pylist() == [START]
    for wrong, message in (
        ({"nope": [1]}, "nope"),
        ({"fare": ["x"]}, "fare"),
        ({"left": ["soon"]}, "left"),
        ({"fare": [1.0], "toll": [1, 2]}, "one length"),
        ({"fare": []}, "at least one row"),
        ({}, "at least one row"),
    ):
        with pytest.raises(InvalidInput, match=message):
            from_columns(wrong, schema)


def test_no_value_uses_an_event_after_its_moment(store: OnlineStore, tables: Tables, online: OnlineFeatures) -> None:
    advance(store, tables, TRIPS, at(20))
    keys, moments = asked(5, 19.9, 20)
    before = online.read(keys, moments)
    push(store, None, "trips", trips(100, seed=9, first=20.000001, last=40))
    advance(store, tables, TRIPS, at(60))
    after = online.read(keys, moments)
    assert after.values == before.values


def test_of_two_overlapping_materializations_the_later_one_rebuilds(
    settings: Settings, store: OnlineStore, tables: Tables, check: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    advance(store, tables, TRIPS, at(5))
    whole, waiting = type(store).write, [at(30)]

    def overtaken(self: OnlineStore, view: str, batch: Batch) -> None:
        """Another advance, further than this one, comes and ends before this one's first write."""
        if waiting:
            advance(open_store(settings.online_store), tables, TRIPS, waiting.pop())
        whole(self, view, batch)

    monkeypatch.setattr(type(store), "write", overtaken)
    monkeypatch.setattr("rayplat.data.online.tile_steps._TILES_PER_WRITE", 20)
    advance(store, tables, TRIPS, at(20.5))
    assert waiting == []
    check(known(trips(), at(30)), 20, 21, 30, 31)
