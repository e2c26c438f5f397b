"""Verbs on registered models, their versions and their aliases."""

from __future__ import annotations

from rayplat.registry.candidate import Candidate
from rayplat.registry.record import aliases, versions
from rayplat.services.verbs import Noun, route
from rayplat.types import AliasHead, ModelVersion, Role, TableVersion


class Models(Noun):
    """Registered models: versions never change, aliases move by promotion only."""

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

    @route("POST", "/models/{model}/versions", Role.DEVELOPER)
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
        """Register a bundle of the artifact store by its digest; the same digest again returns the version it has.

        ``training_set`` and ``baseline`` are digests; ``pins`` the table versions it was trained on.
        """
        candidate = Candidate(model, digest, run_id, training_set, pins, metrics or {}, baseline)
        return self._context.registry.write(versions.register, candidate, by=self._context.principal)

    @route("GET", "/models/{model}/aliases", Role.VIEWER)
    def aliases(self, model: str) -> tuple[AliasHead, ...]:
        """Where each alias of the model points."""
        return tuple(self._context.registry.read(aliases.of_model, model))

    @route("GET", "/models/{model}/aliases/{alias}", Role.VIEWER)
    def alias(self, model: str, alias: str) -> AliasHead:
        """Where one alias points. Raises NotFound."""
        return self._context.registry.read(aliases.get, model, alias)

    @route("GET", "/models/{model}/aliases/{alias}/history", Role.VIEWER)
    def history(self, model: str, alias: str) -> tuple[AliasHead, ...]:
        """Every move of an alias, newest first: who, when, by which promotion."""
        return tuple(self._context.registry.read(aliases.history, model, alias))
