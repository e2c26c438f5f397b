"""Lineage of the data: real tables with the notes that builds leave, read back as edges."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
import pytest

from rayplat.data import training_sets
from rayplat.data.features.notes import note
from rayplat.data.tables import Tables, upkeep
from rayplat.registry.lineage import of_digest, of_training_set
from rayplat.registry.record import lineage
from rayplat.types import LineageGraph, TableVersion, TrainingSet
from rayplat.types.lineage import table_node, training_set_node
from tests.data.declared import SCHEDULE
from tests.registry.desk import ANN, Desk

DIGEST = "sha256:" + "e" * 64


@pytest.fixture
def tables(tmp_path: Path) -> Tables:
    """``flights`` in two versions, ``schedule`` computed from the first, compacted since, a training set from both."""
    made = Tables(str(tmp_path / "tables"))
    first = made.create("flights", pa.table({"flight": ["a", "b"]}))
    built = made.overwrite(SCHEDULE.table, pa.table({"flight": ["a"]}), metadata=note(SCHEDULE, first, "build"))
    made.append("flights", pa.table({"flight": ["c"]}))
    described = training_set(made, (first, built))
    made.overwrite(
        "training_set_x", pa.table({"flight": ["a"], "label": [1]}), metadata={"training_set": json.dumps(described)}
    )
    return made


def training_set(tables: Tables, pins: tuple[TableVersion, ...]) -> dict[str, object]:
    return {
        "name": "x",
        "digest": DIGEST,
        "pins": [asdict(pin) for pin in pins],
        "features": ["flight"],
        "label": "label",
        "event_time": "event_time",
        "keys": ["flight"],
        "service": "s",
        "service_digest": DIGEST,
    }


def edges(graph: LineageGraph) -> set[tuple[str, str, str]]:
    return {(e.source, e.relation, e.target) for e in graph.edges}


def found(tables: Tables) -> TrainingSet:
    return training_sets.get(tables, "x")


def test_a_training_set_leads_to_its_tables_and_to_their_sources(tables: Tables) -> None:
    graph = of_training_set(tables, found(tables))
    flights, schedule = (table_node(pin) for pin in found(tables).pins)
    root = training_set_node(DIGEST)
    assert edges(graph) == {
        (flights, "pinned by", root),
        (schedule, "pinned by", root),
        (flights, "source of", schedule),
        (table_node(found(tables).data), "holds", root),
    }
    facts = {node.id: node.facts for node in graph.nodes}
    assert facts[flights]["row_count"] == 2
    assert facts[flights]["columns"] == [["flight", "string"]]
    assert facts[flights]["uri"].endswith("flights")
    assert facts[root]["name"] == "x"
    assert facts[root]["columns"] == [["flight", "string"], ["label", "int64"]]
    assert facts[root]["at"].endswith("+00:00")


def test_a_compacted_feature_table_holds_what_the_version_before_it_held(tables: Tables) -> None:
    upkeep.compact(tables, "flights")
    tables.append(SCHEDULE.table, pa.table({"flight": ["z"]}), metadata=note(SCHEDULE, tables.version("flights"), "r"))
    compacted = upkeep.compact(tables, SCHEDULE.table)
    assert compacted.version > 1
    described = training_set(tables, (compacted,))
    rows = pa.table({"flight": ["a"], "label": [1]})
    tables.overwrite("training_set_x", rows, metadata={"training_set": json.dumps(described)})
    graph = of_training_set(tables, found(tables))
    assert (table_node(tables.version("flights")), "source of", table_node(compacted)) in edges(graph)


@pytest.mark.parametrize(
    "lose",
    [
        lambda tables: _remove(tables, "flights"),
        lambda tables: (_remove(tables, "flights"), tables.create("flights", pa.table({"flight": ["other"]}))),
    ],
    ids=["gone", "made again"],
)
def test_a_table_that_is_gone_or_another_by_now_still_is_a_node(
    tables: Tables, lose: Callable[[Tables], object]
) -> None:
    before = of_training_set(tables, found(tables))
    lose(tables)
    after = of_training_set(tables, found(tables))
    assert edges(after) == edges(before)
    facts = {node.id: node.facts for node in after.nodes}
    assert "columns" not in facts[table_node(found(tables).pins[0])]


def test_a_set_is_found_by_its_digest(tables: Tables) -> None:
    assert of_digest(tables, DIGEST) == of_training_set(tables, found(tables))
    assert of_digest(tables, "sha256:" + "0" * 64) is None


def test_the_record_takes_all_of_it(tables: Tables, record: object, desk: Desk) -> None:
    graph = of_training_set(tables, found(tables))
    assert desk.write(lineage.add, graph.edges, graph.nodes, by=ANN) == 4
    assert desk.write(lineage.add, graph.edges, graph.nodes, by=ANN) == 0
    above = desk.read(lineage.upstream, graph.root)
    assert edges(above) == edges(graph)
    assert {n.id: n.facts for n in above.nodes} == {n.id: n.facts for n in graph.nodes}


def _remove(tables: Tables, name: str) -> None:
    import shutil

    shutil.rmtree(Path(tables.uri) / name)
