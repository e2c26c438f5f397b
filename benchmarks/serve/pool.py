"""Three hundred models in the pool: what a hit costs beside a dedicated host at the same number of hops, and whether a
broken model is anybody else's trouble.

A pooled model is two hops away: HAProxy to the pool's front, a Serve handle to the worker. A dedicated host is one hop
away, and two when its path is percent-encoded: then HAProxy does not know it, and the front sends the request on.
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from benchmarks.rows import Row, row
from benchmarks.serve import load, slow, stage, tiny
from benchmarks.serve.load import Plan
from rayplat.types import EndpointSpec

COMMAND = "python -m benchmarks.serve pool"
_BESIDE = "beside a broken one"


def measure(work: Path, quick: bool) -> tuple[list[Row], dict[str, Any]]:
    models, rate, seconds, rounds = (10, 40.0, 3.0, 1) if quick else (300, 60.0, 6.0, 5)
    with stage.running(work, {"RAYPLAT_SERVE__POOL_MODELS": str(models + 10)}) as platform:
        folder = tiny.save(work / "model")
        names = [f"m{n:03}" for n in range(models)]
        for name in names:
            platform.register(name, folder)
            platform.client.aliases.set(name, "champion", 1)
        platform.register("broken", folder)
        broken = slow.register(platform, "broken", work / "broken", fixed_s=3600.0, row_s=0.0, quick=50)
        platform.client.aliases.set("broken", "champion", broken)
        platform.register("alone", folder)
        platform.client.aliases.set("alone", "champion", 1)
        platform.serve(*(EndpointSpec(name, placement="pooled") for name in [*names, "broken"]), EndpointSpec("alone"))
        targets = [platform.target(name) for name in names]
        for target in targets:
            platform.wait(target)  # each is loaded by its first request
        alone = {"dedicated": platform.target("alone"), "dedicated, two hops": platform.target("%61lone")}
        asked = {"pool": targets[models // 2], **alone}
        for target in asked.values():
            platform.wait(target)
        found: dict[str, list[dict[str, float]]] = {name: [] for name in [*asked, _BESIDE]}
        for _ in range(rounds):
            for name, target in asked.items():
                found[name].append(_figures(load.run(Plan(target, rate, seconds), work)))
        hanging = load.Running(Plan(platform.target("broken"), 20.0, seconds * 2), work / "broken.json")
        found[_BESIDE].append(_figures(load.run(Plan(asked["pool"], rate, seconds), work)))
        stuck = hanging.samples()
    raw = {"figures": found, "models": models, "broken": sorted({s.status for s in stuck})}
    return _rows(found, models), raw


def _figures(samples: list[load.Sample]) -> dict[str, float]:
    ordered = load.latencies(samples)
    failed = float(sum(s.status != 200 for s in samples))
    return {"p50_ms": load.percentile(ordered, 0.5), "p99_ms": load.percentile(ordered, 0.99), "failed": failed}


def _rows(found: dict[str, list[dict[str, float]]], models: int) -> list[Row]:
    p50 = {name: statistics.median(f["p50_ms"] for f in figures) for name, figures in found.items()}
    pairs = zip(found["pool"], found["dedicated, two hops"], strict=True)
    more = statistics.median(pool["p50_ms"] - alone["p50_ms"] for pool, alone in pairs)
    failed = sum(f["failed"] for figures in found.values() for f in figures)
    return [
        row(f"a warm hit among {models}, over a dedicated host, two hops both", more, "ms", "<= 0.3", COMMAND),
        row("p50 of a pooled model, two hops", p50["pool"], "ms", None, COMMAND),
        row("p50 of a dedicated host, two hops", p50["dedicated, two hops"], "ms", None, COMMAND),
        row("p50 of a dedicated host, one hop", p50["dedicated"], "ms", None, COMMAND),
        row("p50 beside a model that hangs, of without it", p50[_BESIDE] / p50["pool"], "x", None, COMMAND),
        row("requests failed, beside the broken model too", failed, "requests", "= 0", COMMAND),
    ]
