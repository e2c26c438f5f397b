"""The inference log's test doubles: a writer that keeps what it is sent, and records of requests."""

from __future__ import annotations

from concurrent.futures import Future
from datetime import UTC, datetime
from typing import Any

import numpy as np

from rayplat.serve.log.schema import Record
from rayplat.types import AliasHead

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
HEAD = AliasHead("late", "champion", 1, f"sha256:{1:064x}", 1, NOW, "someone")


class FakeSink:
    """A writer that keeps what it is sent; it acknowledges by itself while ``prompt``, else in `finish`."""

    def __init__(self, prompt: bool = True) -> None:
        self.prompt = prompt
        self.sent: list[tuple[str, int, bytes]] = []
        self.waiting: list[Future[None]] = []
        self.flushes = 0
        self.heard: list[tuple[str, dict[str, int], bool]] = []

    def write(self, batch: bytes, epoch: str, seq: int) -> Future[None]:
        self.sent.append((epoch, seq, batch))
        future: Future[None] = Future()
        if self.prompt:
            future.set_result(None)
        else:
            self.waiting.append(future)
        return future

    def flush(self) -> None:
        self.flushes += 1

    def seen(self, epoch: str, counts: dict[str, int], closed: bool) -> None:
        self.heard.append((epoch, counts, closed))

    def finish(self, error: Exception | None = None) -> None:
        for future in self.waiting:
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(error)
        self.waiting.clear()


def record(request_id: str, rows: int = 1, **change: Any) -> Record:
    values: dict[str, Any] = {
        "request_id": request_id,
        "rows": rows,
        "received_at": NOW,
        "event_time": NOW,
        "head": HEAD,
        "version": 1,
        "entity": [f"F{i}" for i in range(rows)],
        "inputs": {"temp": np.arange(rows, dtype=np.float64), "carrier": ["UA"] * rows},
        "outputs": {"p": np.full(rows, 0.5, np.float32)},
        "latency_ms": 1.5,
        "status": 200,
        "variant": "champion",
        "role": "primary",
    }
    return Record(**(values | change))
