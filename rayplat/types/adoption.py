"""MLflow's registry beside ours: where the two differ, and what an import of another one brought."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class DriftKind(enum.StrEnum):
    """How MLflow's rows differ from the record's."""

    MOVED = "moved"
    MISSING = "missing"
    EXTRA = "extra"
    VERSION_DELETED = "version deleted"
    SOURCE_CHANGED = "source changed"


@dataclass(frozen=True)
class AliasDrift:
    """One difference. ``alias`` is empty for a version's own; ``version`` is the record's, None for an alias that only
    MLflow has; ``expected`` is what the record says, ``found`` what MLflow says, both empty for nothing."""

    kind: DriftKind
    model: str
    alias: str
    version: int | None
    expected: str
    found: str


@dataclass(frozen=True)
class AdoptedVersion:
    """A version of the source and the number it has here; ``new`` where this import brought it."""

    source_version: int
    version: int
    digest: str
    new: bool


@dataclass(frozen=True)
class AdoptedAlias:
    """An alias of the source, or a stage that became one."""

    alias: str
    version: int
    new: bool


@dataclass(frozen=True)
class Adopted:
    """What an import did with one registered model. ``refused`` says, in a sentence each, what was left and why."""

    model: str
    versions: tuple[AdoptedVersion, ...] = ()
    aliases: tuple[AdoptedAlias, ...] = ()
    refused: tuple[str, ...] = ()
