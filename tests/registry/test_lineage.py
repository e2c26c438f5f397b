"""Lineage in the record, on SQLite and on PostgreSQL: what is linked by itself, and both directions of the question."""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from rayplat.errors import Forbidden, InvalidInput, NotFound
from rayplat.registry.candidate import Candidate
from rayplat.registry.record import audit, lineage, versions
from rayplat.registry.record.database import Record
from rayplat.types import Edge, LineageGraph, Node, NodeKind, TableVersion, parse_node
from rayplat.types.lineage import table_node, training_set_node
from tests.registry.desk import ANN, EVE, HOLDOUT, MODEL, PIN, Desk, candidate

SET = training_set_node(HOLDOUT)
FLIGHTS = table_node(PIN)
FEATURES = "table:feature_schedule@id-9/4"


def edges(graph: LineageGraph) -> set[tuple[str, str, str]]:
    return {(e.source, e.relation, e.target) for e in graph.edges}


def ids(graph: LineageGraph) -> list[str]:
    return [node.id for node in graph.nodes]


def add(desk: Desk, *triples: tuple[str, str, str], **more: Any) -> int:
    return desk.write(lineage.add, [Edge(a, b, relation) for a, relation, b in triples], by=ANN, **more)


# --- what the record links by itself ----------------------------------------------------------------


def test_the_chain_from_a_table_version_to_the_inference_log(either: Desk) -> None:
    [promotion] = either.go_live(1)
    run, model, alias = f"run:{1:032x}", f"model:{MODEL}/1", f"alias:{MODEL}@champion#1"
    chain = [FLIGHTS, SET, run, model, alias, f"inference_log:{MODEL}/1"]
    below = either.read(lineage.downstream, FLIGHTS)
    words = ("pinned by", "trained", "made", "live as", "logged in")
    for source, relation, target in zip(chain, words, chain[1:], strict=False):
        assert (source, relation, target) in edges(below)
    above = either.read(lineage.upstream, chain[-1])
    assert set(ids(above)) == {*chain, f"artifact:{candidate(1).digest}", f"promotion:{promotion.promotion_id}"}
    assert ids(above)[0] == chain[-1]
    assert (above.root, above.direction, above.note) == (chain[-1], "upstream", "")
    assert {e.run_id for e in above.edges if e.target in (SET, run, model)} == {f"{1:032x}"}


def test_nodes_carry_what_is_known_of_them(either: Desk) -> None:
    either.go_live(1, 2)
    nodes = {node.id: node for node in either.read(lineage.downstream, SET).nodes}
    assert nodes[f"alias:{MODEL}@champion#2"].facts == {"live": True}
    assert nodes[f"alias:{MODEL}@champion#1"].facts == {}
    assert nodes[f"model:{MODEL}/3"].facts == {"author": "ann"}
    assert (nodes[f"model:{MODEL}/3"].kind, nodes[f"model:{MODEL}/3"].version) == (NodeKind.MODEL, 3)
    [table] = [n for n in either.read(lineage.upstream, SET).nodes if n.kind is NodeKind.TABLE]
    assert table.facts["row_count"] == PIN.row_count
    assert table.facts["uri"] == PIN.uri
    assert (table.name, table.part, table.version) == ("flights", "id-1", 3)


def test_a_baseline_is_an_artifact_of_its_version(record: Record) -> None:
    desk = Desk(record)
    made = replace(candidate(1), baseline="sha256:" + "b" * 64)
    desk.write(versions.register, made, by=ANN)
    above = desk.read(lineage.upstream, f"model:{MODEL}/1")
    assert ("artifact:sha256:" + "b" * 64, "baseline of", f"model:{MODEL}/1") in edges(above)


def test_a_refused_change_links_nothing(desk: Desk) -> None:
    before = desk.rows("select count(*) from rp_edge")
    with pytest.raises(InvalidInput, match="run:"):
        desk.write(versions.register, replace(candidate(9), run_id="x" * 300), by=ANN)
    with pytest.raises(NotFound):
        desk.read(versions.get, MODEL, 4)
    assert desk.rows("select count(*) from rp_edge") == before


def test_versions_from_before_edges_were_kept_get_theirs(either: Desk) -> None:
    either.go_live(1)
    either.move(2, "challenger")
    everything = "select source, target, relation, run_id from rp_edge order by source, target, relation"
    before, entries = either.rows(everything), either.rows("select count(*) from rp_audit")
    assert either.write(lineage.complete) == 0
    either.change("delete from rp_edge")
    assert either.write(lineage.complete) == 3
    assert either.rows(everything) == before
    assert either.rows("select count(*) from rp_audit") == [(entries[0][0] + 1,)]


# --- what is added from below -----------------------------------------------------------------------


def test_edges_from_the_data_are_added_once_and_audited(either: Desk) -> None:
    found = [(FLIGHTS, "source of", FEATURES), (FEATURES, "pinned by", SET)]
    facts = {"columns": [["flight", "string"]]}
    node = Node(FEATURES, NodeKind.TABLE, "feature_schedule", facts=facts)
    before = len(either.read(audit.listed, 100))
    assert add(either, *found, nodes=[node]) == 2
    assert add(either, *found, nodes=[replace(node, facts={"columns": [], "uri": "f"})]) == 0
    entries = either.read(audit.listed, 100)
    assert len(entries) == before + 2
    assert (entries[1].actor, entries[1].action, entries[1].subject) == ("ann", "lineage.add", SET)
    assert entries[1].detail["edges"] == [list(one) for one in found]
    assert entries[0].detail == {"edges": [], "nodes": [FEATURES]}
    [stored] = [n for n in either.read(lineage.upstream, SET).nodes if n.id == FEATURES]
    assert stored.facts == {**facts, "uri": "f"}


@pytest.mark.parametrize(
    ("edge", "reason"),
    [
        (("model:m/1", "live as", "alias:m@champion#1"), "is not added by hand"),
        (("run:r", "made", "model:m/1"), "is not added by hand"),
        ((FLIGHTS, "trained", SET), "is not added by hand"),
        (("flights", "pinned by", SET), "begins with no kind of node"),
        (("table:flights@id-1", "pinned by", SET), r"its id has the form table:<name>@<table id>/<version>"),
        (("table:flights@id-1/-1", "pinned by", SET), "its id has the form"),
        ((FLIGHTS, "pinned by", "training_set:" + "x" * 300), "at most 255 characters"),
        ((FLIGHTS, "pinned by", "training_set:a\nb"), "is no training_set"),
    ],
)
def test_edges_that_are_not_for_the_outside_are_refused(desk: Desk, edge: tuple[str, str, str], reason: str) -> None:
    before = desk.rows("select count(*) from rp_edge"), desk.rows("select count(*) from rp_audit")
    with pytest.raises(InvalidInput, match=reason):
        add(desk, (FLIGHTS, "pinned by", SET + "0"), edge)
    assert (desk.rows("select count(*) from rp_edge"), desk.rows("select count(*) from rp_audit")) == before


def test_only_developers_add_and_only_so_many_at_once(desk: Desk) -> None:
    one = Edge(FLIGHTS, SET, lineage.PINNED_BY)
    with pytest.raises(Forbidden):
        desk.write(lineage.add, [one], by=EVE)
    with pytest.raises(InvalidInput, match="at most 1000"):
        desk.write(lineage.add, [one] * 1001, by=ANN)
    with pytest.raises(InvalidInput, match="facts are noted of tables"):
        desk.write(lineage.add, [one], [Node("run:r", NodeKind.RUN, "r", facts={"a": 1})], by=ANN)


# --- the questions ----------------------------------------------------------------------------------


def test_which_live_aliases_were_trained_on_a_bad_table_version(either: Desk) -> None:
    add(either, (FLIGHTS, "source of", FEATURES), (FEATURES, "pinned by", "training_set:other"))
    other = Candidate("other", "sha256:" + "7" * 64, "run-7", "training_set:other"[13:], (), {})
    either.write(versions.register, other, by=ANN)
    either.move(1)
    either.move(2)
    either.move(3, "challenger")
    found = either.read(lineage.live_aliases_trained_on, "flights", 3)
    assert [(i.model, i.alias, i.generation, i.version) for i in found] == [
        (MODEL, "challenger", 1, 3),
        (MODEL, "champion", 2, 2),
    ]
    assert found[1].path == (FLIGHTS, SET, f"run:{2:032x}", f"model:{MODEL}/2", f"alias:{MODEL}@champion#2")
    below = {node.id for node in either.read(lineage.downstream, FLIGHTS).nodes}
    assert "model:other/1" in below  # by way of the feature table, but no alias points at it
    assert either.read(lineage.live_aliases_trained_on, "flights", 2) == []
    assert len(either.read(lineage.live_aliases_trained_on, "flights", 0, 7)) == 2
    assert len(either.read(lineage.live_aliases_trained_on, "feature_schedule", 4)) == 0


def test_an_alias_that_only_had_the_bad_version_before_is_not_named(desk: Desk) -> None:
    clean = replace(candidate(4), pins=(replace(PIN, version=9),), training_set="sha256:" + "c" * 64)
    desk.write(versions.register, clean, by=ANN)
    desk.move(1)
    desk.move(4)
    assert desk.read(lineage.live_aliases_trained_on, "flights", 3) == []
    [impact] = desk.read(lineage.live_aliases_trained_on, "flights", 9)
    assert (impact.version, impact.generation) == (4, 2)


def test_tables_whose_names_look_alike_are_told_apart(desk: Desk) -> None:
    twin = TableVersion("flight_s", "u", "id-5", 3, PIN.manifest_digest, PIN.schema_digest, 1)
    made = replace(candidate(4), pins=(twin,), training_set="sha256:" + "c" * 64)
    desk.write(versions.register, made, by=ANN)
    desk.move(4)
    assert len(desk.read(lineage.live_aliases_trained_on, "flight_s", 3)) == 1
    with pytest.raises(NotFound, match="no training set or feature table was made from it"):
        desk.read(lineage.live_aliases_trained_on, "flight%", 3)
    assert desk.read(lineage.live_aliases_trained_on, "flights", 3) == []


@pytest.mark.parametrize(
    ("question", "error", "reason"),
    [
        (lambda d: d.read(lineage.upstream, "model:absent/1"), NotFound, "nothing is linked to it"),
        (lambda d: d.read(lineage.upstream, "model:m"), InvalidInput, "model:<model>/<version>"),
        (lambda d: d.read(lineage.downstream, "flights"), InvalidInput, "there are table, training_set, run"),
        (lambda d: d.read(lineage.downstream, FLIGHTS, 0), InvalidInput, "depth: 0 is not between 1 and 1000"),
        (lambda d: d.read(lineage.live_aliases_trained_on, "absent", 1), NotFound, "absent"),
        (lambda d: d.read(lineage.live_aliases_trained_on, "flights", -1), InvalidInput, "no range"),
        (lambda d: d.read(lineage.live_aliases_trained_on, "flights", 3, 2), InvalidInput, "3 to 2"),
    ],
)
def test_a_question_that_cannot_be_answered_says_why(
    desk: Desk, question: Any, error: type[Exception], reason: str
) -> None:
    with pytest.raises(error, match=reason):
        question(desk)


def test_more_than_fits_is_cut_and_says_so(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lineage, "MOST_EDGES", 8)
    for n in (1, 2, 3):
        desk.move(n)
    cut = desk.read(lineage.downstream, SET)
    assert "more than 8 edges: those within 2 steps are shown" in cut.note
    assert sorted(e.relation for e in cut.edges) == ["made"] * 3 + ["trained"] * 3
    assert desk.read(lineage.downstream, SET, 2).note == ""
    monkeypatch.setattr(lineage, "MOST_EDGES", 2)
    cut = desk.read(lineage.downstream, SET)
    assert cut.note == "more than 2 edges: the newest of those one step away are shown"
    assert len(cut.edges) == 2


# --- any graph --------------------------------------------------------------------------------------

TABLES = [f"table:t{i}@id/{i}" for i in range(7)]
PAIRS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=16, unique=True)


def reach(pairs: list[tuple[int, int]], start: int, depth: int | None) -> set[tuple[int, int]]:
    """Edges on the ways from ``start`` of at most ``depth`` edges, by plain search."""
    found: set[tuple[int, int]] = set()
    waiting, seen = deque([(start, 0)]), {start}
    while waiting:
        node, far = waiting.popleft()
        if far == depth:
            continue
        for one in [p for p in pairs if p[0] == node]:
            found.add(one)
            if one[1] not in seen:
                seen.add(one[1])
                waiting.append((one[1], far + 1))
    return found


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pairs=PAIRS, start=st.integers(0, 6), depth=st.none() | st.integers(1, 4))
@example(pairs=[(0, 1), (1, 2), (2, 0), (0, 0)], start=0, depth=None)
def test_both_directions_agree_with_a_plain_search_on_any_graph(
    record: Record, pairs: list[tuple[int, int]], start: int, depth: int | None
) -> None:
    desk = Desk(record)
    desk.change("delete from rp_edge")
    add(desk, *[(TABLES[a], "source of", TABLES[b]) for a, b in pairs])
    for ask, way in ((lineage.downstream, pairs), (lineage.upstream, [(b, a) for a, b in pairs])):
        if not any(start in pair for pair in pairs):
            with pytest.raises(NotFound):
                desk.read(ask, TABLES[start], depth)
            continue
        found = desk.read(ask, TABLES[start], depth)
        expected = reach(way, start, depth)
        expected = expected if ask is lineage.downstream else {(b, a) for a, b in expected}
        assert {(e.source, e.target) for e in found.edges} == {(TABLES[a], TABLES[b]) for a, b in expected}
        assert set(ids(found)) == {TABLES[start]} | {TABLES[n] for pair in expected for n in pair}


@pytest.mark.parametrize(
    ("node", "kind", "name", "part", "version"),
    [
        ("table:a.b-c@3f-9/0", NodeKind.TABLE, "a.b-c", "3f-9", 0),
        ("training_set:sha256:00", NodeKind.TRAINING_SET, "sha256:00", "", None),
        ("run:a run", NodeKind.RUN, "a run", "", None),
        ("alias:m@production-v2#12", NodeKind.ALIAS, "m", "production-v2", 12),
        ("promotion:prm-1", NodeKind.PROMOTION, "prm-1", "", None),
        ("inference_log:Model X/3", NodeKind.INFERENCE_LOG, "Model X", "", 3),
    ],
)
def test_node_ids_say_what_they_name(node: str, kind: NodeKind, name: str, part: str, version: int | None) -> None:
    assert parse_node(node) == Node(node, kind, name, part, version)
