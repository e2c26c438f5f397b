"""Verbs on alias policies: what a version must go through before an alias points at it."""

from __future__ import annotations

import inspect
from dataclasses import MISSING, dataclass, fields, replace
from typing import Any

from rayplat.registry import documents
from rayplat.registry.gates import catalog
from rayplat.registry.record import policies
from rayplat.services.verbs import Noun, route
from rayplat.types import AliasPolicy, GateSpec, Role


@dataclass(frozen=True)
class GateInfo:
    """A built-in gate. ``params`` are its parameters with their defaults, ``required`` those that must be given;
    ``waivable`` says whether an approver may let it be."""

    gate: str
    stage: str
    waivable: bool
    params: dict[str, Any]
    required: tuple[str, ...]
    doc: str


class Policies(Noun):
    """What a version must go through before an alias points at it; ``*`` stands for every model or every alias."""

    NAME = "policies"

    @route("GET", "/policies", Role.VIEWER)
    def list(self) -> tuple[AliasPolicy, ...]:
        """Every policy that was set; an alias without one is held to the built-in policy."""
        return tuple(self._context.registry.read(policies.listed))

    @route("GET", "/policies/{model}/{alias}", Role.VIEWER)
    def get(self, model: str, alias: str) -> AliasPolicy:
        """The policy that holds for an alias now: its own, its model's, the alias's in all models, or the built-in."""
        mismatch = self._context.settings.registry.max_parity_mismatch
        return self._context.registry.read(policies.find, model, alias, mismatch)

    @route("POST", "/policies/{model}/{alias}", Role.ADMIN)
    def set(
        self,
        model: str,
        alias: str,
        protected: bool | None = None,
        gates: tuple[GateSpec, ...] | None = None,
        min_approvals: int | None = None,
        approvers: tuple[str, ...] | None = None,
        evidence_from: tuple[str, ...] | None = None,
        cooldown_s: float | None = None,
        expires_s: float | None = None,
    ) -> AliasPolicy:
        """Set the policy of an alias: what is not given stays as it holds now. Open promotions go stale.

        Raises InvalidInput naming the gate and its parameter."""
        given: dict[str, Any] = {
            "protected": protected,
            "gates": gates,
            "min_approvals": min_approvals,
            "approvers": approvers,
            "evidence_from": evidence_from,
            "cooldown_s": cooldown_s,
            "expires_s": expires_s,
        }
        changes = {name: value for name, value in given.items() if value is not None}
        wanted = replace(self.get(model, alias), model=model, alias=alias, digest="", **changes)
        return self._context.registry.write(policies.set, wanted, by=self._context.principal)

    @route("DELETE", "/policies/{model}/{alias}", Role.ADMIN)
    def remove(self, model: str, alias: str) -> None:
        """Forget a policy: from then on the next less telling one holds. Raises NotFound."""
        self._context.registry.write(policies.remove, model, alias, by=self._context.principal)

    @route("GET", "/gates", Role.VIEWER)
    def gates(self) -> tuple[GateInfo, ...]:
        """The gates there are, with their parameters."""
        return tuple(_gate_info(name) for name in catalog.BUILT_IN)


def _gate_info(name: str) -> GateInfo:
    gate, params = catalog.BUILT_IN[name], dict[str, Any]()
    for field in fields(gate.params):
        if field.default is not MISSING:
            params[field.name] = documents.plain(field.default)
        elif field.default_factory is not MISSING:
            params[field.name] = documents.plain(field.default_factory())
    required = tuple(field.name for field in fields(gate.params) if field.name not in params)
    return GateInfo(name, gate.stage, gate.waivable, params, required, inspect.getdoc(gate.params) or "")
