"""Batching that follows the load, against a fixed window and against none, for a model whose curve is known.

The model sleeps: what a batch of n costs is exact, and the machine is free for the rest. What the curve allows with 32
clients is told in two ways: batches of 16, computed while the other 16 are on their way, and one batch of all 32, which
leaves no time at all for reading requests and writing answers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.rows import Row, row
from benchmarks.serve import slow, stage, tiny, wrk
from rayplat.types import Batching, EndpointSpec

COMMAND = "python -m benchmarks.serve batching"
FIXED_S, ROW_S = 0.010, 0.0005
_WINDOW_MS = 10.0


def measure(work: Path, quick: bool) -> tuple[list[Row], dict[str, Any]]:
    seconds = 3.0 if quick else 8.0
    ways = {
        "adaptive": Batching(max_rows=64),
        "unbatched": Batching(max_rows=1),
        "fixed window": Batching(max_rows=64, window_ms=_WINDOW_MS),
    }
    found: dict[str, dict[int, wrk.Load]] = {}
    with stage.running(work) as platform:
        version = slow.register(platform, "curve", work / "curve", fixed_s=FIXED_S, row_s=ROW_S)
        platform.client.aliases.set("curve", "champion", version)
        target = platform.target("curve", body=tiny.OPEN_INFERENCE)
        for name, batching in ways.items():
            platform.serve(EndpointSpec("curve", batching=batching))
            platform.wait(target)
            wrk.run(target.url, target.body, target.headers, 32, 2.0)  # warm: the cost is learned
            found[name] = {c: wrk.run(target.url, target.body, target.headers, c, seconds) for c in (1, 32)}
    return _rows(found), {name: {c: vars(load) for c, load in by.items()} for name, by in found.items()}


def _rows(found: dict[str, dict[int, wrk.Load]]) -> list[Row]:
    one, sixteen = FIXED_S + ROW_S, FIXED_S + 16 * ROW_S
    ours = found["adaptive"][32].per_s
    rows = [
        row("the model's time, batch of 16 to batch of 1", sixteen / one, "x", None, COMMAND),
        row("requests/s at 32 connections, of batches of 16", ours / (16 / sixteen), "x", ">= 0.7", COMMAND),
        row(
            "requests/s at 32 connections, of batches of 32 without a gap",
            ours / (32 / (FIXED_S + 32 * ROW_S)),
            "x",
            ">= 0.7",
            COMMAND,
        ),
        row(
            "requests/s at 1 connection, of unbatched",
            found["adaptive"][1].per_s / found["unbatched"][1].per_s,
            "x",
            ">= 0.9",
            COMMAND,
        ),
    ]
    for connections in (1, 32):
        ours = found["adaptive"][connections].per_s
        others = {name: round(by[connections].per_s, 1) for name, by in found.items() if name != "adaptive"}
        rows.append(row(f"requests/s at {connections} connections", ours, "requests/s", None, COMMAND, others))
    return rows
