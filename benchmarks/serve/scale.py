"""Two replicas of a host over one, and what two workers of plain FastAPI gain over one on the same machine: load
generator, proxy and the platform itself need cores too, so the peer's gain says what this machine allows.
"""

from __future__ import annotations

import os
import statistics
from pathlib import Path
from typing import Any

from benchmarks.rows import Row, row
from benchmarks.serve import peers, stage, tiny, wrk
from benchmarks.serve.peers import Target
from rayplat.types import EndpointSpec

COMMAND = "python -m benchmarks.serve scale"
CONNECTIONS = 32


def measure(work: Path, quick: bool) -> tuple[list[Row], dict[str, Any]]:
    rounds, seconds = (1, 2.0) if quick else (5, 5.0)
    model = tiny.save(work / "model")
    with stage.running(work, {"RAYPLAT_RAY__NUM_CPUS": "4"}) as platform:
        for name in ("one", "two"):
            platform.register(name, model)
            platform.client.aliases.set(name, "champion", 1)
        platform.serve(EndpointSpec("one"), EndpointSpec("two", replicas=2))
        ours = [platform.target("one"), platform.target("two")]
        with peers.fastapi(model) as single, peers.fastapi(model, workers=2) as double:
            targets = {"ours": ours, "FastAPI": [single, double]}
            for pair in targets.values():
                for target in pair:
                    platform.wait(target)
                    _per_s(target, 2.0)  # warm
            found = [
                {name: [_per_s(target, seconds) for target in pair] for name, pair in targets.items()}
                for _ in range(rounds)
            ]
    return _rows(found), {"cores": os.cpu_count(), "connections": CONNECTIONS, "rounds": found}


def _per_s(target: Target, seconds: float) -> float:
    return wrk.run(target.url, target.body, target.headers, CONNECTIONS, seconds).per_s


def _rows(found: list[dict[str, list[float]]]) -> list[Row]:
    gain = {name: statistics.median(r[name][1] / r[name][0] for r in found) for name in ("ours", "FastAPI")}
    peer = {"FastAPI, two workers over one": round(gain["FastAPI"], 3)}
    return [
        row("two replicas over one", gain["ours"], "x", ">= 1.6", COMMAND, peer),
        row("cores that all of it shares", os.cpu_count() or 0, "cores", None, COMMAND),
    ]
