"""Artifacts: what is known of them, and what checking and collecting found."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True)
class ArtifactInfo:
    """An artifact on record. ``run_id`` is the run that made it, where one did."""

    digest: str
    kind: str
    size_bytes: int
    run_id: str | None
    created_by: str
    created_at: datetime


@dataclass(frozen=True)
class ArtifactProblem:
    """``path`` is that in the tree, where the object is a file of one."""

    digest: str
    path: str | None
    reason: str


@dataclass(frozen=True)
class VerifyReport:
    """What reading ``objects`` objects of together ``size_bytes`` found."""

    objects: int
    size_bytes: int
    problems: tuple[ArtifactProblem, ...]

    @property
    def intact(self) -> bool:
        return not self.problems


@dataclass(frozen=True)
class GcReport:
    """One garbage collection. In a dry run ``condemned`` and ``deleted`` are what a real one would do now.

    ``condemned`` are digests found unneeded for the first time, ``waiting`` counts those still within their grace.
    ``size_bytes`` is what deleting frees. ``by_root`` are bytes needed for each reason, shared ones under every reason.
    ``missing`` are needed and not there. ``complete`` false: time was up, run it again for the rest.
    """

    dry_run: bool
    condemned: tuple[str, ...]
    waiting: int
    deleted: tuple[str, ...]
    kept: int
    size_bytes: int
    by_root: dict[str, int]
    missing: tuple[str, ...]
    complete: bool
