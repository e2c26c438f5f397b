"""Lineage: edges from what was used to what was made of it, and the questions asked of them.

The registry's own edges are written in the transaction that made the thing (`registered`, `moved`). What lies below
it, tables and training sets, is added by whoever can read the tables (`add`; see `rayplat.registry.lineage`). Edges
are never changed or removed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.dialects import postgresql, sqlite

from rayplat.errors import InvalidInput, NotFound
from rayplat.identity import require
from rayplat.registry.record import audit, rows
from rayplat.registry.record.database import Tx
from rayplat.registry.record.prepared import Prepared
from rayplat.registry.record.schema import alias_head, alias_history, edge, lineage_node, model_version
from rayplat.registry.walks import connected, shortest_path
from rayplat.types import (
    AliasHead,
    AliasImpact,
    Edge,
    LineageGraph,
    ModelVersion,
    Node,
    NodeKind,
    Principal,
    Role,
    parse_node,
)
from rayplat.types.lineage import (
    alias_node,
    artifact_node,
    inference_log_node,
    model_node,
    promotion_node,
    run_node,
    table_node,
    training_set_node,
)

SOURCE_OF = "source of"  # table version -> version of a feature table that was computed from it
PINNED_BY = "pinned by"  # table version -> training set that was joined from it
HOLDS = "holds"  # table version -> training set whose rows it holds
TRAINED = "trained"  # training set -> run
MADE = "made"  # run -> model version
CONTENT_OF = "content of"  # artifact -> model version
BASELINE_OF = "baseline of"  # artifact -> model version
LIVE_AS = "live as"  # model version -> alias generation
MOVED = "moved"  # promotion -> alias generation
SCORED_IN = "scored in"  # table version, or model version -> run that scored the rows with the model
WROTE = "wrote"  # run -> table version that holds what it scored
LOGGED_IN = "logged in"  # alias generation -> inference log of the version

TRAINED_ON = (SOURCE_OF, PINNED_BY, HOLDS, TRAINED, MADE)  # the way from a table to what was trained on it

_INSERT = Prepared(sa.insert(edge))
MOST_EDGES = 5_000
MOST_ADDED = 1_000
_DEEPEST = 1_000
_K = NodeKind
_ADDABLE = {
    (_K.TABLE, SOURCE_OF, _K.TABLE),
    (_K.TABLE, PINNED_BY, _K.TRAINING_SET),
    (_K.TABLE, HOLDS, _K.TRAINING_SET),
    (_K.TRAINING_SET, TRAINED, _K.RUN),
    (_K.TABLE, SCORED_IN, _K.RUN),
    (_K.MODEL, SCORED_IN, _K.RUN),
    (_K.RUN, WROTE, _K.TABLE),
}

# --- writing --------------------------------------------------------------------------------------


def link(tx: Tx, source: str, target: str, relation: str, run_id: str | None = None) -> None:
    """``target`` was made from ``source``; again changes nothing. Raises `InvalidInput` for what is no node id."""
    _link(tx, [Edge(source, target, relation, run_id)])


def registered(tx: Tx, version: ModelVersion) -> None:
    """The edges of a new model version: its tables, training set, run, and the artifacts it consists of."""
    model, run = model_node(version.model, version.version), run_node(version.run_id)
    data = training_set_node(version.training_set)
    found = [Edge(table_node(pin), data, PINNED_BY) for pin in version.pins]
    found += [Edge(data, run, TRAINED), Edge(run, model, MADE), Edge(artifact_node(version.digest), model, CONTENT_OF)]
    if version.baseline is not None:
        found.append(Edge(artifact_node(version.baseline), model, BASELINE_OF))
    _link(tx, [replace(one, run_id=version.run_id) for one in found])
    facts = ("uri", "row_count", "manifest_digest", "schema_digest")
    _note(tx, {table_node(pin): {name: getattr(pin, name) for name in facts} for pin in version.pins})


def moved(tx: Tx, head: AliasHead) -> None:
    """The edges of a new alias generation: its version, the promotion that moved it, the log of its answers."""
    here = alias_node(head.model, head.alias, head.generation)
    found = [
        Edge(model_node(head.model, head.version), here, LIVE_AS),
        Edge(here, inference_log_node(head.model, head.version), LOGGED_IN),
    ]
    if head.promotion_id is not None:
        found.append(Edge(promotion_node(head.promotion_id), here, MOVED))
    _insert(tx, found)  # a generation is new, so none of these can be there


def add(tx: Tx, edges: Sequence[Edge], nodes: Sequence[Node] = (), *, by: Principal) -> int:
    """Edges between tables, training sets and runs that the record cannot know by itself, and facts on nodes; how
    many edges were new. Again changes nothing. Needs a developer; raises `InvalidInput` for any other edge."""
    require(by, Role.DEVELOPER)
    if len(edges) > MOST_ADDED:
        raise InvalidInput("edges", f"{len(edges)} at once, at most {MOST_ADDED} are added")
    for one in edges:
        triple = (parse_node(one.source).kind, one.relation, parse_node(one.target).kind)
        if triple not in _ADDABLE:
            known = "; ".join(f"{a} {relation!r} {b}" for a, relation, b in sorted(_ADDABLE))
            raise InvalidInput("edges", f"{' '.join(map(repr, triple))} is not added by hand; it may be {known}")
    for node in nodes:
        if parse_node(node.id).kind not in (NodeKind.TABLE, NodeKind.TRAINING_SET):
            raise InvalidInput("nodes", f"{node.id!r}: facts are noted of tables and training sets only")
    new = _link(tx, edges)
    noted = _note(tx, {node.id: node.facts for node in nodes if node.facts})
    if new or noted:
        detail = {"edges": [[one.source, one.relation, one.target] for one in new], "nodes": noted}
        audit.append(tx, by.name, "lineage.add", new[-1].target if new else noted[-1], detail)
    return len(new)


def complete(tx: Tx) -> int:
    """The edges of versions that were registered, and of their aliases' moves, before the record kept edges; how many
    versions."""
    node = sa.literal(f"{NodeKind.MODEL}:") + model_version.c.model + "/" + sa.cast(model_version.c.version, sa.String)
    linked = sa.select(edge.c.source).where(edge.c.target == node, edge.c.relation == MADE).exists()
    missing = tx.connection.execute(sa.select(model_version).where(~linked)).all()
    for row in missing:
        version = rows.model_version(row)
        registered(tx, version)
        here = (alias_history.c.model == version.model) & (alias_history.c.version == version.version)
        for head in map(rows.alias_head, tx.connection.execute(sa.select(alias_history).where(here)).all()):
            if not head.removed:
                moved(tx, head)
    if missing:
        audit.append(tx, "rayplat", "lineage.complete", "lineage", {"versions": len(missing)})
    return len(missing)


def _link(tx: Tx, edges: Iterable[Edge]) -> list[Edge]:
    """Insert those that are not there; they are returned."""
    wanted = {(e.source, e.target, e.relation): e for e in edges}
    for source, target, _ in wanted:
        parse_node(source)
        parse_node(target)
    ends = edge.c.source.in_({e.source for e in wanted.values()}) & edge.c.target.in_(
        {e.target for e in wanted.values()}
    )
    there = tx.connection.execute(sa.select(edge.c.source, edge.c.target, edge.c.relation).where(ends))
    known = {tuple(row) for row in there}
    new = [one for key, one in wanted.items() if key not in known]
    if new:
        _insert(tx, new)
    return new


def _insert(tx: Tx, edges: Sequence[Edge]) -> None:
    at = rows.to_us(tx.at)
    found: list[Mapping[str, Any]] = [{**vars(one), "at": at} for one in edges]
    _INSERT(tx.connection, found)
    for columns in found:
        tx.wrote(edge, columns)


def _note(tx: Tx, facts: dict[str, dict[str, Any]]) -> list[str]:
    """Facts of nodes, which never change; what is noted later adds to what is there. The nodes that got any."""
    changed = []
    insert = postgresql.insert if tx.connection.dialect.name == "postgresql" else sqlite.insert
    for node, found in facts.items():
        known = _facts(tx.connection, [node]).get(node, {})
        merged = {**found, **known}
        if merged != known:
            columns = {"node": node, "facts": rows.to_json(merged)}
            row = insert(lineage_node).values(**columns)
            tx.connection.execute(
                row.on_conflict_do_update(index_elements=["node"], set_={"facts": row.excluded.facts})
            )
            tx.wrote(lineage_node, columns)
            changed.append(node)
    return changed


# --- reading --------------------------------------------------------------------------------------


def upstream(connection: Connection, node: str, depth: int | None = None) -> LineageGraph:
    """What ``node`` came from, up to ``depth`` edges away (None: all of it). Raises `InvalidInput` for no node id,
    `NotFound` for one without edges. At most `MOST_EDGES` edges; ``note`` says where it was cut."""
    return _graph(connection, node, "upstream", depth)


def downstream(connection: Connection, node: str, depth: int | None = None) -> LineageGraph:
    """What came of ``node``; as `upstream`."""
    return _graph(connection, node, "downstream", depth)


def live_aliases_trained_on(
    connection: Connection, table: str, version: int, through: int | None = None
) -> list[AliasImpact]:
    """Which live aliases point at models that were trained on a version of ``table`` (or on any up to ``through``),
    also by way of feature tables. Later versions may hold the same rows: name the last bad one.

    Raises `NotFound` where no version of the table is in the lineage at all, `InvalidInput` for no range.
    """
    last = version if through is None else through
    if version < 0 or last < version:
        raise InvalidInput("version", f"{version} to {last} is no range of table versions")
    known = _versions_of(connection, table)
    if not known:
        raise NotFound("table in the lineage", table, "no training set or feature table was made from it")
    bad = [node.id for node in known if node.version is not None and version <= node.version <= last]
    edges = _edges_after(connection, bad)
    reached = {one.target for one in edges}
    found = []
    for head in connection.execute(sa.select(alias_head).order_by(alias_head.c.model, alias_head.c.alias)):
        model = model_node(head.model, head.version)
        if model in reached:
            path = (*shortest_path(edges, bad, model), alias_node(head.model, head.alias, head.generation))
            found.append(AliasImpact(head.model, head.alias, head.generation, head.version, path))
    return found


def _graph(connection: Connection, root: str, direction: str, depth: int | None) -> LineageGraph:
    parse_node(root)
    if depth is not None and not 1 <= depth <= _DEEPEST:
        raise InvalidInput("depth", f"{depth} is not between 1 and {_DEEPEST}")
    if (
        connection.execute(sa.select(edge.c.at).where((edge.c.source == root) | (edge.c.target == root))).first()
        is None
    ):
        raise NotFound("node in the lineage", root, "nothing is linked to it: check the id, or register what it made")
    edges, note = _edges(connection, root, direction, depth), ""
    if len(edges) > MOST_EDGES:
        edges, note = _cut(connection, root, direction, depth)
    return LineageGraph(root, direction, tuple(_nodes(connection, root, edges)), tuple(edges), note)


def _cut(connection: Connection, root: str, direction: str, depth: int | None) -> tuple[list[Edge], str]:
    """The whole neighbourhood of ``root`` as far as it fits; of its own edges the newest."""
    kept = _edges(connection, root, direction, 1)
    if len(kept) > MOST_EDGES:
        return kept[:MOST_EDGES], f"more than {MOST_EDGES} edges: the newest of those one step away are shown"
    steps = 1
    while len(more := _edges(connection, root, direction, steps + 1)) <= MOST_EDGES and steps + 1 < (depth or _DEEPEST):
        kept, steps = more, steps + 1
    return kept, f"more than {MOST_EDGES} edges: those within {steps} steps are shown; ask again from one of them"


def _edges(connection: Connection, root: str, direction: str, depth: int | None) -> list[Edge]:
    """Edges on the ways from ``root``, newest first; one more than `MOST_EDGES` where there are more."""
    here, there = (edge.c.source, edge.c.target) if direction == "downstream" else (edge.c.target, edge.c.source)
    if depth is None:  # each node once: a cycle ends by itself
        walk = sa.select(sa.literal(root, sa.String).label("node")).cte("walk", recursive=True)
        walk = walk.union(sa.select(there).where(here == walk.c.node))
    else:
        start = sa.select(sa.literal(root, sa.String).label("node"), sa.literal(1, sa.Integer).label("depth"))
        walk = start.cte("walk", recursive=True)
        walk = walk.union(sa.select(there, walk.c.depth + 1).where(here == walk.c.node, walk.c.depth < depth))
    found = sa.select(edge).where(here.in_(sa.select(walk.c.node)))
    found = found.order_by(edge.c.at.desc(), edge.c.source, edge.c.target, edge.c.relation).limit(MOST_EDGES + 1)
    return [_edge(row) for row in connection.execute(found)]


def _edges_after(connection: Connection, starts: Sequence[str]) -> list[Edge]:
    """Every edge on the ways of training from ``starts`` to model versions."""
    trained = edge.c.relation.in_(TRAINED_ON)
    walk = sa.select(edge.c.source.label("node")).where(edge.c.source.in_(starts), trained).cte("walk", recursive=True)
    walk = walk.union(sa.select(edge.c.target).where(edge.c.source == walk.c.node, trained))
    found = sa.select(edge).where(edge.c.source.in_(sa.select(walk.c.node)), trained)
    return [_edge(row) for row in connection.execute(found.order_by(edge.c.source, edge.c.target))]


def _versions_of(connection: Connection, table: str) -> list[Node]:
    """Every version of a table that an edge names, of all tables that ever had the name."""
    prefix = f"{NodeKind.TABLE}:{table}@"
    found: set[str] = set()
    for column in (edge.c.source, edge.c.target):
        found |= set(connection.scalars(sa.select(column).distinct().where(column.startswith(prefix, autoescape=True))))
    nodes = [parse_node(node) for node in sorted(found)]
    return [node for node in nodes if node.name == table]


def _nodes(connection: Connection, root: str, edges: Sequence[Edge]) -> list[Node]:
    """``root`` and the ends of ``edges`` with what is known of each, in the order in which they are reached."""
    nodes = [parse_node(node) for node in connected(root, edges)]
    facts = _facts(connection, [node.id for node in nodes])
    if any(node.kind is NodeKind.ALIAS for node in nodes):
        for head in connection.execute(sa.select(alias_head.c.model, alias_head.c.alias, alias_head.c.generation)):
            facts.setdefault(alias_node(*head), {})["live"] = True
    models = {node.name for node in nodes if node.kind is NodeKind.MODEL}
    if models:
        columns = sa.select(model_version.c.model, model_version.c.version, model_version.c.author)
        for row in connection.execute(columns.where(model_version.c.model.in_(models))):
            facts.setdefault(model_node(row.model, row.version), {})["author"] = row.author
    return [replace(node, facts=facts.get(node.id, {})) for node in nodes]


def _facts(connection: Connection, nodes: Sequence[str]) -> dict[str, dict[str, Any]]:
    wanted = sa.select(lineage_node).where(lineage_node.c.node.in_(nodes))
    return {row.node: json.loads(row.facts) for row in connection.execute(wanted)}


def _edge(row: Any) -> Edge:
    return Edge(row.source, row.target, row.relation, row.run_id, rows.from_us(row.at))
