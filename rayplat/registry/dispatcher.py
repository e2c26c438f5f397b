"""Sends events to webhooks: in order for each of them, at least once, none waiting for another.

`Dispatcher` is a plain class driven tick by tick; it keeps nothing that it could not read again. A message is noted as
delivered after it was: who dies in between sends it again, with the same id. A lane is what one webhook is sent now.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Protocol

from rayplat.errors import RayplatError
from rayplat.registry import standard_webhooks
from rayplat.registry.calls import Registry
from rayplat.registry.egress import EgressRules
from rayplat.registry.http_sender import HttpSender
from rayplat.registry.record import events, webhooks
from rayplat.registry.record.webhooks import Due, Progress
from rayplat.registry.standard_webhooks import Answer, RetryPolicy
from rayplat.settings import EventsSettings

log = logging.getLogger(__name__)

_NOTE_S = 1.0  # a lane notes its progress at least so often
_UNNOTED = 500  # events that nobody wanted, after which that is noted too
_PRUNE_S = 3600.0


class Sender(Protocol):
    """Makes one try."""

    async def post(self, url: str, headers: dict[str, str], content: bytes) -> Answer:
        """Send it and say what became of it; raises nothing."""
        ...


class Dispatcher:
    """Delivers what ``registry`` has in its outbox. ``clock`` gives the time that is signed and waited for."""

    def __init__(
        self,
        registry: Registry,
        settings: EventsSettings,
        sender: Sender | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._registry, self._settings, self._clock = registry, settings, clock
        self._sender = sender or HttpSender(EgressRules.of(settings), settings.timeout_s, settings.ca_file)
        self._policy = RetryPolicy(settings.retry_max_s, settings.park_after)
        self._lanes: dict[str, asyncio.Task[None]] = {}
        self._scanned: dict[str, tuple[int, int]] = {}  # by webhook: its position then, and how far nothing is wanted
        self._slots = asyncio.Semaphore(settings.concurrency)
        self._pruned_at: float | None = None

    async def run(self, stop: asyncio.Event) -> None:
        """Tick until ``stop`` is set. What goes wrong is logged and tried again."""
        while not stop.is_set():
            try:
                await self.tick()
            except RayplatError as e:
                log.warning("events are not sent now: %s", e)
            except Exception:
                log.exception("events are not sent now")
            try:
                await asyncio.wait_for(stop.wait(), self._settings.poll_s)
            except TimeoutError:
                continue
        for lane in self._lanes.values():
            lane.cancel()
        await self.drain()

    async def tick(self) -> int:
        """Start a lane for each webhook that has something to be sent and is not being served; how many."""
        found = await asyncio.to_thread(self._registry.read, webhooks.due, self._clock(), dict(self._scanned))
        started = 0
        for due in found:
            webhook_id, position = due.webhook.webhook_id, due.webhook.position
            if webhook_id in self._lanes:
                continue
            if not due.events and due.scanned - position < _UNNOTED:
                self._scanned[webhook_id] = (position, due.scanned)
                continue
            self._lanes[webhook_id] = asyncio.create_task(self._serve(due))
            started += 1
        await self._prune()
        return started

    async def drain(self) -> None:
        """Wait until no lane is left."""
        while self._lanes:
            await asyncio.gather(*self._lanes.values(), return_exceptions=True)

    async def _serve(self, due: Due) -> None:
        webhook_id = due.webhook.webhook_id
        try:
            async with self._slots:
                await self._send_all(due)
        except RayplatError as e:
            log.warning("progress of webhook %s is not noted: %s", webhook_id, e)
        except Exception:
            log.exception("webhook %s", webhook_id)
        finally:
            self._scanned.pop(webhook_id, None)
            del self._lanes[webhook_id]

    async def _send_all(self, due: Due) -> None:
        webhook, noted, delivered, noted_at = due.webhook, due.webhook.position, 0, time.monotonic()
        position = noted
        for event in due.events:
            content, msg_id = standard_webhooks.body(event), standard_webhooks.message_id(webhook.webhook_id, event)
            headers = standard_webhooks.headers(due.secret, msg_id, self._clock(), content)
            answer = await self._sender.post(webhook.url, headers, content)
            if not answer.delivered:
                before = event.seq - 1  # what lies between is wanted by nobody or delivered
                await self._failed(due, Progress(webhook.webhook_id, noted, before, delivered), answer)
                return
            position, delivered = event.seq, delivered + 1
            if time.monotonic() - noted_at > _NOTE_S:
                await self._note(Progress(webhook.webhook_id, noted, position, delivered))
                noted, noted_at = position, time.monotonic()
        await self._note(Progress(webhook.webhook_id, noted, due.scanned, delivered))

    async def _failed(self, due: Due, progress: Progress, answer: Answer) -> None:
        failures = 1 if progress.delivered else due.webhook.failures + 1
        decision = self._policy.decide(answer, failures, random.random())
        again = self._clock() + timedelta(seconds=decision.wait_s)
        what = "parked" if decision.park else f"tried again in {decision.wait_s:.1f} s"
        log.warning("webhook %s: %s, try %d, %s", due.webhook.webhook_id, answer.reason, failures, what)
        told = {"error": answer.reason, "park": decision.park, "next_try_at": None if decision.park else again}
        await self._note(Progress(**{**vars(progress), **told}))

    async def _note(self, progress: Progress) -> None:
        await asyncio.to_thread(self._registry.write, webhooks.settle, progress)

    async def _prune(self) -> None:
        now = time.monotonic()
        if self._pruned_at is None or now - self._pruned_at > _PRUNE_S:
            self._pruned_at = now
            before = self._clock() - timedelta(days=self._settings.keep_days)
            await asyncio.to_thread(self._registry.write, events.prune, before)
