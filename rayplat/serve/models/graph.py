"""Composed models: a checked graph, and how it computes with its loaded parts. Its language: `graph_nodes`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from rayplat.artifacts.formats import graph as files
from rayplat.errors import InvalidInput, PartFailed, SchemaMismatch
from rayplat.serve import signatures
from rayplat.serve.models.graph_nodes import VALUE, Node, Ref, node_of, ordered, ref_of
from rayplat.serve.ports import LoadedVersion
from rayplat.types import Signature
from rayplat.types.signature import FLOATS, INTEGERS

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Plan:
    """A checked graph. ``pinned``: (model, version, digest) of its model nodes."""

    nodes: Mapping[str, Node]
    outputs: Mapping[str, Ref]
    signature: Signature
    pinned: Mapping[str, tuple[str, int, str]] = field(default_factory=dict)
    views: Mapping[str, str] = field(default_factory=dict)
    entity: str = ""

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> Plan:
        """The graph of a registered file (`formats.graph`)."""
        nodes = {name: node_of(name, tree) for name, tree in content["nodes"].items()}
        pinned = {n: (t["model"], t["version"], t["digest"]) for n, t in content["nodes"].items() if "model" in t}
        outputs = {name: ref_of("outputs", text) for name, text in content["outputs"].items()}
        signature = files.signature_of(content)
        plan = cls(nodes, outputs, signature, pinned, content.get("views", {}), content.get("entity", ""))
        ordered(nodes)
        return plan

    def example(self, examples: Mapping[str, Mapping[str, Any] | None]) -> dict[str, Any] | None:
        """One row of every input, from the parts' own examples; None where one is in none of them."""
        found: dict[str, Any] = {}
        for name, given in examples.items():
            for key, values in (given or {}).items():
                if key not in self.nodes[name].wires and len(values):
                    found.setdefault(key, values[:1])
        for spec in self.signature.inputs:
            if spec.name not in found and spec.datatype in (*FLOATS, *INTEGERS) and len(spec.shape) == 1:
                found[spec.name] = np.zeros(1, dtype=signatures.numpy_type(spec))
        names = [spec.name for spec in self.signature.inputs]
        return {name: found[name] for name in names} if all(name in found for name in names) else None


class GraphPredictor:
    """Computes a `Plan` with its loaded parts. May be called from several threads at once."""

    def __init__(self, plan: Plan, parts: Mapping[str, LoadedVersion]) -> None:
        self.plan, self.parts = plan, parts

    def predict(self, columns: Mapping[str, Any]) -> Mapping[str, Array]:
        """Each output of n rows. Raises what the parts raise, with the node named."""
        rows = len(next(iter(columns.values())))
        run = _Run(self.plan, self.parts, columns, rows)
        everything = np.arange(rows)
        return {name: np.asarray(run.values(ref, everything)) for name, ref in self.plan.outputs.items()}


class _Run:
    """One computation. What a node gave is kept with the rows that it was computed for."""

    def __init__(self, plan: Plan, parts: Mapping[str, LoadedVersion], columns: Mapping[str, Any], rows: int) -> None:
        self._plan, self._parts, self._columns, self._rows = plan, parts, columns, rows
        self._done: dict[str, npt.NDArray[np.bool_]] = {}
        self._values: dict[str, dict[str, Array]] = {}

    def values(self, ref: Ref, rows: npt.NDArray[np.int64]) -> Any:
        """Of the rows with these numbers."""
        if not ref.node:
            return _taken(self._columns[ref.name], rows, self._rows)
        done = self._done.get(ref.node)
        missing = rows if done is None else rows[~done[rows]]
        if len(missing):
            self._keep(ref.node, missing, self._computed(ref.node, missing))
        return _taken(self._values[ref.node][ref.name], rows, self._rows)

    def _keep(self, node: str, rows: npt.NDArray[np.int64], found: Mapping[str, Array]) -> None:
        if len(rows) == self._rows:
            self._values[node] = dict(found)
            self._done[node] = np.ones(self._rows, dtype=bool)
            return
        held = self._values.setdefault(node, {})
        for name, values in found.items():
            if name not in held:
                held[name] = np.zeros((self._rows, *values.shape[1:]), dtype=values.dtype)
            held[name][rows] = values
        self._done.setdefault(node, np.zeros(self._rows, dtype=bool))[rows] = True

    def _computed(self, name: str, rows: npt.NDArray[np.int64]) -> Mapping[str, Array]:
        node = self._plan.nodes[name]
        if node.kind == "model":
            return self._answer(name, node, rows)
        if node.kind == "if":
            return {VALUE: self._branched(node, rows)}
        members = [np.asarray(self.values(ref, rows)) for ref in node.of]
        if node.kind == "mean":
            return {VALUE: np.average(np.stack([m.astype(np.float64) for m in members]), axis=0, weights=node.weights)}
        return {VALUE: _voted(members, node.weights)}

    def _answer(self, name: str, node: Node, rows: npt.NDArray[np.int64]) -> Mapping[str, Array]:
        part = self._parts[name]
        given: dict[str, Any] = {}
        specs = part.signature.by_name
        whole = part.signature.matrix
        if whole is not None and set(node.wires) == {whole.name}:
            given[whole.name] = self.values(node.wires[whole.name], rows)
        else:
            for spec in specs.values():
                ref = node.wires.get(spec.name, Ref("", spec.name))
                if ref.node or spec.name in self._columns:
                    values = self.values(ref, rows)
                    text = spec.datatype == "BYTES" and len(spec.shape) == 1
                    given[spec.name] = list(values) if text else values
        try:
            found = part.predict(given, {})
        except PartFailed as e:
            raise PartFailed(f"node {name!r} ({part.model}/{part.version}): {e.part}", e.reason) from e
        except InvalidInput as e:
            raise SchemaMismatch(f"nodes.{name}.{e.field}", e.reason) from e
        for output, values in found.items():
            if len(values) != len(rows):
                reason = f"its output {output!r} has {len(values)} rows for {len(rows)}"
                raise PartFailed(f"node {name!r} ({part.model}/{part.version})", reason)
        return found

    def _branched(self, node: Node, rows: npt.NDArray[np.int64]) -> Array:
        assert node.left is not None
        holds = _holds(self.values(node.left, rows), node.operator, node.right)
        sides = [(node.of[0], holds), (node.of[1], ~holds)]
        found = [(where, np.asarray(self.values(ref, rows[where]))) for ref, where in sides if where.any()]
        if len(found) == 1:
            return found[0][1]
        dtype = object if found[0][1].dtype == object else np.result_type(found[0][1], found[1][1])
        both = np.zeros((len(rows), *found[0][1].shape[1:]), dtype=dtype)
        for where, values in found:
            both[where] = values
        return both


_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    ">": np.greater,
    ">=": np.greater_equal,
    "<": np.less,
    "<=": np.less_equal,
}


def _holds(values: Any, operator: str, right: Any) -> npt.NDArray[np.bool_]:
    """Where a comparison holds; nowhere that a value is missing."""
    if operator in _COMPARE:
        with np.errstate(invalid="ignore"):
            found: npt.NDArray[np.bool_] = _COMPARE[operator](np.asarray(values, dtype=np.float64), right)
        return found
    wanted = set(right) if operator == "in" else {right}
    missing = np.array([v is None or v != v for v in values], dtype=bool)
    same = np.array([v in wanted for v in values], dtype=bool)
    differs: npt.NDArray[np.bool_] = ~same & ~missing
    return differs if operator == "!=" else same


def _voted(members: Sequence[Array], weights: Sequence[float]) -> Array:
    """The label with the most weight in each row; of equals, the one that an earlier member gave."""
    rows = []
    for labels in zip(*members, strict=True):
        votes: dict[Any, float] = {}
        for label, weight in zip(labels, weights, strict=True):
            votes[label] = votes.get(label, 0.0) + weight
        rows.append(max(votes, key=lambda label: votes[label]))
    found = np.empty(len(rows), dtype=members[0].dtype)
    found[:] = rows
    return found


def _taken(values: Any, rows: npt.NDArray[np.int64], of: int) -> Any:
    if len(rows) == of:
        return values
    return values[rows] if isinstance(values, np.ndarray) else [values[i] for i in rows]
