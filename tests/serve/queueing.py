"""A discrete simulation of one model behind the admission rule: no real time, every request an event."""

from __future__ import annotations

import heapq
import random
from collections import deque
from dataclasses import dataclass, field

from rayplat.serve.computing.admission import AdmissionPolicy, Arrivals, Load
from rayplat.serve.computing.cost import CostCurve
from rayplat.types import Limits


@dataclass
class Outcome:
    """Seconds from coming to the answer of those let in, how many were refused, and the longest queue."""

    sojourns: list[float] = field(default_factory=list)
    refused: int = 0
    longest: int = 0

    def quantile(self, q: float) -> float:
        return sorted(self.sojourns)[min(int(q * len(self.sojourns)), len(self.sojourns) - 1)]


def curve(fixed_s: float, row_s: float) -> CostCurve:
    """A learned cost."""
    learned = CostCurve()
    for _ in range(20):
        for rows in (1, 2, 4, 8, 16):
            learned.learn(rows, fixed_s + row_s * rows)
    return learned


def simulate(
    cost: CostCurve,
    limits: Limits,
    rates: list[tuple[float, float]],
    *,
    most_rows: int,
    spread: str = "poisson",
    seed: int = 1,
) -> list[Outcome]:
    """Run phases of (requests per second, seconds) one after the other; one outcome for each phase. ``spread`` of
    arrivals is ``poisson`` or ``even``; services take what ``cost`` says."""
    rng, policy, arrivals = random.Random(seed), AdmissionPolicy(limits, most_rows), Arrivals()
    waiting: deque[tuple[float, int]] = deque()
    busy: list[float] = []  # when each busy server is free
    outcomes = [Outcome() for _ in rates]
    idle_at = idle_since = begin = 0.0

    def serve(until: float) -> None:
        nonlocal idle_since
        while busy and busy[0] <= until:
            now = heapq.heappop(busy)
            if waiting:
                start(now)
            elif not busy:
                idle_since = now

    def start(now: float) -> None:
        joined = policy.joined(cost, arrivals.scv) if most_rows > 1 else 1
        taken = [waiting.popleft() for _ in range(min(joined, len(waiting)))]
        done = now + cost.expect(len(taken))
        heapq.heappush(busy, done)
        for came, phase in taken:
            outcomes[phase].sojourns.append(done - came)

    for phase, (rate, seconds) in enumerate(rates):
        now, end = begin, begin + seconds
        while True:
            now += 1 / rate if spread == "even" else rng.expovariate(rate)
            if now >= end:
                break
            serve(now)
            arrivals.came(now)
            if not busy and not waiting and now - idle_since >= cost.expect(1):
                idle_at = now
            residual = max(busy[0] - now, 0.0) if len(busy) >= limits.concurrency else 0.0
            load = Load(len(waiting), len(waiting), residual, now - idle_at, arrivals.scv)
            if policy.decide(load, cost, 1, limits.deadline_s, most_rows > 1) is not None:
                outcomes[phase].refused += 1
                continue
            waiting.append((now, phase))
            outcomes[phase].longest = max(outcomes[phase].longest, len(waiting))
            if len(busy) < limits.concurrency:
                start(now)
        begin = end
    serve(float("inf"))
    return outcomes
