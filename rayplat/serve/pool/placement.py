"""Which worker a model belongs to, and which models leave a worker that holds too much. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

Key = tuple[str, str]
"""Model and alias."""


def worker_of(model: str, workers: Sequence[str]) -> str:
    """The worker that holds all aliases of ``model``: the highest of the hashes with each worker (rendezvous hashing,
    Thaler and Ravishankar 1998), so that another number of workers moves only the models it has to."""
    return max(workers, key=lambda worker: hashlib.sha256(f"{worker}\x00{model}".encode()).digest())


@dataclass(frozen=True)
class Limits:
    """What a worker holds at most: models, and bytes of memory measured as they were loaded."""

    models: int
    bytes: int


@dataclass(frozen=True)
class Held:
    """A model that a worker holds. ``busy``: requests are under way in it."""

    key: Key
    size_bytes: int
    pinned: bool = False
    busy: bool = False


def to_leave(held: Iterable[Held], limits: Limits) -> list[Key]:
    """Who has to go, given in the order of their last use (the longest ago first). Pinned and busy models stay, and so
    does the one used last, even where that leaves more than the limits say."""
    found = list(held)
    models, size = len(found), sum(h.size_bytes for h in found)
    leaving: list[Key] = []
    for one in found[:-1]:
        if models <= limits.models and size <= limits.bytes:
            break
        if not (one.pinned or one.busy):
            leaving.append(one.key)
            models, size = models - 1, size - one.size_bytes
    return leaving
