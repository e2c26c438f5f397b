"""From what is wanted and what is there to the steps between them, with their reasons and what each costs. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

from rayplat.errors import InvalidInput
from rayplat.registry import documents
from rayplat.serve.http.routes import DEFAULT_ALIAS
from rayplat.types import Autoscale, EndpointSpec, PlanAction, PlanStep, ServingPlan

# What a running process cannot change: the resources that it reserves.
_RESTARTING = frozenset({"cpus", "gpus"})
_ROLLING = "a rolling restart: a new process is ready before each old one stops"
_IN_PLACE = "nothing restarts"
_COSTS = {
    (PlanAction.CREATE, "dedicated"): "a process of its own is started",
    (PlanAction.CREATE, "pooled"): "the pool loads it",
    (PlanAction.MOVE, "dedicated"): "a process of its own is started, then the pool lets it go; nothing is refused",
    (PlanAction.MOVE, "pooled"): "the pool loads it, then its own processes stop; nothing is refused",
}

Key = tuple[str, str]


@dataclass(frozen=True)
class Present:
    """One endpoint as it is. ``problem`` says what is wrong where it does not run as the record has it: apply mends
    it."""

    spec: EndpointSpec
    problem: str = ""


def make(wanted: Sequence[EndpointSpec], present: Sequence[Present], prune: bool = False) -> ServingPlan:
    """The steps that lead from ``present`` to ``wanted``. What ``wanted`` does not name stays as it is, or with
    ``prune`` is removed.

    Raises `InvalidInput` for an alias that could not be reached.
    """
    there = {_key(p.spec): p for p in present}
    after = {} if prune else {key: p.spec for key, p in there.items()}
    after |= {_key(spec): spec for spec in wanted}
    after = _with_one_default(after, wanted)
    check_paths(after.values())
    steps = [step for key in after if (step := _step(after[key], there.get(key)))]
    steps.sort(key=lambda step: step.action not in (PlanAction.CHANGE, PlanAction.CREATE))  # what is quick comes first
    steps += [_removal(p.spec) for key, p in there.items() if key not in after]
    return ServingPlan(tuple(steps), documents.digest([documents.plain(step) for step in steps]))


def check_paths(specs: Iterable[EndpointSpec]) -> None:
    """Raises `InvalidInput` for a pooled alias below the path of a dedicated host, which would answer in its place."""
    found = list(specs)
    dedicated = {s.model for s in found if s.alias == DEFAULT_ALIAS and s.placement == "dedicated"}
    for spec in found:
        if spec.placement == "pooled" and spec.alias != DEFAULT_ALIAS and spec.model in dedicated:
            reason = (
                f"{spec.model}/{DEFAULT_ALIAS} is dedicated, and its host owns every path of the model: "
                f"place {spec.alias!r} dedicated too, or both in the pool"
            )
            raise InvalidInput(f"{spec.model}/{spec.alias}.placement", reason)


def changes(before: EndpointSpec, after: EndpointSpec) -> tuple[str, ...]:
    """What differs, a line for each field: ``limits.queue: 10 -> 20``."""
    return tuple(f"{name}: {_shown(old)} -> {_shown(new)}" for name, old, new in _different(before, after))


def changes_host(before: EndpointSpec, after: EndpointSpec) -> bool:
    """Whether a running host has to be told: not of how many there are, nor of what is at the root."""
    own = {"replicas", "autoscale", "default", "pinned"}
    return any(name.partition(".")[0] not in own for name, _, _ in _different(before, after))


def _with_one_default(after: Mapping[Key, EndpointSpec], wanted: Sequence[EndpointSpec]) -> dict[Key, EndpointSpec]:
    new = next((_key(spec) for spec in wanted if spec.default), None)
    return {
        key: replace(spec, default=False) if spec.default and new not in (None, key) else spec
        for key, spec in after.items()
    }


def _step(after: EndpointSpec, present: Present | None) -> PlanStep | None:
    if present is None:
        return _made(PlanAction.CREATE, after, ("it is not served yet",))
    before, reasons = present.spec, changes(present.spec, after)
    if present.problem:
        return _made(PlanAction.CREATE, after, (present.problem, *reasons))
    if not reasons:
        return None
    if before.placement != after.placement:
        return _made(PlanAction.MOVE, after, reasons)
    if any(name in _RESTARTING for name, _, _ in _different(before, after)):
        return replace(_made(PlanAction.RESTART, after, reasons), cost=_ROLLING)
    return replace(_made(PlanAction.CHANGE, after, reasons), cost=_change_cost(before, after))


def _change_cost(before: EndpointSpec, after: EndpointSpec) -> str:
    if before.autoscale != after.autoscale or before.replicas != after.replicas:
        return "processes are added or stopped; those that stay do not restart"
    return _IN_PLACE


def _made(action: PlanAction, spec: EndpointSpec, reasons: tuple[str, ...]) -> PlanStep:
    return PlanStep(action, spec.model, spec.alias, reasons, _COSTS.get((action, spec.placement), _IN_PLACE), spec)


def _removal(spec: EndpointSpec) -> PlanStep:
    reasons = ("the spec does not name it",)
    return PlanStep(PlanAction.REMOVE, spec.model, spec.alias, reasons, "its requests are refused from then on")


def _different(before: Any, after: Any, prefix: str = "") -> list[tuple[str, Any, Any]]:
    found: list[tuple[str, Any, Any]] = []
    for field in fields(before):
        old, new = getattr(before, field.name), getattr(after, field.name)
        if old == new:
            continue
        if is_dataclass(old) and is_dataclass(new):
            found += _different(old, new, f"{prefix}{field.name}.")
        else:
            found.append((prefix + field.name, old, new))
    return found


def _shown(value: Any) -> str:
    if isinstance(value, Autoscale):
        return f"{value.min_replicas} to {value.max_replicas} replicas"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "none"
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _key(spec: EndpointSpec) -> Key:
    return spec.model, spec.alias
