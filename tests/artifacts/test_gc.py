"""Garbage collection and publishing keep out of each other's way, and nothing that is needed goes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import pytest

from rayplat.artifacts import gc as collection
from rayplat.artifacts import leases
from rayplat.artifacts.gc import gc
from rayplat.artifacts.leases import Lease, Timing, publish, sweeping
from rayplat.artifacts.manifest import sha256
from rayplat.artifacts.places.place import CONDEMNED, LEASES, SWEEPS, UPLOADS, object_name
from rayplat.artifacts.store import ArtifactStore
from rayplat.errors import Conflict, Corrupt, InvalidInput, NotFound, Unavailable
from tests.artifacts.interleavings import series
from tests.artifacts.memory import MemoryPlace
from tests.artifacts.store_contract import make_tree, names

HOUR = timedelta(hours=1)
GONE = "sha256:" + "0" * 64


@dataclass
class Clock:
    """Waiting lets the time pass, and whatever is due in it happen."""

    now: float = 1_000_000.0
    waited: list[float] = field(default_factory=list)
    meanwhile: Callable[[], None] = lambda: None

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.waited.append(seconds)
        self.meanwhile()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def place(clock: Clock) -> MemoryPlace:
    return MemoryPlace(lambda: clock.now)


@pytest.fixture
def store(place: MemoryPlace, clock: Clock) -> ArtifactStore:
    return ArtifactStore.on(place, Timing(now=lambda: clock.now, wait=clock.wait))


@pytest.fixture
def _quiet() -> Iterator[None]:
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


# --- the series -------------------------------------------------------------------------------------


@pytest.mark.usefixtures("_quiet")
def test_random_interleavings_lose_nothing_that_is_needed(tmp_path: Path) -> None:
    outcome = series(tmp_path, 250)
    assert outcome.lost == set()
    assert min(outcome.published, outcome.deleted, outcome.collections) > 250


@pytest.mark.services
@pytest.mark.usefixtures("_quiet")
def test_the_rest_of_a_thousand_interleavings(tmp_path: Path) -> None:
    """Beside the tests that are allowed to take long; it needs no service."""
    assert series(tmp_path, 750, first_seed=250).lost == set()


def _blind_to(prefix: str) -> Callable[..., list[str]]:
    real = leases._live
    return lambda place, looked_for, timing: [] if looked_for == prefix else real(place, looked_for, timing)


@pytest.mark.usefixtures("_quiet")
@pytest.mark.parametrize("removed", ["publishers look", "collections look", "the margin", "recent uploads"])
def test_the_series_notices_when_a_part_of_the_exclusion_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, removed: str
) -> None:
    if removed == "publishers look":
        monkeypatch.setattr(leases, "_live", _blind_to(SWEEPS))
    elif removed == "collections look":
        monkeypatch.setattr(leases, "_live", _blind_to(LEASES))
    elif removed == "the margin":
        monkeypatch.setattr(leases.Sweep, "alive", lambda sweep: True)
    else:
        monkeypatch.setattr(collection, "uploads", lambda place: [])
    lost = (series(tmp_path / str(n), 20, first_seed=20 * n).lost for n in range(20))
    assert any(lost)


# --- exclusion --------------------------------------------------------------------------------------


def test_a_collection_waits_for_uploads_and_then_gives_up(store: ArtifactStore, place: MemoryPlace) -> None:
    lease = Lease(place, store.timing)
    with pytest.raises(Unavailable, match="1 uploads are in progress"):
        gc(store, dict, HOUR, dry_run=False)
    assert names(place, SWEEPS) == []
    lease.end()
    assert gc(store, dict, HOUR, dry_run=False).complete


def test_a_collection_goes_on_when_the_upload_ends(store: ArtifactStore, place: MemoryPlace, clock: Clock) -> None:
    lease = Lease(place, store.timing)
    clock.meanwhile = lease.end
    assert gc(store, dict, HOUR, dry_run=False).complete
    assert len(clock.waited) == 1


def test_the_lease_of_a_dead_process_runs_out(store: ArtifactStore, place: MemoryPlace, clock: Clock) -> None:
    Lease(place, store.timing)
    clock.now += 895  # the other clock may be half a minute behind
    with pytest.raises(Unavailable):
        gc(store, dict, HOUR, dry_run=False)
    clock.now += 30
    assert gc(store, dict, HOUR, dry_run=False).complete
    clock.now += 3600
    gc(store, dict, HOUR, dry_run=False)
    assert names(place, LEASES) == []


def test_a_publisher_waits_for_a_sweep(store: ArtifactStore, place: MemoryPlace, clock: Clock) -> None:
    with sweeping(place, store.timing):
        clock.meanwhile = lambda: names(place, LEASES) == [] or pytest.fail("it waits with its lease")
        with pytest.raises(Unavailable, match="garbage is being collected"):
            ArtifactStore.on(place, Timing(patience_s=60, now=lambda: clock.now, wait=clock.wait)).put_bytes(b"x", "n")
    clock.waited.clear()
    assert store.exists(store.put_bytes(b"x", "n").digest)
    assert clock.waited == []


def test_the_marker_of_a_dead_collection_runs_out(store: ArtifactStore, place: MemoryPlace, clock: Clock) -> None:
    place.write(SWEEPS + "dead", b'{"until":%d}' % ((clock.now + 240) * 1000))
    began = clock.now
    assert store.exists(store.put_bytes(b"x", "n").digest)
    assert 270 <= clock.now - began <= 273


def test_marks_that_cannot_be_read_count_from_when_they_were_written(
    store: ArtifactStore, place: MemoryPlace, clock: Clock
) -> None:
    place.write(LEASES + "torn", b"{")
    with pytest.raises(Unavailable):
        gc(store, dict, HOUR, dry_run=False)
    clock.now += 931
    assert gc(store, dict, HOUR, dry_run=False).complete


def test_two_collections_exclude_each_other(store: ArtifactStore, place: MemoryPlace) -> None:
    with sweeping(place, store.timing), pytest.raises(Conflict, match="already being collected"):
        gc(store, dict, HOUR, dry_run=False)
    assert names(place, SWEEPS) == []


def test_a_collection_that_was_paused_deletes_nothing_late(
    store: ArtifactStore, place: MemoryPlace, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    digests = sorted(store.put_bytes(bytes([n]), "note").digest for n in range(3))
    clock.now += 3601
    gc(store, dict, HOUR, dry_run=False)
    clock.now += 3601
    real = place.delete

    def paused(name: str) -> None:
        real(name)
        clock.now += 151 if name == object_name(digests[0]) else 0

    monkeypatch.setattr(place, "delete", paused)
    report = gc(store, dict, HOUR, dry_run=False)
    assert (report.deleted, report.complete) == ((digests[0],), False)
    assert store.exists(digests[1])
    assert gc(store, dict, HOUR, dry_run=False).deleted == tuple(digests[1:])


def test_an_upload_that_outlives_its_lease_is_done_again(
    store: ArtifactStore, place: MemoryPlace, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, removed = place.write, []

    def slow(name: str, content: bytes, durable: bool = True) -> None:
        real(name, content, durable)
        if name.startswith(UPLOADS) and not removed:
            clock.now += 901
            removed.append(object_name(sha256(b"{}")))
            place.delete(removed[0])  # as a collection does that took the publisher for dead

    monkeypatch.setattr(place, "write", slow)
    ref = store.put_tree(make_tree(tmp_path / "model"), "model")
    assert removed
    assert store.verify(ref.digest).intact


def test_an_upload_that_never_keeps_its_lease_is_an_error(
    store: ArtifactStore, place: MemoryPlace, clock: Clock
) -> None:
    def stands_still(keep: Callable[[], None]) -> tuple[str, None]:
        clock.now += 901
        keep()
        raise AssertionError("the lease has run out")

    with pytest.raises(Unavailable, match="stood still"):
        publish(place, store.timing, "note", stands_still)
    assert names(place, LEASES) == []


def test_a_long_upload_renews_its_lease(store: ArtifactStore, place: MemoryPlace, clock: Clock) -> None:
    lease = Lease(place, store.timing)
    for _ in range(10):
        clock.now += 800
        lease.keep()
        with pytest.raises(Unavailable):
            gc(store, dict, HOUR, dry_run=False)


# --- what stays -------------------------------------------------------------------------------------


def test_roots_are_asked_once_nothing_can_be_published(store: ArtifactStore, place: MemoryPlace, clock: Clock) -> None:
    ref = store.put_bytes(b"x", "note")
    clock.now += 3601
    gc(store, dict, HOUR, dry_run=False)
    clock.now += 3601
    asked = []

    def roots() -> dict[str, set[str]]:
        asked.append(bool(names(place, SWEEPS)))
        return {"alias": {ref.digest}} if asked[-1] else {}

    assert gc(store, roots, HOUR, dry_run=False).deleted == ()
    assert asked[-1]


@pytest.mark.parametrize("damage", [b'{"entries":[{"', b"x" + b"entries"])
def test_a_damaged_manifest_that_is_needed_stops_everything(
    store: ArtifactStore, place: MemoryPlace, clock: Clock, tmp_path: Path, damage: bytes
) -> None:
    ref = store.put_tree(make_tree(tmp_path / "model"), "model")
    clock.now += 3601
    gc(store, dict, timedelta(0), dry_run=False)
    place.write(object_name(ref.digest), damage)
    for dry_run in (True, False):
        with pytest.raises(Corrupt):
            gc(store, lambda: {"pin": {ref.digest}}, timedelta(0), dry_run)
    assert store.exists(sha256(b"{}"))
    assert names(place, SWEEPS) == []


def test_what_is_needed_and_missing_is_named(store: ArtifactStore, place: MemoryPlace, tmp_path: Path) -> None:
    ref = store.put_tree(make_tree(tmp_path / "model"), "model")
    place.delete(object_name(sha256(b"{}")))
    report = gc(store, lambda: {"alias": {ref.digest, GONE}}, HOUR)
    assert report.missing == tuple(sorted((GONE, sha256(b"{}"))))
    assert report.by_root["alias"] == 3010 + len(store.get_bytes(ref.digest))
    assert set(report.by_root) == {"alias", "recent upload", "MLflow reference"}


def test_a_tree_goes_before_its_files(
    store: ArtifactStore, place: MemoryPlace, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ref = store.put_tree(make_tree(tmp_path / "model"), "model")
    for _ in range(2):
        clock.now += 3601
        gc(store, dict, HOUR, dry_run=False)
    ref = store.put_tree(tmp_path / "model", "model")
    clock.now += 3601
    gc(store, dict, HOUR, dry_run=False)
    clock.now += 3601
    order, real = list[str](), place.delete
    monkeypatch.setattr(place, "delete", lambda name: order.append(name) or real(name))
    gc(store, dict, HOUR, dry_run=False)
    assert next(name for name in order if name.startswith("objects/")) == object_name(ref.digest)


def test_a_dry_run_writes_nothing(store: ArtifactStore, place: MemoryPlace, clock: Clock) -> None:
    ref = store.put_bytes(b"x", "note")
    Lease(place, store.timing)  # it need not wait for uploads either
    clock.now += 3601
    before = dict(place.held)
    report = gc(store, dict, HOUR)
    assert (report.dry_run, report.condemned, report.deleted) == (True, (ref.digest,), ())
    assert place.held == before


def test_a_state_that_cannot_be_read_begins_every_grace_anew(
    store: ArtifactStore, place: MemoryPlace, clock: Clock
) -> None:
    ref = store.put_bytes(b"x", "note")
    clock.now += 3601
    gc(store, dict, HOUR, dry_run=False)
    clock.now += 3601
    place.write(CONDEMNED, b'{"torn')
    report = gc(store, dict, HOUR, dry_run=False)
    assert (report.condemned, report.deleted) == ((ref.digest,), ())
    clock.now += 3601
    place.write(object_name(ref.digest), b"other")  # it is not what was condemned
    assert gc(store, dict, HOUR, dry_run=False).condemned == (ref.digest,)


def test_what_lies_about_and_is_no_object_is_left_alone(store: ArtifactStore, place: MemoryPlace, clock: Clock) -> None:
    for name in ("objects/sha256/ab/README", "objects/sha256/ab/" + "0" * 64, "elsewhere", "uploads/README"):
        place.write(name, b"mine")
    place.write("tmp/old", b"half")
    for _ in range(3):
        clock.now += 3601
        gc(store, dict, HOUR, dry_run=False)
    assert sorted(name for name, held in place.held.items() if held[0] == b"mine") == [
        "elsewhere",
        "objects/sha256/ab/" + "0" * 64,
        "objects/sha256/ab/README",
        "uploads/README",
    ]
    assert names(place, "tmp/") == []


def test_a_grace_is_a_length_of_time(store: ArtifactStore) -> None:
    for bad in (timedelta(seconds=-1), 3600):
        with pytest.raises(InvalidInput, match="keep"):
            gc(store, dict, bad)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="root of alias"):
        gc(store, lambda: {"alias": {"../x"}}, HOUR)


def test_touching_what_is_gone_says_so(store: ArtifactStore) -> None:
    with pytest.raises(NotFound):
        store.touch(GONE)
    assert names(store.place, UPLOADS) == []
