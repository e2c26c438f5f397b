"""Replay requests of the past through a live endpoint, while time moves on and an alias moves.

The clock is the requests' own: before a block of requests the online store is advanced to the block's start, so a
request sees what was known then. Requests go over HTTP from several threads; every answer is counted by the
version it names.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx

from rayplat.errors import InvalidInput

THREADS = 4
MAX_SHOWN = 5


@dataclass(frozen=True)
class Ask:
    """One request: an entity key and the moment it is asked at."""

    key: str
    at: datetime


@dataclass(frozen=True)
class ReplayReport:
    """``by_version`` counts answers by the version they name; ``unnamed`` those that name none. Times in ms."""

    prefix: str
    requests: int
    answered: int
    failed: int
    unnamed: int
    by_version: dict[str, int]
    p50_ms: float
    p99_ms: float
    seconds: float
    first_at: datetime
    last_at: datetime
    failures: tuple[str, ...] = ()


@dataclass
class _Tally:
    versions: Counter[str] = field(default_factory=Counter)
    latencies: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    unnamed: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def sent(self) -> int:
        return len(self.latencies)


@dataclass(frozen=True)
class Replay:
    """``advance(moment)`` brings the online store up to a moment; ``swap()`` moves the alias and returns the version
    it moves to (None: there is nothing to move to). ``prefix`` begins every request id."""

    url: str
    token: str
    model: str
    entity: str
    advance: Callable[[datetime], None]
    swap: Callable[[], int | None]
    prefix: str
    step: timedelta = timedelta(minutes=30)

    def run(
        self, asks: Sequence[Ask], requests: int, progress: Callable[[int], None] = lambda sent: None
    ) -> ReplayReport:
        """Send at least ``requests`` of ``asks`` (sorted by moment); the alias moves after half of them, under load.

        It goes on past ``requests``, at most to three times as many, until the new version has answered half of
        them too, so that both can be compared.
        """
        if not asks:
            raise InvalidInput("asks", "there is nothing to replay: is the table of labels empty?")
        tally, started = _Tally(), time.monotonic()
        waiting = threading.Semaphore(2 * THREADS)
        swap: Future[int | None] | None = None
        sent: list[Ask] = []
        with (
            httpx.Client(base_url=self.url, headers={"Authorization": f"Bearer {self.token}"}, timeout=30) as http,
            ThreadPoolExecutor(THREADS) as pool,
            ThreadPoolExecutor(1) as swapper,
        ):
            for block in _blocks(asks[: 3 * requests], self.step):
                if len(sent) >= requests and self._is_enough(swap, tally, requests):
                    break
                self.advance(block[0].at)
                jobs = []
                for ask in block:
                    waiting.acquire()  # few in flight: what is counted as sent has been answered
                    sent.append(ask)
                    jobs.append(pool.submit(self._send, http, ask, len(sent), tally))
                    jobs[-1].add_done_callback(lambda _: waiting.release())
                    if swap is None and tally.sent >= requests // 2:
                        swap = swapper.submit(self.swap)
                for job in jobs:
                    job.result()
                progress(tally.sent)
        if swap is not None:
            swap.result()  # whatever stopped the alias from moving is raised here
        return self._report(tally, sent, time.monotonic() - started)

    def _is_enough(self, swap: Future[int | None] | None, tally: _Tally, requests: int) -> bool:
        if swap is None or not swap.done():
            return False
        target = swap.result()
        return target is None or tally.versions[str(target)] >= requests // 2

    def _send(self, http: httpx.Client, ask: Ask, number: int, tally: _Tally) -> None:
        body: dict[str, Any] = {
            "id": f"{self.prefix}-{number:05d}",
            "inputs": [{"name": self.entity, "datatype": "BYTES", "shape": [1], "data": [ask.key]}],
            "parameters": {"event_time": ask.at.astimezone(UTC).isoformat()},
        }
        begun = time.perf_counter()
        try:
            answer = http.post(f"/v2/models/{self.model}/infer", json=body)
            problem = "" if answer.status_code == 200 else f"{answer.status_code} {answer.text[:200]}"
        except httpx.HTTPError as e:
            problem = f"{type(e).__name__} {e}"
        took = (time.perf_counter() - begun) * 1000
        with tally.lock:
            tally.latencies.append(took)
            if problem:
                tally.failures.append(f"{ask.key}: {problem}")
                return
            version = answer.json().get("model_version")
            if version:
                tally.versions[str(version)] += 1
            else:
                tally.unnamed += 1

    def _report(self, tally: _Tally, sent: list[Ask], seconds: float) -> ReplayReport:
        ordered = sorted(tally.latencies) or [0.0]
        return ReplayReport(
            prefix=self.prefix,
            requests=tally.sent,
            answered=tally.sent - len(tally.failures),
            failed=len(tally.failures),
            unnamed=tally.unnamed,
            by_version=dict(sorted(tally.versions.items(), key=lambda item: int(item[0]))),
            p50_ms=round(ordered[len(ordered) // 2], 2),
            p99_ms=round(ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))], 2),
            seconds=round(seconds, 2),
            first_at=sent[0].at,
            last_at=sent[-1].at,
            failures=tuple(tally.failures[:MAX_SHOWN]),
        )


def _blocks(asks: Sequence[Ask], step: timedelta) -> list[list[Ask]]:
    """``asks`` cut where the clock moves on by ``step``."""
    blocks: list[list[Ask]] = []
    for ask in asks:
        if not blocks or ask.at >= blocks[-1][0].at + step:
            blocks.append([])
        blocks[-1].append(ask)
    return blocks
