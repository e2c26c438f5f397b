"""Alias moves under load: nobody is refused, nobody gets another version than the answer names, and a thousand moves
leave nothing behind."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import measure as processes
from benchmarks.rows import Row, row
from benchmarks.serve import load, stage, tiny
from benchmarks.serve.load import Plan, Sample

COMMAND = "python -m benchmarks.serve moves"
_SHIFT = 3.0  # the second model's answers are far from the first's, so that an answer tells who gave it
_WINDOW_S = 1.0  # around a move


def measure(work: Path, quick: bool) -> tuple[list[Row], dict[str, Any]]:
    moves, many, rate = (4, 20, 50.0) if quick else (20, 1000, 150.0)
    with stage.running(work) as platform:
        for n in (1, 2):
            platform.register("tiny", tiny.save(work / f"model{n}", _SHIFT * (n - 1)))
        client, target = platform.client, platform.target("tiny")
        client.aliases.set("tiny", "champion", 1)
        client.endpoints.create("tiny", "champion")
        platform.wait(target)
        seconds = 2.0 * moves + 4
        running = load.Running(Plan(target, rate, seconds), work / "moves.json")
        time.sleep(2.0)  # the load's own beginning is no move's fault
        moved = []
        for n in range(moves):
            version = 2 - n % 2
            at = time.time()
            client.aliases.set("tiny", "champion", version)
            moved.append({"at_s": at, "took_s": time.time() - at, "version": version, "first": n == 0})
            time.sleep(2.0)
        samples = running.samples()
        memory = _many_moves(platform, many)
    return _rows(samples, moved, memory, many), {"moves": moved, "memory_mib": memory, "samples": len(samples)}


def _many_moves(platform: stage.Stage, many: int) -> list[float]:
    """Memory of all host processes together after each tenth of ``many`` moves, each waited for."""
    found = []
    for n in range(many):
        version = 2 - n % 2
        platform.client.aliases.set("tiny", "champion", version)
        while platform.client.endpoints.get("tiny", "champion").version != version:
            time.sleep(0.01)
        if (n + 1) % max(many // 10, 1) == 0:
            found.append(_host_mib())
    return found


def _host_mib() -> float:
    sizes = [
        processes.parse_pss((processes.PROC / str(p.pid) / "smaps_rollup").read_text())
        for p in processes.processes()
        if b"ServeReplica:tiny" in (processes.PROC / str(p.pid) / "cmdline").read_bytes()
    ]
    return sum(sizes) / 2**20


def _rows(samples: Sequence[Sample], moved: list[dict[str, Any]], memory: list[float], many: int) -> list[Row]:
    values = {v: statistics.median(s.value for s in samples if s.version == v and s.value is not None) for v in "12"}
    wrong = sum(
        1
        for s in samples
        if s.status == 200 and (s.version not in values or s.value is None or abs(s.value - values[s.version]) > 1e-3)
    )
    near = [s for s in samples if any(0 <= s.at_s - m["at_s"] < _WINDOW_S for m in moved)]
    far = [s for s in samples if not any(-0.1 <= s.at_s - m["at_s"] < _WINDOW_S for m in moved)]
    quiet, moving = load.percentile(load.latencies(far), 0.5), load.latencies(near)
    live = [_live_s(samples, m) for m in moved]
    rollbacks = live[1:]  # the first load; from then on both versions are in memory
    growth = memory[-1] - memory[0]
    return [
        row("requests failed across the moves", sum(s.status != 200 for s in samples), "requests", "= 0", COMMAND),
        row("answers that name another version than gave them", wrong, "answers", "= 0", COMMAND),
        row("latency added within a second of a move, at most", moving[-1] - quiet, "ms", "<= 100", COMMAND),
        row("move to first answer, new version", live[0] * 1e3, "ms", None, COMMAND),
        row("rollback to first answer, median", statistics.median(rollbacks) * 1e3, "ms", "<= 100", COMMAND),
        row("rollback to first answer, worst", max(rollbacks) * 1e3, "ms", None, COMMAND),
        row(f"memory of the host after {many} moves, growth from a tenth on", growth, "MiB", "<= 8", COMMAND),
    ]


def _live_s(samples: Sequence[Sample], move: dict[str, Any]) -> float:
    """From the call to the first answer by the new version, as seen from outside."""
    new = [s for s in samples if s.at_s >= move["at_s"] and s.version == str(move["version"])]
    return min(s.at_s + s.latency_ms / 1e3 for s in new) - move["at_s"]
