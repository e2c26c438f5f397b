"""What a `Release` may say, field by field, and which changes of one send more requests away from the alias. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from rayplat.errors import InvalidInput, InvalidName
from rayplat.registry import documents
from rayplat.types import Canary, CanaryState, Release, Split, check_alias, check_name

PRIMARY = "champion"  # the alias whose requests a release divides
STICKY = "request_id, entity, header:<name>, input:<name> or parameter:<name>"
_VERSION = re.compile(r"[1-9][0-9]{0,8}")
_NAMED_KEY = re.compile(r"(header|input|parameter):\S.{0,199}")
_LONGEST_S = 30 * 86_400.0
_MOST_TARGETS, _MOST_STEPS, _MOST_TEXT = 16, 100, 2000
_ROUNDING = 1e-12

_Rule = tuple[str, bool, str]


def version_of(target: str) -> int | None:
    """The number of an exact version; None for an alias."""
    return int(target) if _VERSION.fullmatch(target) else None


def check(release: Release) -> Release:
    """``release`` itself, or `InvalidInput` naming the field that cannot be."""
    documents.check(release, "release")
    check_name("model", release.model)
    for field, holds, rule in _rules(release):
        if not holds:
            raise InvalidInput(field, rule)
    return release


def check_target(field: str, target: str) -> str:
    """``target`` itself: an alias, or the number of an exact version."""
    if version_of(target) is None:
        try:
            if "--" in check_alias(target):
                raise InvalidName("alias", "an alias with '--' in it has no address")
        except InvalidName as e:
            raise InvalidInput(field, f"{target[:80]!r} is neither an alias nor the number of a version") from e
    return target


def targets(release: Release) -> tuple[str, ...]:
    """Every target that a release names, once each."""
    found = [share.target for share in release.split.shares] if release.split else []
    found += [release.canary.target] if release.canary else []
    return tuple(dict.fromkeys([*found, *(shadow.target for shadow in release.shadows)]))


def answering(release: Release) -> tuple[str, ...]:
    """The targets other than the default alias whose answers clients get, or will get by the canary's last step."""
    return tuple(_exposure(release))


def reached(release: Release) -> tuple[str, ...]:
    """The targets other than the default alias that get requests by it, or copies of them."""
    copied = [shadow.target for shadow in release.shadows if shadow.sample > 0]
    return tuple(dict.fromkeys([*_exposure(release), *copied]))


def exposes_more(before: Release, after: Release) -> bool:
    """Whether ``after`` may send more of the alias's requests to some other target than ``before``, or drops a guard of
    its canary. A canary counts with its last step, since it gets there by itself; shadows and overrides answer nobody
    who did not ask for it."""
    had, gets = _exposure(before), _exposure(after)
    if any(share > had.get(target, 0.0) + _ROUNDING for target, share in gets.items()):
        return True
    was, now = before.canary, after.canary
    if now is None or now.state is CanaryState.ROLLED_BACK or was is None:
        return False
    return now.step > was.step or _guards(now) != _guards(was)


def _exposure(release: Release) -> dict[str, float]:
    """The largest share of the requests that each target other than the alias itself may get."""
    found: dict[str, float] = {}
    if release.split is not None:
        total = sum(share.weight for share in release.split.shares)
        found = {share.target: share.weight / total for share in release.split.shares}
    canary = release.canary
    if canary is not None and canary.state is not CanaryState.ROLLED_BACK:
        found[canary.target] = canary.steps[-1]
    found.pop(PRIMARY, None)
    return found


def _guards(canary: Canary) -> Canary:
    return replace(canary, step=0, state=CanaryState.RAMPING, since=None, reason="")


def _rules(release: Release) -> Iterator[_Rule]:
    named = targets(release)
    yield "release", len(named) <= _MOST_TARGETS, f"it names {len(named)} targets, {_MOST_TARGETS} at most"
    if release.split is not None:
        yield from _of_split(release.split)
    yield from _of_shadows(release)
    if release.canary is not None:
        yield from _of_canary(release.canary)
        shared = release.split is not None and release.canary.target in [s.target for s in release.split.shares]
        yield "canary.target", not shared, f"{release.canary.target!r} has a share of the split already"


def _of_split(split: Split) -> Iterator[_Rule]:
    yield "split.shares", bool(split.shares), "at least one share is needed"
    for i, share in enumerate(split.shares):
        check_target(f"split.shares[{i}].target", share.target)
        fits = math.isfinite(share.weight) and 0 < share.weight <= 1e9
        yield f"split.shares[{i}].weight", fits, f"{share.weight:g} is no weight: above 0, at most 1e9"
    yield "split.shares", _unique([share.target for share in split.shares]), "a target is named twice"
    yield "split.salt", 0 < len(split.salt) <= 200, "1 to 200 characters, of its own for each experiment"
    yield "split.sticky", _is_sticky(split.sticky), f"{split.sticky[:80]!r} is none of {STICKY}"


def _of_shadows(release: Release) -> Iterator[_Rule]:
    for i, shadow in enumerate(release.shadows):
        check_target(f"shadows[{i}].target", shadow.target)
        yield f"shadows[{i}].target", shadow.target != PRIMARY, f"{PRIMARY!r} answers: it cannot shadow itself"
        yield f"shadows[{i}].sample", 0 <= shadow.sample <= 1, f"{shadow.sample:g} is not between 0 and 1"
        yield f"shadows[{i}].max_pending", 1 <= shadow.max_pending <= 100_000, "it must be between 1 and 100 000"
    yield "shadows", _unique([shadow.target for shadow in release.shadows]), "a target is named twice"


def _of_canary(canary: Canary) -> Iterator[_Rule]:
    check_target("canary.target", canary.target)
    yield "canary.target", canary.target != PRIMARY, f"{PRIMARY!r} is what it is a canary of"
    yield "canary.steps", 0 < len(canary.steps) <= _MOST_STEPS, f"1 to {_MOST_STEPS} steps are needed"
    ascending = all(a < b for a, b in zip(canary.steps, canary.steps[1:], strict=False))
    fits = ascending and canary.steps[0] > 0 and canary.steps[-1] <= 1
    shown = ", ".join(f"{step:g}" for step in canary.steps)
    yield "canary.steps", fits, f"{shown} is no ascending row of shares above 0 and up to 1 (0.05 is 5 %)"
    yield "canary.step", 0 <= canary.step < len(canary.steps), f"there is no step {canary.step}"
    yield "canary.hold_s", 0 <= canary.hold_s <= _LONGEST_S, "it must be between 0 s and 30 days"
    yield "canary.min_requests", 0 <= canary.min_requests <= 10**9, "it must be between 0 and 1e9"
    yield "canary.max_error_rate", 0 <= canary.max_error_rate <= 1, "it must be between 0 and 1"
    ratio = canary.max_p99_ratio
    yield "canary.max_p99_ratio", ratio is None or 1 <= ratio <= 1000, "it must be between 1 and 1000, or none"
    for i, kind in enumerate(canary.watch):
        check_name(f"canary.watch[{i}]", kind)
    yield "canary.watch", _unique(canary.watch) and len(canary.watch) <= 32, "up to 32 kinds, each named once"
    yield "canary.sticky", _is_sticky(canary.sticky), f"{canary.sticky[:80]!r} is none of {STICKY}"
    yield "canary.reason", len(canary.reason) <= _MOST_TEXT, f"it has more than {_MOST_TEXT} characters"


def _is_sticky(rule: str) -> bool:
    return rule in ("request_id", "entity") or _NAMED_KEY.fullmatch(rule) is not None


def _unique(values: Sequence[str]) -> bool:
    return len(set(values)) == len(values)
