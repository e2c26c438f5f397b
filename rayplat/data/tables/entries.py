"""What the log's commit files say: who committed what, when. Reads them as they are; resolves no snapshot."""

from __future__ import annotations

import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pyarrow.fs as pafs

from rayplat.data.tables.place import Place
from rayplat.errors import NotFound

_READERS = 16


@dataclass(frozen=True)
class Entry:
    """One commit as the log holds it. ``info`` is what its writer noted (may be empty: the format allows it)."""

    version: int
    at: datetime
    info: Mapping[str, Any]


def entries(place: Place) -> list[Entry]:
    """All commits whose log file is there, newest first."""
    found = listed(place)
    with ThreadPoolExecutor(_READERS) as pool:
        return list(pool.map(lambda pair: _entry(place, *pair), reversed(found)))


def entry(place: Place, version: int) -> Entry:
    """One commit. Raises `NotFound`."""
    path = f"{place.root}/_delta_log/{version:020d}.json"
    found = place.filesystem.get_file_info(path)
    if found.type != pafs.FileType.File:
        raise NotFound("table version", f"{place.name}@{version}")
    return _entry(place, version, found)


def has_entry(place: Place, version: int) -> bool:
    """Whether the log file of ``version`` is there (a checkpoint may do without)."""
    path = f"{place.root}/_delta_log/{version:020d}.json"
    return bool(place.filesystem.get_file_info(path).type == pafs.FileType.File)


def at_moment(place: Place, moment: datetime) -> int:
    """The last version committed at ``moment`` or before (a naive one is UTC): by the time in the commit itself, else
    its writer's clock, else that of its file. Raises `NotFound` naming the first version's time."""
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    found = entries(place)
    for one in found:
        if one.at <= moment:
            return one.version
    if not found:
        raise NotFound("table", place.name, f"{place.uri} holds no commit with a time")
    first = f"the first version is of {found[-1].at.isoformat()}"
    raise NotFound("table version", f"{place.name}@{moment.isoformat()}", first)


def listed(place: Place) -> list[tuple[int, pafs.FileInfo]]:
    """The commit files with their versions, oldest first."""
    folder = pafs.FileSelector(f"{place.root}/_delta_log", allow_not_found=True)
    found = [(f.base_name.partition(".")[0], f) for f in place.filesystem.get_file_info(folder)]
    return sorted(
        ((int(stem), f) for stem, f in found if stem.isdecimal() and f.base_name == f"{stem}.json"),
        key=lambda pair: pair[0],
    )


def actions(place: Place, version: int) -> list[dict[str, Any]]:
    """All actions of one commit, in their order. Raises `NotFound` where its log file is not there."""
    path = f"{place.root}/_delta_log/{version:020d}.json"
    try:
        with place.filesystem.open_input_stream(path) as file:
            lines = file.read().splitlines()
    except FileNotFoundError as e:
        raise NotFound("table version", f"{place.name}@{version}", "its log was removed") from e
    return [json.loads(line) for line in lines if line.strip()]


def _entry(place: Place, version: int, file: pafs.FileInfo) -> Entry:
    info: dict[str, Any] = {}
    for action in actions(place, version):
        info = action.get("commitInfo") or info
    stamp = info.get("inCommitTimestamp", info.get("timestamp"))
    written = file.mtime if file.mtime is not None else datetime.fromtimestamp(0, UTC)
    at = written.astimezone(UTC) if stamp is None else datetime.fromtimestamp(int(stamp) / 1000, UTC)
    return Entry(version, at, info)
