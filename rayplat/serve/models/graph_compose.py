"""Composing: from a declared graph and what its parts take and give to the file that is registered. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from rayplat.artifacts.formats import graph as files
from rayplat.errors import InvalidInput
from rayplat.serve.models.graph_nodes import VALUE, Node, Ref, node_of, ordered, ref_of, written
from rayplat.types import Signature, TensorSpec
from rayplat.types.signature import DATATYPES, FLOATS


def compose(
    declared: Mapping[str, Any],
    pinned: Mapping[str, tuple[str, int, str]],
    takes: Mapping[str, Signature],
    views: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """The content of the file for a declared graph whose model nodes are resolved: ``pinned`` and the signature of each
    by node. Raises `InvalidInput` naming the node: unknown names, cycles, inputs and outputs that do not fit."""
    trees = declared["nodes"]
    nodes = {name: _wired(name, node_of(name, trees[name]), trees, takes) for name in trees}
    nodes = {name: _defaulted(name, node, nodes, takes) for name, node in nodes.items()}
    outputs = {str(n): _resolved("outputs", ref_of("outputs", r), nodes, takes) for n, r in declared["outputs"].items()}
    extra = {str(name): _extra(str(name), datatype) for name, datatype in (declared.get("inputs") or {}).items()}
    inputs = _inputs(nodes, takes, extra)
    specs: dict[Ref, TensorSpec] = {Ref("", name): spec for name, spec in inputs.items()}
    for name in ordered(nodes):
        _check(name, nodes[name], specs, takes)
    answers = tuple(replace(specs[ref], name=name) for name, ref in outputs.items())
    keys = {signature.keys for signature in takes.values() if signature.keys}
    if len(keys) > 1:
        raise InvalidInput("nodes", f"their features are looked up by different keys: {sorted(map(str, keys))}")
    key = next(iter(keys), ())
    signature = Signature(tuple(inputs.values()), answers, keys=key)
    return {
        "nodes": {name: written(node, pinned.get(name)) for name, node in nodes.items()},
        "outputs": {name: str(ref) for name, ref in outputs.items()},
        "signature": files.signature_json(signature),
        "views": dict(views or {}),
        "entity": key[0] if key else "",
    }


def _resolved(where: str, ref: Ref, nodes: Mapping[str, Node], takes: Mapping[str, Signature]) -> Ref:
    """``ref`` as an output of a node. Raises `InvalidInput` for an unknown one."""
    node = ref.node or ref.name
    if node not in nodes:
        raise InvalidInput(where, f"there is no node {node[:80]!r}; these are: {', '.join(nodes)}")
    outputs = takes[node].output_names if nodes[node].kind == "model" else (VALUE,)
    if not outputs:
        raise InvalidInput(where, f"the model of node {node!r} declares no outputs: register it with a signature")
    if not ref.node and len(outputs) == 1:
        return Ref(node, outputs[0])
    if not ref.node or ref.name not in outputs:
        raise InvalidInput(where, f"node {node!r} gives {', '.join(f'{node}.{o}' for o in outputs)}: name one of them")
    return ref


def _wired(name: str, node: Node, trees: Mapping[str, Any], takes: Mapping[str, Signature]) -> Node:
    """The node with `after` turned into wires by name."""
    if node.kind != "model":
        return node
    where, inputs = f"nodes.{name}", takes[name]
    if inputs.open:
        raise InvalidInput(where, "its model declares no inputs: register it with a signature")
    known = set(inputs.by_name) | ({inputs.matrix.name} if inputs.matrix is not None else set())
    for wire in node.wires:
        if wire not in known:
            raise InvalidInput(f"{where}.inputs.{wire}", f"its model takes {', '.join(inputs.by_name)}")
    wires = dict(node.wires)
    for ref in node.after:
        before = ref.node or ref.name
        if before not in trees:
            raise InvalidInput(where, f"there is no node {before[:80]!r}; these are: {', '.join(trees)}")
        given = takes[before].output_names if before in takes else (VALUE,)
        fitting = [output for output in given if output in known and output not in wires]
        if not fitting:
            raise InvalidInput(
                where, f"no output of {before!r} ({', '.join(given)}) is an input of it ({', '.join(inputs.by_name)})"
            )
        wires |= {output: Ref(before, output) for output in fitting}
    return replace(node, wires=wires, after=())


def _defaulted(name: str, node: Node, nodes: Mapping[str, Node], takes: Mapping[str, Signature]) -> Node:
    """The node with every reference resolved."""
    where = f"nodes.{name}"
    wires = {wire: _resolved(where, ref, nodes, takes) for wire, ref in node.wires.items()}
    of = tuple(_resolved(where, ref, nodes, takes) for ref in node.of)
    left = node.left
    if left is not None and (left.node or left.name in nodes):
        left = _resolved(where, left, nodes, takes)
    return replace(node, wires=wires, of=of, left=left)


def _extra(name: str, datatype: Any) -> TensorSpec:
    if datatype not in DATATYPES:
        raise InvalidInput(
            f"inputs.{name}", f"{str(datatype)[:60]!r} is no datatype; these are: {', '.join(DATATYPES)}"
        )
    return TensorSpec(name, datatype, nullable=True)


def _inputs(
    nodes: Mapping[str, Node], takes: Mapping[str, Signature], extra: Mapping[str, TensorSpec]
) -> dict[str, TensorSpec]:
    """What a request must carry: inputs of models that no node feeds, and those that conditions ask for."""
    found = dict(extra)
    for name, signature in takes.items():
        wires = nodes[name].wires
        whole = signature.matrix is not None and set(wires) == {signature.matrix.name}
        for spec in () if whole else signature.inputs:
            if spec.name not in wires:
                found[spec.name] = _shared(name, found.get(spec.name), spec)
    for name, node in nodes.items():
        if node.left is not None and not node.left.node and node.left.name not in found:
            reason = (
                f"{node.left.name!r} is no node and no input of a model: declare it, inputs: {{{node.left.name}: FP64}}"
            )
            raise InvalidInput(f"nodes.{name}.if", reason)
    clash = next((name for name in found if name in nodes), None)
    if clash is not None:
        raise InvalidInput(f"nodes.{clash}", "an input of the graph has this name: give the node another")
    return found


def _shared(name: str, other: TensorSpec | None, spec: TensorSpec) -> TensorSpec:
    """One input that several parts take: floats as wide as the widest of them."""
    if other is None:
        return spec
    floats = spec.datatype in FLOATS and other.datatype in FLOATS
    same = (spec.datatype, spec.logical) == (other.datatype, other.logical)
    if spec.shape != other.shape or not (floats or same):
        raise InvalidInput(
            f"nodes.{name}",
            f"its input {_told(spec)} is {_told(other)} elsewhere in the graph: they cannot be one input",
        )
    return replace(
        spec,
        datatype=max(spec.datatype, other.datatype),
        required=spec.required or other.required,
        nullable=spec.nullable and other.nullable,
        wide=spec.wide or other.wide,
    )


def _check(name: str, node: Node, specs: dict[Ref, TensorSpec], takes: Mapping[str, Signature]) -> None:
    """Whether what feeds the node fits; its own outputs are added to ``specs``."""
    where = f"nodes.{name}"
    if node.kind == "model":
        signature = takes[name]
        for wire, ref in node.wires.items():
            wanted = signature.by_name.get(wire) or signature.matrix
            if wanted is not None and not _fits(specs[ref], wanted):
                raise InvalidInput(where, f"its input {_told(wanted)} cannot take {ref}, which is {_told(specs[ref])}")
        specs.update({Ref(name, spec.name): spec for spec in signature.outputs})
        return
    members = [specs[ref] for ref in node.of]
    first = members[0]
    for ref, spec in zip(node.of, members, strict=True):
        numbers = spec.datatype != "BYTES" and first.datatype != "BYTES"
        if (node.kind == "mean" and not numbers) or (spec.datatype != first.datatype and not numbers):
            raise InvalidInput(where, f"{ref} is {_told(spec)}: {node.kind} cannot put it together with {node.of[0]}")
        if len(spec.shape) != len(first.shape) or any(a != b and -1 not in (a, b) for a, b in _pairs(spec, first)):
            raise InvalidInput(where, f"{ref} has the shape {list(spec.shape)}, {node.of[0]} {list(first.shape)}")
    if node.kind == "vote" and len(first.shape) > 1:
        raise InvalidInput(where, f"a vote is on one label to a row, {node.of[0]} has the shape {list(first.shape)}")
    if node.left is not None:
        _comparable(where, node, specs[node.left])
    datatype = "FP64" if node.kind == "mean" or len({s.datatype for s in members}) > 1 else first.datatype
    specs[Ref(name, VALUE)] = TensorSpec(VALUE, datatype, first.shape)


def _comparable(where: str, node: Node, spec: TensorSpec) -> None:
    constants = node.right if isinstance(node.right, list) else [node.right]
    text = all(isinstance(c, str) for c in constants)
    if len(spec.shape) > 1 or text != (spec.datatype == "BYTES"):
        raise InvalidInput(f"{where}.if", f"{node.left} is {_told(spec)} and cannot be compared with {node.right!r}")


def _fits(given: TensorSpec, wanted: TensorSpec) -> bool:
    if len(given.shape) != len(wanted.shape) or any(a != b and -1 not in (a, b) for a, b in _pairs(given, wanted)):
        return False
    if "BYTES" in (given.datatype, wanted.datatype):
        return (given.datatype, given.logical) == (wanted.datatype, wanted.logical)
    return wanted.datatype in FLOATS or (given.datatype not in FLOATS and given.datatype == wanted.datatype)


def _pairs(a: TensorSpec, b: TensorSpec) -> list[tuple[int, int]]:
    return list(zip(a.shape[1:], b.shape[1:], strict=False))


def _told(spec: TensorSpec) -> str:
    return f"{spec.name!r} ({spec.datatype} {list(spec.shape)})"
