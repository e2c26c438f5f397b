"""A canary goes on, waits or goes back: on counts, on signals, on time."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from rayplat.serve.routing import canary as rules
from rayplat.serve.routing.canary import CanaryAction, CanaryCounts, CanaryDecision, CanaryPolicy
from rayplat.serve.routing.counts import BOUNDS_MS, Tally, VariantCounts, read
from rayplat.types import Canary, CanaryState, Signal

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
LATER = BEGAN + timedelta(minutes=6)
CANARY = Canary("challenger", since=BEGAN)
A = CanaryAction


def counts(requests: int, errors: int = 0, ms: float = 2.0, slow: int = 0, slow_ms: float = 200.0) -> VariantCounts:
    tally = Tally()
    for i in range(requests):
        tally.answered("v", 1, 500 if i < errors else 200, slow_ms if i >= requests - slow else ms)
    return read([tally.stats()], 0).get("v", VariantCounts())


def decide(
    canary: Canary, seen: VariantCounts, beside: VariantCounts | None = None, *signals: Signal, now: datetime = LATER
) -> CanaryDecision:
    return CanaryPolicy().decide(canary, CanaryCounts(seen, beside or counts(1000)), signals, now)


def signal(kind: str = "drift", bad: bool = True, after_s: float = 60.0) -> Signal:
    return Signal("m", 2, kind, bad, "psi 0.4 on distance", BEGAN + timedelta(seconds=after_s), "monitor")


def test_a_step_takes_its_time_and_its_requests() -> None:
    assert decide(CANARY, counts(500), now=BEGAN + timedelta(seconds=299)) == (
        CanaryDecision(A.HOLD, "299 of 300 s at this step")
    )
    assert decide(CANARY, counts(99)) == CanaryDecision(A.HOLD, "99 of 100 requests at this step")
    assert decide(CANARY, counts(100)) == CanaryDecision(A.STEP, "100 requests, 0 failed, in 360 s")
    assert decide(replace(CANARY, step=4), counts(100)).action is A.DONE


@pytest.mark.parametrize(
    ("requests", "errors", "action"),
    [(1, 1, A.HOLD), (3, 1, A.HOLD), (100, 1, A.STEP), (100, 3, A.STEP), (100, 20, A.ROLLBACK), (30, 10, A.ROLLBACK)],
)
def test_errors_count_once_they_are_certain(requests: int, errors: int, action: CanaryAction) -> None:
    assert decide(CANARY, counts(requests, errors)).action is action


def test_errors_do_not_wait_for_the_end_of_the_step() -> None:
    found = decide(CANARY, counts(100, 20), now=BEGAN + timedelta(seconds=1))
    assert found.action is A.ROLLBACK
    assert found.reason.startswith("errors: 20 of 100 requests failed (at least 8")
    assert "the limit is 1.00%" in found.reason


def test_errors_that_the_primary_has_as_well_are_not_the_canarys() -> None:
    assert decide(CANARY, counts(100, 20), counts(1000, 250)).action is A.STEP
    assert decide(CANARY, counts(100, 60), counts(1000, 250)).action is A.ROLLBACK


def test_no_error_at_all_may_be_permitted() -> None:
    strict = replace(CANARY, max_error_rate=0.0)
    assert decide(strict, counts(100, 1)).action is A.ROLLBACK
    assert decide(replace(CANARY, max_error_rate=1.0), counts(100, 100)).action is A.STEP


def test_latency_is_compared_with_the_p99_beside_it() -> None:
    found = decide(CANARY, counts(200, slow=40))
    assert found.action is A.ROLLBACK
    assert found.reason.startswith("latency: p99 ")
    assert "(40 of 200 answers were slower than that)" in found.reason
    assert decide(CANARY, counts(200, ms=3.5)).action is A.STEP  # within twice the 2 ms
    assert decide(CANARY, counts(200, slow=1)).action is A.STEP  # one late answer is no verdict
    assert decide(replace(CANARY, max_p99_ratio=None), counts(200, slow=40)).action is A.STEP


def test_latency_is_not_compared_with_next_to_nothing() -> None:
    assert decide(CANARY, counts(200, slow=40), counts(3)).action is A.STEP


def test_a_bad_signal_rolls_back_and_a_good_one_after_it_takes_it_back() -> None:
    found = decide(CANARY, counts(5), None, signal())
    assert found == CanaryDecision(A.ROLLBACK, "drift: psi 0.4 on distance (version 2, said by monitor)")
    assert decide(CANARY, counts(200), None, signal(after_s=60), signal(bad=False, after_s=90)).action is A.STEP
    assert decide(CANARY, counts(200), None, signal(bad=False, after_s=60), signal(after_s=90)).action is A.ROLLBACK


def test_signals_of_before_the_step_and_of_other_kinds_are_left_alone() -> None:
    assert decide(CANARY, counts(200), None, signal(after_s=-1)).action is A.STEP
    assert decide(CANARY, counts(200), None, signal("quality")).action is A.STEP
    assert decide(replace(CANARY, watch=("quality",)), counts(200), None, signal("quality")).action is A.ROLLBACK


def test_a_paused_canary_takes_no_step_and_is_watched() -> None:
    paused = replace(CANARY, state=CanaryState.PAUSED)
    assert decide(paused, counts(500)) == CanaryDecision(A.HOLD, "it is paused")
    assert decide(paused, counts(100, 20)).action is A.ROLLBACK


@pytest.mark.parametrize("state", [CanaryState.DONE, CanaryState.ROLLED_BACK])
def test_what_has_ended_stays_as_it_is(state: CanaryState) -> None:
    assert decide(replace(CANARY, state=state), counts(100, 50), None, signal()).action is A.HOLD


def test_a_canary_within_its_limits_is_hardly_ever_rolled_back_however_often_one_looks() -> None:
    rng = np.random.default_rng(7)
    rolled_back = 0
    for _ in range(300):
        errors = np.cumsum(rng.random(1000) < 0.01)
        rolled_back += any(rules.exceeds(int(errors[n - 1]), n, 0.01) for n in range(5, 1001, 5))
    assert rolled_back / 300 <= 0.03  # at most 1 % in the long run


def test_a_canary_that_is_worse_is_found() -> None:
    rng = np.random.default_rng(8)
    late = 0
    for _ in range(100):
        errors = np.cumsum(rng.random(400) < 0.08)
        late += not any(rules.exceeds(int(errors[n - 1]), n, 0.01) for n in range(5, 401, 5))
    assert late == 0


def test_the_lower_bound_is_below_the_rate_and_above_what_is_excluded() -> None:
    assert rules.lower_bound(0, 100) == 0.0
    assert 0.05 < rules.lower_bound(20, 100) < 0.2
    assert rules.lower_bound(200, 1000) > rules.lower_bound(20, 100)
    assert rules.exceeds(20, 100, rules.lower_bound(20, 100) * 0.999)
    assert not rules.exceeds(20, 100, rules.lower_bound(20, 100) * 1.001)


def test_counts_of_several_hosts_are_added_and_those_of_another_release_left_out() -> None:
    hosts = []
    for generation in (3, 3, 2):
        tally = Tally()
        tally.restart(generation)
        for status in (200, 200, 404, 429, 503):
            tally.answered("challenger", 2, status, 10.0)
        hosts.append(tally.stats())
    found = read(hosts, 3)["challenger"]
    assert (found.requests, found.errors, found.answers) == (10, 4, 4)
    assert 10.0 <= found.quantile_ms(0.5) <= 12.0
    assert found.slower(9.9) == 0  # the bucket may begin below it
    assert found.slower(5.0) == 4
    assert read(hosts, 9) == {}


def test_counts_begin_anew_with_a_release_and_others_are_told_of_each() -> None:
    told: list[tuple[str, int, int, float]] = []

    class Then:
        def answered(self, variant: str, version: int, status: int, latency_ms: float) -> None:
            told.append((variant, version, status, latency_ms))

    tally = Tally(Then())
    tally.answered("champion", 1, 200, 1.0)
    tally.restart(1)
    tally.answered("champion", 1, 200, 1e9)
    found = tally.stats()
    assert (found["generation"], found["variants"]["champion"]["requests"]) == (1, 1)
    assert read([found], 1)["champion"].quantile_ms(0.99) == float("inf")
    assert len(found["variants"]["champion"]["latencies"]) == len(BOUNDS_MS) + 1
    assert len(told) == 2
