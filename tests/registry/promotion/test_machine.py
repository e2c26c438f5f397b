"""Any order of what people and time do: nothing goes live without its gates, its approvals and its generation."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from rayplat.errors import RayplatError
from rayplat.registry import promotion
from rayplat.registry.gates import labelled
from rayplat.registry.record import aliases, decisions, policies, promotion_steps, promotions
from rayplat.registry.record.database import Record
from rayplat.types import (
    AliasPolicy,
    GateSpec,
    Principal,
    PrincipalKind,
    Promotion,
    PromotionState,
    Role,
    ShadowEvidence,
    Verdict,
    VerificationEvidence,
)
from tests.registry.desk import ANN, BOB, MODEL, ROOT, Desk, evidence

CARL = Principal("carl", Role.APPROVER)
ROBOT = Principal("robot", Role.ADMIN, PrincipalKind.SERVICE)
PLATFORM = Principal("rayplat", Role.ADMIN, PrincipalKind.SERVICE)
PEOPLE = st.sampled_from([ANN, BOB, CARL, ROOT, ROBOT, replace(CARL, name="ann")])
GATES = (GateSpec("intact"), GateSpec("enough_rows"), GateSpec("better_than_champion"), GateSpec("shadow_agreement"))
SHADOW = ShadowEvidence(5000, 4990, 0, 0.0, 0.001, 1.0, 2.0, 1.0, 2.0, requests=5000)
_numbers = itertools.count()


class Clock:
    now = datetime(2013, 11, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        self.now += timedelta(seconds=1)
        return self.now


class Machine(RuleBasedStateMachine):
    """One alias of its own in a record that all examples share."""

    desk: Desk
    clock: Clock

    @initialize(approvals=st.integers(1, 2), cooldown_s=st.sampled_from([0.0, 600.0]))
    def begin(self, approvals: int, cooldown_s: float) -> None:
        self.alias = f"alias-{next(_numbers)}"
        self.policy = AliasPolicy(MODEL, self.alias, True, GATES, approvals, cooldown_s=cooldown_s, expires_s=7200.0)
        self.desk.write(policies.set, self.policy, by=ROOT)
        self.asked: list[str] = []
        self.subjects: list[str] = []
        self.moved_by_us: set[int] = set()

    def attempt(self, operation: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return self.desk.write(operation, *args, **kwargs)
        except RayplatError:
            return None

    def some(self, data: st.DataObject) -> Promotion | None:
        return self.desk.read(promotions.get, data.draw(st.sampled_from(self.asked))) if self.asked else None

    def seen(self, good: bool, shadow: bool) -> Any:
        head = self.desk.read(aliases.find, MODEL, self.alias)
        found = evidence(0.7 if good else 0.6, head.version if head else None)
        return replace(found, shadow=SHADOW if shadow else None)

    @rule(version=st.integers(1, 3), with_evidence=st.booleans(), shadow=st.booleans(), by=PEOPLE, on=st.integers(0, 6))
    def request(self, version: int, with_evidence: bool, shadow: bool, by: Principal, on: int) -> None:
        given = self.seen(True, shadow) if with_evidence else None
        made = self.attempt(promotions.request, MODEL, version, self.alias, given, by=by)
        if made is not None:
            self.asked.append(made.promotion_id)
            self.go_on(on)

    @rule(data=st.data(), good=st.sampled_from([True, True, True, False]), shadow=st.booleans())
    def submit(self, data: st.DataObject, good: bool, shadow: bool) -> None:
        if (found := self.some(data)) is not None:
            self.attempt(promotions.submit_evidence, found.promotion_id, self.seen(good, shadow), by=ANN)

    @rule(
        data=st.data(),
        intact=st.sampled_from([True, True, True, False]),
        by=st.sampled_from([PLATFORM, PLATFORM, ROOT]),
    )
    def verify(self, data: st.DataObject, intact: bool, by: Principal) -> None:
        if (found := self.some(data)) is not None:
            verified = VerificationEvidence(found.digest, intact, True, "pt2", False, False)
            self.attempt(promotions.record_verification, found.promotion_id, verified, by=by)

    @rule(steps=st.integers(1, 5))
    def go_on(self, steps: int) -> None:
        """What the newest promotion waits for: without it, hardly any order of the rest would ever arrive."""
        for n in range(steps if self.asked else 0):
            found = self.desk.read(promotions.get, self.asked[-1])
            if found.state is PromotionState.REQUESTED:
                verified = VerificationEvidence(found.digest, True, True, "pt2", False, False)
                self.attempt(promotions.record_verification, found.promotion_id, verified, by=PLATFORM)
            elif found.state is PromotionState.AWAITING_APPROVAL:
                by = (BOB, CARL)[n % 2]
                self.attempt(decisions.approve, found.promotion_id, found.subject_digest, by=by)
            else:
                self.attempt(promotions.submit_evidence, found.promotion_id, self.seen(True, True), by=ANN)

    @rule(data=st.data(), by=PEOPLE, old=st.booleans())
    def approve(self, data: st.DataObject, by: Principal, old: bool) -> None:
        if (found := self.some(data)) is not None:
            self.subjects.append(found.subject_digest)
            subject = data.draw(st.sampled_from(self.subjects)) if old else found.subject_digest
            self.attempt(decisions.approve, found.promotion_id, subject, by=by)

    @rule(data=st.data(), by=PEOPLE, gate=st.sampled_from(GATES))
    def waive(self, data: st.DataObject, by: Principal, gate: GateSpec) -> None:
        if (found := self.some(data)) is not None:
            self.attempt(decisions.waive, found.promotion_id, gate.gate, "known", by=by)

    @rule(data=st.data(), by=PEOPLE, operation=st.sampled_from([decisions.reject, promotions.cancel]))
    def close(self, data: st.DataObject, by: Principal, operation: Any) -> None:
        if (found := self.some(data)) is not None and data.draw(st.integers(0, 3)) == 0:
            self.attempt(operation, found.promotion_id, "no", by=by)

    @rule(minutes=st.sampled_from([1, 11, 11, 11, 11, 200]))
    def wait(self, minutes: int) -> None:
        self.clock.now += timedelta(minutes=minutes)
        self.attempt(promotion_steps.tick)

    @rule(by=PEOPLE)
    def roll_back(self, by: Principal) -> None:
        if (head := self.attempt(decisions.rollback, MODEL, self.alias, "late", by=by)) is not None:
            assert by.role.includes(Role.APPROVER)
            self.moved_by_us.add(head.generation)

    @rule(approvals=st.sampled_from([0, 0, 0, 1, 2]))
    def change_policy(self, approvals: int) -> None:
        self.policy = replace(self.policy, min_approvals=approvals or self.policy.min_approvals)
        self.attempt(policies.set, self.policy, by=ROOT)

    @invariant()
    def nothing_went_live_by_another_way(self) -> None:
        if not getattr(self, "asked", None):
            return
        found = [self.desk.read(promotions.get, one) for one in self.asked]
        live = [p for p in found if p.state is PromotionState.LIVE]
        assert len(live) <= 1
        head = self.desk.read(aliases.find, MODEL, self.alias)
        if head is None:
            assert not live
            return
        for entry in self.desk.read(aliases.history, MODEL, self.alias):
            if entry.generation not in self.moved_by_us:
                self.deserved(next(p for p in found if p.promotion_id == entry.promotion_id), entry.generation)
        assert (live[0].promotion_id, live[0].version) == (head.promotion_id, head.version)

    def deserved(self, found: Promotion, generation: int) -> None:
        assert found.policy is not None
        assert generation == found.expected_generation + 1
        assert [r.gate for r in found.gates] == [label for label, _ in labelled(found.policy.gates)]
        assert all(r.verdict is Verdict.PASS or r.gate in {w.gate for w in found.waivers} for r in found.gates)
        assert found.gates[0].verdict is Verdict.PASS
        people = {
            a.approver for a in found.approvals if a.decision == "approve" and a.subject_digest == found.subject_digest
        }
        assert len(people) >= found.policy.min_approvals
        assert not people & {found.requester, "ann", "robot"}
        assert not {w.by for w in found.waivers} & {found.requester, "ann", "robot"}
        assert promotion.subject_digest(found) == found.subject_digest


@pytest.fixture
def machine(database_url: str) -> Iterator[type[Machine]]:
    clock = Clock()
    record = Record(database_url, clock=clock)
    desk = Desk(record)
    for n in (1, 2, 3):
        desk.register(n)
    yield type("Shared", (Machine,), {"desk": desk, "clock": clock})
    record.close()


def test_no_path_to_live_but_the_right_one(machine: type[Machine]) -> None:
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large]
    few = settings(
        max_examples=20,
        stateful_step_count=15,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=checks,
    )
    run_state_machine_as_test(machine, settings=few)
