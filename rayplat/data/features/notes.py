"""What the commits of a feature table say of themselves: which version of the source they hold.

Two writers that start from the same version of a feature table would each undo the other's rows. So every write
counts itself, under one application, as the version after the one that it was computed from: of two such only the
first is committed, and the second sees that from the note.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from rayplat.data.features.declarations import FeatureView
from rayplat.errors import NotFound
from rayplat.types import TableVersion

if TYPE_CHECKING:
    from rayplat.data.tables import Tables

_APPLICATION = "feature rows"
_KEYS = ("view_digest", "source_id", "source_version")


@dataclass(frozen=True)
class Held:
    """A feature table at ``version`` (None: it is not there) holds what the source had at ``source_version``, whose
    table was ``source_id`` then (None: nothing was ever built into it)."""

    version: int | None = None
    source_id: str | None = None
    source_version: int = -1

    @property
    def transaction(self) -> tuple[str, int]:
        """What a write that is computed from this version commits under."""
        return _APPLICATION, 0 if self.version is None else self.version + 1

    def holds(self, source: TableVersion) -> bool:
        return (self.source_id, self.source_version) == (source.table_id, source.version)


def held(tables: Tables, view: FeatureView) -> Held:
    """What the view's table holds now."""
    try:
        latest = tables.version(view.table).version
    except NotFound:
        return Held()
    for version in range(latest, -1, -1):  # compaction writes commits without a note
        try:
            noted = tables.metadata(view.table, version)
        except NotFound:
            break  # the log of older versions was removed
        if noted.get("view_digest") == view.digest():
            return Held(latest, noted["source_id"], int(noted["source_version"]))
    return Held(latest)


def built(tables: Tables, view: FeatureView, version: int | datetime | None = None) -> TableVersion:
    """The identity of one version of the view's table, the latest if None. Raises `NotFound` where it was never
    built: an empty table would look like features that nobody has."""
    found = None if held(tables, view).source_id is None else tables.version(view.table, version)
    if found is None:
        raise NotFound("feature table", view.table, f"build the view {view.name!r} first")
    return found


def note(view: FeatureView, source: TableVersion, how: str) -> dict[str, str]:
    """The note of a commit that leaves the table with what ``source`` holds; ``how`` is ``build`` or ``refresh``."""
    return {
        "view": view.name,
        "view_digest": view.digest(),
        "source": f"{source.table}@{source.version}",
        "source_id": source.table_id,
        "source_version": str(source.version),
        "how": how,
    }
