"""What the registry does by itself: promotions whose time has come, drift of MLflow's rows, anchors of the audit log,
and one check of the whole record after it was opened.

`Upkeep` is driven tick by tick; a chore that fails is logged and comes again at its time, whatever it was.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rayplat.artifacts import keys
from rayplat.artifacts.places.place import place_at
from rayplat.registry.anchors import Anchorer, AnchorLog, AnchorTerms
from rayplat.registry.local import LocalRegistry
from rayplat.registry.record import audit, crosscheck, drift, promotion_rows, promotion_steps
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


class AuditWatch:
    """Checks once, in a thread of its own, that the audit log is whole and that the tables say what it says.

    ``outcome`` is ``intact``, or the first problem, or why there is no answer yet.
    """

    def __init__(self, registry: LocalRegistry) -> None:
        self.outcome = "not checked yet"
        self._registry = registry
        self._running, self._done = threading.Lock(), False

    def chore(self) -> Chore:
        """Begins the check, and again where the record was too busy to be checked."""
        return Chore("audit", 60.0, self.start)

    def start(self) -> None:
        if not self._done and not self._running.locked():
            threading.Thread(target=self.check, name="registry-audit", daemon=True).start()

    def check(self) -> str:
        """Check now; the outcome."""
        with self._running:
            try:
                problem = self._registry.record.read(audit.check).problem
                if problem is None:
                    problem = next(iter(self._registry.record.read(crosscheck.check_record)), None)
            except Exception as e:  # noqa: BLE001 - of a damaged database anything can come, and it is told
                self.outcome = f"not checked: {e}"
                log.warning("the check of the audit log: %s", e)
                return self.outcome
            self._done = True
            self.outcome = "intact" if problem is None else str(problem)
            if problem is not None:
                log.error("the record was changed around the registry: %s", problem)
            return self.outcome


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
        for changed in registry.apply(promotion_steps.tick):
            log.info("promotion %s is %s", changed.promotion_id, changed.state)


def _drift(registry: LocalRegistry) -> None:
    found = registry.record.read(drift.find)
    if found:
        log.warning("MLflow's rows were changed around the registry and are set back: %s", found)
        registry.write(drift.repair, by=PLATFORM)
