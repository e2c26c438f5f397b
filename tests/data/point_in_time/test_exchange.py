"""Cutting rows by key and by time, and putting answers back: equal keys always meet, and nothing is lost."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from rayplat.data.point_in_time import AsOf, FeatureRows, exchange, join
from rayplat.data.point_in_time.exchange import Step
from rayplat.data.point_in_time.keys import hashed, places
from tests.data.point_in_time.oracle import sides

STEP = Step("s", AsOf(("k",), ("value", "number"), created="created"), ("k",), (("value", "value"), ("number", "n")))


def shuffled(spine: Sequence[pa.Table], features: Sequence[pa.Table], step: Step, partitions: int) -> pa.Table:
    """The whole exchange, as the cluster does it."""
    cuts = [exchange.cut_spine(block, step.on, "event_time", partitions)[1] for block in spine]
    parts = [exchange.cut_features([part], step.kernel, partitions)[1] for part in features]
    answers: list[list[pa.Table]] = [[] for _ in spine]
    for i in range(partitions):
        found = exchange.answer([cut[i] for cut in cuts], [(step, [part[i] for part in parts])], "event_time")
        for of, answer in zip(answers, found, strict=True):
            of.append(answer)
    return pa.concat_tables(
        exchange.assemble(block, [of], [], "event_time") for block, of in zip(spine, answers, strict=True)
    )


@pytest.mark.parametrize("kind", ["string", "composite"])
def test_an_exchange_is_the_join(kind: str) -> None:
    spine, features = sides(np.random.default_rng(5), kind, 3_000, 5_000)
    keys = ("k", "k2") if kind == "composite" else ("k",)
    kernel = AsOf(keys, ("number",), ttl=timedelta(microseconds=40), created="created")
    found = shuffled(
        [spine.slice(0, 700), spine.slice(700), spine.slice(0, 0)],
        [features.slice(0, 4_000), features.slice(4_000)],
        Step("s", kernel, keys, (("number", "number"),)),
        7,
    )
    side = FeatureRows(features, keys, ("number",), ttl=kernel.ttl, created="created")
    assert found.equals(join(spine, [side]))


def test_a_key_goes_to_one_place_whatever_block_it_is_in() -> None:
    """Nulls in one block only, other widths and encodings: the hash is the same."""
    plain = pa.table({"k": pa.array([5, 7, -1, 2**62])})
    holes = pa.table({"k": pa.array([None, 5, 7, -1, 2**62])})
    floats = pa.table({"k": pa.array([5.0, 7.0, -1.0, 2.0**62 / 2**10])})
    assert (hashed(plain)[0] == hashed(holes)[0][1:]).all()
    assert hashed(holes)[1].tolist() == [True, False, False, False, False]
    assert (hashed(floats)[0][:3] == hashed(plain)[0][:3]).all()
    words = ["", "a", "eight by", "nine byte", "a much longer key, of many words", "ä" * 40, "a\0", "a"]
    text = hashed(pa.table({"k": pa.array(words)}))[0]
    assert len(set(text.tolist())) == len(words) - 1
    assert text[1] == text[7]
    for other in (
        pa.array(words, pa.large_string()),
        pa.array(words).dictionary_encode(),
        pa.concat_arrays([pa.array(["x", None]), pa.array(words)])[2:],
        pa.chunked_array([words[:3], words[3:]]),
    ):
        assert (hashed(pa.table({"k": other}))[0] == text).all()


def test_the_hash_never_changes() -> None:
    """Workers of different machines and versions meet by it."""
    rows = pa.table({"a": [1, 2], "b": ["x", "a long key of some words"]})
    assert hashed(rows)[0].tolist() == [11289937457282135544, 4695690940862189576]


def test_the_hash_spreads_keys_evenly() -> None:
    for keys in (np.arange(60_000), np.arange(60_000) * 4096, np.arange(60_000) << 40):
        counts = np.bincount(places(hashed(pa.table({"k": keys}))[0], 60), minlength=60)
        assert counts.min() > 800
        assert counts.max() < 1_200


def test_feature_rows_keep_their_order_and_lose_only_those_without_a_key() -> None:
    _, features = sides(np.random.default_rng(2), "string", 10, 2_000)
    cut, pieces = exchange.cut_features([features.slice(0, 900), features.slice(900)], STEP.kernel, 5)
    assert cut.rows.tolist() == [piece.num_rows for piece in pieces]
    assert sum(cut.rows) == 2_000 - features["k"].null_count
    for piece in pieces:
        assert (np.diff(piece["number"].to_numpy()) > 0).all()


def test_rows_without_a_key_are_dealt_out() -> None:
    spine = pa.table({"k": pa.nulls(1_000, pa.string()), "event_time": pa.nulls(1_000, pa.timestamp("us"))})
    cut, _ = exchange.cut_spine(spine, ("k",), "event_time", 10)
    assert cut.rows.tolist() == [100] * 10


def test_a_crowded_place_is_sampled_in_time() -> None:
    _, features = sides(np.random.default_rng(3), "integer", 8_000, 8_000, hot=0.6)
    cut, pieces = exchange.cut_features([features], STEP.kernel, 8)
    [(place, sample)] = cut.samples.items()
    assert cut.rows[place] > 4_500
    bounds = exchange.bounds_of([(int(cut.rows[place]), sample)], 4)
    _, ranges = exchange.cut_time(pieces[place], bounds, STEP.kernel, "event_time")
    assert len(ranges) == 4
    assert all(800 < part.num_rows < 1_600 for part in ranges)
    assert pc.max(ranges[0]["event_time"]).value < bounds[0] <= pc.min(ranges[1]["event_time"]).value


class Reaching:
    """As `AsOf`, but carries nothing over: rows within its reach are given instead."""

    def __init__(self, inner: AsOf) -> None:
        self.keys, self.columns, self.reach = inner.keys, inner.columns, inner.reach
        self.wanted, self.prepare = inner.wanted, inner.prepare


@pytest.mark.parametrize("known_by", [False, True])
@pytest.mark.parametrize("carries", [False, True])
def test_cut_by_time_answers_are_the_same(known_by: bool, carries: bool) -> None:
    spine, features = sides(np.random.default_rng(4), "integer", 3_000, 4_000, keys=3, hot=0.5)
    kernel = AsOf(("k",), ("number",), ttl=timedelta(microseconds=300), created="created", known_by=known_by)
    used = kernel if carries else Reaching(kernel)
    step = Step("s", used, ("k",), (("number", "number"),))
    whole = exchange.answer([spine.append_column(exchange.ROW, spine["row"])], [(step, [features])], "event_time")[0]
    bounds = [int(b) for b in np.quantile(spine["event_time"].drop_null().cast(pa.int64()).to_numpy(), [0.2, 0.5, 0.9])]
    _, asked = exchange.cut_time(spine.append_column(exchange.ROW, spine["row"]), bounds, None, "event_time")
    _, pieces = exchange.cut_time(features.filter(pc.field("event_time").is_valid()), bounds, used, "event_time")
    carried, found = features.slice(0, 0), []
    for i, (rows, piece) in enumerate(zip(asked, pieces, strict=True)):
        given = [carried, piece] if carries else [piece]
        found += exchange.answer([rows], [(step, given)], "event_time")
        if carries and i < len(bounds):
            carried = kernel.carry(pa.concat_tables(given), bounds[i])
    assert pa.concat_tables(found).sort_by(exchange.ROW).equals(whole)


def test_conditions_have_the_zone_of_the_column() -> None:
    kernel = AsOf(("k",), ("v",), ttl=timedelta(days=1))
    for zone in (None, "UTC"):
        schema = pa.schema([("k", pa.int64()), ("event_time", pa.timestamp("us", zone)), ("v", pa.int64())])
        for first, last in ((0, 1), (-(2**63), 2**63 - 1)):
            schema.empty_table().filter(exchange.wanted(kernel, schema, first, last))
    times = pa.array([datetime(2020, 1, d) for d in (1, 2, 3, 4)])
    rows = pa.table({"k": [1] * 4, "event_time": times, "v": [1, 2, 3, 4]})
    at = 1_578_009_600_000_000  # 2020-01-03
    kept = rows.filter(exchange.wanted(kernel, rows.schema, at, at))
    assert kept["v"].to_pylist() == [2, 3]
