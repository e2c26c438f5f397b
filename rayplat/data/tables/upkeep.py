"""Keeping a table fit: small files into larger ones, files that no kept version needs out of the way, pins on the
versions that must stay. Rows are never changed here.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import pyarrow.compute as pc
import pyarrow.fs as pafs

from rayplat.data.tables import log
from rayplat.data.tables import pins as _pins
from rayplat.data.tables.entries import actions, entries
from rayplat.data.tables.features import refuse_unwritable
from rayplat.data.tables.files import NewFile, new_stem, remove_files, write_files
from rayplat.data.tables.log import Change
from rayplat.data.tables.place import Place
from rayplat.data.tables.scan import File, Scan
from rayplat.data.tables.settle import discard
from rayplat.data.tables.snapshot import partition_columns, scan_of
from rayplat.errors import Conflict, InvalidInput, NotFound
from rayplat.types import Pin, TableVersion, VacuumReport

if TYPE_CHECKING:
    from deltalake import DeltaTable

    from rayplat.data.tables import Tables

logger = logging.getLogger(__name__)

TARGET_BYTES = 128 << 20
_SMALL = 0.75  # of the target: a file above it stays as it is
_SAFETY = timedelta(days=1)
_EXAMPLES = 20
_AT_ONCE = 16


# --- compact --------------------------------------------------------------------------------------


def compact(
    tables: Tables,
    name: str,
    *,
    target_bytes: int = TARGET_BYTES,
    where: pc.Expression | None = None,
    run_id: str | None = None,
) -> TableVersion:
    """Small files that follow one another in a partition become one of about ``target_bytes``, in one commit that
    says that no data changed: change feeds and streaming readers see nothing of it. Deletion vectors are applied and
    dropped. ``where`` leaves alone the files that cannot hold a row for which it is true. Rows keep their order.

    Files are written by Ray tasks where Ray is running. Nothing to do: no commit. Raises `Conflict` where other
    writers kept taking the same files away.
    """
    if target_bytes < 1:
        raise InvalidInput("target_bytes", f"{target_bytes} is not positive")
    place = tables.place(name)
    tables.version(name)  # raises NotFound with the names there are
    log.attempt(place, (), lambda table: _purge(place, table, target_bytes))
    work = _Compaction(place, target_bytes, where, {} if run_id is None else {"run_id": run_id})
    base = int(log.load(place).version())
    try:
        version = log.attempt(place, (), work.plan)
    finally:
        discard(place, work.written(), base)
    return tables.version(name, version)


class _Compaction:
    """Bins are planned and written once; when another writer came between, those whose files are all still there are
    committed, and the rest is left for the next time."""

    def __init__(self, place: Place, target_bytes: int, where: pc.Expression | None, noted: dict[str, str]) -> None:
        self._place, self._target, self._where, self._noted = place, target_bytes, where, noted
        self._done: list[tuple[Scan, list[NewFile]]] | None = None

    def plan(self, table: DeltaTable) -> int | None:
        refuse_unwritable(self._place.name, table, removes=False)
        scan = scan_of(self._place, table)
        if self._done is None:
            self._done = []
            found = bins(scan if self._where is None else scan.prune(self._where), scan, self._target)
            self._done = list(zip(found, _rewrite_all(found, partition_columns(table)), strict=True))
        there = {(file.key, file.deleted) for file in scan.files}
        valid = [(old, new) for old, new in self._done if all((f.key, f.deleted) in there for f in old.files)]
        if not valid:
            if self._done:
                raise Conflict(f"the files of table {self._place.name!r} were replaced while they were compacted")
            return None
        removes, adds = [f for old, _ in valid for f in old.files], [f for _, new in valid for f in new]
        noted = {"action": "compact", "files": f"{len(removes)} -> {len(adds)}", **self._noted}
        # exact: delta-rs does not notice that another compaction took the same files, and rows would double
        return log.commit(self._place, table, Change(adds, removes, data_change=False, noted=noted))

    def written(self) -> list[NewFile]:
        return [file for _, new in self._done or () for file in new]


def bins(chosen: Scan, scan: Scan, target_bytes: int) -> list[Scan]:
    """Which files of ``chosen`` to write as one: runs, within a partition and in the order of ``scan``, of files
    below three quarters of the target that fit it together."""
    small = {file.key for file in chosen.files if file.size_bytes < _SMALL * target_bytes}
    runs: dict[tuple[Any, ...], list[File]] = {}
    found: list[list[File]] = []
    for file in scan.files:
        partition = tuple(sorted(file.partition_text.items()))
        run = runs.setdefault(partition, [])
        if file.key not in small or sum(f.size_bytes for f in run) + file.size_bytes > target_bytes:
            found.append(runs.pop(partition))
            run = runs.setdefault(partition, [])
        if file.key in small:
            run.append(file)
    return [replace(scan, files=tuple(run)) for run in [*found, *runs.values()] if len(run) > 1]


def _rewrite_all(scans: Sequence[Scan], by: Sequence[str]) -> list[list[NewFile]]:
    """The files of each scan as one, by tasks where Ray is running."""
    import sys

    ray = sys.modules.get("ray")
    if not scans:
        return []
    if ray is None or not ray.is_initialized() or len(scans) == 1:
        return _in_process(scans, by)
    task = ray.remote(_rewrite)
    running = [task.remote(scan, by) for scan in scans]
    ray.wait(running, num_returns=len(running))  # so that what was written is known when one of them failed
    failed: list[BaseException] = []

    def result(one: Any) -> list[NewFile]:
        try:
            found: list[NewFile] = ray.get(one)
            return found
        except ray.exceptions.RayTaskError as e:
            failed.append(e.cause if isinstance(e.cause, BaseException) else e)
            return []

    done = [result(one) for one in running]
    if failed:
        remove_files(scans[0].place, [file for files in done for file in files])
        raise failed[0]
    return done


def _rewrite(scan: Scan, by: Sequence[str]) -> list[NewFile]:
    """The rows of ``scan`` in one file (or more, where they are very many), which takes the last one's place."""
    last = scan.files[-1]
    stem = last.key.rpartition("/")[2].removesuffix(".parquet")[:100]
    written = write_files(scan.place, scan.table(), by, f"{stem}-{new_stem()}")
    return [replace(file, written_ms=last.written_ms) for file in written]


def _in_process(scans: Sequence[Scan], by: Sequence[str]) -> list[list[NewFile]]:
    done: list[list[NewFile]] = []
    try:
        for scan in scans:
            done.append(_rewrite(scan, by))
    except BaseException:
        remove_files(scans[0].place, [file for files in done for file in files])
        raise
    return done


def _purge(place: Place, table: DeltaTable, target_bytes: int) -> int | None:
    """Files with deletion vectors are written anew by delta-rs itself: only it can take such a file away."""
    from deltalake import CommitProperties, PostCommitHookProperties
    from deltalake.exceptions import CommitFailedError

    refuse_unwritable(place.name, table, removes=False)
    deleted = [file for file in scan_of(place, table).files if file.deleted]
    if not deleted:
        return None
    try:
        done = table.optimize.compact(
            target_size=max(target_bytes, 2 * max(file.size_bytes for file in deleted)),
            commit_properties=CommitProperties(custom_metadata={"action": "compact"}, max_commit_retries=0),
            post_commithook_properties=PostCommitHookProperties(cleanup_expired_logs=False),
        )
    except CommitFailedError as e:
        raise log.Moved(str(e)) from e
    logger.info("deletion vectors purged", extra={"table": place.name, "files": done["numFilesRemoved"]})
    return int(table.version())


# --- pins -----------------------------------------------------------------------------------------


def pin(tables: Tables, name: str, version: int, by: str, reason: str) -> Pin:
    """Keep ``version`` readable for ``by`` until unpinned; a pin that is there already is returned as it is. Raises
    `NotFound` for a version that is not there or not readable any more, `Unavailable` while a vacuum is running that
    takes versions of its age."""
    place, scan = tables.place(name), tables.scan(name, version)
    made, is_new = _pins.put(place, version, by, reason)
    for found in place.filesystem.get_file_info([place.resolve(file.key) for file in scan.files]):
        if found.type != pafs.FileType.File and is_new:
            _pins.remove(place, version, by)
            raise NotFound("table version", f"{name}@{version}", f"its file {found.path} was removed by a vacuum")
    return made


def unpin(tables: Tables, name: str, version: int, by: str) -> None:
    """Take the pin of ``by`` away; other holders' pins stay. Raises `NotFound`."""
    tables.scan(name)
    _pins.remove(tables.place(name), version, by)


def pins(tables: Tables, name: str) -> list[Pin]:
    """All pins of a table, by version and holder."""
    tables.scan(name)
    return _pins.every(tables.place(name))


# --- vacuum ---------------------------------------------------------------------------------------


def vacuum(
    tables: Tables, name: str, *, keep: timedelta, dry_run: bool = True, safety: timedelta = _SAFETY
) -> VacuumReport:
    """Remove the data files that no kept version needs. Kept are every pinned version, every version younger than
    ``keep``, and the one that was the latest ``keep`` ago. Files younger than ``safety`` stay whatever they are:
    writers may be about to commit them. The log stays whole, so a removed version is still listed, and reading it
    raises `NotFound`.

    Only Parquet files are removed. Raises `Conflict` where a pinned version can no longer be reconstructed.
    """
    if keep < timedelta(0) or safety < timedelta(0):
        raise InvalidInput("keep", f"{min(keep, safety)} is negative")
    tables.version(name)
    place, now = tables.place(name), datetime.now(UTC)
    kept_from = _kept_from(place, now - keep)
    if dry_run:
        return _report(place, _unneeded(place, kept_from, now - safety), kept_from, dry_run=True)
    with _pins.vacuuming(place, kept_from) as still_running:
        found = _unneeded(place, kept_from, now - safety)
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            for at in range(0, len(found), 1000):
                still_running()
                list(pool.map(lambda file: _delete(place, file), found[at : at + 1000]))
    report = _report(place, found, kept_from, dry_run=False)
    logger.info("vacuumed", extra={"table": name, "files": report.files, "kept_from": kept_from})
    return report


def _kept_from(place: Place, moment: datetime) -> int:
    """The version that was the latest at ``moment``, or the oldest that the log holds."""
    found = entries(place)
    return next((one.version for one in found if one.at <= moment), found[-1].version)


def _unneeded(place: Place, kept_from: int, before: datetime) -> list[pafs.FileInfo]:
    """Data files last written before ``before`` that neither a version from ``kept_from`` on nor a pin needs."""
    latest = int(log.load(place).version())
    needed = _still_there(place, kept_from, latest)
    for pin in _pins.every(place):
        if pin.version < kept_from:
            try:
                needed |= _needed(place, pin.version, pin.version)
            except NotFound as e:
                raise Conflict(
                    f"version {pin.version} of table {place.name!r}, pinned by {pin.by}, cannot be reconstructed: "
                    f"unpin it first, nothing was removed ({e})"
                ) from e
    files = place.filesystem.get_file_info(pafs.FileSelector(place.root, recursive=True))
    return [f for f in files if _is_data(place, f) and f.path not in needed and f.mtime < before]


def _still_there(place: Place, first: int, last: int) -> set[str]:
    """`_needed`, beginning with the first version that the log can still give."""
    while True:
        try:
            return _needed(place, first, last)
        except NotFound:
            if first == last:
                raise
            first += 1


def _needed(place: Place, first: int, last: int) -> set[str]:
    """Paths of the files of all versions from ``first`` to ``last``, with those of their change feed."""
    found = {place.resolve(file.key) for file in scan_of(place, log.load(place, first)).files}
    for version in range(first + 1, last + 1):
        for action in actions(place, version):
            for kind in ("add", "cdc"):
                if kind in action:
                    found.add(place.resolve(unquote(action[kind]["path"])))
    return found


def _is_data(place: Place, file: pafs.FileInfo) -> bool:
    """Whether it lies where data files lie: names with a leading _ or . are others', but for partitions and changes."""
    if file.type != pafs.FileType.File or not file.base_name.endswith(".parquet"):
        return False
    parts = file.path.removeprefix(place.root).strip("/").split("/")
    return all(part == "_change_data" or "=" in part or not part.startswith(("_", ".")) for part in parts)


def _delete(place: Place, file: pafs.FileInfo) -> None:
    try:
        place.filesystem.delete_file(file.path)
    except FileNotFoundError:
        logger.debug("already gone", extra={"path": file.path})


def _report(place: Place, files: Sequence[pafs.FileInfo], kept_from: int, *, dry_run: bool) -> VacuumReport:
    paths = sorted(file.path.removeprefix(f"{place.root}/") for file in files)
    pinned = tuple(sorted({pin.version for pin in _pins.every(place)}))
    size = sum(file.size for file in files)
    return VacuumReport(place.name, dry_run, len(files), size, kept_from, pinned, tuple(paths[:_EXAMPLES]))
