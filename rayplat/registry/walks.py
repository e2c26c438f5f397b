"""Walks over edges that were read. Pure."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Sequence

from rayplat.errors import NotFound
from rayplat.types import Edge


def connected(root: str, edges: Sequence[Edge]) -> list[str]:
    """``root`` and every node that an edge leads to or from, nearest first and otherwise in the order of ``edges``."""
    beside: dict[str, list[str]] = defaultdict(list)
    for one in edges:
        beside[one.source].append(one.target)
        beside[one.target].append(one.source)
    found, waiting = {root: None}, deque([root])
    while waiting:
        for node in beside[waiting.popleft()]:
            if node not in found:
                found[node] = None
                waiting.append(node)
    return list(found)


def shortest_path(edges: Iterable[Edge], starts: Iterable[str], end: str) -> tuple[str, ...]:
    """The nodes of a shortest way along the edges from one of ``starts`` to ``end``. Raises `NotFound`."""
    after: dict[str, list[str]] = defaultdict(list)
    for one in edges:
        after[one.source].append(one.target)
    before: dict[str, str | None] = dict.fromkeys(starts)
    waiting = deque(before)
    while waiting and end not in before:
        node = waiting.popleft()
        for target in after[node]:
            if target not in before:
                before[target] = node
                waiting.append(target)
    if end not in before:
        raise NotFound("path", end, "no edge leads there")
    path: list[str] = [end]
    while (node_before := before[path[-1]]) is not None:
        path.append(node_before)
    return tuple(reversed(path))
