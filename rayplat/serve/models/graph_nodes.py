"""Declarations of composed models: what a node of a graph may say, and how it is read.

A graph is a mapping of names to nodes, in any order, and of outputs to what gives them::

    nodes:
      scaled: {model: risk-scaler/4}                             # inputs come from the request, by name
      trees:  {model: risk-trees@champion, after: scaled}        # outputs of `scaled` feed inputs of the same name
      net:    {model: risk-net@champion, inputs: {x: scaled.y}}  # this output feeds this input
      both:   {mean: [trees, net], weights: [2, 1]}              # an ensemble; `vote` takes the commonest label
      score:  {if: amount > 1000, then: both, else: trees}       # row by row; only what is needed is computed
    inputs:  {amount: FP64}                                      # inputs that only conditions ask for
    outputs: {probability: score}

`trees` means the only output of that node, `trees.probability` one of several. Conditions compare an input or an output
with a constant by ``> >= < <= == !=`` or ``in [a, b]``; nothing is above, below or equal to a missing value.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rayplat.artifacts.formats import graph as files
from rayplat.errors import InvalidInput

VALUE = "value"  # the output of a node that is no model
_NAME = re.compile(r"[A-Za-z_][\w-]{0,63}")
_CONDITION = re.compile(r"\s*([A-Za-z_][\w.-]*)\s*(>=|<=|==|!=|>|<|\bin\b)\s*(.+?)\s*", re.DOTALL)
_FIELDS = {
    "model": {"model", "version", "digest", "after", "inputs"},
    "mean": {"mean", "weights"},
    "vote": {"vote", "weights"},
    "if": {"if", "then", "else"},
}


@dataclass(frozen=True)
class Ref:
    """An output of a node, or with ``node`` "" an input of the request."""

    node: str
    name: str

    def __str__(self) -> str:
        return f"{self.node}.{self.name}" if self.node else self.name


@dataclass(frozen=True)
class Node:
    """``kind`` is ``model`` (``wires``: its inputs that do not come from the request by their own name), ``mean`` or
    ``vote`` (of ``of``, each with a weight), or ``if`` (the rows of ``of[0]`` where ``left`` compares with ``right``,
    those of ``of[1]`` elsewhere)."""

    kind: str
    wires: Mapping[str, Ref] = field(default_factory=dict)
    of: tuple[Ref, ...] = ()
    weights: tuple[float, ...] = ()
    left: Ref | None = None
    operator: str = ""
    right: Any = None
    after: tuple[Ref, ...] = ()

    @property
    def needs(self) -> tuple[Ref, ...]:
        left = (self.left,) if self.left is not None else ()
        return (*self.wires.values(), *self.of, *left, *self.after)


def models_of(declared: Any) -> dict[str, str]:
    """The model reference of each model node. Raises `InvalidInput` for what is no graph."""
    if not isinstance(declared, Mapping) or not isinstance(declared.get("nodes"), Mapping) or not declared["nodes"]:
        raise InvalidInput("nodes", "a graph maps names to nodes, such as trees: {model: risk-trees@champion}")
    if not isinstance(declared.get("outputs"), Mapping) or not declared["outputs"]:
        raise InvalidInput("outputs", "say which node gives which output, such as probability: trees")
    unknown = sorted(map(str, set(declared) - {"model", "nodes", "inputs", "outputs"}))
    if unknown:
        raise InvalidInput(unknown[0][:60], "no part of a graph; these are: model, nodes, inputs, outputs")
    if len(declared["nodes"]) > files.MAX_NODES:
        raise InvalidInput("nodes", f"{len(declared['nodes'])} of them, at most {files.MAX_NODES} are composed")
    found = {}
    for name, tree in declared["nodes"].items():
        node_of(name, tree)
        if "model" in tree:
            found[str(name)] = str(tree["model"])
    if not found:
        raise InvalidInput("nodes", "at least one is a model")
    return found


def node_of(name: Any, tree: Any) -> Node:
    """The node ``name`` as declared, or as a registered file holds it. Raises `InvalidInput`."""
    where = f"nodes.{name}"
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InvalidInput("nodes", f"{str(name)[:80]!r} is no name: letters, digits, _ and -, beginning with a letter")
    if not isinstance(tree, Mapping):
        raise InvalidInput(where, "a node is a mapping, such as {model: risk-trees@champion}")
    kind = next((kind for kind in _FIELDS if kind in tree), None)
    allowed = _FIELDS.get(kind or "", set())
    if kind is None or set(tree) - allowed:
        odd = sorted(map(str, set(tree) - allowed))
        raise InvalidInput(where, f"one of model, mean, vote, if is needed, and no {', '.join(odd) or 'other field'}")
    if kind == "model":
        wires = tree.get("inputs") or {}
        after = tree.get("after") or []
        if not isinstance(wires, Mapping):
            raise InvalidInput(f"{where}.inputs", "map the model's inputs to outputs of nodes, such as {x: scaled.y}")
        refs = tuple(ref_of(where, text) for text in (after if isinstance(after, list) else [after]))
        return Node(kind, {str(k): ref_of(where, text) for k, text in wires.items()}, after=refs)
    if kind == "if":
        return _branch(where, tree)
    return _ensemble(where, kind, tree)


def _ensemble(where: str, kind: str, tree: Mapping[str, Any]) -> Node:
    members = tree[kind]
    if not isinstance(members, list) or not members:
        raise InvalidInput(f"{where}.{kind}", "a list of nodes is needed")
    weights = tree.get("weights") or [1.0] * len(members)
    sound = isinstance(weights, list) and len(weights) == len(members)
    if not sound or not all(type(w) in (int, float) and 0 <= w < float("inf") for w in weights) or sum(weights) <= 0:
        raise InvalidInput(f"{where}.weights", f"{len(members)} numbers from 0, not all 0, are needed")
    return Node(kind, of=tuple(ref_of(where, m) for m in members), weights=tuple(map(float, weights)))


def _branch(where: str, tree: Mapping[str, Any]) -> Node:
    if not {"then", "else"} <= set(tree):
        raise InvalidInput(where, "a branch needs if, then and else")
    match = _CONDITION.fullmatch(str(tree["if"]))
    if match is None:
        raise InvalidInput(f"{where}.if", f"{str(tree['if'])[:80]!r} is no comparison such as amount > 1000")
    left, operator, text = match.groups()
    import yaml

    try:
        right = yaml.safe_load(text)
    except yaml.YAMLError:
        right = None
    constants = right if operator == "in" and isinstance(right, list) else [right]
    ordered = operator in ("==", "!=", "in") or all(type(c) in (int, float) for c in constants)
    plain = bool(constants) and all(type(c) in (int, float, str, bool) for c in constants)
    if not plain or not ordered or isinstance(right, list) != (operator == "in"):
        raise InvalidInput(f"{where}.if", f"{text[:80]!r} is nothing to compare with by {operator}")
    of = (ref_of(where, tree["then"]), ref_of(where, tree["else"]))
    return Node("if", of=of, left=ref_of(where, left), operator=operator, right=right)


def ref_of(where: str, text: Any) -> Ref:
    """As written: a name alone is a node with one output or an input, which only the whole graph tells apart."""
    if not isinstance(text, str) or not text or len(text) > 200:
        raise InvalidInput(where, f"{str(text)[:80]!r} names no node")
    node, _, output = text.partition(".")
    return Ref(node, output) if output else Ref("", node)


def ordered(nodes: Mapping[str, Node]) -> list[str]:
    """Names so that each comes after what it needs. Raises `InvalidInput` naming a cycle."""
    done: list[str] = []

    def visit(name: str, path: tuple[str, ...]) -> None:
        if name in path:
            raise InvalidInput(f"nodes.{name}", f"it needs itself: {' <- '.join((*path[path.index(name) :], name))}")
        if name in done:
            return
        for ref in nodes[name].needs:
            if ref.node:
                if ref.node not in nodes:
                    raise InvalidInput(f"nodes.{name}", f"there is no node {ref.node[:80]!r}")
                visit(ref.node, (*path, name))
        done.append(name)

    for name in nodes:
        visit(name, ())
    return done


def written(node: Node, pinned: tuple[str, int, str] | None) -> dict[str, Any]:
    """The node as the file holds it; `node_of` reads it back."""
    if pinned is not None:
        model, version, digest = pinned
        wires = {name: str(ref) for name, ref in node.wires.items()}
        return {"model": model, "version": version, "digest": digest, "inputs": wires}
    if node.kind == "if":
        then, other = map(str, node.of)
        condition = f"{node.left} {node.operator} {json.dumps(node.right)}"
        return {"if": condition, "then": then, "else": other}
    return {node.kind: [str(ref) for ref in node.of], "weights": list(node.weights)}
