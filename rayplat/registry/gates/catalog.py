"""The built-in gates by name, and what a policy says about them, checked. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from rayplat.artifacts.manifest import canonical
from rayplat.errors import InvalidInput
from rayplat.registry import documents
from rayplat.registry.gates import bundle, data, fairness, metrics, online, own
from rayplat.registry.gates.gate import STAGES, Gate
from rayplat.types import GateSpec

BUILT_IN: dict[str, Gate[Any]] = {
    gate.name: gate for gate in (*bundle.GATES, *data.GATES, *metrics.GATES, *fairness.GATES, *own.GATES, *online.GATES)
}
_MOST_GATES = 100


def parse(spec: GateSpec) -> tuple[Gate[Any], Any]:
    """The gate of a spec and its typed parameters. Raises `InvalidInput` naming the gate and the parameter."""
    gate = BUILT_IN.get(spec.gate)
    if gate is None:
        raise InvalidInput("gate", f"{spec.gate!r} is not known; known are {', '.join(sorted(BUILT_IN))}")
    try:
        canonical(spec.params)  # NaN and infinity have no place in a policy
        return gate, documents.build(gate.params, spec.params, "params")
    except InvalidInput as e:
        raise InvalidInput(f"gate {spec.gate}: {e.field}", e.reason) from e


def check(specs: Iterable[GateSpec]) -> tuple[GateSpec, ...]:
    """``specs`` themselves, or `InvalidInput` for the first that is unknown or has a bad parameter."""
    found = tuple(specs)
    if len(found) > _MOST_GATES:
        raise InvalidInput("gates", f"{len(found)} gates, at most {_MOST_GATES} are possible")
    for spec in found:
        if not isinstance(spec, GateSpec):
            raise InvalidInput("gates", f"{spec!r} is no GateSpec")
        parse(spec)
    return found


def labelled(specs: Iterable[GateSpec]) -> list[tuple[str, GateSpec]]:
    """Each spec with its name in results and waivers: the gate's, with ``#2``, ``#3`` where it comes again."""
    counts: Counter[str] = Counter()
    found = []
    for spec in specs:
        counts[spec.gate] += 1
        found.append((spec.gate if counts[spec.gate] == 1 else f"{spec.gate}#{counts[spec.gate]}", spec))
    return found


def of_stage(specs: Iterable[GateSpec], stage: str) -> list[tuple[str, GateSpec]]:
    """The labelled specs of one stage. A gate this release does not know belongs to the first: it fails there."""
    return [
        (label, spec)
        for label, spec in labelled(specs)
        if (BUILT_IN[spec.gate].stage if spec.gate in BUILT_IN else STAGES[0]) == stage
    ]
