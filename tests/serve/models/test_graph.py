"""Composed models: what a graph may say, what is refused by the node's name, and what it computes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import yaml

from rayplat.artifacts.formats import graph as files
from rayplat.errors import InvalidInput, PartFailed
from rayplat.serve.models.graph import GraphPredictor, Plan
from rayplat.serve.models.graph_compose import compose
from rayplat.serve.models.graph_nodes import models_of
from rayplat.serve.ports import LoadedVersion
from rayplat.types import Signature, TensorSpec

DIGEST = "sha256:" + "1" * 64


class Asked:
    """A model that counts the rows it was asked for."""

    def __init__(self, function: Any) -> None:
        self.function, self.rows = function, 0

    def predict(self, columns: Mapping[str, Any]) -> Mapping[str, Any]:
        self.rows += len(next(iter(columns.values())))
        return self.function(columns)


def part(inputs: dict[str, str], outputs: dict[str, str], function: Any) -> LoadedVersion:
    takes = tuple(TensorSpec(name, datatype) for name, datatype in inputs.items())
    gives = tuple(TensorSpec(name, datatype) for name, datatype in outputs.items())
    return LoadedVersion("part", 1, DIGEST, Asked(function), Signature(takes, gives, tabular=True))


def scaler() -> LoadedVersion:
    return part({"amount": "FP64"}, {"x": "FP64"}, lambda c: {"x": c["amount"] / 100})


def score(factor: float = 1.0) -> LoadedVersion:
    return part({"x": "FP64"}, {"score": "FP64"}, lambda c: {"score": c["x"] * factor})


def labels(label: str) -> LoadedVersion:
    return part({"x": "FP64"}, {"label": "BYTES"}, lambda c: {"label": np.array([label] * len(c["x"]), dtype=object)})


def made(text: str, parts: dict[str, LoadedVersion]) -> GraphPredictor:
    """The graph as it is after it was composed, stored, and read again."""
    declared = yaml.safe_load(text)
    assert set(models_of(declared)) == set(parts)
    pinned = {name: ("part", i + 1, DIGEST) for i, name in enumerate(parts)}
    content = compose(declared, pinned, {name: p.signature for name, p in parts.items()})
    return GraphPredictor(Plan.of(files.parse(files.encode(content))), parts)


def refused(text: str, parts: dict[str, LoadedVersion] | None = None) -> str:
    with pytest.raises(InvalidInput) as e:
        made(text, parts or {"a": score(), "b": score(2.0)})
    return str(e.value)


def test_a_mean_with_weights() -> None:
    parts = {"a": score(), "b": score(4.0)}
    graph = made(
        "nodes: {a: {model: m/1}, b: {model: m/2}, both: {mean: [a, b], weights: [2, 1]}}\noutputs: {y: both}", parts
    )
    assert [s.name for s in graph.plan.signature.inputs] == ["x"]
    assert [(s.name, s.datatype) for s in graph.plan.signature.outputs] == [("y", "FP64")]
    np.testing.assert_allclose(graph.predict({"x": np.array([1.0, 2.0])})["y"], [2.0, 4.0])
    assert parts["a"].predictor.rows == 2  # type: ignore[attr-defined]


def test_a_vote_and_who_wins_a_tie() -> None:
    parts = {"a": labels("no"), "b": labels("yes"), "c": labels("yes")}
    nodes = "a: {model: m/1}, b: {model: m/1}, c: {model: m/1}"
    x = {"x": np.array([1.0])}
    assert made(f"nodes: {{{nodes}, v: {{vote: [a, b, c]}}}}\noutputs: {{y: v}}", parts).predict(x)["y"].tolist() == [
        "yes"
    ]
    heavy = made(f"nodes: {{{nodes}, v: {{vote: [a, b, c], weights: [3, 1, 1]}}}}\noutputs: {{y: v}}", parts)
    assert heavy.predict(x)["y"].tolist() == ["no"]
    tie = made(f"nodes: {{{nodes}, v: {{vote: [a, b, c], weights: [2, 1, 1]}}}}\noutputs: {{y: v}}", parts)
    assert tie.predict(x)["y"].tolist() == ["no"]


@pytest.mark.parametrize("how", ["after: first", "inputs: {x: first.x}", "inputs: {x: first}"])
def test_a_chain(how: str) -> None:
    graph = made(
        f"nodes: {{first: {{model: m/1}}, second: {{model: m/2, {how}}}}}\noutputs: {{y: second, x: first}}",
        {"first": scaler(), "second": score(3.0)},
    )
    assert [s.name for s in graph.plan.signature.inputs] == ["amount"]
    found = graph.predict({"amount": np.array([100.0, 200.0])})
    assert (found["y"].tolist(), found["x"].tolist()) == ([3.0, 6.0], [1.0, 2.0])


def test_a_branch_computes_only_the_rows_that_it_needs() -> None:
    parts = {"cheap": score(), "dear": score(10.0)}
    pick = "pick: {if: cheap > 1.5, then: dear, else: cheap}"
    text = f"nodes: {{cheap: {{model: m/1}}, dear: {{model: m/2}}, {pick}}}\noutputs: {{y: pick}}"
    found = made(text, parts).predict({"x": np.array([1.0, 2.0, 3.0, np.nan])})["y"]
    np.testing.assert_array_equal(found, [1.0, 20.0, 30.0, np.nan])
    assert (parts["cheap"].predictor.rows, parts["dear"].predictor.rows) == (4, 2)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("condition", "declared", "values", "first"),
    [
        ("country in [DE, FR]", "BYTES", ["DE", "US", None], [True, False, False]),
        ("country != DE", "BYTES", ["DE", "US", None], [False, True, False]),
        ("country == 'D E'", "BYTES", ["D E", "US", "DE"], [True, False, False]),
        ("country >= 2", "FP64", np.array([1.0, 2.0, np.nan]), [False, True, False]),
        ("country == 2", "INT64", np.array([1, 2, 3]), [False, True, False]),
    ],
)
def test_conditions_on_an_input(condition: str, declared: str, values: Any, first: list[bool]) -> None:
    text = f'nodes: {{a: {{model: m/1}}, b: {{model: m/2}}, p: {{if: "{condition}", then: a, else: b}}}}\n'
    graph = made(text + f"inputs: {{country: {declared}}}\noutputs: {{y: p}}", {"a": score(1.0), "b": score(0.0)})
    found = graph.predict({"x": np.ones(3), "country": values})["y"]
    assert found.tolist() == [float(f) for f in first]


def test_cycles_are_named() -> None:
    chain = "nodes: {a: {model: m/1, inputs: {x: b}}, b: {model: m/2, inputs: {x: a}}}\noutputs: {y: b}"
    assert refused(chain) == "nodes.a: it needs itself: a <- b <- a"
    assert "nodes.c: it needs itself" in refused(
        "nodes: {a: {model: m/1}, b: {model: m/2}, c: {mean: [a, c]}}\noutputs: {y: c}"
    )


@pytest.mark.parametrize(
    ("nodes", "outputs", "reason"),
    [
        ("c: {mean: [a, nobody]}", "c", "nodes.c: there is no node 'nobody'; these are: a, b, c"),
        ("c: {mean: [a, b]}", "d", "outputs: there is no node 'd'"),
        ("c: {mean: [a.nothing, b]}", "c", "nodes.c: node 'a' gives a.score"),
        ("c: {mean: [a, b], weights: [1]}", "c", "nodes.c.weights: 2 numbers"),
        ("c: {mean: [a, b], weights: [0, 0]}", "c", "nodes.c.weights: 2 numbers"),
        ("c: {mean: []}", "c", "nodes.c.mean: a list"),
        ("c: {mean: [a, b], vote: [a]}", "c", "nodes.c: one of model, mean, vote, if is needed, and no vote"),
        ("c: {sum: [a, b]}", "c", "nodes.c: one of model"),
        ("c: [a, b]", "c", "nodes.c: a node is a mapping"),
        ("c: {if: a >> 1, then: a, else: b}", "c", "nodes.c.if"),
        ("c: {if: a, then: a, else: b}", "c", "nodes.c.if: 'a' is no comparison such as amount > 1000"),
        ("c: {if: a > DE, then: a, else: b}", "c", "nodes.c.if: 'DE' is nothing to compare with by >"),
        ("c: {if: a == DE, then: a, else: b}", "c", "cannot be compared with 'DE'"),
        ("c: {if: amount > 1, then: a, else: b}", "c", "nodes.c.if: 'amount' is no node and no input of a model"),
        ("c: {if: a > 1, then: a}", "c", "nodes.c: a branch needs if, then and else"),
        ("x: {mean: [a, b]}", "x", "nodes.x: an input of the graph has this name"),
        ("'1c': {mean: [a, b]}", "'1c'", "nodes: '1c' is no name"),
    ],
)
def test_what_is_wrong_with_a_node_is_told_by_its_name(nodes: str, outputs: str, reason: str) -> None:
    assert reason in refused(f"nodes: {{a: {{model: m/1}}, b: {{model: m/2}}, {nodes}}}\noutputs: {{y: {outputs}}}")


def test_types_that_do_not_fit_are_told_by_the_node() -> None:
    text = "nodes: {a: {model: m/1}, b: {model: m/2, inputs: {x: a}}}\noutputs: {y: b}"
    wrong = "nodes.b: its input 'x' (FP64 [-1]) cannot take a.label, which is 'label' (BYTES [-1])"
    assert refused(text, {"a": labels("no"), "b": score()}) == wrong
    whole = part({"n": "INT64"}, {"score": "FP64"}, lambda c: c)
    assert "'n' (INT64 [-1]) cannot take a.score" in refused(text.replace("x: a", "n: a"), {"a": score(), "b": whole})
    other = part({"x": "BYTES"}, {"score": "FP64"}, lambda c: c)
    both = "nodes: {a: {model: m/1}, b: {model: m/2}, c: {mean: [a, b]}}\noutputs: {y: c}"
    assert "nodes.b: its input 'x' (BYTES [-1]) is 'x' (FP64 [-1]) elsewhere" in refused(
        both, {"a": score(), "b": other}
    )
    assert "nodes.c: b.label is 'label'" in refused(both, {"a": score(), "b": labels("a")})
    assert "nodes.b.inputs.z: its model takes x" in refused(text.replace("x: a", "z: a"), {"a": score(), "b": score()})


def test_what_is_no_graph() -> None:
    for text, reason in [
        ("nodes: {}\noutputs: {y: a}", "nodes: a graph maps names to nodes"),
        ("nodes: {a: {model: m/1}}", "outputs: say which node gives which output"),
        ("nodes: {a: {model: m/1}}\noutputs: {y: a}\nfoo: 1", "foo: no part of a graph"),
        ("nodes: {a: {mean: [a]}}\noutputs: {y: a}", "nodes: at least one is a model"),
        ("[1]", "nodes: a graph maps names"),
    ]:
        with pytest.raises(InvalidInput, match=reason.replace("{", r"\{")):
            models_of(yaml.safe_load(text))


def test_a_part_that_fails_is_named() -> None:
    def broken(columns: Any) -> Any:
        raise PartFailed("the model's prediction", "its code raised KeyError")

    graph = made("nodes: {a: {model: m/1}}\noutputs: {y: a}", {"a": part({"x": "FP64"}, {"s": "FP64"}, broken)})
    with pytest.raises(PartFailed, match=r"node 'a' \(part/1\): the model's prediction"):
        graph.predict({"x": np.ones(2)})
    short = part({"x": "FP64"}, {"s": "FP64"}, lambda c: {"s": np.ones(1)})
    with pytest.raises(PartFailed, match="its output 's' has 1 rows for 2"):
        made("nodes: {a: {model: m/1}}\noutputs: {y: a}", {"a": short}).predict({"x": np.ones(2)})


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"{}", b'{"format": "rayplat-graph/2"}', b'{"format": "rayplat-graph/1", "nodes": 1}', b"[" * 100_000],
)
def test_a_file_that_is_no_graph(content: bytes) -> None:
    with pytest.raises(InvalidInput):
        files.parse(content)
