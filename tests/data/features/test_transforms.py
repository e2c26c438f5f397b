"""From source rows to feature rows: what is kept, what is computed, and what is refused as out of its time."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pyarrow as pa
import pytest

from rayplat.data.features import Derived, Entity, FeatureView, Field, OnRequestView, Window, col
from rayplat.data.features.seen import Seen
from rayplat.data.features.transforms import on_request, prepare, with_defaults
from rayplat.errors import InvalidInput, SchemaMismatch
from tests.data.declared import DELAYS, START, WEATHER, flights, hours

VISIT = Entity("visit", ("shop", "user"), ("int64", "string"))
ROWS = pa.table(
    {
        "shop": pa.array([1, 1, None, 2, 2], pa.int32()),
        "user": pa.array(["a", None, "c", "d", "e"]).dictionary_encode(),
        "seen": hours(2, 1, 1, 0, None),
        "written": hours(3, 3, 3, 3, 3),
        "paid": hours(1, 1, 1, 0, 0),
        "amount": [10, 20, 30, 40, -1],
        "rate": [0.5, 0.5, 0.5, None, 0.5],
    }
)
VIEW = FeatureView(
    "spent",
    VISIT,
    "visits",
    "seen",
    fields=(Field("amount", "int64"), Field("euros", "double", default=0.0)),
    created="written",
    where=col("amount") > 0,
    derived=(Derived("euros", col("amount") * col("rate"), "double"),),
    known_at={"amount": "paid"},
)


def test_rows_of_fields_are_keyed_timed_filtered_and_computed() -> None:
    made, seen = prepare(VIEW, ROWS)
    assert made.column_names == ["shop", "user", "event_time", "created", "amount", "euros"]
    assert made.schema.types[:3] == [pa.int64(), pa.string(), pa.timestamp("us", tz="UTC")]
    assert [(r["shop"], r["user"], r["amount"], r["euros"]) for r in made.to_pylist()] == [
        (2, "d", 40, None),
        (1, "a", 10, 5.0),
    ]
    assert seen.leaks == ()
    assert with_defaults(VIEW, made)["euros"].to_pylist() == [0.0, 5.0]


def test_events_of_windows_hold_keys_clocks_and_values() -> None:
    events, seen = prepare(DELAYS, flights())
    assert events.column_names == ["origin", "departed", "delay"]
    assert seen.rows == 10
    assert seen.spans["departed"].length == timedelta(hours=4.5)
    seen.refuse_short_history(DELAYS)


def test_a_value_used_before_it_is_known_is_refused_with_count_and_sample() -> None:
    late = ROWS.set_column(ROWS.column_names.index("paid"), "paid", hours(1, 1, 1, 0.5, 9))
    parts = [prepare(VIEW, part)[1] for part in (late.slice(0, 3), late.slice(3), late.slice(3))]
    message = r"view spent: reads its own future: 'amount' is known at 'paid' but used as of 'seen', .* in 2 rows"
    with pytest.raises(InvalidInput, match=message + ".*'user': 'd'"):
        Seen.merged(parts).refuse_future(VIEW)
    never = ROWS.set_column(ROWS.column_names.index("paid"), "paid", pa.nulls(5, ROWS["seen"].type))
    with pytest.raises(InvalidInput, match="reads its own future"):
        prepare(VIEW, never)[1].refuse_future(VIEW)
    window = replace(DELAYS, windows=(Window("n", "late", "count", timedelta(hours=1)),), known_at={"late": "asked"})
    prepare(window, flights())[1].refuse_future(window)
    ahead = replace(window, windows=(replace(window.windows[0], event_time="announced"),))
    with pytest.raises(InvalidInput, match=r"'late' is known at 'asked' but used as of 'announced', .* in 9 rows"):
        prepare(ahead, flights())[1].refuse_future(ahead)
    chosen = replace(ahead, windows=(replace(ahead.windows[0], column="distance"),), where=~col("late"))
    with pytest.raises(InvalidInput, match="'late' is known at"):
        prepare(chosen, flights())[1].refuse_future(chosen)


def test_a_window_longer_than_the_history_is_refused() -> None:
    month = replace(DELAYS, windows=(Window("delay_30d", "delay", "mean", timedelta(days=30)),))
    with pytest.raises(InvalidInput, match=r"window 'delay_30d' looks back 30 days.*span only 4:30:00"):
        prepare(month, flights())[1].refuse_short_history(month)
    with pytest.raises(InvalidInput, match=r"span only 0:00:00"):
        prepare(DELAYS, flights().slice(0, 0))[1].refuse_short_history(DELAYS)


def test_wrong_sources_are_refused_by_view_and_column() -> None:
    with pytest.raises(SchemaMismatch, match="feature view spent: there is no column 'paid' in 'visits'"):
        prepare(VIEW, ROWS.drop_columns("paid"))
    text = ROWS.set_column(ROWS.column_names.index("seen"), "seen", ROWS["seen"].cast(pa.string()))
    with pytest.raises(SchemaMismatch, match=r"'seen' says when something was known, .* not string"):
        prepare(VIEW, text)
    with pytest.raises(SchemaMismatch, match="join key 'user' is declared as string, 'visits' has int64"):
        prepare(VIEW, ROWS.set_column(1, "user", ROWS["amount"]))
    with pytest.raises(SchemaMismatch, match="feature view weather: 'temp' does not fit double"):
        prepare(WEATHER, pa.table({"origin": ["JFK"], "observed": [START], "temp": ["warm"]}))
    with pytest.raises(InvalidInput, match=r"feature view spent, euros: expression \(amount \* rate\)"):
        prepare(VIEW, ROWS.set_column(ROWS.column_names.index("rate"), "rate", pa.array(["x"] * 5)))


def test_on_request_features_follow_inputs_and_each_other() -> None:
    view = OnRequestView(
        "now",
        (Field("amount_now", "double", default=1.0),),
        (Derived("ratio", col("amount_now") / col("amount"), "double"), Derived("high", col("ratio") > 1, "bool")),
    )
    assert view.needs == ("amount",)
    columns = {"amount": pa.array([2, 4, None]), "amount_now": pa.array([3, None, 1])}
    made = on_request(view, columns, 3)
    assert {name: column.to_pylist() for name, column in made.items()} == {
        "ratio": [1.5, 0.25, None],
        "high": [True, False, None],
    }
    with pytest.raises(SchemaMismatch, match="on-request view now: there is no column 'amount_now'"):
        on_request(view, {"amount": columns["amount"]}, 3)
