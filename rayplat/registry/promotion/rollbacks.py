"""Which version a rollback goes to. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from rayplat.errors import Conflict, NotFound
from rayplat.types import AliasHead


def rollback_target(history: Iterable[AliasHead]) -> AliasHead:
    """The head that was live before the present one. ``history`` is every head of one alias, oldest first.

    A head that was seen before (the same promotion or, for a move without one, the same version) is an earlier
    rollback to it, so a second rollback goes further back and never to what was rolled back. Of an alias that was
    removed it is the head it had. Raises `Conflict` when there is nothing to go back to.
    """
    live: list[AliasHead] = []
    removed = False
    for head in history:
        removed = head.removed
        if not removed:
            restored = next((i for i, h in enumerate(live) if _identity(h) == _identity(head)), None)
            live = [*live, head] if restored is None else live[: restored + 1]
    back = 1 if removed else 2
    if len(live) < back:
        raise Conflict("the alias has no earlier version to go back to")
    return live[-back]


def named_target(history: Iterable[AliasHead], version: int | None, generation: int | None) -> AliasHead:
    """The newest head at ``version`` or the one of ``generation``. Raises `NotFound` where none was ever live,
    `Conflict` where the alias points there now."""
    newest_first = sorted(history, key=lambda h: h.generation, reverse=True)
    now = newest_first[0]
    if not now.removed and (version == now.version or generation == now.generation):
        raise Conflict(f"{now.model}@{now.alias} already points at version {now.version}, generation {now.generation}")
    for head in newest_first:
        if not head.removed and version in (None, head.version) and generation in (None, head.generation):
            if not now.removed and head.version == now.version:
                raise Conflict(f"{now.model}@{now.alias} already points at version {now.version}")
            return head
    wanted = f"version {version}" if generation is None else f"generation {generation}"
    seen = ", ".join(f"{h.version} (generation {h.generation})" for h in newest_first[:5] if not h.removed)
    raise NotFound("head", f"{now.model}@{now.alias} {wanted}", f"it was never live there; the newest were {seen}")


def _identity(head: AliasHead) -> str:
    return head.promotion_id or f"version {head.version}"
