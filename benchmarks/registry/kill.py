"""The registry's actor killed (SIGKILL) in the middle of 1,000 moves: what is lost, what comes twice, and how long it
takes until the next write is acknowledged. Clients go on as they always do."""

from __future__ import annotations

import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.registry.stage import MODEL, Stage, move, running
from benchmarks.rows import Row, row
from rayplat.registry.record import aliases, audit
from rayplat.types import AliasHead

CLIENTS = 8
COMMAND = "python -m benchmarks.registry kill"


@dataclass
class Outcome:
    """What clients were told, and when."""

    heads: list[AliasHead] = field(default_factory=list)
    at_s: list[float] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, head: AliasHead) -> None:
        with self.lock:
            self.heads.append(head)
            self.at_s.append(time.perf_counter())


def measure(work: Path, quick: bool) -> tuple[list[Row], dict[str, Any]]:
    """The kill comes once half of the moves have been acknowledged."""
    each = 10 if quick else 125
    told = Outcome()
    with running(work) as stage:
        before = stage.client.heartbeat()
        with ThreadPoolExecutor(CLIENTS) as pool:
            running_clients = [pool.submit(_client, stage, told, n, each) for n in range(CLIENTS)]
            while len(told.heads) < CLIENTS * each // 2:
                time.sleep(0.001)
            os.kill(before["pid"], signal.SIGKILL)
            killed_s = time.perf_counter()
            for client in running_clients:
                client.result()
        after = stage.client.heartbeat()
        histories = [stage.client.read(aliases.history, MODEL, f"k{n}") for n in range(CLIENTS)]
        entries = stage.client.read(audit.verify)
    kept = [head for history in histories for head in history]
    told_twice = CLIENTS * each - len({(h.alias, h.generation) for h in told.heads})
    # The last answers of the old process may be read just after it was killed: recovered is what came after the gap.
    gaps = [b - a for a, b in zip(told.at_s, told.at_s[1:], strict=False)]
    longest = max(range(len(gaps)), key=gaps.__getitem__)
    rows = [
        row("recovery: kill to next acknowledged move", told.at_s[longest + 1] - killed_s, "s", "<= 5", COMMAND),
        row("moves lost", len(set(told.heads) - set(kept)), "moves", "= 0", COMMAND),
        row("moves made twice", len(kept) - CLIENTS * each + told_twice, "moves", "= 0", COMMAND),
        row("incarnations", after["epoch"] - before["epoch"] + 1, "actors", "= 2", COMMAND),
        row("audit entries, chain intact", entries, "entries", None, COMMAND),
    ]
    return rows, {"killed_s": killed_s, "answers_s": told.at_s, "entries": entries}


def _client(stage: Stage, told: Outcome, number: int, moves: int) -> None:
    client = stage.another()
    for n in range(moves):
        told.add(move(client, f"k{number}", n))
