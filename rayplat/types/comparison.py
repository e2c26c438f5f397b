"""What two model versions have not in common."""

from __future__ import annotations

import enum
from dataclasses import dataclass

Plain = str | int | float | bool | None


class Change(enum.StrEnum):
    """What becomes of a thing on the way from the first version to the second."""

    ADDED = "added"
    REMOVED = "removed"
    CHANGED = "changed"
    SAME = "same"


@dataclass(frozen=True)
class Difference:
    """One named thing in both versions. ``a`` and ``b`` are None where it is not there; ``difference`` is b - a where
    both are numbers."""

    name: str
    change: Change
    a: Plain = None
    b: Plain = None
    difference: float | None = None


@dataclass(frozen=True)
class PinDifference:
    """A table that was trained on: its versions and rows. ``recreated``: it is another table of the same name."""

    table: str
    change: Change
    version_a: int | None = None
    version_b: int | None = None
    rows_a: int | None = None
    rows_b: int | None = None
    recreated: bool = False


@dataclass(frozen=True)
class FileDifference:
    """One path of the two trees. ``role`` is ``weights``, ``code`` or ``metadata``; sizes are bytes."""

    path: str
    role: str
    change: Change
    size_a: int | None = None
    size_b: int | None = None
    digest_a: str | None = None
    digest_b: str | None = None


@dataclass(frozen=True)
class ModelDiff:
    """From version ``a`` to version ``b`` (``model/number``), section by section; only what differs, unless all was
    asked for. ``identity`` holds digest, run, author, training set, baseline, format, and digests of payload, code and
    environment; ``notes`` say
    what could not be compared, and why. A section without differences is empty."""

    a: str
    b: str
    identity: tuple[Difference, ...] = ()
    metrics: tuple[Difference, ...] = ()
    params: tuple[Difference, ...] = ()
    signature: tuple[Difference, ...] = ()
    pins: tuple[PinDifference, ...] = ()
    environment: tuple[Difference, ...] = ()
    files: tuple[FileDifference, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def same_payload(self) -> bool:
        """Whether no file but those that only describe the model differs."""
        return all(f.change is Change.SAME or f.role == "metadata" for f in self.files)
