"""Verbs on registered models and their versions."""

from __future__ import annotations

import re
from typing import Any

from rayplat.errors import InvalidInput
from rayplat.registry import comparison
from rayplat.registry.adopt import MlflowSource
from rayplat.registry.record import aliases, pins, versions
from rayplat.services import composing, registration
from rayplat.services.registration import Verified
from rayplat.services.verbs import Noun, route
from rayplat.types import Adopted, ModelDiff, ModelVersion, RecordPin, Role, TableVersion

_REFERENCE = re.compile(r"(?P<model>[^/@]+)(/(?P<version>\d+)|@(?P<alias>[^/@]+))")


class Models(Noun):
    """Registered models: a version is its content, and never changes."""

    NAME = "models"

    @route("GET", "/models", Role.VIEWER)
    def list(self) -> tuple[str, ...]:
        """Names of all registered models."""
        return tuple(self._context.registry.read(versions.models))

    @route("GET", "/models/{model}/versions", Role.VIEWER)
    def versions(self, model: str) -> tuple[ModelVersion, ...]:
        """All versions, newest first. Raises NotFound for an unknown model."""
        return tuple(self._context.registry.read(versions.listed, model))

    @route("GET", "/models/{model}/versions/{version}", Role.VIEWER)
    def version(self, model: str, version: int) -> ModelVersion:
        """One version. Raises NotFound."""
        return self._context.registry.read(versions.get, model, version)

    @route("POST", "/models/{model}/versions", Role.DEVELOPER, long=True)
    def register(
        self,
        model: str,
        digest: str,
        run_id: str,
        training_set: str,
        pins: tuple[TableVersion, ...] = (),
        metrics: dict[str, float] | None = None,
        baseline: str | None = None,
    ) -> ModelVersion:
        """Register and sign a tree of the artifact store by its digest; the same digest again returns its version.

        ``training_set`` and ``baseline`` are digests; ``pins`` the table versions it was trained on. Raises NotFound
        for bytes that are not in the store, InvalidInput for a tree that is no model."""
        candidate = registration.candidate(
            self._context, model, digest, run_id, training_set, pins, metrics or {}, baseline
        )
        return registration.register(self._context, candidate)

    @route("POST", "/model-graphs", Role.DEVELOPER, long=True)
    def compose(self, graph: dict[str, Any]) -> ModelVersion:
        """Register a graph of other models' versions as a model: ``model``, ``nodes`` and ``outputs`` of it.

        Aliases are resolved now, and every part is pinned by its digest. InvalidInput names the node that is unknown,
        part of a cycle, or does not fit what feeds it."""
        return composing.compose(self._context, graph)

    @route("POST", "/model-imports", Role.ADMIN, long=True)
    def adopt(
        self, tracking_uri: str, *, registry_uri: str | None = None, models: tuple[str, ...] | None = None
    ) -> tuple[Adopted, ...]:
        """Import an MLflow registry: its versions hashed, signed and numbered as there, its stages as aliases.

        ``tracking_uri`` has its runs, ``registry_uri`` its models where they lie elsewhere; both are reached from the
        platform's machines, and nothing in them is changed. Again goes on where it was."""
        return registration.adopt(self._context, MlflowSource(tracking_uri, registry_uri), models)

    @route("GET", "/model-diff", Role.VIEWER, long=True)
    def diff(self, a: str, b: str, *, everything: bool = False) -> ModelDiff:
        """What differs from version ``a`` to ``b``, each ``model/3`` or ``model@champion``."""
        return comparison.diff(
            self._found(a), self._found(b), self._context.artifacts, self._context.tracking, everything
        )

    @route("POST", "/models/{model}/versions/{version}/verify", Role.VIEWER, long=True)
    def verify(self, model: str, version: int) -> Verified:
        """Read a version's bytes and check its signed statement against the record. Raises Corrupt, NotTrusted."""
        return registration.verify(self._context, self.version(model, version))

    @route("POST", "/models/{model}/versions/{version}/retire", Role.DEVELOPER)
    def retire(self, model: str, version: int, reason: str) -> ModelVersion:
        """Let no alias be pointed at a version any more, until it is restored; refused while something points at it."""
        return self._context.registry.write(versions.retire, model, version, reason, by=self._context.principal)

    @route("POST", "/models/{model}/versions/{version}/restore", Role.DEVELOPER)
    def restore(self, model: str, version: int, reason: str) -> ModelVersion:
        """Take a retirement back."""
        return self._context.registry.write(versions.restore, model, version, reason, by=self._context.principal)

    @route("POST", "/models/{model}/versions/{version}/delete", Role.APPROVER)
    def delete(self, model: str, version: int, reason: str) -> ModelVersion:
        """Give a version up for good; its number stays. Refused while an alias, a pin or a promotion points at it."""
        return self._context.registry.write(versions.delete, model, version, reason, by=self._context.principal)

    @route("GET", "/models/{model}/versions/{version}/pins", Role.VIEWER)
    def pins(self, model: str, version: int) -> tuple[RecordPin, ...]:
        """Who wants a version kept, and why."""
        return tuple(self._context.registry.read(pins.listed, "version", f"{model}/{version}"))

    @route("POST", "/models/{model}/versions/{version}/pins", Role.DEVELOPER)
    def pin(self, model: str, version: int, reason: str) -> RecordPin:
        """Keep a version until you unpin it: it can be neither retired nor deleted."""
        target = f"{model}/{version}"
        return self._context.registry.write(pins.pin, "version", target, reason, by=self._context.principal)

    @route("DELETE", "/models/{model}/versions/{version}/pins", Role.DEVELOPER)
    def unpin(self, model: str, version: int, by: str | None = None) -> None:
        """Take your pin away; only an admin takes away those of another holder (``by``)."""
        self._context.registry.write(pins.unpin, "version", f"{model}/{version}", by, by=self._context.principal)

    def _found(self, reference: str) -> ModelVersion:
        named = _REFERENCE.fullmatch(reference)
        if named is None:
            raise InvalidInput("version", f"{reference[:80]!r} is neither like model/3 nor like model@champion")
        if named["version"] is not None:
            return self.version(named["model"], int(named["version"]))
        head = self._context.registry.read(aliases.get, named["model"], named["alias"])
        return self.version(head.model, head.version)
