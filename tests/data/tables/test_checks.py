"""Checks on rows: what each rule counts, and that blocks judged apart are judged as one."""

from __future__ import annotations

import json
import pickle
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayplat.data.tables.checks import Checks, Findings, Fresh, Range, inspect
from rayplat.errors import BadRows, InvalidInput, SchemaMismatch

NOW = datetime(2024, 5, 1, tzinfo=UTC)
ALL = Checks(
    not_null=("name",),
    ranges=(Range("n", 0, 10), Range("x", high=1.5), Range("at", low=datetime(2024, 1, 1))),
    unique=(("n", "name"),),
    fresh=Fresh("at", timedelta(days=2)),
)


def batch(n: list[int | None], name: list[str | None], x: list[float | None], at: list[datetime | None]) -> pa.Table:
    return pa.table({"n": n, "name": name, "x": x, "at": pa.array(at, pa.timestamp("us", "UTC"))})


def good() -> pa.Table:
    return batch([1, 1, 2], ["a", "b", "a"], [0.0, None, 1.5], [NOW, NOW, None])


def test_good_rows_pass() -> None:
    found = inspect(good(), ALL)
    found.raise_if_bad("t", NOW)
    assert found.rows == 3
    assert inspect(good().slice(0, 0), ALL).violations(NOW) == []
    assert not Checks()
    assert ALL


def test_every_broken_rule_is_counted_and_sampled() -> None:
    old = datetime(2023, 1, 1, tzinfo=UTC)
    bad = batch([1, 11, 1, None], ["a", None, "a", "c"], [float("nan"), 1.6, 0.0, 1.0], [old] * 4)
    with pytest.raises(BadRows) as caught:
        inspect(bad, ALL, offset=100).raise_if_bad("t", NOW)
    found = {(v["rule"], v["column"]): v for v in caught.value.violations}
    assert {k: (v["count"], v["rows"]) for k, v in found.items()} == {
        ("not_null", "name"): (1, [101]),
        ("between 0 and 10", "n"): (1, [101]),
        ("at most 1.5", "x"): (2, [100, 101]),
        ("at least 2024-01-01 00:00:00", "at"): (4, [100, 101, 102, 103]),
        ("unique", "n, name"): (1, []),
        ("fresh within 2 days, 0:00:00", "at"): (4, []),
    }
    assert found["not_null", "name"]["samples"][0]["n"] == 11
    assert found["unique", "n, name"]["samples"] == [{"n": 1, "name": "a"}]
    assert "1 of 4 rows break 'not_null' of name" in str(caught.value)
    assert "nothing was written" in str(caught.value)
    assert pickle.loads(pickle.dumps(caught.value)).args == caught.value.args
    json.dumps(caught.value.args, allow_nan=False)


def test_at_most_five_samples() -> None:
    found = inspect(pa.table({"n": pa.array([None] * 9, pa.int64())}), Checks(not_null=("n",))).violations()
    assert found[0]["count"] == 9
    assert len(found[0]["samples"]) == len(found[0]["rows"]) == 5


def test_keys_are_unique_across_blocks_and_against_the_table() -> None:
    checks = Checks(unique=(("id", "day"),))
    days = [date(2024, 1, 1), date(2024, 1, 2)]
    one = inspect(pa.table({"id": ["a", "b", None], "day": [*days, days[0]]}), checks)
    two = inspect(pa.table({"id": ["a", "c", None], "day": [days[1], days[0], days[0]]}), checks)
    both = one.merge(two)
    assert both.violations() == []  # a null equals nothing
    table = pa.table({"id": ["c", "c", "z"], "day": [days[0], days[1], days[0]]})
    assert table.filter(both.reach(("id", "day"))).num_rows == 2
    clash = both.seen(("id", "day"), table).seen(("id", "day"), table.slice(2))
    assert [(v["count"], v["samples"]) for v in clash.violations()] == [(1, [{"id": "c", "day": "2024-01-01"}])]
    again = one.merge(one)
    assert [v["count"] for v in again.violations()] == [2]


def test_the_reach_of_many_keys_is_their_ends() -> None:
    found = inspect(pa.table({"k": range(2000)}), Checks(unique=(("k",),)))
    table = pa.table({"k": [-1, 0, 1999, 2000]})
    assert table.filter(found.reach(("k",)))["k"].to_pylist() == [0, 1999]
    empty = inspect(pa.table({"k": pa.array([], pa.int64())}), Checks(unique=(("k",),)))
    assert empty.seen(("k",), table).violations() == []


@given(st.lists(st.tuples(st.integers(0, 6), st.sampled_from(["a", None]), st.integers(-2, 12))), st.integers(0, 30))
def test_two_blocks_are_judged_as_one(rows: list[tuple[int, str | None, int]], cut: int) -> None:
    schema = pa.schema([("k", pa.int64()), ("s", pa.string()), ("v", pa.int64())])
    whole = pa.Table.from_pylist([dict(zip(schema.names, row, strict=True)) for row in rows], schema)
    checks = Checks(("s",), (Range("v", 0, 10),), (("k",),))
    one, two = whole.slice(0, cut), whole.slice(cut)
    apart = inspect(one, checks).merge(inspect(two, checks, offset=one.num_rows))
    together = inspect(whole, checks)
    assert [{**v, "samples": len(v["samples"])} for v in apart.violations()] == [
        {**v, "samples": len(v["samples"])} for v in together.violations()
    ]
    counts = {v["rule"]: v["count"] for v in together.violations()}
    assert counts.get("unique", 0) == len(rows) - len({k for k, _, _ in rows})
    assert counts.get("not_null", 0) == sum(s is None for _, s, _ in rows)
    assert counts.get("between 0 and 10", 0) == sum(not 0 <= v <= 10 for _, _, v in rows)


def test_checks_survive_json() -> None:
    more = Checks(ranges=(Range("d", date(2024, 1, 1)), Range("m", Decimal("1.10"), Decimal(2)), Range("at", NOW)))
    for checks in (ALL, more, Checks()):
        assert Checks.from_dict(json.loads(json.dumps(checks.to_dict()))) == checks
    assert ALL.also(more).ranges == ALL.ranges + more.ranges
    assert ALL.also(None) is ALL
    assert ALL.also(ALL) == ALL


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: inspect(good(), Checks(not_null=("nope",))), SchemaMismatch, "nope: a check names it"),
        (
            lambda: inspect(good(), Checks(ranges=(Range("name", 1),))),
            SchemaMismatch,
            "name: string cannot be compared",
        ),
        (lambda: inspect(good(), Checks(ranges=(Range("n", "a"),))), SchemaMismatch, "n: int64 cannot be compared"),
        (lambda: inspect(good(), Checks(ranges=(Range("at", 1),))), SchemaMismatch, "at: timestamp"),
        (lambda: inspect(good(), Checks(fresh=Fresh("n", timedelta(1)))), SchemaMismatch, "n: freshness needs"),
        (lambda: inspect(pa.table({"l": [[1]]}), Checks(unique=(("l",),))), SchemaMismatch, "l: list"),
        (lambda: Range("n"), InvalidInput, "neither low nor high"),
        (lambda: Fresh("at", timedelta(0)), InvalidInput, "positive"),
        (lambda: Checks(unique=("n",)), InvalidInput, "no tuple"),  # type: ignore[arg-type]
        (lambda: Checks.from_dict({"uniq": []}), InvalidInput, "unknown rule 'uniq'"),
        (lambda: Checks.from_dict({"ranges": [{"low": 1}]}), InvalidInput, "not understood"),
        (lambda: Checks.from_dict({"fresh": {"column": "at", "within_s": "soon"}}), InvalidInput, "not understood"),
    ],
)
def test_refusals(make, error, text) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(error, match=text):
        make()


def test_decimals_dates_and_strings_have_ranges() -> None:
    rows = pa.table({"m": [Decimal("1.05"), Decimal("2.50")], "d": [date(2024, 1, 1), None], "s": ["b", "z"]})
    checks = Checks(ranges=(Range("m", high=2), Range("d", low=date(2024, 1, 2)), Range("s", "a", "c")))
    found: Findings = inspect(rows, checks)
    assert [v["count"] for v in found.violations()] == [1, 1, 1]
    texts = Checks(ranges=(Range("d", low="2024-01-02"), Range("at", high="2023-01-01T00:00:00Z")))
    moments = rows.append_column("at", pa.array([NOW, None]))
    assert [v["count"] for v in inspect(moments, texts).violations()] == [1, 1]
    assert pc.sum(pa.array([b.count for b in found.broken])).as_py() == 3
