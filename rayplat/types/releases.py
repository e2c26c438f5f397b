"""Release control: who of a model's variants answers, is shadowed, or is being ramped up. One value, one write.

A target is an alias of the model (``challenger``) or an exact version (``7``); aliases never look like numbers.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from datetime import datetime


@dataclass(frozen=True)
class Share:
    """``target`` answers ``weight`` / (sum of all weights) of the requests. Weights are above 0 and finite."""

    target: str
    weight: float


@dataclass(frozen=True)
class Split:
    """Requests are divided between ``shares``, each key always to the same one.

    ``sticky`` says what the key is: ``request_id``, ``entity`` (the first row's join key), ``header:<name>``,
    ``input:<name>`` (its first value) or ``parameter:<name>``; a request without it goes by its id. ``salt`` makes
    experiments independent of each other. ``promotion_id`` names the promotion whose A/B test this is.
    """

    shares: tuple[Share, ...]
    salt: str
    sticky: str = "request_id"
    promotion_id: str | None = None


@dataclass(frozen=True)
class Shadow:
    """``target`` gets a copy of ``sample`` (0 to 1, by hash of the request id) of the requests; nobody waits for its
    answer. Beyond ``max_pending`` waiting copies they are dropped and counted."""

    target: str
    sample: float = 1.0
    max_pending: int = 1024


class CanaryState(enum.StrEnum):
    RAMPING = "ramping"
    PAUSED = "paused"
    DONE = "done"
    ROLLED_BACK = "rolled_back"


@dataclass(frozen=True)
class Canary:
    """``target`` gets a growing share: ``steps[step]`` of the requests (0.05 is 5 %), the next one after ``hold_s``
    seconds and ``min_requests`` answers by it. It is rolled back (share 0, ``reason`` says why) when its error rate is
    above ``max_error_rate`` and above the primary's, its p99 above ``max_p99_ratio`` times the primary's, or a signal
    of a kind in ``watch`` says so. ``since`` is when the present step began. ``sticky`` is as in `Split`."""

    target: str
    steps: tuple[float, ...] = (0.01, 0.05, 0.25, 0.5, 1.0)
    hold_s: float = 300.0
    min_requests: int = 100
    max_error_rate: float = 0.01
    max_p99_ratio: float | None = 2.0
    watch: tuple[str, ...] = ("drift",)
    step: int = 0
    state: CanaryState = CanaryState.RAMPING
    since: datetime | None = None
    reason: str = ""
    sticky: str = "request_id"


@dataclass(frozen=True)
class Release:
    """How the requests to a model's default alias are answered. ``generation`` grows by one with each change; 0 is
    the release of a model that has none: its alias answers everything. ``overrides``: a tester's header
    ``x-rayplat-target`` is obeyed, for targets that this release names."""

    model: str
    generation: int = 0
    split: Split | None = None
    shadows: tuple[Shadow, ...] = ()
    canary: Canary | None = None
    overrides: bool = True
    changed_at: datetime | None = None
    changed_by: str = ""


@dataclass(frozen=True)
class Signal:
    """A verdict that somebody who watches a model has put into the record: ``kind`` (``drift``, ``quality``, or one of
    one's own), whether it is ``bad``, and why. The release controller acts on it, whoever it came from."""

    model: str
    version: int
    kind: str
    bad: bool
    detail: str
    at: datetime
    by: str
    numbers: dict[str, float] = field(default_factory=dict)
