"""Cutting rows by key: nulls, and the same key always to the same place."""

from __future__ import annotations

import pyarrow as pa

from rayplat.data.point_in_time.exchange import split


def test_a_key_goes_to_one_place_whatever_block_it_is_in() -> None:
    with_null = split(pa.table({"k": ["a", None, "b", "a"], "n": [1, 2, 3, 4]}), "k", 3)
    without = split(pa.table({"k": ["b", "c", "a"], "n": [5, 6, 7]}), "k", 3)
    places: dict[str | None, set[int]] = {}
    for parts in (with_null, without):
        for place, part in enumerate(parts):
            for key in part["k"].to_pylist():
                places.setdefault(key, set()).add(place)
    assert all(len(found) == 1 for found in places.values())
    assert sum(part.num_rows for part in (*with_null, *without)) == 7
    assert [n for part in with_null for n in part.filter(pa.compute.equal(part["k"], "a"))["n"].to_pylist()] == [1, 4]


def test_an_empty_block_and_one_partition() -> None:
    empty = pa.table({"k": pa.array([], pa.string())})
    assert [part.num_rows for part in split(empty, "k", 2)] == [0, 0]
    assert split(pa.table({"k": [None, "a"]}), "k", 1).num_rows == 2
