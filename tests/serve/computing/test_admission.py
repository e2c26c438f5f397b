"""How long a queue may be: the rule alone, and in a simulation of twice the load that the model can carry."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from rayplat.serve.computing.admission import AdmissionPolicy, Arrivals, Load
from rayplat.serve.computing.cost import CostCurve
from rayplat.types import Limits
from tests.serve.queueing import curve, simulate

QUIET = Load(waiting=0, waiting_rows=0, residual_s=0.0, busy_s=0.0)


def waiting(n: int, busy_s: float = 60.0, rows: int | None = None) -> Load:
    return Load(n, n if rows is None else rows, 0.005, busy_s)


@pytest.mark.parametrize("spread", ["poisson", "even"])
@pytest.mark.parametrize(
    ("fixed_ms", "row_ms", "most_rows", "concurrency"),
    [
        (5, 0, 1, 1),
        (10, 0, 1, 1),
        (20, 0, 1, 1),
        (0, 5, 256, 1),
        (5, 0.1, 256, 1),
        (5, 1, 8, 1),
        (1, 1, 256, 1),
        (20, 0, 32, 1),
        (10, 0, 1, 4),
    ],
)
def test_twice_the_load_keeps_the_tail_within_twice_the_normal(
    fixed_ms: float, row_ms: float, most_rows: int, concurrency: int, spread: str
) -> None:
    cost = curve(fixed_ms / 1000, row_ms / 1000)
    joined = cost.efficient_rows(most_rows)
    capacity = concurrency * joined / cost.expect(joined)
    phases = [(share * capacity, 3000 / capacity) for share in (0.7, 2.0, 0.7)]
    before, over, after = simulate(cost, Limits(concurrency=concurrency), phases, most_rows=most_rows, spread=spread)
    assert over.quantile(0.99) <= 2.0 * before.quantile(0.99) + 1e-9
    assert over.refused > 0
    assert len(over.sojourns) / 3000 > 0.75  # refusing is no excuse for idling
    assert before.refused / 2100 < 0.005
    assert after.refused / 2100 < 0.05  # recovers by itself
    assert after.quantile(0.99) <= 2 * before.quantile(0.99)


def test_a_burst_after_a_rest_is_let_in_and_the_same_queue_in_an_overload_is_not() -> None:
    policy, cost = AdmissionPolicy(Limits(), 1), curve(0.005, 0.0)
    assert policy.decide(waiting(60, busy_s=0.004), cost, 1, 30.0, True) is None
    refusal = policy.decide(waiting(60, busy_s=0.4), cost, 1, 30.0, True)
    assert refusal is not None
    assert refusal.reason == "latency"
    assert 0.2 < refusal.retry_after_s < 0.31  # the queue's length over what it may be, times the service time


@pytest.mark.parametrize("batchable", [True, False])
@pytest.mark.parametrize("scv", [0.0, 1.0])
def test_a_quick_model_is_not_held_to_microseconds(batchable: bool, scv: float) -> None:
    """A wait for the processor is longer than all of its calls together: who came meanwhile is no overload."""
    policy, quick = AdmissionPolicy(Limits(), 256), curve(3e-5, 1e-6)
    for busy_s in (0.03, 60.0):
        load = Load(100, 100, 3e-5, busy_s, scv)
        assert policy.decide(load, quick, 1, 30.0, batchable) is None
        assert policy.decide(replace(load, waiting=40, waiting_rows=800), quick, 40, 30.0, batchable) is None
    refusal = policy.decide(Load(100, 100, 3e-5, 60.0, scv), quick, 1, 1e-4, batchable)  # its own deadline is shorter
    assert refusal is not None
    assert refusal.reason == "deadline"
    refusal = policy.decide(Load(4096, 4096, 3e-5, 60.0, scv), quick, 1, 30.0, batchable)
    assert refusal is not None
    assert refusal.reason == "latency"
    assert policy.decide(Load(400, 400, 3e-5, 60.0, scv), curve(1.5e-4, 0.0), 1, 30.0, False) is not None  # 60 ms


@pytest.mark.parametrize("fixed_s", [0.005, 0.01, 0.02])
def test_the_least_that_is_allowed_changes_nothing_for_a_model_of_five_milliseconds(fixed_s: float) -> None:
    policy = AdmissionPolicy(Limits(), 1)
    assert policy.allowed_s(curve(fixed_s, 0.0), 0.0, False) == pytest.approx(1.6 * fixed_s)
    assert policy.allowed_s(curve(0.001, 0.0), 0.0, False) == pytest.approx(0.008)
    assert policy.allowed_s(curve(1e-5, 0.0), 0.0, False) == pytest.approx(0.048)


def test_large_requests_are_measured_by_the_calls_that_they_need() -> None:
    policy, cost = AdmissionPolicy(Limits(), 256), curve(0.0, 0.001)
    for batchable in (True, False):
        assert policy.decide(waiting(1, rows=100), cost, 100, 30.0, batchable) is None
        assert policy.decide(waiting(30, rows=3000), cost, 100, 30.0, batchable) is not None
        assert policy.decide(waiting(100, rows=100), cost, 1, 30.0, batchable) is not None  # nor have small ones more


def test_a_request_that_would_be_late_is_refused_at_once() -> None:
    policy, cost = AdmissionPolicy(Limits(), 1), curve(0.1, 0.0)
    refusal = policy.decide(waiting(5, busy_s=0.0), cost, 1, 0.3, True)
    assert refusal is not None
    assert (refusal.reason, round(refusal.retry_after_s, 2)) == ("deadline", 0.3)
    assert policy.decide(waiting(1, busy_s=0.0), cost, 1, 0.3, True) is None


def test_a_declared_queue_is_the_bound() -> None:
    policy, cost = AdmissionPolicy(Limits(queue=40), 1), curve(0.01, 0.0)
    assert policy.decide(waiting(39), cost, 1, 30.0, True) is None
    refusal = policy.decide(waiting(40), cost, 1, 30.0, True)
    assert refusal is not None
    assert refusal.reason == "queue"


def test_before_anything_is_known_the_queue_is_bounded_by_number() -> None:
    policy = AdmissionPolicy(Limits(), 1)
    assert policy.decide(waiting(255), CostCurve(), 1, 30.0, True) is None
    assert policy.decide(waiting(256), CostCurve(), 1, 30.0, True) is not None


def test_a_version_that_takes_over_is_not_held_to_that_number() -> None:
    policy, fresh = AdmissionPolicy(Limits(), 256), CostCurve()
    fresh.guess(CostCurve())
    assert not fresh.guessed
    fresh.guess(curve(0.001, 1e-5))
    assert (fresh.guessed, fresh.known) == (True, False)
    assert policy.decide(waiting(2000), fresh, 1, 1.0, True) is None
    refusal = policy.decide(waiting(2000), fresh, 1, 0.001, True)  # who has no time is better told now
    assert refusal is not None
    assert refusal.reason == "queue"
    assert policy.decide(waiting(200), fresh, 1, 0.001, True) is None  # no stricter than where nothing is known
    assert policy.decide(waiting(4096), fresh, 1, 1e6, True) is not None
    third = CostCurve()
    third.guess(fresh)
    assert third.guessed


def test_who_finds_nobody_waiting_is_never_refused_for_the_tail() -> None:
    cost = curve(0.01, 0.0)
    for scv in (0.0, 1.0):
        busy = replace(QUIET, residual_s=0.01, busy_s=60.0, arrival_scv=scv)
        assert AdmissionPolicy(Limits(), 1).decide(busy, cost, 1, 30.0, True) is None


@pytest.mark.parametrize(("shape", "scv"), [(1.0, 1.0), (4.0, 0.25), (1e9, 0.0)])
def test_the_spread_of_arrivals_is_measured_whatever_their_rate(shape: float, scv: float) -> None:
    rng, arrivals, now = random.Random(3), Arrivals(), 0.0
    assert arrivals.scv == 1.0
    found = []
    for i in range(4000):
        now += rng.gammavariate(shape, 1 / shape) * (0.01 if i < 2000 else 0.001)
        arrivals.came(now)
        found.append(arrivals.scv)
    assert sum(found[500:]) / 3500 == pytest.approx(scv, abs=0.12)


def test_the_cost_curve_is_learned_and_follows() -> None:
    cost = curve(0.004, 0.0005)
    assert (cost.fixed_s, cost.row_s) == (pytest.approx(0.004), pytest.approx(0.0005))
    assert cost.expect(100) == pytest.approx(0.054)
    for _ in range(300):
        for rows in (1, 8):
            cost.learn(rows, 0.01 + 0.0005 * rows)
    assert cost.fixed_s == pytest.approx(0.01, rel=0.01)


def test_only_a_quick_call_of_few_rows_is_for_the_loop() -> None:
    quick, slow, grows = curve(1e-4, 0.0), curve(0.002, 0.0), curve(1e-5, 5e-5)
    assert quick.inline(1)
    assert quick.inline(32)
    assert not quick.inline(33)
    assert not slow.inline(1)
    assert grows.inline(2)
    assert not grows.inline(20)
    assert not CostCurve().inline(1)
    for _ in range(10):
        for _ in range(20):
            quick.touch(1, 0.02)  # waits for a core or the interpreter's lock make no model slow
        assert quick.inline(1)
        quick.touch(1, 1.1e-4 - 1e-5)
    for _ in range(35):
        quick.touch(1, 0.02)
    assert not quick.inline(1)
    quick.touch(1, 1e-4)
    assert quick.inline(1)
    slow.touch(1, 1e-4)
    assert not slow.inline(1)  # its other calls would stop the loop
    stalls = curve(1e-4, 0.0)
    stalls.touch(1, 0.2)
    assert not stalls.inline(1)


@pytest.mark.parametrize(("fixed_s", "row_s"), [(0.2, 0.003), (0.5, 0.0), (1e-5, 0.0), (1e-4, 1e-6)])
def test_a_wrong_guess_is_gone_after_a_few_calls(fixed_s: float, row_s: float) -> None:
    learned = CostCurve()
    learned.guess(curve(0.002, 1e-4))
    assert not learned.inline(1)  # a guess lets nobody onto the loop
    learned.learn(1, fixed_s + row_s)
    assert learned.expect(1) == pytest.approx(fixed_s + row_s)
    assert not learned.guessed
    for rows in (40, 8, 20):
        learned.learn(rows, fixed_s + row_s * rows)
    assert learned.fixed_s == pytest.approx(fixed_s, rel=0.01, abs=1e-6)
    assert learned.row_s == pytest.approx(row_s, rel=0.01, abs=1e-7)
    learned.guess(curve(0.002, 1e-4))
    assert not learned.guessed


def test_rows_are_joined_while_it_is_worth_it() -> None:
    assert curve(0.005, 0.0).efficient_rows(256) == 256
    assert curve(0.0, 0.005).efficient_rows(256) == 1
    assert curve(0.001, 0.001).efficient_rows(256) in (18, 19)
