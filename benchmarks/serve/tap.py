"""What the inference log costs a request on the host's loop: its record is made, as the data plane makes it, and handed
over. Between two of them the loop reads requests, as a host's does."""

from __future__ import annotations

import json
import statistics
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.rows import Row, row
from benchmarks.serve import load, tiny
from rayplat.serve.log.tap import InferenceTap
from rayplat.settings import LogSettings
from rayplat.types import AliasHead

COMMAND = "python -m benchmarks.serve tap"


class _Sink:
    """Takes everything at once, so that the tap's thread has its usual work and nobody's answer to wait for."""

    def write(self, batch: bytes, epoch: str, seq: int) -> Any:
        from concurrent.futures import Future

        done: Future[None] = Future()
        done.set_result(None)
        return done

    def flush(self) -> None:
        return None


def measure(work: Path, quick: bool) -> tuple[list[Row], dict[str, Any]]:
    requests, rate = (2_000, 2_000.0) if quick else (40_000, 2_000.0)
    head = AliasHead("tiny", "champion", 1, "sha256:" + "1" * 64, 1, datetime.now(UTC), "ann")
    inputs = {"input-0": np.asarray([tiny.ROW], dtype=np.float32)}
    outputs = {"prediction": np.asarray([[0.3, 0.7]], dtype=np.float32)}
    nothing: frozenset[str] = frozenset()
    tap = InferenceTap(_Sink(), LogSettings(), "bench")
    clock = time.perf_counter_ns()
    empty = sorted(_empty() for _ in range(10_000))[5_000]
    costs, due = [], time.perf_counter()
    for _ in range(requests):
        due += 1 / rate
        while time.perf_counter() < due:  # what a loop does between two records; the tap's thread runs meanwhile
            json.loads(tiny.OPEN_INFERENCE)
        moment = datetime.now(UTC)
        clock = time.perf_counter_ns()
        tap.record(
            (
                "3f2b8a52a9c94e01a8c1",
                1,
                moment,
                moment,
                head,
                1,
                None,
                inputs,
                outputs,
                0.5,
                200,
                "champion",
                "primary",
                nothing,
            )
        )
        costs.append((time.perf_counter_ns() - clock - empty) / 1e3)
    ended = tap.close(20.0)
    stats = tap.stats()
    ordered = sorted(costs)
    rows = [
        row("the log's cost of a request on the loop, p50", load.percentile(ordered, 0.5), "us", "<= 2", COMMAND),
        row("the same, p99", load.percentile(ordered, 0.99), "us", None, COMMAND),
        row("requests that did not reach the log", requests - stats["committed"], "requests", "= 0", COMMAND),
    ]
    raw = {"mean_us": statistics.fmean(costs), "clock_ns": empty, "stats": stats, "ended": ended, "rate": rate}
    return rows, raw


def _empty() -> int:
    """What reading the clock costs by itself, in nanoseconds."""
    began = time.perf_counter_ns()
    return time.perf_counter_ns() - began
