"""Publishers and garbage collections, interleaved step by step from a seed: is anything lost that is still needed?

Each actor is a thread, and only one runs at a time: behind each call on the place (before it too, where it writes) it
hands over, and the seed says to whom. Time passes with every step. Actors die in the middle, and what they left stays.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from rayplat.artifacts.checkout import find_tree
from rayplat.artifacts.gc import gc
from rayplat.artifacts.leases import Timing
from rayplat.artifacts.places.place import object_name
from rayplat.artifacts.store import ArtifactStore
from rayplat.errors import Conflict, NotFound, Unavailable
from tests.artifacts.memory import MemoryPlace

GRACE_S = 60.0
TREES = 6
_STEPS = 20_000
_CRASHES = 0.004


class Died(BaseException):
    """The process of an actor ends here."""


@dataclass
class Outcome:
    """``lost`` are needed objects that are gone; the rest counts what happened."""

    lost: set[str] = field(default_factory=set)
    published: int = 0
    deleted: int = 0
    collections: int = 0


class Turns:
    """Who runs next, and what time it is. Only the thread that has its turn runs; a lock each hands it over."""

    def __init__(self, random_: random.Random, crashes: float) -> None:
        self.now = 1_000_000.0
        self._random, self._crashes = random_, crashes
        self._mine = threading.local()
        self._turn: dict[int, threading.Lock] = {}  # of the actors that have not ended
        self._not_before: dict[int, float] = {}
        self._favoured = self._steps = 0
        self._errors: list[Exception] = []

    def step(self, what: str) -> None:
        """Hand over, as an actor. Deleting is one step with the look at the clock before it: for that is the margin in
        `leases`."""
        if self._turn:
            self.wait(0.0)
            if self._random.random() < self._crashes:
                raise Died

    def wait(self, seconds: float) -> None:
        """Let others run for so long at least."""
        if self._steps > _STEPS:
            raise AssertionError("the actors wait for each other for ever")
        mine: int = self._mine.actor
        self._not_before[mine] = self.now + seconds
        chosen = self._next()
        if chosen != mine:
            self._turn[chosen].release()
            self._turn[mine].acquire()

    def run(self, actors: list[Callable[[], None]]) -> None:
        """All of them to their ends."""
        for n in range(len(actors)):
            self._turn[n], self._not_before[n] = threading.Lock(), 0.0
            self._turn[n].acquire()
        threads = [threading.Thread(target=self._run, args=(n, actor), daemon=True) for n, actor in enumerate(actors)]
        for thread in threads:
            thread.start()
        self._turn[self._next()].release()
        for thread in threads:
            thread.join()
        if self._errors:
            raise self._errors[0]

    def _run(self, n: int, actor: Callable[[], None]) -> None:
        self._mine.actor = n
        self._turn[n].acquire()
        try:
            actor()
        except Died:
            pass
        except Exception as e:  # noqa: BLE001 - raised where the test looks
            self._errors.append(e)
        finally:
            del self._turn[n], self._not_before[n]
            if self._turn:
                self._turn[self._next()].release()

    def _next(self) -> int:
        """Now and then one actor is kept waiting while the others run on."""
        while True:
            self._steps += 1
            ready = [n for n, not_before in self._not_before.items() if not_before <= self.now]
            self.now += self._random.choice((0.0, 0.01, 0.1, 0.3)) if self._random.random() < 0.97 else 8.0
            if self._random.random() < 0.3:
                self._favoured = self._random.randrange(len(self._turn))
            if ready:
                return ready[self._favoured % len(ready)]


class World:
    """One store, its publishers and collectors, and what they may count on."""

    def __init__(self, seed: int, folders: list[Path], crashes: float = _CRASHES) -> None:
        self._random = random.Random(seed)
        self._turns = Turns(self._random, crashes)
        self._place = MemoryPlace(lambda: self._turns.now, self._turns.step)
        timing = Timing(
            lease_s=20.0,
            sweep_s=30.0,
            margin_s=9.0,
            skew_s=0.0,
            patience_s=200.0,
            courtesy_s=10.0,
            now=lambda: self._turns.now,
            wait=self._turns.wait,
        )
        self._store = ArtifactStore.on(self._place, timing)
        self._folders = folders
        self._young: dict[str, float] = {}  # when it was last published
        self._registered: set[str] = set()
        self._trees: dict[str, set[str]] = {}
        self.outcome = Outcome()

    def run(self) -> Outcome:
        for folder in self._folders[: TREES // 2]:
            self._publish(folder)
        self._turns.now += 2 * GRACE_S
        self._collect()  # all of that is condemned now
        self._turns.now += self._random.choice((0.0, 0.9 * GRACE_S, 2 * GRACE_S))
        publishers = [self._publisher for _ in range(self._random.randint(2, 4))]
        self._turns.run([*publishers, *[self._collector] * self._random.randint(1, 2)])
        self._look()
        for digest in self._needed():
            report = self._store.verify(digest)
            self.outcome.lost |= {problem.digest for problem in report.problems}
        return self.outcome

    # --- actors -------------------------------------------------------------------------------------

    def _publisher(self) -> None:
        for _ in range(self._random.randint(1, 3)):
            self._turns.wait(self._random.choice((0.0, 1.0, 10.0, GRACE_S)))
            try:
                if self._trees and self._random.random() < 0.4:
                    digest = self._random.choice(sorted(self._trees))
                    self._store.touch(digest)
                    self._note(digest)
                else:
                    digest = self._publish(self._random.choice(self._folders))
            except (NotFound, Unavailable):
                continue
            self._turns.wait(self._random.choice((0.0, 1.0, 0.4 * GRACE_S)))
            if self._random.random() < 0.5 and self._turns.now < self._young[digest] + GRACE_S:
                self._registered.add(digest)
            elif self._random.random() < 0.5:
                self._registered.discard(digest)

    def _collector(self) -> None:
        for _ in range(self._random.randint(2, 4)):
            with suppress(Unavailable, Conflict):
                self._collect()
            self._turns.wait(self._random.choice((1.0, 5.0, GRACE_S, GRACE_S + 5)))

    def _collect(self) -> None:
        report = gc(self._store, self._roots, timedelta(seconds=GRACE_S), dry_run=False)
        self.outcome.collections += 1
        self.outcome.deleted += len(report.deleted)

    def _publish(self, folder: Path) -> str:
        digest = self._store.put_tree(folder, "model").digest
        self._note(digest)
        return digest

    def _note(self, digest: str) -> None:
        self.outcome.published += 1
        self._young[digest] = self._turns.now
        self._look()

    # --- what may be counted on ---------------------------------------------------------------------

    def _roots(self) -> dict[str, set[str]]:
        found = {"registered": set(self._registered)}
        self._turns.step("roots")
        return found

    def _needed(self) -> set[str]:
        return self._registered | {d for d, at in self._young.items() if self._turns.now < at + GRACE_S}

    def _look(self) -> None:
        """Note what is needed and gone, without giving up this actor's turn."""
        silent = MemoryPlace()
        silent.held = self._place.held
        for digest in self._needed():
            if digest not in self._trees and object_name(digest) in silent.held:
                tree = find_tree(silent, digest)
                assert tree is not None
                self._trees[digest] = {digest} | {entry.digest for entry in tree.entries}
            closure = self._trees.get(digest, {digest})
            self.outcome.lost |= {one for one in closure if object_name(one) not in silent.held}


def make_folders(work: Path) -> list[Path]:
    """Trees that share some of their files."""
    folders = []
    for n in range(TREES):
        folder = work / f"tree-{n}"
        folder.mkdir(parents=True)
        (folder / "own").write_text(f"own {n}")
        (folder / "shared").write_text(f"shared {n // 2}")
        (folder / "all").write_text("all")
        folders.append(folder)
    return folders


def series(work: Path, count: int, first_seed: int = 0, crashes: float = _CRASHES) -> Outcome:
    """``count`` interleavings, one seed each, and what they came to together."""
    folders, total = make_folders(work), Outcome()
    for seed in range(first_seed, first_seed + count):
        one = World(seed, folders, crashes).run()
        total.lost |= {f"seed {seed}: {digest}" for digest in one.lost}
        total.published += one.published
        total.deleted += one.deleted
        total.collections += one.collections
    return total
