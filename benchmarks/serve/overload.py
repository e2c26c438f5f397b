"""Twice what a model can answer: who is accepted is answered in time, who is not is told at once, and it passes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.rows import Row, row
from benchmarks.serve import load, slow, stage, tiny
from benchmarks.serve.load import Plan, Sample
from rayplat.types import Batching, EndpointSpec

COMMAND = "python -m benchmarks.serve overload"
SERVICE_S = 0.02  # one request at a time, so the model answers 50 a second


def measure(work: Path, quick: bool) -> tuple[list[Row], dict[str, Any]]:
    seconds = 5.0 if quick else 20.0
    with stage.running(work) as platform:
        platform.register("slow", tiny.save(work / "unused"))
        version = slow.register(platform, "slow", work / "slow", fixed_s=SERVICE_S, row_s=0.0)
        platform.client.aliases.set("slow", "champion", version)
        platform.serve(EndpointSpec("slow", batching=Batching(max_rows=1)))
        target = platform.target("slow")
        platform.wait(target)
        capacity = 1 / SERVICE_S

        def at(share: float) -> list[Sample]:
            return load.run(Plan(target, share * capacity, seconds, connections=256, poisson=True), work)

        at(0.5)  # warm
        steady, over, after = at(0.7), at(2.0), at(0.7)
    return _rows(steady, over, after), {"capacity_per_s": capacity, "seconds": seconds, **_raw(steady, over, after)}


def _raw(steady: list[Sample], over: list[Sample], after: list[Sample]) -> dict[str, Any]:
    return {name: _counts(s) for name, s in (("steady", steady), ("over", over), ("after", after))}


def _counts(samples: list[Sample]) -> dict[str, Any]:
    statuses = sorted({s.status for s in samples})
    return {
        str(status): {
            "requests": sum(s.status == status for s in samples),
            "p50_ms": load.percentile(load.latencies(samples, status), 0.5),
            "p99_ms": load.percentile(load.latencies(samples, status), 0.99),
        }
        for status in statuses
    }


def _rows(steady: list[Sample], over: list[Sample], after: list[Sample]) -> list[Row]:
    p99 = {n: load.percentile(load.latencies(s), 0.99) for n, s in (("70 %", steady), ("2x", over), ("after", after))}
    rejected = load.latencies(over, 429)
    answered = sum(s.status == 200 for s in over) / len(over)
    other = sum(s.status not in (200, 429) for s in [*steady, *over, *after])
    return [
        row("p99 of accepted requests at 2x, of that at 70 %", p99["2x"] / p99["70 %"], "x", "<= 2", COMMAND),
        row("p99 at 70 % of capacity", p99["70 %"], "ms", None, COMMAND),
        row("rejects: p99 of their answer", load.percentile(rejected, 0.99), "ms", "<= 20", COMMAND),
        row("share answered at 2x (0.5 is all that is possible)", answered, "", ">= 0.45", COMMAND),
        row("neither answered nor told to come back", other, "requests", "= 0", COMMAND),
        row("p99 afterwards, of that before", p99["after"] / p99["70 %"], "x", "<= 1.5", COMMAND),
    ]
