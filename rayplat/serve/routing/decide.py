"""Who answers a request under a release: a tester's header first, then the canary, then the split, else the alias."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from rayplat.errors import Forbidden, InvalidInput
from rayplat.serve.request import Call, InferRequest
from rayplat.serve.routing.split import Key, Shares, encoded, header_of, position_after, prefix, sticky_key, threshold
from rayplat.types import Canary, CanaryState, Release, Shadow

TARGET_HEADER = "x-rayplat-target"
PRIMARY, SPLIT, CANARY, OVERRIDE = "primary", "split", "canary", "override"


class RoutingDecision(NamedTuple):
    """``target`` None: the host's own alias answers. ``role`` says why, ``shadows`` who gets a copy. Names are those of
    `variant`: an alias, or ``v7`` for an exact version."""

    target: str | None
    role: str
    shadows: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Plan:
    """A release made ready: nothing of it is worked out again for a request."""

    release: Release
    plain: RoutingDecision | None
    canary: tuple[str, bytes, int, Key] | None
    shares: Shares | None
    names: tuple[str | None, ...]
    split_key: Key
    one_key: bool
    always: tuple[str, ...]
    sampled: tuple[tuple[str, bytes, int], ...]


class RoutingPolicy:
    """Decides for the host of the alias ``primary``. The same release and the same key give the same answer in every
    process; a growing canary takes keys from the others and gives none back; shadows never change who answers."""

    def __init__(self, primary: str) -> None:
        self._primary = primary
        self._plan = self._planned(Release(""))

    def decide(self, release: Release, call: Call, request: InferRequest) -> RoutingDecision:
        """Raises `InvalidInput` for a tester's target that the release does not name, `Forbidden` where it takes
        none."""
        plan = self._plan
        if plan.release is not release:
            plan = self._plan = self._planned(release)
        if call.target is not None:
            return self._overridden(release, call.target, call)
        if plan.plain is not None:
            return plan.plain
        target, role, key = None, PRIMARY, b""
        if plan.canary is not None:
            name, salt, end, key_of = plan.canary
            key = encoded(key_of(request, call))
            if position_after(salt, key) < end:
                target, role = name, CANARY
        if plan.shares is not None and target is None:
            if not plan.one_key:
                key = encoded(plan.split_key(request, call))
            target, role = plan.names[plan.shares.index(key)], SPLIT
        shadows = plan.always
        if plan.sampled:
            key = encoded(call.request_id)
            shadows += tuple([name for name, salt, end in plan.sampled if position_after(salt, key) < end])
        if target in shadows:  # it answers already
            shadows = tuple([name for name in shadows if name != target])
        return RoutingDecision(target, role, shadows)

    def _overridden(self, release: Release, target: str, call: Call) -> RoutingDecision:
        if target == self._primary:
            return RoutingDecision(None, OVERRIDE, ())
        if not release.overrides:
            who = call.principal.name if call.principal is not None else "the caller"
            raise Forbidden(who, f"the release of this model takes no {TARGET_HEADER} header")
        known = targets(release)
        name = next((variant(found) for found in known if target in (found, variant(found))), None)
        if name is None:
            named = ", ".join(dict.fromkeys([self._primary, *known]))
            raise InvalidInput(TARGET_HEADER, f"{target[:80]!r} is no target of this model's release; it names {named}")
        return RoutingDecision(name, OVERRIDE, ())

    def _planned(self, release: Release) -> _Plan:
        canary, split = release.canary, release.split
        taken = fraction(canary)
        shadows = [s for s in release.shadows if s.target != self._primary]
        nobody = not taken and split is None and not shadows
        targets = [share.target for share in split.shares] if split else []
        return _Plan(
            release=release,
            plain=RoutingDecision(None, PRIMARY, ()) if nobody else None,
            canary=_rising(canary, taken) if canary and taken else None,
            shares=Shares(split.shares, split.salt) if split else None,
            names=tuple(None if target == self._primary else variant(target) for target in targets),
            split_key=sticky_key(split.sticky if split else "request_id"),
            one_key=bool(canary and taken and split and canary.sticky == split.sticky),
            always=tuple(variant(s.target) for s in shadows if s.sample >= 1),
            sampled=tuple(_sampled(s) for s in shadows if 0 < s.sample < 1),
        )


def fraction(canary: Canary | None) -> float:
    """The share of the requests that a canary takes as it stands."""
    if canary is None or canary.state is CanaryState.ROLLED_BACK:
        return 0.0
    return canary.steps[canary.step]


def targets(release: Release) -> tuple[str, ...]:
    """Every target that a release names, once each: its shares, its canary, its shadows."""
    found = [share.target for share in release.split.shares] if release.split else []
    found += [release.canary.target] if release.canary else []
    return tuple(dict.fromkeys([*found, *(shadow.target for shadow in release.shadows)]))


def answering(release: Release, primary: str) -> frozenset[str]:
    """The variants other than ``primary`` that requests are sent to, or copied to, as it stands."""
    found = {share.target for share in release.split.shares} if release.split else set()
    found |= {release.canary.target} if release.canary and fraction(release.canary) else set()
    found |= {shadow.target for shadow in release.shadows if shadow.sample > 0}
    return frozenset(variant(target) for target in found - {primary})


def headers(release: Release) -> frozenset[str]:
    """Names of the headers, in lower case, that a decision may go by."""
    rules = [release.split.sticky] if release.split else []
    rules += [release.canary.sticky] if release.canary else []
    return frozenset({TARGET_HEADER, *filter(None, map(header_of, rules))})


def variant(target: str) -> str:
    """The name by which answers, counts and applications know a target: an alias's own, ``v7`` for version 7."""
    return f"v{target}" if target.isdigit() else target


def _rising(canary: Canary, taken: float) -> tuple[str, bytes, int, Key]:
    salt = prefix(f"canary:{canary.target}")
    return variant(canary.target), salt, threshold(taken), sticky_key(canary.sticky)


def _sampled(shadow: Shadow) -> tuple[str, bytes, int]:
    return variant(shadow.target), prefix(f"shadow:{shadow.target}"), threshold(shadow.sample)
