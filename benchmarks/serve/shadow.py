"""What a shadow of every request costs the primary: nothing that anybody feels, whatever the shadow does.

Open-loop load at 30 % of what one host was measured to carry, the shadow on and off in turn; then a shadow that hangs,
one that is killed, and one that cannot keep up.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

from benchmarks.rows import Row, row
from benchmarks.serve import load, slow, stage, tiny, wrk
from benchmarks.serve.load import Plan

COMMAND = "python -m benchmarks.serve shadow"
_SHARE = 0.3


def measure(work: Path, quick: bool) -> tuple[list[Row], dict[str, Any]]:
    pairs, seconds = (1, 4.0) if quick else (7, 8.0)
    with stage.running(work, {"RAYPLAT_RAY__NUM_CPUS": "4"}) as platform:
        client, target = platform.client, platform.target("tiny")
        platform.register("tiny", tiny.save(work / "model1"))
        platform.register("tiny", tiny.save(work / "model2", 0.1))
        hanging = slow.register(platform, "tiny", work / "hanging", fixed_s=3600.0, row_s=0.0, quick=50)
        flooded = slow.register(platform, "tiny", work / "flooded", fixed_s=0.5, row_s=0.0)
        client.aliases.set("tiny", "champion", 1)
        client.aliases.set("tiny", "challenger", 2)
        for alias in ("champion", "challenger"):
            client.endpoints.create("tiny", alias)
        platform.wait(target)
        capacity = wrk.run(target.url, target.body, target.headers, 8, 4.0).per_s
        plan = Plan(target, _SHARE * capacity, seconds)
        load.run(plan, work)  # warm
        found = [_pair(platform, plan, work, n) for n in range(pairs)]
        troubles = {
            "hangs": _with(platform, plan, work, hanging),
            "floods": _with(platform, plan, work, flooded),
            "crashes": _crashing(platform, plan, work),
        }
    raw = {"capacity_per_s": capacity, "rate": plan.rate, "pairs": found, "troubles": troubles}
    return _rows(found, troubles), raw


def _pair(platform: stage.Stage, plan: Plan, work: Path, n: int) -> dict[str, Any]:
    """One run without and one with the shadow, the order changing from pair to pair."""
    result: dict[str, Any] = {}
    for on in (n % 2 == 1, n % 2 == 0):
        _shadow(platform, on)
        result["on" if on else "off"] = _figures(plan, work)
    return result


def _with(platform: stage.Stage, plan: Plan, work: Path, version: int) -> dict[str, Any]:
    """The challenger is ``version`` meanwhile; without the shadow just before."""
    _shadow(platform, False)
    off = _figures(plan, work)
    platform.client.aliases.set("tiny", "challenger", version)
    _shadow(platform, True)
    on = _figures(plan, work)
    _shadow(platform, False)
    platform.client.aliases.set("tiny", "challenger", 2)
    return {"off": off, "on": on}


def _crashing(platform: stage.Stage, plan: Plan, work: Path) -> dict[str, Any]:
    """The shadow's process is killed in the middle of the load."""
    _shadow(platform, False)
    off = _figures(plan, work)
    _shadow(platform, True)
    running = load.Running(plan, work / "crash.json")
    time.sleep(plan.seconds / 2)
    stage.kill_host("tiny", "challenger")
    on = _of(running.samples())
    _shadow(platform, False)
    return {"off": off, "on": on}


def _shadow(platform: stage.Stage, on: bool) -> None:
    if on:
        platform.client.releases.shadow("tiny", "challenger", sample=1.0)
    else:
        platform.client.releases.clear("tiny")
    time.sleep(0.5)  # long enough for every replica to hear of it; the load begins after that


def _figures(plan: Plan, work: Path) -> dict[str, Any]:
    return _of(load.run(plan, work))


def _of(samples: list[load.Sample]) -> dict[str, Any]:
    ordered = load.latencies(samples)
    failed = sum(s.status != 200 for s in samples)
    found = {f"p{int(q * 100)}_ms": load.percentile(ordered, q) for q in (0.5, 0.9, 0.99)}
    return found | {"requests": len(samples), "failed": failed}


def _rows(found: list[dict[str, Any]], troubles: dict[str, dict[str, Any]]) -> list[Row]:
    ratios = [pair["on"]["p50_ms"] / pair["off"]["p50_ms"] - 1 for pair in found]
    failed = sum(run["failed"] for pair in [*found, *troubles.values()] for run in pair.values())
    middle = statistics.median(ratios) * 100
    rows = [
        row("primary's p50 with a shadow of 100 %, median of pairs", middle, "%", "<= 5", COMMAND),
        row("the same, smallest of pairs", min(ratios) * 100, "%", None, COMMAND),
        row("the same, largest of pairs", max(ratios) * 100, "%", None, COMMAND),
        row("requests failed, shadows in trouble included", failed, "requests", "= 0", COMMAND),
    ]
    for what, runs in troubles.items():
        more = (runs["on"]["p50_ms"] / runs["off"]["p50_ms"] - 1) * 100
        rows.append(row(f"primary's p50 while the shadow {what}", more, "%", None, COMMAND))
    return rows
