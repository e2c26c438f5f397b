"""The release controller, tick by tick, on a real record."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from shutil import copy
from typing import Any

import pytest

from rayplat.errors import PartFailed, Unavailable
from rayplat.registry.local import LocalRegistry
from rayplat.registry.record import audit, events, releases, signals
from rayplat.registry.record.database import Record
from rayplat.serve.release.controller import PLATFORM, ReleaseController
from rayplat.serve.routing.counts import Tally
from rayplat.types import Canary, CanaryState, Release, Signal
from tests.registry.desk import ANN, BOB, MODEL, Desk

S = CanaryState


@dataclass
class Platform:
    """A record with a champion and a challenger, a clock, and hosts that count."""

    record: Record
    desk: Desk
    now: list[datetime]
    hosts: list[Tally] = field(default_factory=lambda: [Tally(), Tally()])
    down: bool = False

    def releases(self) -> Sequence[Release]:
        return self.desk.read(releases.listed)

    def version(self, model: str, target: str) -> int:
        return self.desk.read(releases.version_at, model, target)

    def signals(self, model: str, version: int) -> Sequence[Signal]:
        return self.desk.read(signals.listed, model, version)

    def put(self, release: Release, expected_generation: int) -> Release:
        return LocalRegistry(self.record).write(releases.put, release, expected_generation, by=PLATFORM)

    def gather(self, model: str) -> Sequence[Mapping[str, Any]]:
        if self.down:
            raise Unavailable("the hosts", "none of them answers")
        return [host.stats() for host in self.hosts]

    def controller(self) -> ReleaseController:
        return ReleaseController(self, self.gather, lambda: self.now[0])

    def start(self, canary: Canary) -> None:
        self.desk.write(releases.put, Release(MODEL, canary=canary), self.current.generation, by=BOB)
        self.obey()

    def obey(self) -> None:
        """Hosts take the release in force."""
        for host in self.hosts:
            host.restart(self.current.generation)

    def serve(self, seconds: float, canary: int = 150, errors: int = 0, primary: int = 300) -> None:
        """Time goes by, and each host answers requests."""
        self.now[0] += timedelta(seconds=seconds)
        for host in self.hosts:
            for i in range(canary):
                host.answered("challenger", 2, 500 if i < errors else 200, 2.0)
            for _ in range(primary):
                host.answered("champion", 1, 200, 2.0)

    @property
    def current(self) -> Release:
        return self.desk.read(releases.get, MODEL)

    @property
    def canary(self) -> Canary:
        assert self.current.canary is not None
        return self.current.canary


CANARY = Canary("challenger", steps=(0.05, 0.5, 1.0), hold_s=60)


@pytest.fixture
def platform(empty_database: Path, tmp_path: Path) -> Iterator[Platform]:
    copy(empty_database, tmp_path / "rayplat.db")
    now = [datetime(2026, 1, 1, tzinfo=UTC)]
    record = Record(f"sqlite:///{tmp_path / 'rayplat.db'}", clock=lambda: now[0])
    desk = Desk(record)
    for n in (1, 2, 3):
        desk.register(n)
    desk.move(1)
    desk.move(2, "challenger")
    yield Platform(record, desk, now)
    record.close()


def test_a_good_canary_climbs_step_by_step_and_is_done(platform: Platform) -> None:
    controller, seen = platform.controller(), []
    platform.start(CANARY)
    for _ in range(6):
        platform.serve(61)
        controller.tick()
        platform.obey()
        seen.append((platform.canary.step, platform.canary.state.value, platform.current.generation))
    assert seen[:3] == [(1, "ramping", 2), (2, "ramping", 3), (2, "done", 4)]
    assert seen[3:] == [(2, "done", 4)] * 3
    assert platform.canary.reason == "300 requests, 0 failed, in 61 s"
    assert platform.current.changed_by == "rayplat"


def test_a_canary_waits_for_time_and_for_requests(platform: Platform) -> None:
    controller = platform.controller()
    platform.start(CANARY)
    platform.serve(30)
    assert controller.tick() == []
    assert controller.waits == {MODEL: "30 of 60 s at this step"}
    platform.start(replace(CANARY, min_requests=1000))
    platform.serve(61)
    assert controller.tick() == []
    assert controller.waits == {MODEL: "300 of 1000 requests at this step"}


def test_a_bad_canary_goes_back_at_once_with_its_reason(platform: Platform) -> None:
    platform.start(CANARY)
    platform.serve(1, canary=50, errors=10)
    (made,) = platform.controller().tick()
    assert made.canary is not None
    assert made.canary.state is S.ROLLED_BACK
    assert made.canary.reason.startswith("errors: 20 of 100 requests failed")
    newest = platform.desk.read(audit.listed, 1)[0]
    assert (newest.actor, newest.action, newest.subject) == ("rayplat", "release.put", MODEL)
    told = [e for e in platform.desk.read(events.after, 0) if e.event == "canary.rolled_back"]
    assert [e.body["target"] for e in told] == ["challenger"]


def test_any_signal_about_its_version_takes_a_canary_back(platform: Platform) -> None:
    platform.start(CANARY)
    platform.now[0] += timedelta(seconds=5)
    platform.desk.write(signals.put, MODEL, 1, "drift", True, detail="of the champion", by=ANN)
    assert platform.controller().tick() == []
    platform.desk.write(signals.put, MODEL, 2, "drift", True, detail="psi 0.4", by=ANN)
    platform.controller().tick()
    assert platform.canary.state is S.ROLLED_BACK
    assert platform.canary.reason == "drift: psi 0.4 (version 2, said by ann)"


def test_a_controller_that_restarts_between_any_two_ticks_changes_nothing(platform: Platform) -> None:
    platform.start(CANARY)
    for _ in range(3):
        platform.serve(61)
        platform.controller().tick()
        platform.obey()
    assert (platform.canary.state, platform.current.generation) == (S.DONE, 4)


def test_two_controllers_take_one_step_together(platform: Platform) -> None:
    one, other = platform.controller(), platform.controller()
    platform.start(CANARY)
    platform.serve(61)
    before = platform.releases()
    assert len(one.tick()) == 1
    other._record = _Late(platform, before)
    assert other.tick() == []
    assert (platform.canary.step, platform.current.generation) == (1, 2)
    assert platform.controller().tick() == []  # its time at the new step has only begun


@dataclass
class _Late:
    """A record that was read before somebody else wrote."""

    platform: Platform
    before: Sequence[Release]

    def releases(self) -> Sequence[Release]:
        return self.before

    def __getattr__(self, name: str) -> Any:
        return getattr(self.platform, name)


def test_a_person_who_was_faster_wins(platform: Platform) -> None:
    controller = platform.controller()
    platform.start(CANARY)
    platform.serve(61)
    before = platform.releases()
    paused = replace(platform.canary, state=S.PAUSED)
    platform.desk.write(releases.put, replace(platform.current, canary=paused), 1, by=ANN)
    controller._record = _Late(platform, before)
    assert controller.tick() == []
    assert (platform.canary.state, platform.canary.step) == (S.PAUSED, 0)


def test_counts_of_an_earlier_step_are_not_the_present_ones(platform: Platform) -> None:
    platform.start(CANARY)
    platform.serve(61)
    platform.controller().tick()
    platform.serve(61)  # by hosts that have not taken the new release
    controller = platform.controller()
    assert controller.tick() == []
    assert controller.waits == {MODEL: "0 of 100 requests at this step"}


def test_hosts_that_do_not_answer_hold_a_canary_where_it_is(platform: Platform) -> None:
    platform.start(CANARY)
    platform.serve(61)
    platform.down = True
    controller = platform.controller()
    assert controller.tick() == []
    assert "none of them answers" in controller.waits[MODEL]
    platform.down = False
    assert len(controller.tick()) == 1


def test_what_goes_wrong_with_one_model_stops_no_other(platform: Platform) -> None:
    for n in (4, 5):
        platform.desk.register(n, "another")
    digest = "sha256:" + f"{4:064x}"
    from rayplat.registry.record import aliases
    from rayplat.types import AliasHead

    for alias in ("champion", "challenger"):
        head = AliasHead("another", alias, 1, digest, 0, platform.now[0], "bob")
        platform.desk.write(aliases.move, head, 0)
    platform.desk.write(releases.put, Release("another", canary=CANARY), 0, by=BOB)
    platform.start(CANARY)
    platform.serve(61)
    controller = platform.controller()

    def gather(model: str) -> Sequence[Mapping[str, Any]]:
        if model == "another":
            raise PartFailed("the host", "broken")
        return platform.gather(model)

    controller._gather = gather
    assert [r.model for r in controller.tick()] == [MODEL]


def test_a_canary_whose_target_is_gone_goes_back(platform: Platform) -> None:
    from rayplat.registry.record import aliases
    from tests.registry.desk import ROOT

    platform.start(CANARY)
    platform.desk.write(aliases.remove, MODEL, "challenger", None, "no longer", by=ROOT)
    platform.controller().tick()
    assert platform.canary.state is S.ROLLED_BACK
    assert platform.canary.reason.startswith("target: alias")
