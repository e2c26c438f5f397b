"""What the registry does by itself: promotions whose time has come, drift of MLflow's rows, anchors of the audit log.

`Upkeep` is driven tick by tick; a chore that fails is logged and comes again at its time, whatever it was.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rayplat.artifacts import keys
from rayplat.artifacts.places.place import place_at
from rayplat.registry.anchors import Anchorer, AnchorLog, AnchorTerms
from rayplat.registry.local import LocalRegistry
from rayplat.registry.record import drift, promotion_rows, promotions
from rayplat.settings import Settings
from rayplat.types import Principal, PrincipalKind, Role

log = logging.getLogger(__name__)

TICK_S = 5.0
PLATFORM = Principal("rayplat", Role.ADMIN, PrincipalKind.SERVICE)


@dataclass(frozen=True)
class Chore:
    """``run`` is called when ``every_s`` seconds have passed since it was last."""

    name: str
    every_s: float
    run: Callable[[], object]


class Upkeep:
    """Runs ``chores``, each at its time; ``clock`` is in seconds."""

    def __init__(self, chores: Sequence[Chore], clock: Callable[[], float] = time.monotonic) -> None:
        self._chores, self._clock = chores, clock
        self._ran: dict[str, float] = {}

    def tick(self) -> list[str]:
        """Run what is due; the names of those, failed ones included."""
        due = [chore for chore in self._chores if self._is_due(chore)]
        for chore in due:
            self._ran[chore.name] = self._clock()
            try:
                chore.run()
            except Exception:
                log.exception("upkeep of the registry: %s", chore.name)
        return [chore.name for chore in due]

    def _is_due(self, chore: Chore) -> bool:
        return chore.name not in self._ran or self._clock() - self._ran[chore.name] >= chore.every_s


def of_record(registry: LocalRegistry) -> list[Chore]:
    """The chores of every registry."""
    return [
        Chore("promotions", TICK_S, lambda: _promotions(registry)),
        Chore("drift", 30.0, lambda: _drift(registry)),
    ]


def anchoring(registry: LocalRegistry, settings: Settings) -> Chore:
    """The chore that notes the audit log's newest hash outside the database. The first tick makes what it needs: a
    place that cannot be reached is logged and tried again, and holds up nothing."""
    made: list[Anchorer] = []

    def tick() -> None:
        if not made:
            place = place_at(settings.anchors_root, settings.artifacts.storage_options)
            terms = AnchorTerms(settings.registry.anchor_every, settings.registry.anchor_s)
            key = keys.platform_key(settings.keys_folder, settings.signing_key)
            made.append(Anchorer(registry.record.read, AnchorLog(place), key, terms))
        made[0].tick()

    return Chore("anchors", TICK_S, tick)


def _promotions(registry: LocalRegistry) -> None:
    if registry.record.read(promotion_rows.opened):  # else there is nothing that time could change
        for changed in registry.apply(promotions.tick):
            log.info("promotion %s is %s", changed.promotion_id, changed.state)


def _drift(registry: LocalRegistry) -> None:
    found = registry.record.read(drift.find)
    if found:
        log.warning("MLflow's rows were changed around the registry and are set back: %s", found)
        registry.write(drift.repair, by=PLATFORM)
