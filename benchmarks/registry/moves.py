"""How long an audited alias move takes, from call to acknowledgement after its commit: one client, and 32 at once."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.registry.stage import MODEL, Stage, move, percentile, running
from benchmarks.rows import Row, row
from rayplat.registry.record import aliases, audit

CLIENTS = 32
COMMAND = "python -m benchmarks.registry moves"


def measure(work: Path, quick: bool) -> tuple[list[Row], dict[str, Any]]:
    """One client after itself, then `CLIENTS` clients, each after itself on an alias of its own."""
    alone, each = (50, 10) if quick else (1000, 150)
    with running(work) as stage:
        times_ms = _alone(stage, alone)
        began = time.perf_counter()
        together_ms = _together(stage, each)
        seconds = time.perf_counter() - began
        kept = sum(len(stage.client.read(aliases.history, MODEL, f"c{n}")) for n in range(CLIENTS))
        entries = stage.client.read(audit.verify)
    per_s = kept / seconds
    rows = [
        row("alias move, one client, p50", percentile(times_ms, 0.5), "ms", "<= 15", COMMAND),
        row("alias move, one client, p99", percentile(times_ms, 0.99), "ms", "<= 100", COMMAND),
        row(f"audited moves, {CLIENTS} clients", per_s, "moves/s", ">= 300", COMMAND),
        row(f"alias move, {CLIENTS} clients, p99", percentile(together_ms, 0.99), "ms", None, COMMAND),
        row("moves acknowledged and not kept", CLIENTS * each - kept, "moves", "= 0", COMMAND),
    ]
    return rows, {"one_client_ms": times_ms, "seconds": seconds, "moves": kept, "audit_entries": entries}


def _alone(stage: Stage, moves: int) -> list[float]:
    found = []
    for n in range(moves):
        began = time.perf_counter()
        move(stage.client, "alone", n)
        found.append((time.perf_counter() - began) * 1000)
    return found


def _together(stage: Stage, each: int) -> list[float]:
    clients = [stage.another() for _ in range(CLIENTS)]

    def one(number: int) -> list[float]:
        found = []
        for n in range(each):
            began = time.perf_counter()
            move(clients[number], f"c{number}", n)
            found.append((time.perf_counter() - began) * 1000)
        return found

    with ThreadPoolExecutor(CLIENTS) as pool:
        return [ms for found in pool.map(one, range(CLIENTS)) for ms in found]
