"""A graph, an impact and a comparison in a terminal of 100 columns."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from rayplat.cli import lineage_tree, model_diff
from rayplat.types import (
    AliasImpact,
    Change,
    Difference,
    Edge,
    FileDifference,
    Impact,
    LineageGraph,
    ModelDiff,
    Node,
    PinDifference,
    parse_node,
)

TABLE, SET, RUN, MODEL = "table:flights@id-1/3", "training_set:sha256:" + "d" * 64, "run:r[1]", "model:m/1"
EDGES = (Edge(TABLE, SET, "pinned by"), Edge(SET, RUN, "trained"), Edge(RUN, MODEL, "made"))
EDGES += (Edge(TABLE, "table:f@id-2/0", "source of"), Edge("table:f@id-2/0", SET, "pinned by"))


def shown(what: Any) -> list[str]:
    console = Console(width=100, color_system=None)
    with console.capture() as captured:
        console.print(what)
    lines = captured.get().splitlines()
    assert all(len(line) <= 100 for line in lines)
    return [line.rstrip() for line in lines]


def graph(root: str, direction: str, note: str = "") -> LineageGraph:
    facts: dict[str, dict[str, Any]] = {TABLE: {"row_count": 7}, SET: {"name": "first"}, MODEL: {"author": "ann"}}
    ids = {end: None for e in EDGES for end in (e.source, e.target)}
    nodes = [parse_node(one) for one in ids]
    nodes = [Node(n.id, n.kind, n.name, n.part, n.version, facts.get(n.id, {})) for n in nodes]
    return LineageGraph(root, direction, tuple(nodes), EDGES, note)


def test_what_came_of_a_table_is_drawn_out_once() -> None:
    assert shown(lineage_tree.tree(graph(TABLE, "downstream", "cut"))) == [
        "table flights@3 (7 rows)",
        "├── pinned by training set sha256:dddddddddddd… (first)",
        "│   └── trained run r[1]",
        "│       └── made model m/1 (by ann)",
        "└── source of table f@0",
        "    └── pinned by training set sha256:dddddddddddd… (first) …",
        "cut",
    ]


def test_backwards_the_words_are_turned_round() -> None:
    assert shown(lineage_tree.tree(graph(MODEL, "upstream"))) == [
        "model m/1 (by ann)",
        "└── made by run r[1]",
        "    └── trained on training set sha256:dddddddddddd… (first)",
        "        ├── joined from table f@0",
        "        │   └── computed from table flights@3 (7 rows)",
        "        └── joined from table flights@3 (7 rows)",
    ]


def test_a_cycle_and_a_wide_graph_end() -> None:
    ring = (Edge(TABLE, "table:f@id-2/0", "source of"), Edge("table:f@id-2/0", TABLE, "source of"))
    nodes = (parse_node(TABLE), parse_node("table:f@id-2/0"))
    assert len(shown(lineage_tree.tree(LineageGraph(TABLE, "downstream", nodes, ring)))) == 3
    wide = tuple(Edge(TABLE, f"training_set:{i}", "pinned by") for i in range(1000))
    nodes = (parse_node(TABLE), *(parse_node(e.target) for e in wide))
    lines = shown(lineage_tree.tree(LineageGraph(TABLE, "downstream", nodes, wide)))
    assert len(lines) == 302
    assert lines[-1] == "the first 300 lines; --json has all 1000 edges"


def test_an_impact_names_each_alias_and_the_way_to_it() -> None:
    path = (TABLE, SET, RUN, MODEL, "alias:m@champion#2")
    assert shown(lineage_tree.impact(Impact("flights", 3, 5, (AliasImpact("m", "champion", 2, 1, path),)))) == [
        "1 live alias was trained on version 3 to 5 of flights:",
        "m@champion version 1, generation 2",
        "└── model m/1",
        "    └── run r[1]",
        "        └── training set sha256:dddddddddddd…",
        "            └── table flights@3",
    ]
    assert shown(lineage_tree.impact(Impact("flights", 3, 3, ()))) == [
        "no live alias was trained on version 3 of flights"
    ]


def test_a_comparison_shows_what_differs_with_signs_and_sizes() -> None:
    found = ModelDiff(
        "m/1",
        "m/2",
        metrics=(Difference("auc", Change.CHANGED, 0.7, 0.75, 0.05),),
        signature=(Difference("feature wind", Change.ADDED, None, "numeric"),),
        pins=(PinDifference("flights", Change.CHANGED, 3, 5, 100, 120),),
        files=(FileDifference("data/model.pt2", "weights", Change.CHANGED, 100, 2_000_000, "a", "b"),),
        notes=("the run of m/1 cannot be read: [gone]",),
    )
    assert shown(model_diff.view(found)) == [
        "from m/1 to m/2",
        "",
        "   metrics  a    b",
        "~  auc      0.7  0.75  +0.05",
        "",
        "   signature     a  b",
        "+  feature wind     numeric",
        "",
        "   data     a                     b",
        "~  flights  version 3 (100 rows)  version 5 (120 rows)  +20 rows",
        "",
        "   files           a      b",
        "~  data/model.pt2  100 B  2.00 MB  weights",
        "the run of m/1 cannot be read: [gone]",
    ]
    assert shown(model_diff.view(ModelDiff("m/1", "m/1"))) == ["from m/1 to m/1", "no difference"]
