"""Garbage collection in two phases: what nothing needs is condemned, and deleted a grace later if nothing does then.

Needed are the trees and objects that the roots name, those that MLflow's runs refer to, and every upload younger than
the grace. `leases` says why nothing that is being published can be deleted meanwhile.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from datetime import timedelta

from rayplat.artifacts.checkout import find_tree
from rayplat.artifacts.leases import Sweep, Upload, dead_marks, sweeping, uploads
from rayplat.artifacts.manifest import canonical, check_digest
from rayplat.artifacts.places.place import (
    CONDEMNED,
    OBJECTS,
    REFS,
    TEMPORARY,
    UPLOADS,
    Place,
    digest_at,
    object_name,
)
from rayplat.artifacts.store import ArtifactStore
from rayplat.errors import Corrupt, InvalidInput, NotFound, RayplatError
from rayplat.types import GcReport

log = logging.getLogger(__name__)

GRACE = timedelta(hours=72)
_REF_BYTES = 1 << 20
Roots = Callable[[], Mapping[str, set[str]]]


@dataclass(frozen=True)
class _Mark:
    """Since when (ms) an object of this size is condemned."""

    at: int
    size: int


@dataclass
class _Plan:
    """What one look at the store and its roots leads to."""

    sizes: dict[str, int] = field(default_factory=dict)
    by_root: dict[str, int] = field(default_factory=dict)
    missing: set[str] = field(default_factory=set)
    reachable: set[str] = field(default_factory=set)
    condemned: dict[str, _Mark] = field(default_factory=dict)
    fresh: set[str] = field(default_factory=set)
    due: list[str] = field(default_factory=list)
    ended: list[Upload] = field(default_factory=list)


class _Trees:
    """The files of each tree, read once in a collection: trees do not change."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._known: dict[str, frozenset[str]] = {}

    def closure(self, digest: str) -> frozenset[str]:
        """The object and, for a tree, its files. Raises `NotFound`, and `Corrupt` for a damaged manifest."""
        if digest not in self._known:
            tree = find_tree(self._place, digest)
            self._known[digest] = frozenset({digest} | {e.digest for e in tree.entries} if tree else {digest})
        return self._known[digest]

    def is_tree(self, digest: str) -> bool:
        try:
            return len(self.closure(digest)) > 1
        except RayplatError:
            return False


def gc(store: ArtifactStore, roots: Roots, keep: timedelta = GRACE, dry_run: bool = True) -> GcReport:
    """Condemn what nothing needs, and delete what was condemned longer than ``keep`` ago.

    ``roots`` gives digests by the reason for which they are kept, and is asked while nothing can be published. A dry
    run writes nothing and says what a real one would do now. Raises `Conflict` beside another collection,
    `Unavailable` while uploads are in progress, and `Corrupt` when a manifest that is needed, or a reference, is
    damaged, since what it needs is then unknown: in each case nothing is deleted.
    """
    if not isinstance(keep, timedelta) or keep < timedelta(0):
        raise InvalidInput("keep", f"{keep!r} is no length of time: give a timedelta of 0 or more")
    trees = _Trees(store.place)
    plan = _plan(store, trees, roots, keep)  # reads the manifests while others may still publish
    if dry_run:
        return _report(plan, plan.due, dry_run=True, complete=True)
    with sweeping(store.place, store.timing) as sweep:
        plan = _plan(store, trees, roots, keep)
        deleted, complete = _carry_out(store, sweep, plan, trees, keep)
    report = _report(plan, deleted, dry_run=False, complete=complete)
    log.info("garbage collection: %d condemned, %d deleted", len(report.condemned), len(deleted))
    return report


def _plan(store: ArtifactStore, trees: _Trees, roots: Roots, keep: timedelta) -> _Plan:
    plan, place, now = _Plan(), store.place, store.timing.now()
    recorded = uploads(place)
    young = {u.digest for u in recorded if now - u.at < keep.total_seconds()}
    named = {**roots(), "MLflow reference": _references(place), "recent upload": young}
    plan.sizes = _sizes(place)
    for reason, digests in named.items():
        found: set[str] = set()
        for digest in sorted(digests):
            try:
                found |= trees.closure(check_digest(f"root of {reason}", digest))
            except NotFound:
                plan.missing.add(digest)
        plan.missing |= found - plan.sizes.keys()
        plan.reachable |= found
        plan.by_root[reason] = sum(plan.sizes.get(digest, 0) for digest in found)
    plan.ended = [u for u in recorded if u.digest not in young]
    _condemn(plan, _lifted(_condemned(place), plan.ended, trees), int(now * 1000), keep)
    return plan


def _condemn(plan: _Plan, before: Mapping[str, _Mark], now: int, keep: timedelta) -> None:
    for digest, size in plan.sizes.items():
        if digest in plan.reachable:
            continue
        mark = before.get(digest)
        if mark is None or mark.size != size or mark.at > now:
            plan.condemned[digest] = _Mark(now, size)
            plan.fresh.add(digest)
            continue
        plan.condemned[digest] = mark
        if now - mark.at >= keep.total_seconds() * 1000:
            plan.due.append(digest)


def _lifted(condemned: dict[str, _Mark], ended: Iterable[Upload], trees: _Trees) -> dict[str, _Mark]:
    """``condemned`` without what was published again since: its grace begins anew."""
    for upload in ended:
        try:
            closure = trees.closure(upload.digest)
        except RayplatError:
            continue  # nothing left that could be lifted
        for digest in closure:
            if digest in condemned and condemned[digest].at <= upload.at * 1000:
                del condemned[digest]
    return condemned


def _carry_out(
    store: ArtifactStore, sweep: Sweep, plan: _Plan, trees: _Trees, keep: timedelta
) -> tuple[list[str], bool]:
    """(what was deleted, whether time was enough). The state is written first: nothing is deleted without it."""
    place, deleted = store.place, list[str]()
    oldest = store.timing.now() - keep.total_seconds() - store.timing.lease_s
    litter = [entry.name for entry in place.list(TEMPORARY) if entry.modified < oldest] + dead_marks(
        place, store.timing
    )
    names = [UPLOADS + u.digest.removeprefix("sha256:") for u in plan.ended] + litter
    if not sweep.alive():
        return deleted, False
    _write(place, plan.condemned)
    for name in names:
        if not sweep.alive():
            return deleted, False
        place.delete(name)
    # A tree goes before its files, so that what still has its manifest is still whole.
    for digest in sorted(plan.due, key=lambda d: (not trees.is_tree(d), d)):
        if not sweep.alive():
            return deleted, False
        place.delete(object_name(digest))
        deleted.append(digest)
    if deleted and sweep.alive():
        _write(place, {d: mark for d, mark in plan.condemned.items() if d not in set(deleted)})
    return deleted, True


def _references(place: Place) -> set[str]:
    found = set()
    for entry in place.list(REFS):
        try:
            with closing(place.open(entry.name)) as file:
                content = file.read(_REF_BYTES)
            if content != b"{}":  # that stands for an empty folder
                found.add(check_digest(entry.name, json.loads(content)["digest"]))
        except NotFound:
            continue  # removed meanwhile
        except (ValueError, KeyError, TypeError, InvalidInput) as e:
            raise Corrupt(entry.name, 'JSON with a "digest"', f"something else ({type(e).__name__})") from e
    return found


def _sizes(place: Place) -> dict[str, int]:
    """Every object by digest. What lies there and is none is left alone."""
    found = ((digest_at(entry.name), entry.size) for entry in place.list(OBJECTS))
    return {digest: size for digest, size in found if digest is not None and size >= 0}


def _condemned(place: Place) -> dict[str, _Mark]:
    """What earlier collections found; nothing where that cannot be read, and then every grace begins anew."""
    try:
        with closing(place.open(CONDEMNED)) as file:
            content = b"".join(iter(lambda: file.read(1 << 20), b""))
        return {"sha256:" + name: _Mark(int(at), int(size)) for name, (at, size) in json.loads(content).items()}
    except NotFound:
        return {}
    except (ValueError, TypeError, AttributeError):
        log.warning("%s cannot be read: everything in it is condemned anew", CONDEMNED)
        return {}


def _write(place: Place, condemned: Mapping[str, _Mark]) -> None:
    content = {digest.removeprefix("sha256:"): [mark.at, mark.size] for digest, mark in condemned.items()}
    place.write(CONDEMNED, canonical(content))


def _report(plan: _Plan, deleted: Iterable[str], dry_run: bool, complete: bool) -> GcReport:
    gone = tuple(sorted(deleted))
    return GcReport(
        dry_run=dry_run,
        condemned=tuple(sorted(plan.fresh)),
        waiting=len(plan.condemned) - len(plan.fresh) - len(plan.due),
        deleted=gone,
        kept=len(plan.sizes) - len(gone),
        size_bytes=sum(plan.sizes[digest] for digest in gone),
        by_root=plan.by_root,
        missing=tuple(sorted(plan.missing)),
        complete=complete,
    )
