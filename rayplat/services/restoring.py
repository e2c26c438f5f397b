"""A look at the bytes that a rollback would put live: the model hosts would refuse damaged ones, and answer nothing."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from rayplat.artifacts.store import ArtifactStore
from rayplat.errors import Corrupt, Unavailable
from rayplat.registry import promotion
from rayplat.types import AliasHead

log = logging.getLogger(__name__)


def check_target(store: ArtifactStore, heads: Sequence[AliasHead], version: int | None, generation: int | None) -> None:
    """Nothing, or `Corrupt` naming the version that is damaged and those that were live before it.

    ``heads`` are the alias's history, newest first. A store that does not answer is no reason to refuse: a rollback is
    for emergencies, and the version was intact when it went live. Raises what `decisions.rollback` does where there is
    nothing to go back to."""
    if version is None and generation is None:
        target = promotion.rollback_target(reversed(heads))
    else:
        target = promotion.named_target(heads, version, generation)
    try:
        problems = store.verify(target.digest).problems
    except Unavailable as e:
        log.warning("rolled back without a look at the bytes", extra={"digest": target.digest}, exc_info=e)
        return
    if problems:
        first, before = problems[0], _earlier(heads, target)
        further = f"go back further, 'rayplat rollback {target.model} {target.alias} --version {before[0]}'"
        raise Corrupt(
            f"{first.path or first.digest} of version {target.version} of {target.model}",
            "the bytes of its digest",
            f"{first.reason}; {further}" if before else f"{first.reason}; no other version was live before it",
        )


def _earlier(heads: Sequence[AliasHead], target: AliasHead) -> list[int]:
    """Versions to try in its place, newest first."""
    rest = [h.version for h in heads if not h.removed and h.generation < target.generation]
    return [v for v in dict.fromkeys(rest) if v not in (target.version, heads[0].version)]
