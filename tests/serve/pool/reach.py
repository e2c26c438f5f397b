"""Other processes as a front sees them: what each was asked, and what it answers."""

from __future__ import annotations

import pickle
from collections.abc import AsyncGenerator
from typing import Any

from rayplat.errors import Unavailable
from rayplat.serve.http import relay


class FakeReach:
    """Answers HTTP with where it came to. ``absent`` applications cannot be reached, ``refusals`` are what workers
    say instead of an answer."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str, tuple[Any, ...]]] = []
        self.absent: set[str] = set()
        self.refusals: dict[str, Any] = {}

    async def call(self, application: str, method: str, *args: Any) -> Any:
        self.calls.append((application, method, args))
        if application in self.absent:
            raise Unavailable(application, "it has stopped or is restarting")
        if application in self.refusals:
            return relay.failed(self.refusals[application])
        if method != "http":
            return f"{application} {method}".encode()
        sent = relay.HttpRequest(*pickle.loads(args[-1]))
        said = f"{application} {sent.method} {sent.root} {sent.rest} {sent.body.decode()}".encode()
        return pickle.dumps((True, (200, [(b"content-type", b"text/plain")], said)))

    async def stream(self, application: str, method: str, *args: Any) -> AsyncGenerator[bytes, None]:
        self.calls.append((application, method, args))
        if application in self.refusals:
            yield relay.failed(self.refusals[application])
            return
        yield pickle.dumps((True, (200, [(b"content-type", b"text/event-stream")])))
        for n in range(3):
            yield f"data: {n}\n\n".encode()
