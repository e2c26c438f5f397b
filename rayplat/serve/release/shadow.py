"""Copies of requests for shadows: an append on the host's loop, everything else in one thread of its own.

The thread gathers copies and sends each shadow one batch at a time by handle. A shadow that is slow, hangs, is gone or
cannot keep up loses copies, which is counted; the primary neither waits for it nor hears of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from rayplat.errors import RayplatError
from rayplat.serve.release import forwarding
from rayplat.serve.release.forwarding import Copy
from rayplat.serve.release.variants import Send, thread_sender
from rayplat.serve.request import Call, InferRequest
from rayplat.types import Release, Shadow

log = logging.getLogger(__name__)

_MOST_WAITING = 8192  # copies that the thread has not looked at yet
_MOST_AT_ONCE = 256
_MOST_BYTES = 64 << 20  # of the inputs that wait for one shadow
_ANSWER_S = 60.0  # a batch that is not through by then is given up
_FIRST_PAUSE_S, _LAST_PAUSE_S = 0.5, 30.0
_BREATH_S = 0.00005  # between pieces of work: a thread that only offers the lock gets it back before the loop wakes up


@dataclass
class _Waiting:
    """What one shadow is still to get. ``pause_until`` (`time.monotonic`) is after a failure."""

    most: int
    copies: deque[Copy] = field(default_factory=deque)
    size_bytes: int = 0
    sending: asyncio.Task[None] | None = None
    pause_s: float = _FIRST_PAUSE_S
    pause_until: float = 0.0
    sent: int = 0
    dropped: int = 0
    failure: str | None = None


class Shadows:
    """Copies of ``model``'s requests for its shadows. `offer` is called on the host's loop, the rest from anywhere.

    The thread starts with the first copy, and is a daemon: it keeps no process alive.
    """

    def __init__(
        self, model: str, sender: Callable[[str], Send] = thread_sender, every_s: float = forwarding.COPIES_EVERY_S
    ) -> None:
        self._model, self._sender, self._every_s = model, sender, every_s
        self._inbox: deque[tuple[tuple[str, ...], InferRequest, Call]] = deque()
        self._missed = 0
        self._limits: dict[str, int] = {}
        self._waiting: dict[str, _Waiting] = {}
        self._thread: threading.Thread | None = None
        self._stopped = threading.Event()

    def offer(self, targets: tuple[str, ...], request: InferRequest, call: Call) -> None:
        """A copy for each of ``targets`` (`decide.variant`). Never blocks; what does not fit is counted as dropped."""
        if len(self._inbox) >= _MOST_WAITING:
            self._missed += 1
            return
        self._inbox.append((targets, request, call))
        if self._thread is None:
            self._start()

    def obey(self, release: Release, name: Callable[[str], str]) -> None:
        """Take the bounds of a new release; ``name`` is how a target is called."""
        self._limits = {name(shadow.target): shadow.max_pending for shadow in release.shadows}

    def stop(self) -> None:
        """End the thread; copies that wait are given up."""
        self._stopped.set()

    def stats(self) -> dict[str, dict[str, Any]]:
        """By shadow: copies ``sent``, ``dropped`` and ``waiting``, and why the last batch failed if it did."""
        shown = {
            name: {
                "sent": waiting.sent,
                "dropped": waiting.dropped,
                "waiting": len(waiting.copies),
                "failure": waiting.failure,
            }
            for name, waiting in list(self._waiting.items())
        }
        if self._missed:
            shown["*"] = {"sent": 0, "dropped": self._missed, "waiting": len(self._inbox), "failure": None}
        return shown

    # --- the thread -----------------------------------------------------------------------------------

    def _start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="shadows", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            asyncio.run(self._rounds())
        except Exception:
            log.exception("copies for shadows of %s end", self._model)

    async def _rounds(self) -> None:
        send = self._sender(self._model)
        while not self._stopped.is_set():
            await asyncio.sleep(self._every_s)
            self._distribute()
            for name, waiting in list(self._waiting.items()):
                self._send(name, waiting, send)
        for waiting in self._waiting.values():
            if waiting.sending is not None:
                waiting.sending.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await waiting.sending

    def _distribute(self) -> None:
        """From the common inbox to each shadow's own, within its bounds."""
        for _ in range(len(self._inbox)):
            targets, request, call = self._inbox.popleft()
            for name in targets:
                waiting = self._waiting.get(name)
                if waiting is None:
                    waiting = self._waiting[name] = _Waiting(Shadow(name).max_pending)
                waiting.most = self._limits.get(name, waiting.most)
                if len(waiting.copies) >= waiting.most or waiting.size_bytes > _MOST_BYTES:
                    waiting.dropped += 1
                else:
                    waiting.copies.append((request, call))
                    waiting.size_bytes += _size_bytes(request)

    def _send(self, name: str, waiting: _Waiting, send: Send) -> None:
        """The next batch, unless one is on its way or the shadow is left alone for a while."""
        busy = waiting.sending is not None and not waiting.sending.done()
        if busy or not waiting.copies or time.monotonic() < waiting.pause_until:
            return
        batch = [waiting.copies.popleft() for _ in range(min(len(waiting.copies), _MOST_AT_ONCE))]
        waiting.size_bytes -= sum(_size_bytes(request) for request, _ in batch)
        waiting.sending = asyncio.get_running_loop().create_task(self._sent(name, waiting, batch, send))

    async def _sent(self, name: str, waiting: _Waiting, batch: list[Copy], send: Send) -> None:
        try:
            packed = forwarding.pack_copies(batch, _breathe)
            await send(name, "shadow", (packed,), _ANSWER_S)
        except Exception as e:
            if waiting.failure is None:
                log.warning("copies for the shadow %s of %s are dropped: %s", name, self._model, e)
            if not isinstance(e, RayplatError):
                log.debug("the shadow %s", name, exc_info=e)
            waiting.dropped += len(batch)
            waiting.failure = str(e)
            waiting.pause_until = time.monotonic() + waiting.pause_s
            waiting.pause_s = min(waiting.pause_s * 2, _LAST_PAUSE_S)
        else:
            waiting.sent += len(batch)
            waiting.failure, waiting.pause_s = None, _FIRST_PAUSE_S


def _breathe() -> None:
    time.sleep(_BREATH_S)


def _size_bytes(request: InferRequest) -> int:
    """Of its inputs, about: what a waiting copy keeps in memory."""
    return 1024 + sum(
        64 * len(values) if isinstance(values, list) else values.nbytes for values in request.inputs.values()
    )
