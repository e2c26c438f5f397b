"""What is learned from training rows, and the network that uses it."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from rayplat import scoring
from rayplat.errors import SchemaMismatch
from rayplat.train import loop
from rayplat.train.tabular import BINS, NetParams, Rows, build_net, encode, feature_specs, fit


def test_kinds_follow_the_column_types(toy):
    specs = feature_specs(toy.rows(10).schema, toy.features, required=("origin",))
    assert [(s.name, s.kind, s.nullable) for s in specs] == [
        ("origin", "categorical", False),
        ("dest", "categorical", True),
        ("hour", "numeric", True),
        ("wind", "numeric", True),
        ("empty", "numeric", True),
    ]


@pytest.mark.parametrize(
    ("names", "required", "message"),
    [
        (("speed",), (), "no such column"),
        (("event_time",), (), "neither a number nor a string"),
        (("hour",), ("origin",), "are no features"),
    ],
)
def test_a_column_that_cannot_be_a_feature_is_named(toy, names, required, message):
    with pytest.raises(SchemaMismatch, match=message):
        feature_specs(toy.rows(10).schema, names, required)


def test_rare_words_share_the_code_of_unknown_ones():
    table = pa.table({"dest": ["X"] * 30 + ["Y"] * 25 + ["rare"] * 3 + [None] * 5})
    fitted = fit(table, feature_specs(table.schema, ("dest",)))
    assert fitted.encoding.vocabularies == (("X", "Y"),)
    assert fitted.encoding.encode_table(table)[1][:, 0].tolist() == [1] * 30 + [2] * 25 + [0] * 8


def test_edges_rise_and_an_empty_column_has_none(toy):
    table = toy.rows()
    edges = fit(table, feature_specs(table.schema, toy.features)).edges
    assert edges.shape == (3, BINS + 1)
    assert (np.diff(edges[:2], axis=1) >= 0).all()
    assert not edges[2].any()


def _labelled(toy, seed=0) -> pa.Table:
    table = toy.rows(seed=seed)
    return table.filter(pc.is_valid(table["label"]))


def _trained(toy, seed=0):
    table = _labelled(toy)
    fitted = fit(table, feature_specs(table.schema, toy.features))
    rows = encode(table, fitted, "label")
    net = build_net(fitted, NetParams(batch_size=128), seed)
    epochs: list[loop.Epoch] = []
    loop.fit(net, rows, NetParams(epochs=4), loop.Schedule(len(rows) // 128, 128, seed), epochs.append)
    return fitted, net, epochs


def test_the_net_learns_what_is_in_the_rows_and_nothing_more(toy):
    fitted, net, epochs = _trained(toy)
    unseen = encode(_labelled(toy, seed=1), fitted, "label")
    assert [epoch.number for epoch in epochs] == [0, 1, 2, 3]
    assert epochs[-1].loss < epochs[0].loss
    assert 0.70 < scoring.auc(unseen.y, loop.scores(net, unseen)) < 0.85


def test_the_same_seed_gives_the_same_scores(toy):
    fitted, net, _ = _trained(toy)
    _, again, _ = _trained(toy)
    _, other, _ = _trained(toy, seed=1)
    rows = encode(_labelled(toy), fitted, "label")
    assert np.array_equal(loop.scores(net, rows), loop.scores(again, rows))
    assert not np.array_equal(loop.scores(net, rows), loop.scores(other, rows))


def test_missing_unknown_and_extreme_values_give_a_probability(toy):
    _, net, _ = _trained(toy)
    x = np.array([[np.nan] * 3, [1e30, -1e30, 0.0], [np.inf, -np.inf, np.nan]], dtype=np.float32)
    scores = loop.scores(net, Rows(x, np.zeros((3, 2), dtype=np.int64), np.zeros(3, dtype=np.float32)))
    assert ((scores > 0) & (scores < 1)).all()
