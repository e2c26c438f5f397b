"""Lineage below the registry: what tables and training sets say of themselves, as edges for `record.lineage.add`.

A training set names the table versions it was joined from. The commit of a feature table notes the version of the
source it holds; a commit without a note (a compaction) holds what the one before it held.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from rayplat.data import training_sets
from rayplat.data.tables import entries
from rayplat.errors import RayplatError
from rayplat.registry.record.lineage import HOLDS, PINNED_BY, SOURCE_OF
from rayplat.types import Edge, LineageGraph, Node, NodeKind, TableVersion, TrainingSet, parse_node
from rayplat.types.lineage import table_node, training_set_node

if TYPE_CHECKING:
    from rayplat.data.tables import Tables

log = logging.getLogger(__name__)

_MOST_TABLES = 200
_MOST_COMMITS = 100
_PREFIX = "training_set_"


def of_training_set(tables: Tables, training_set: TrainingSet) -> LineageGraph:
    """What a training set came from: its pins, the sources of those that are feature tables, and theirs, and the table
    that holds its rows. A table that is gone by now, or was replaced, still is a node; only its facts are missing."""
    root = training_set_node(training_set.digest)
    facts = {"name": training_set.name, "label": training_set.label, "service": training_set.service}
    nodes = {root: Node(root, NodeKind.TRAINING_SET, training_set.digest, facts=facts)}
    data = table_node(training_set.data)
    nodes[data] = _node(tables, training_set.data)
    nodes[root].facts.update({name: nodes[data].facts[name] for name in ("columns", "at") if name in nodes[data].facts})
    edges = [Edge(data, root, HOLDS)]
    waiting = list(training_set.pins)
    edges += [Edge(table_node(pin), root, PINNED_BY) for pin in waiting]
    while waiting and len(nodes) < _MOST_TABLES:
        pin = waiting.pop()
        if table_node(pin) in nodes:
            continue
        nodes[table_node(pin)] = _node(tables, pin)
        for source in _sources(tables, pin):
            edges.append(Edge(table_node(source), table_node(pin), SOURCE_OF))
            waiting.append(source)
    return LineageGraph(root, "upstream", tuple(nodes.values()), tuple(edges))


def of_digest(tables: Tables, digest: str) -> LineageGraph | None:
    """`of_training_set` for the set whose digest it is; None where no table holds it any more."""
    for name in tables.names():
        if name.startswith(_PREFIX):
            try:
                found = training_sets.find(tables, name.removeprefix(_PREFIX))
            except RayplatError as e:
                log.warning("the training set in %s cannot be read: %s", name, e)
                continue
            if found is not None and found.digest == digest:
                return of_training_set(tables, found)
    return None


def _sources(tables: Tables, table: TableVersion) -> list[TableVersion]:
    """The version of the source that a feature table holds; none for a table that was not computed from another."""
    for number in range(table.version, max(-1, table.version - _MOST_COMMITS), -1):
        try:
            noted = tables.metadata(table.table, number)
        except RayplatError:
            return []  # the log of older versions was removed, or the whole table
        if "source_id" in noted:
            name, _, version = noted["source"].rpartition("@")
            return [_identity(tables, name, noted["source_id"], int(version))]
        if noted.get("action", "compact") != "compact":
            return []  # rows that no source of ours gave
    return []


def _identity(tables: Tables, name: str, table_id: str, version: int) -> TableVersion:
    """As it is, or what the note says of it where it is not there any more."""
    try:
        found = tables.version(name, version)
    except RayplatError:
        found = None
    if found is not None and found.table_id == table_id:
        return found
    return TableVersion(name, "", table_id, version, "", "", 0)


def _node(tables: Tables, table: TableVersion) -> Node:
    facts: dict[str, Any] = {"uri": table.uri, "row_count": table.row_count} if table.uri else {}
    try:
        facts["columns"] = [[field.name, str(field.type)] for field in tables.scan(table).schema]
        facts["at"] = entries.entry(tables.place(table.table), table.version).at.isoformat()
    except RayplatError as e:
        log.info("table version %s@%d cannot be described: %s", table.table, table.version, e)
    node = parse_node(table_node(table))
    return Node(node.id, node.kind, node.name, node.part, node.version, facts)
