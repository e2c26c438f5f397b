"""Compare-and-sets that contend: several clients at once move one alias from the same generation; one may win."""

from __future__ import annotations

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.registry.stage import ANN, MODEL, Stage, running
from benchmarks.rows import Row, row
from rayplat.errors import StaleGeneration
from rayplat.registry.calls import answer, name_of, packed
from rayplat.registry.record import aliases, audit

ALIASES = 16  # contests that go on at the same time
CONTENDERS = 2
COMMAND = "python -m benchmarks.registry contention"


def measure(work: Path, quick: bool) -> tuple[list[Row], dict[str, Any]]:
    """10,000 contests, each for one generation of one alias."""
    each = 60 if quick else 625
    with running(work) as stage:
        began = time.perf_counter()
        with ThreadPoolExecutor(ALIASES) as pool:
            found = list(pool.map(lambda n: _contests(stage, f"a{n}", each), range(ALIASES)))
        seconds = time.perf_counter() - began
        histories = [stage.client.read(aliases.history, MODEL, f"a{n}") for n in range(ALIASES)]
        stage.client.read(audit.verify)
    winners = sum(found, Counter[int]())
    kept = sum([h.generation for h in reversed(history)] == list(range(1, each + 1)) for history in histories)
    calls = ALIASES * each * CONTENDERS
    rows = [
        row("contests for a generation", winners.total(), "contests", None if quick else "= 10000", COMMAND),
        row("contests without exactly one winner", winners.total() - winners[1], "contests", "= 0", COMMAND),
        row("aliases whose history is each generation once", kept, "aliases", f"= {ALIASES}", COMMAND),
        row("contended compare-and-sets", calls / seconds, "calls/s", None, COMMAND),
    ]
    return rows, {"winners": dict(winners), "seconds": seconds, "contenders": CONTENDERS}


def _contests(stage: Stage, alias: str, contests: int) -> Counter[int]:
    """How often a contest had how many winners. The contenders' calls are all on their way before one is answered."""
    import ray

    clients, name = [stage.another() for _ in range(CONTENDERS)], name_of(aliases.set, "write")
    winners: Counter[int] = Counter()
    for generation in range(contests):
        wanted = [(MODEL, alias, 1 + n % 2, generation) for n in range(CONTENDERS)]
        calls = [packed(name, one, {"by": ANN}) for one in wanted]
        sent = [c.handle.packed.remote("write", call) for c, call in zip(clients, calls, strict=True)]
        winners[sum(_won(ray, call) for call in sent)] += 1
    return winners


def _won(ray: Any, call: Any) -> bool:
    try:
        answer(ray.get(call, timeout=60))
    except StaleGeneration:
        return False
    return True
