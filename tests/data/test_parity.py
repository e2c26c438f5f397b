from __future__ import annotations

from datetime import UTC, datetime

import pyarrow as pa
import pytest

from rayplat.data import parity
from rayplat.errors import InvalidInput, SchemaMismatch

AT = datetime(2024, 5, 1, tzinfo=UTC)


def vectors(**columns: list[object]) -> pa.Table:
    rows = len(next(iter(columns.values())))
    return pa.table({"key": [f"k{i}" for i in range(rows)], "at": [AT] * rows, **columns})


def counts(online: pa.Table, offline: pa.Table, *features: str) -> list[int]:
    found, _ = parity.compare(online, offline, features, "key", "at")
    return [f.mismatches for f in found]


def test_equal_vectors_have_parity_and_missing_equals_missing() -> None:
    nan = float("nan")
    online = vectors(x=[1.0, None, nan, 3.0], s=["a", None, "b", ""])
    offline = vectors(x=[1.0 + 1e-13, nan, None, 3.0], s=["a", None, "b", ""])
    assert counts(online, offline, "x", "s") == [0, 0]


@pytest.mark.parametrize(
    ("online", "offline"),
    [(1.0, 1.0 + 1e-8), (0.0, 1e-300), (1.0, None), (None, 1.0), (1e308, -1e308), (float("inf"), 1.0), ("a", "b")],
)
def test_what_differs_is_counted_and_shown(online: object, offline: object) -> None:
    found, anywhere = parity.compare(vectors(x=[online]), vectors(x=[offline]), ["x"], "key", "at")
    assert found[0].mismatches == 1
    assert anywhere.tolist() == [True]
    assert found[0].examples == ({"key": "k0", "at": AT.isoformat(), "online": online, "offline": offline},)


def test_a_null_string_is_not_the_empty_string() -> None:
    assert counts(vectors(s=[None, "", "x"]), vectors(s=["", None, None]), "s") == [3]


def test_numbers_compare_across_types_and_infinities_equal_themselves() -> None:
    inf = float("inf")
    online = vectors(n=[3.0, 0.0, inf], b=[1.0, 0.0, 1.0])
    offline = vectors(n=[3, 0, None], b=[True, False, False])
    assert counts(online, offline, "n", "b") == [1, 1]
    assert counts(vectors(x=[inf, -inf]), vectors(x=[inf, -inf]), "x") == [0]


def test_examples_are_few_and_rows_count_once() -> None:
    online, offline = vectors(x=list(range(100)), y=list(range(100))), vectors(x=[-1] * 100, y=[-1] * 100)
    found, anywhere = parity.compare(online, offline, ["x", "y"], "key", "at")
    assert [len(f.examples) for f in found] == [parity.EXAMPLES] * 2
    assert anywhere.sum() == 100


def test_bad_sides_are_named() -> None:
    with pytest.raises(SchemaMismatch, match="the offline vectors have no such feature"):
        parity.compare(vectors(x=[1]), vectors(y=[1]), ["x"], "key", "at")
    with pytest.raises(InvalidInput, match="2 online rows against 1"):
        parity.compare(vectors(x=[1, 2]), vectors(x=[1]), ["x"], "key", "at")


def test_features_come_out_of_the_logs_maps() -> None:
    maps = pa.chunked_array(
        [pa.array([[("a", 1.0), ("b", None)], [("b", 2.0)], [], None], pa.map_(pa.string(), pa.float64()))]
    )
    found = parity.unfold(maps.slice(1), ["a", "b", "c"])
    assert found["a"].to_pylist() == [None, None, None]
    assert found["b"].to_pylist() == [2.0, None, None]
    assert parity.unfold(maps.slice(0, 0), ["a"])["a"].to_pylist() == []
