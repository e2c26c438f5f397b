"""Pins: versions that a vacuum keeps readable, each with its holders. Knows small files in the table's own folder,
which Delta's readers and vacuums pass over; nothing of what makes a version readable.

A pin and a vacuum may happen at the same time. The vacuum announces itself before it looks at the pins, and a pin is
written before it looks for announcements: whichever comes second sees the other.
"""

from __future__ import annotations

import hashlib
import json
import logging
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow.fs as pafs

from rayplat.data.tables.place import Place
from rayplat.errors import Corrupt, InvalidInput, NotFound, Unavailable
from rayplat.types import Pin

log = logging.getLogger(__name__)

_PINS, _VACUUMS = "_rayplat/pins", "_rayplat/vacuums"
_ABANDONED = timedelta(hours=1)


def put(place: Place, version: int, by: str, reason: str) -> tuple[Pin, bool]:
    """The pin of ``by`` on ``version``, and whether it was made now; one that is there stays as it is. Raises
    `Unavailable` while a vacuum is taking versions as old as this one."""
    if not by.strip() or not reason.strip():
        raise InvalidInput("pin", "say who pins the version (by) and what for (reason)")
    path = _path(version, by)
    found = _read(place, path)
    if found is not None:
        return _pin(place, found), False
    pin = Pin(place.name, version, by, reason, datetime.now(UTC))
    _write(place, path, {"version": version, "by": by, "reason": reason, "at": pin.at.isoformat()})
    for announced in _listed(place, _VACUUMS):
        young = datetime.fromisoformat(announced["at"]) > datetime.now(UTC) - _ABANDONED
        if young and version < announced["kept_from"]:
            remove(place, version, by)
            raise Unavailable(f"table {place.name}", f"a vacuum is running; pin version {version} when it has ended")
    return pin, True


def remove(place: Place, version: int, by: str) -> None:
    """Raises `NotFound` where ``by`` has not pinned ``version``."""
    try:
        place.filesystem.delete_file(f"{place.root}/{_path(version, by)}")
    except FileNotFoundError as e:
        holders = ", ".join(p.by for p in every(place) if p.version == version) or "nobody"
        raise NotFound("pin", f"{place.name}@{version} by {by}", f"it is pinned by {holders}") from e


def every(place: Place) -> list[Pin]:
    """All pins, by version and holder."""
    return sorted((_pin(place, found) for found in _listed(place, _PINS)), key=lambda pin: (pin.version, pin.by))


@contextmanager
def vacuuming(place: Place, kept_from: int) -> Iterator[Any]:
    """Announces a vacuum that may take versions below ``kept_from``; yields what to call now and then to say that it
    still runs."""
    path = f"{_VACUUMS}/{uuid.uuid4().hex}.json"

    def announce() -> None:
        _write(place, path, {"kept_from": kept_from, "at": datetime.now(UTC).isoformat()})

    announce()
    try:
        yield announce
    finally:
        place.filesystem.delete_file(f"{place.root}/{path}")


def _path(version: int, by: str) -> str:
    return f"{_PINS}/{version:020d}-{hashlib.sha256(by.encode()).hexdigest()[:16]}.json"


def _pin(place: Place, found: dict[str, Any]) -> Pin:
    at = datetime.fromisoformat(found["at"])
    return Pin(place.name, int(found["version"]), str(found["by"]), str(found["reason"]), at)


def _write(place: Place, path: str, content: dict[str, Any]) -> None:
    """Whole or not at all: an object store shows an object once it is complete, a file system gets it by a rename."""
    filesystem, full = place.filesystem, f"{place.root}/{path}"
    filesystem.create_dir(full.rpartition("/")[0], recursive=True)
    local = isinstance(filesystem, pafs.LocalFileSystem)
    first = f"{full}.{uuid.uuid4().hex}.tmp" if local else full
    with filesystem.open_output_stream(first) as out:
        out.write(json.dumps(content).encode())
    if local:
        filesystem.move(first, full)


def _read(place: Place, path: str) -> dict[str, Any] | None:
    try:
        with place.filesystem.open_input_stream(f"{place.root}/{path}") as file:
            content = file.read()
    except FileNotFoundError:
        return None
    try:
        found: dict[str, Any] = json.loads(content)
    except ValueError as e:
        raise Corrupt(f"{path} of table {place.name}", "a JSON object", content[:80].decode(errors="replace")) from e
    return found


def _listed(place: Place, folder: str) -> list[dict[str, Any]]:
    selector = pafs.FileSelector(f"{place.root}/{folder}", allow_not_found=True)
    names = [f.base_name for f in place.filesystem.get_file_info(selector) if f.base_name.endswith(".json")]
    contents = (_read(place, f"{folder}/{name}") for name in sorted(names))
    return [found for found in contents if found is not None]
