"""Verbs on release control: who answers a model's requests besides its default alias, and in which part."""

from __future__ import annotations

import builtins
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rayplat.errors import Conflict, NotFound, RayplatError
from rayplat.registry import release_rules, release_schemas
from rayplat.registry.record import releases, signals, versions
from rayplat.registry.release_rules import PRIMARY
from rayplat.services.endpoints import Endpoints
from rayplat.services.verbs import Noun, route
from rayplat.types import Canary, CanaryState, Release, Role, Shadow, Share, Signal, Split


@dataclass(frozen=True)
class VariantLoad:
    """One variant under the release in force: its ``share`` of the requests, and what hosts have counted since that
    began. Latencies are its own host's, in milliseconds. ``unreached`` requests were answered by the default alias
    instead; of a shadow, ``copies`` were sent and ``dropped`` were not. ``note`` says what is wrong with it."""

    variant: str
    role: str
    version: int | None
    share: float
    requests: int = 0
    errors: int = 0
    p50_ms: float | None = None
    p99_ms: float | None = None
    unreached: int = 0
    copies: int = 0
    dropped: int = 0
    note: str = ""


@dataclass(frozen=True)
class ReleaseStatus:
    """The release in force in the record, and in how many of the ``replicas`` that answer for the default alias;
    ``problem`` is why one of them has not taken it."""

    release: Release
    variants: tuple[VariantLoad, ...]
    replicas: int
    obeying: int
    problem: str = ""


class Releases(Noun):
    """Who answers a model's requests: shares, shadows and canaries beside its default alias."""

    NAME = "releases"

    @route("GET", "/models/{model}/release", Role.VIEWER)
    def get(self, model: str) -> ReleaseStatus:
        """How the requests to a model are answered now, and what hosts have counted since that began. Raises NotFound
        for an unknown model."""
        release = self._current(model)
        if not release.generation:
            self._context.registry.read(versions.listed, model)
        stats = _stats(model)
        failures = [str(host["failure"]) for host in stats if host.get("failure")]
        obeying = sum(host.get("generation") == release.generation for host in stats)
        loads = tuple(self._loads(release, stats))
        return ReleaseStatus(release, loads, len(stats), obeying, failures[0] if failures else "")

    @route("GET", "/models/{model}/release/history", Role.VIEWER)
    def history(self, model: str, limit: int = 20) -> tuple[Release, ...]:
        """The newest releases of a model, newest first: who changed what, when."""
        return tuple(self._context.registry.read(releases.history, model, limit))

    @route("POST", "/models/{model}/release/split", Role.DEVELOPER, long=True)
    def split(
        self,
        model: str,
        shares: dict[str, float],
        sticky: str = "request_id",
        salt: str | None = None,
        promotion_id: str | None = None,
    ) -> Release:
        """Divide the requests by weight, each key always to the same target; ``shares`` empty ends the split. Hosts
        that are missing are started first. ``salt`` is the model's name with the promotion's, unless given."""
        if not shares:
            return self._put(replace(self._current(model), split=None))
        parts = tuple(Share(_target(name), weight) for name, weight in shares.items())
        made = Split(parts, salt or f"{model}/{promotion_id or 'split'}", sticky, promotion_id)
        return self._put(replace(self._current(model), split=made))

    @route("POST", "/models/{model}/release/shadow", Role.DEVELOPER, long=True)
    def shadow(self, model: str, target: str, sample: float = 1.0, max_pending: int = 1024) -> Release:
        """Send a copy of ``sample`` (0 to 1) of the requests to ``target``; 0 ends it. Its host is started first."""
        release, shadow = self._current(model), Shadow(_target(target), sample, max_pending)
        others = tuple(s for s in release.shadows if s.target != shadow.target)
        return self._put(replace(release, shadows=(*others, shadow) if sample else others))

    @route("POST", "/models/{model}/release/canary", Role.DEVELOPER, long=True)
    def canary(
        self,
        model: str,
        target: str,
        steps: tuple[float, ...] = (0.01, 0.05, 0.25, 0.5, 1.0),
        hold_s: float = 300.0,
        min_requests: int = 100,
        max_error_rate: float = 0.01,
        max_p99_ratio: float | None = 2.0,
        watch: tuple[str, ...] = ("drift",),
        sticky: str = "request_id",
    ) -> Release:
        """Give ``target`` a growing share of the requests, step by step (shares from 0 to 1). It goes back by itself on
        errors, latency or a bad signal of a kind in ``watch``. Its host is started first."""
        made = Canary(
            _target(target),
            steps=tuple(float(step) for step in steps),
            hold_s=hold_s,
            min_requests=min_requests,
            max_error_rate=max_error_rate,
            max_p99_ratio=max_p99_ratio,
            watch=watch,
            sticky=sticky,
        )
        return self._put(replace(self._current(model), canary=made))

    @route("POST", "/models/{model}/release/canary/pause", Role.DEVELOPER)
    def pause(self, model: str) -> Release:
        """Keep the canary at its step; it is still taken back where it goes wrong. Raises Conflict without one."""
        return self._change_canary(model, CanaryState.PAUSED, (CanaryState.RAMPING,), "paused")

    @route("POST", "/models/{model}/release/canary/resume", Role.DEVELOPER)
    def resume(self, model: str) -> Release:
        """Go on with a paused canary, its step from the beginning. Raises Conflict without one."""
        return self._change_canary(model, CanaryState.RAMPING, (CanaryState.PAUSED,), "")

    @route("POST", "/models/{model}/release/canary/rollback", Role.DEVELOPER)
    def rollback(self, model: str, reason: str = "") -> Release:
        """Take the canary's share away at once. Raises Conflict where it has none."""
        before = (CanaryState.RAMPING, CanaryState.PAUSED, CanaryState.DONE)
        who = f"by {self._context.principal.name}"
        return self._change_canary(model, CanaryState.ROLLED_BACK, before, f"{reason} ({who})" if reason else who)

    @route("POST", "/models/{model}/release/overrides", Role.DEVELOPER)
    def overrides(self, model: str, allowed: bool = True) -> Release:
        """Whether a tester's header (``x-rayplat-target``) chooses among the targets of the release."""
        return self._put(replace(self._current(model), overrides=allowed))

    @route("DELETE", "/models/{model}/release", Role.DEVELOPER)
    def clear(self, model: str) -> Release:
        """Let the default alias answer everything again: no split, no canary, no shadows. Their hosts stay."""
        return self._put(replace(self._current(model), split=None, shadows=(), canary=None, overrides=True))

    @route("POST", "/models/{model}/versions/{version}/signals", Role.DEVELOPER)
    def signal(
        self,
        model: str,
        version: int,
        *,
        kind: str,
        bad: bool,
        detail: str = "",
        numbers: dict[str, float] | None = None,
    ) -> Signal:
        """Say what was seen of a version; a canary that watches this kind is taken back by a bad one."""
        put, by = signals.put, self._context.principal
        return self._context.registry.write(put, model, version, kind, bad, detail=detail, numbers=numbers, by=by)

    @route("GET", "/models/{model}/signals", Role.VIEWER)
    def signals(self, model: str, version: int | None = None, limit: int = 100) -> tuple[Signal, ...]:
        """What was seen of a model's versions, newest first."""
        return tuple(self._context.registry.read(signals.listed, model, version, limit=limit))

    # --- inside -----------------------------------------------------------------------------------

    def _current(self, model: str) -> Release:
        return self._context.registry.read(releases.get, model)

    def _put(self, release: Release) -> Release:
        """Check, start what is missing, write. The record refuses it where somebody was faster."""
        context = self._context
        before = context.registry.read(releases.examine, release, context.principal)
        release_schemas.check_release(context.registry, context.artifacts, before, release)
        new = set(release_rules.targets(release)) - set(release_rules.targets(before)) - {PRIMARY}
        if new:
            self._serve(release.model, sorted(new))
        return context.registry.write(releases.put, release, release.generation, by=context.principal)

    def _serve(self, model: str, targets: builtins.list[str]) -> None:
        endpoints = Endpoints(self._context)
        running = {endpoint.alias for endpoint in endpoints.list() if endpoint.model == model}
        for name in map(_variant, targets):
            if name not in running:
                endpoints.create(model, name)

    def _change_canary(self, model: str, state: CanaryState, before: tuple[CanaryState, ...], reason: str) -> Release:
        release = self._current(model)
        canary = release.canary
        if canary is None or canary.state not in before:
            found = "there is none" if canary is None else f"it is {canary.state.value.replace('_', ' ')}"
            raise Conflict(f"the canary of {model} cannot be {state.value.replace('_', ' ')}: {found}")
        return self._put(replace(release, canary=replace(canary, state=state, reason=reason)))

    def _loads(self, release: Release, stats: Sequence[Mapping[str, Any]]) -> builtins.list[VariantLoad]:
        from rayplat.serve.routing.counts import VariantCounts, read

        counts = read(stats, release.generation)
        found = []
        for target, role, share in _shares(release):
            name = _variant(target)
            seen = counts.get(name, VariantCounts())
            shadowed = [host["shadows"][name] for host in stats if name in host.get("shadows", {})]
            failing = [str(told["failure"]) for told in shadowed if told.get("failure")]
            gone = any(name in host.get("gone", ()) for host in stats)
            found.append(
                VariantLoad(
                    name,
                    role,
                    self._version(release.model, target),
                    share,
                    requests=seen.requests,
                    errors=seen.errors,
                    p50_ms=seen.quantile_ms(0.5) if seen.answers else None,
                    p99_ms=seen.quantile_ms(0.99) if seen.answers else None,
                    unreached=sum(host.get("unreached", {}).get(name, 0) for host in stats),
                    copies=sum(told["sent"] for told in shadowed) if role == "shadow" else 0,
                    dropped=sum(told["dropped"] for told in shadowed) if role == "shadow" else 0,
                    note="cannot be reached" if gone else "".join(failing[:1]) if role == "shadow" else "",
                )
            )
        return found

    def _version(self, model: str, target: str) -> int | None:
        try:
            return self._context.registry.read(releases.version_at, model, target)
        except NotFound:
            return None


def _shares(release: Release) -> builtins.list[tuple[str, str, float]]:
    """Target, role and present share of each, the default alias first."""
    canary, split = release.canary, release.split
    rising = canary.steps[canary.step] if canary is not None and canary.state is not CanaryState.ROLLED_BACK else 0.0
    parts = {PRIMARY: 1.0} if split is None else {share.target: share.weight for share in split.shares}
    total = sum(parts.values())
    found = [(PRIMARY, "primary", (1 - rising) * parts.pop(PRIMARY, 0.0) / total)]
    found += [(target, "split", (1 - rising) * weight / total) for target, weight in parts.items()]
    if canary is not None:
        found.append((canary.target, "canary", rising))
    return found + [(shadow.target, "shadow", shadow.sample) for shadow in release.shadows]


def _stats(model: str) -> Sequence[Mapping[str, Any]]:
    """What the hosts of the default alias say of release control; nothing where none can be asked."""
    import ray

    from rayplat.serve.deployment import deploy

    if not ray.is_initialized():
        return []
    try:
        return [host["release"] for host in deploy.stats(model, PRIMARY) if host.get("release")]
    except (RayplatError, RuntimeError, ray.exceptions.RayError):
        return []


def _target(name: str) -> str:
    """``v7``, as answers and endpoints call a version, is version 7."""
    return name[1:] if name[:1] == "v" and release_rules.version_of(name[1:]) is not None else name


def _variant(target: str) -> str:
    return target if release_rules.version_of(target) is None else f"v{target}"
