"""What one training is to do: the values that trainer, tuner and preparation share. No Ray, no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from rayplat.errors import InvalidInput
from rayplat.train.tabular import DEFAULTS, NetParams
from rayplat.types import TrainingSet, check_name

if TYPE_CHECKING:
    from rayplat.settings import TrainSettings


@dataclass(frozen=True)
class TrainPlan:
    """``views`` are the feature views (name to digest, in lookup order) that serve the features of
    ``training_set``; ``holdout_from`` splits it: earlier rows are trained on, the rest is evaluated.

    ``exclude`` names features of the set that the model does not take (a month that the training never saw says
    nothing); ``required`` those that must never be missing in a request. ``folder`` is for checkpoints and the
    bundle and must be reachable from every node. ``trials`` 0 trains with ``params`` as they are.
    ``author`` is the principal who trains: they may not approve what comes of it.
    """

    model: str
    experiment: str
    training_set: TrainingSet
    holdout_from: datetime
    folder: Path
    views: Mapping[str, str] = field(default_factory=dict)
    exclude: tuple[str, ...] = ()
    required: tuple[str, ...] = ()
    params: NetParams = DEFAULTS
    trials: int = 3
    workers: int = 2
    cpus_per_worker: float = 0.75
    seed: int = 0
    author: str = ""

    def __post_init__(self) -> None:
        check_name("model", self.model)
        if self.holdout_from.tzinfo is None:
            raise InvalidInput("holdout_from", "a time with a zone is expected, such as 2013-10-01T00:00:00+00:00")
        if self.workers < 1 or self.cpus_per_worker <= 0 or self.trials < 0:
            raise InvalidInput("workers", "at least one worker, more than 0 CPUs each, and no fewer than 0 trials")
        if unknown := set(self.exclude) - set(self.training_set.features):
            raise InvalidInput("exclude", f"{sorted(unknown)} are no features of {self.training_set.name!r}")
        if not self.features:
            raise InvalidInput("features", f"no feature of {self.training_set.name!r} is left after 'exclude'")

    @property
    def features(self) -> tuple[str, ...]:
        return tuple(name for name in self.training_set.features if name not in self.exclude)

    @property
    def columns(self) -> list[str]:
        return [*self.features, self.training_set.label]

    @property
    def bundles(self) -> list[dict[str, float]]:
        """What the workers reserve."""
        return [{"CPU": self.cpus_per_worker}] * self.workers

    @property
    def valid_from(self) -> datetime:
        """Trials learn from what is before, and are compared on what is between this and the holdout."""
        return self.holdout_from - timedelta(days=30)

    def training_rows(self) -> pc.Expression:
        """Labelled rows before the holdout."""
        return self.before(self.holdout_from) & pc.field(self.training_set.label).is_valid()

    def before(self, moment: datetime) -> pc.Expression:
        return pc.field(self.training_set.event_time) < pa.scalar(moment, pa.timestamp("us", tz="UTC"))

    @classmethod
    def resources(cls, settings: TrainSettings) -> dict[str, Any]:
        """The fields that settings decide: ``TrainPlan(..., **TrainPlan.resources(settings.train))``."""
        return {"trials": settings.trials, "workers": settings.workers, "cpus_per_worker": settings.cpus_per_worker}
