"""The rate limit of a token."""

from __future__ import annotations

import pytest

from rayplat.errors import Overloaded
from rayplat.serve.rate import RateLimit
from rayplat.types import Limits


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def taken(limit: RateLimit, caller: str | None, tries: int) -> int:
    done = 0
    for _ in range(tries):
        try:
            limit.take(caller)
            done += 1
        except Overloaded:
            pass
    return done


def test_a_burst_and_then_the_rate() -> None:
    clock = Clock()
    limit = RateLimit(10, 5, clock=clock)
    assert taken(limit, "a", 20) == 5
    total = 0
    for _ in range(1000):
        clock.now += 0.01
        total += taken(limit, "a", 3)
    assert total == pytest.approx(100, abs=1)
    clock.now += 60
    assert taken(limit, "a", 20) == 5  # full again, and no fuller
    assert limit.refused == 15 + 3000 - total + 15


def test_a_refusal_says_when_to_come_back_and_is_true() -> None:
    clock = Clock()
    limit = RateLimit(2, 1, clock=clock)
    limit.take("a", "ann")
    with pytest.raises(Overloaded, match="the rate limit of ann is overloaded: at most 2 requests per second") as e:
        limit.take("a", "ann")
    clock.now += e.value.retry_after_s - 1e-6
    assert taken(limit, "a", 1) == 0
    clock.now += 2e-6
    assert taken(limit, "a", 1) == 1


def test_tokens_share_nothing_and_those_without_one_share_a_limit() -> None:
    limit = RateLimit(1, 2, clock=Clock())
    assert [taken(limit, caller, 5) for caller in ("a", "b", None, None)] == [2, 2, 2, 0]


def test_a_bounded_number_of_tokens_is_kept() -> None:
    limit = RateLimit(1, 1, callers=10, clock=Clock())
    for i in range(100):
        limit.take(f"token-{i}")
    assert len(limit) == 10


def test_an_endpoint_without_a_rate_has_no_limit() -> None:
    assert RateLimit.of(Limits()) is None
    assert RateLimit.of(Limits(rate=3.0, burst=2)) is not None
