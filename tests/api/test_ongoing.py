"""Work that outlasts a request is joined, not started again."""

from __future__ import annotations

import threading
from typing import Any

import httpx
import pytest

from rayplat.api.ongoing import Ongoing
from rayplat.errors import InvalidInput, StillRunning
from rayplat.platform.processes import wait_until
from rayplat.services.features import Features
from rayplat.services.remote import remote


class Work:
    def __init__(self) -> None:
        self.started, self.end = 0, threading.Event()

    def __call__(self) -> int:
        self.started = number = self.started + 1
        assert self.end.wait(10)
        return number


def test_the_same_call_again_waits_for_the_end() -> None:
    ongoing, work = Ongoing(patience_s=0.02), Work()
    for _ in range(2):
        with pytest.raises(StillRunning, match="features build is still running"):
            ongoing.run("k", "features build", work)
    work.end.set()
    assert Ongoing(patience_s=10).run("other", "features build", work) == 2
    found: list[Any] = []

    def ended() -> bool:
        try:
            found.append(ongoing.run("k", "features build", work))
        except StillRunning:
            return False
        return True

    assert wait_until(ended, 10)
    assert work.started == 2
    assert found == [1]
    assert ongoing.run("k", "features build", work) == 3  # that result was fetched: this is a new call


def test_a_result_that_nobody_fetched_is_not_kept_for_ever() -> None:
    ongoing, work = Ongoing(patience_s=0.02, kept_s=0.0), Work()
    with pytest.raises(StillRunning):
        ongoing.run("k", "w", work)
    work.end.set()
    assert wait_until(lambda: ongoing.run("k", "w", work) >= 2, 10)


@pytest.mark.parametrize("error", [InvalidInput("x", "wrong"), TimeoutError("its own")])
def test_errors_come_through(error: Exception) -> None:
    def fail() -> None:
        raise error

    ongoing = Ongoing(patience_s=10)
    for _ in range(2):
        with pytest.raises(type(error), match=r"wrong|its own"):
            ongoing.run("k", "w", fail)


def test_the_client_asks_until_it_has_ended() -> None:
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.path)
        if len(asked) < 3:
            return httpx.Response(503, json={"error": "", "code": "StillRunning", "args": ["features materialize"]})
        return httpx.Response(200, json={"sales": 3})

    http = httpx.Client(base_url="http://p/api/v1", transport=httpx.MockTransport(answer))
    assert remote(Features, http).materialize() == {"sales": 3}
    assert asked == ["/api/v1/features/materialize"] * 3
