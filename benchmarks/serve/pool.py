"""Three hundred models in the pool: what a hit costs beside a dedicated host at the same number of hops, and whether a
broken model is anybody else's trouble.

A pooled model is two hops away: HAProxy to the pool's front, a Serve handle to the worker. A dedicated host is one hop
away, and two when its path is percent-encoded: then HAProxy does not know it, and the front sends the request on.
Requests go to each in turn, in random order, so that all of them meet the same machine and the same front.
"""

from __future__ import annotations

import http.client
import random
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from benchmarks.rows import Row, row
from benchmarks.serve import load, slow, stage, tiny
from benchmarks.serve.load import Plan
from benchmarks.serve.peers import Target
from rayplat.types import EndpointSpec

COMMAND = "python -m benchmarks.serve pool"
_POOL, _ONE_HOP, _TWO_HOPS = "pool", "dedicated", "dedicated, two hops"

Times = dict[str, list[float]]  # milliseconds by what was asked, in order


def measure(work: Path, quick: bool) -> tuple[list[Row], dict[str, Any]]:
    models, requests = (10, 300) if quick else (300, 4000)
    with stage.running(work, {"RAYPLAT_SERVE__POOL_MODELS": str(models + 10)}) as platform:
        folder = tiny.save(work / "model")
        names = [f"m{n:03}" for n in range(models)]
        for name in names:
            platform.register(name, folder)
            platform.client.aliases.set(name, "champion", 1)
        platform.register("broken", folder)
        broken = slow.register(platform, "broken", work / "broken", fixed_s=3600.0, row_s=0.0, quick=50)
        platform.client.aliases.set("broken", "champion", broken)
        dedicated = ("near", "alone")  # one for each way: who is asked twice as often answers sooner
        for name in dedicated:
            platform.register(name, folder)
            platform.client.aliases.set(name, "champion", 1)
        pooled = [EndpointSpec(name, placement="pooled") for name in [*names, "broken"]]
        platform.serve(*pooled, *map(EndpointSpec, dedicated))
        targets = [platform.target(name) for name in names]
        for target in targets:
            platform.wait(target)  # each is loaded by its first request
        asked = {
            _POOL: targets[models // 2],
            _TWO_HOPS: platform.target("%61lone"),
            _ONE_HOP: platform.target("near"),
        }
        for target in asked.values():
            platform.wait(target)
        _in_turn(asked, requests // 10)  # warm
        found, failed = _in_turn(asked, requests)
        hanging = load.Running(Plan(platform.target("broken"), 20.0, requests / 100), work / "broken.json")
        beside, more = _in_turn(asked, requests // 4)
        stuck = hanging.samples()
    raw = {"ms": found, "ms beside a broken model": beside, "broken": sorted({s.status for s in stuck})}
    return _rows(found, beside, failed + more, models), raw


def _in_turn(asked: Mapping[str, Target], requests: int) -> tuple[Times, int]:
    """``requests`` to each, every target on a connection of its own, in another order each time; how many were not
    answered with 200."""
    ways = {name: (target, urlsplit(target.url)) for name, target in asked.items()}
    open_ = {name: http.client.HTTPConnection(str(url.hostname), url.port) for name, (_, url) in ways.items()}
    found: Times = {name: [] for name in asked}
    failed = 0
    for _ in range(requests):
        for name in random.sample(sorted(ways), len(ways)):
            target, url = ways[name]
            began = time.perf_counter()
            open_[name].request("POST", url.path, target.body, dict(target.headers))
            answer = open_[name].getresponse()
            answer.read()
            found[name].append((time.perf_counter() - began) * 1e3)
            failed += answer.status != 200
    for connection in open_.values():
        connection.close()
    return found, failed


def _rows(found: Times, beside: Times, failed: int, models: int) -> list[Row]:
    p50 = {name: load.percentile(sorted(ms), 0.5) for name, ms in found.items()}
    p99 = {name: load.percentile(sorted(ms), 0.99) for name, ms in found.items()}
    disturbed = load.percentile(sorted(beside[_POOL]), 0.5) / load.percentile(sorted(beside[_TWO_HOPS]), 0.5)
    more = p50[_POOL] - p50[_TWO_HOPS]
    return [
        row(f"a warm hit among {models}, over a dedicated host, two hops both, p50", more, "ms", "<= 0.3", COMMAND),
        row("the same, p99", p99[_POOL] - p99[_TWO_HOPS], "ms", None, COMMAND),
        row("p50 of a pooled model, two hops", p50[_POOL], "ms", None, COMMAND),
        row("p50 of a dedicated host, two hops", p50[_TWO_HOPS], "ms", None, COMMAND),
        row("p50 of a dedicated host, one hop", p50[_ONE_HOP], "ms", None, COMMAND),
        row("p50 of a pooled model beside one that hangs, of a dedicated host's", disturbed, "x", None, COMMAND),
        row("requests failed, beside the broken model too", float(failed), "requests", "= 0", COMMAND),
    ]
