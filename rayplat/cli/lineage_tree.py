"""Lineage in a terminal: a graph as a tree from its root, an impact as one way for each alias. Pure."""

from __future__ import annotations

from collections import defaultdict

from rich.console import Group
from rich.markup import escape
from rich.tree import Tree

from rayplat.types import Impact, LineageGraph, Node, NodeKind, parse_node

_COLOURS = {
    NodeKind.TABLE: "cyan",
    NodeKind.TRAINING_SET: "blue",
    NodeKind.RUN: "magenta",
    NodeKind.ARTIFACT: "dim",
    NodeKind.MODEL: "bold",
    NodeKind.PROMOTION: "yellow",
    NodeKind.ALIAS: "green",
    NodeKind.INFERENCE_LOG: "blue",
}
_MOST_LINES = 300
# How an edge reads from what was made to what it was made of.
_BACKWARDS = {
    "source of": "computed from",
    "pinned by": "joined from",
    "holds": "rows in",
    "trained": "trained on",
    "made": "made by",
    "content of": "consists of",
    "baseline of": "baseline",
    "live as": "points at",
    "moved": "moved by",
    "logged in": "answers of",
}


def tree(graph: LineageGraph) -> Group:
    """``graph`` from its root. A node that is reached twice is drawn out once and named where it comes again."""
    nodes = {node.id: node for node in graph.nodes}
    after: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for edge in sorted(graph.edges, key=lambda e: (e.relation, e.source, e.target)):
        here, there = (edge.source, edge.target) if graph.direction == "downstream" else (edge.target, edge.source)
        relation = edge.relation if graph.direction == "downstream" else _BACKWARDS.get(edge.relation, edge.relation)
        after[here].append((relation, there))
    root = Tree(_label(nodes[graph.root]), guide_style="dim")
    drawn, left = {graph.root}, _MOST_LINES
    waiting = [(root, graph.root)]
    while waiting and left:
        branch, node = waiting.pop()
        children = []
        for relation, there in after[node]:
            again = there in drawn
            line = f"[dim]{relation}[/dim] {_label(nodes[there])}"
            child = branch.add(line + (" [dim]…[/dim]" if again and after[there] else ""))
            left -= 1
            if not left:
                break
            if not again:
                drawn.add(there)
                children.append((child, there))
        waiting += reversed(children)
    notes = [graph.note] if graph.note else []
    notes += [] if left else [f"the first {_MOST_LINES} lines; --json has all {len(graph.edges)} edges"]
    return Group(root, *(f"[dim]{escape(note)}[/dim]" for note in notes))


def impact(found: Impact) -> Group:
    """The way back from each alias that is reached to the table."""
    numbers = f"{found.version}" if found.version == found.through else f"{found.version} to {found.through}"
    what = f"version {numbers} of {escape(found.table)}"
    if not found.aliases:
        return Group(f"[green]no live alias was trained on {what}[/green]")
    many = f"{len(found.aliases)} live aliases were" if len(found.aliases) > 1 else "1 live alias was"
    parts: list[str | Tree] = [f"{many} trained on {what}:"]
    for one in found.aliases:
        where = f"{one.model}@{one.alias}"
        line = f"[red]{escape(where)}[/red] version {one.version}, generation {one.generation}"
        way = Tree(line, guide_style="dim")
        branch = way
        for node in reversed(one.path[:-1]):
            branch = branch.add(_label(parse_node(node)))
        parts.append(way)
    return Group(*parts)


def _label(node: Node) -> str:
    colour = _COLOURS[node.kind]
    kind = node.kind.value.replace("_", " ")
    return f"{kind} [{colour}]{escape(_name(node))}[/{colour}]{escape(_more(node))}"


def _name(node: Node) -> str:
    """Short enough for a line; a table's id is told only where it is needed, by ``--json``."""
    match node.kind:
        case NodeKind.TABLE:
            return f"{node.name}@{node.version}"
        case NodeKind.ALIAS:
            return f"{node.name}@{node.part}#{node.version}"
        case NodeKind.MODEL | NodeKind.INFERENCE_LOG:
            return f"{node.name}/{node.version}"
        case _:
            return node.name[:19] + "…" if node.name.startswith("sha256:") else node.name


def _more(node: Node) -> str:
    facts = node.facts
    if node.kind is NodeKind.TABLE and "row_count" in facts:
        return f" ({facts['row_count']} rows)"
    if node.kind is NodeKind.TRAINING_SET and "name" in facts:
        return f" ({facts['name']})"
    if node.kind is NodeKind.ALIAS and facts.get("live"):
        return " (live)"
    return f" (by {facts['author']})" if node.kind is NodeKind.MODEL and "author" in facts else ""
