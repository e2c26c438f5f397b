"""Two replicas of a host over one: of the tiny model, which needs a core, and of one that only waits, which needs none.

Load generator, proxy and the platform itself need cores too, so what a machine allows is its cores over those that are
busy with one replica; and what two workers of plain FastAPI gain over one says the same of a peer.
"""

from __future__ import annotations

import os
import statistics
from pathlib import Path
from typing import Any

from benchmarks.rows import Row, row
from benchmarks.serve import peers, slow, stage, tiny, wrk
from benchmarks.serve.peers import Target
from rayplat.types import Batching, EndpointSpec, Limits

COMMAND = "python -m benchmarks.serve scale"
_WAITS_S = 0.004
_TINY, _WAITS, _FASTAPI = "tiny", "waits", "FastAPI"
CONNECTIONS = {_TINY: 32, _FASTAPI: 32, _WAITS: 8}
_QUEUE = 100  # more than there are connections: nobody is refused

Round = dict[str, list[dict[str, float]]]  # by what was asked: one, then two


def measure(work: Path, quick: bool) -> tuple[list[Row], dict[str, Any]]:
    rounds, seconds = (1, 2.0) if quick else (5, 5.0)
    model = tiny.save(work / "model")
    with stage.running(work, {"RAYPLAT_RAY__NUM_CPUS": "4"}) as platform:
        targets: dict[str, list[Target]] = {}
        for kind, batching in ((_TINY, Batching()), (_WAITS, Batching(max_rows=1))):
            for replicas in (1, 2):
                name = f"{kind}{replicas}"
                _register(platform, kind, name, work)
                platform.serve(EndpointSpec(name, replicas=replicas, batching=batching, limits=Limits(_QUEUE)))
                targets.setdefault(kind, []).append(platform.target(name))
        with peers.fastapi(model) as single, peers.fastapi(model, workers=2) as double:
            targets[_FASTAPI] = [single, double]
            for name, pair in targets.items():
                for target in pair:
                    platform.wait(target)
                    _load(name, target, 2.0)  # warm
            found: list[Round] = [
                {name: [_load(name, target, seconds) for target in pair] for name, pair in targets.items()}
                for _ in range(rounds)
            ]
    return _rows(found), {"cores": os.cpu_count(), "connections": CONNECTIONS, "rounds": found}


def _register(platform: stage.Stage, kind: str, name: str, work: Path) -> None:
    if kind == _TINY:
        version = platform.register(name, work / "model")
    else:
        version = slow.register(platform, name, work / name, fixed_s=_WAITS_S, row_s=0.0)
    platform.client.aliases.set(name, "champion", version)


def _load(name: str, target: Target, seconds: float) -> dict[str, float]:
    """Requests answered per second, those that were not, and the cores that were busy meanwhile."""
    before = _busy_s()
    load = wrk.run(target.url, target.body, target.headers, CONNECTIONS[name], seconds)
    return {"per_s": load.per_s, "failed": load.failed, "cores": (_busy_s() - before) / seconds}


def _busy_s() -> float:
    """Seconds of all cores in which something ran, since the machine started (proc(5): user, nice, system, idle,
    iowait, irq, softirq, steal)."""
    first = Path("/proc/stat").read_text().split("\n", 1)[0]
    user, nice, system, _, _, irq, softirq, steal = map(int, first.split()[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def _rows(found: list[Round]) -> list[Row]:
    gain = {
        name: statistics.median(pair[1]["per_s"] / pair[0]["per_s"] for pair in (r[name] for r in found))
        for name in (_TINY, _WAITS, _FASTAPI)
    }
    cores = os.cpu_count() or 1
    allowed = statistics.median(cores / r[_TINY][0]["cores"] for r in found)
    peer = {"FastAPI, two workers over one": round(gain[_FASTAPI], 3)}
    return [
        row("two replicas over one, a model that needs no core", gain[_WAITS], "x", ">= 1.6", COMMAND),
        row("two replicas over one, the tiny model", gain[_TINY], "x", ">= 1.6", COMMAND, peer),
        row("cores that all of it shares", cores, "cores", None, COMMAND),
        row("those cores over the busy ones with one replica of the tiny model", allowed, "x", None, COMMAND),
    ]
