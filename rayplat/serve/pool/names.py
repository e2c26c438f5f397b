"""Names of the pool's Serve applications, by which everybody finds them."""

from __future__ import annotations

import re

FRONT = "rayplat-pool"
PREFIX = "/v2/models"
_WORKER = re.compile(re.escape(FRONT) + r"-[0-9]+")


def workers(processes: int) -> list[str]:
    return [f"{FRONT}-{n}" for n in range(processes)]


def is_worker(name: str) -> bool:
    return _WORKER.fullmatch(name) is not None


def is_pool(name: str) -> bool:
    return name == FRONT or is_worker(name)
