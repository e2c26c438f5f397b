"""Writing data files under a table's folder. A file counts only once a commit names it; one that no commit will name
is removed by whoever wrote it."""

from __future__ import annotations

import logging
import re
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from rayplat.data.tables import log, statistics
from rayplat.data.tables.place import Place
from rayplat.errors import InvalidInput

ROW_GROUP = 65_536
FILE_ROWS = 2_000_000
_LONGEST_NAME = 100
_SAMPLE = 4_096  # values of a column that are looked at before it is written
_MOST_WORDS, _MOST_NUMBERS = 0.9, 0.5  # the share of different ones up to which a dictionary pays
_SPECIAL = re.compile(r"[^A-Za-z0-9._-]")
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class NewFile:
    """A file that was written and belongs to no version yet. ``path`` is relative to the table; ``partition`` holds
    its partition values as the log writes them; ``written_ms`` 0 is the moment of the commit."""

    path: str
    size_bytes: int
    partition: dict[str, str | None]
    statistics: str
    rows: int
    written_ms: int = 0


def write_files(place: Place, data: pa.Table, partition_by: Sequence[str], stem: str | None = None) -> list[NewFile]:
    """Write ``data`` (already conformed) under ``place``.

    ``stem`` names the files: sorted stems give the order of rows. Raises `Unavailable` where the disk fills; then, as
    on any failure, no file is left.
    """
    stem = stem or new_stem()
    written: list[NewFile] = []
    begun: list[str] = []
    try:
        for partition, rows in _partitions(data, partition_by):
            folder = PurePosixPath(*(f"{_folder(k)}={_folder(v)}" for k, v in partition.items()))
            if isinstance(place.filesystem, pafs.LocalFileSystem):  # an object store has no folders to make
                place.filesystem.create_dir(f"{place.root}/{folder}", recursive=True)
            for start in range(0, rows.num_rows, FILE_ROWS):
                begun.append(str(folder / f"{stem}-{start // FILE_ROWS:03d}.parquet"))
                piece = rows.slice(start, FILE_ROWS)
                size = _write(place, begun[-1], piece)
                written.append(NewFile(begun[-1], size, partition, statistics.write(piece), piece.num_rows))
    except BaseException as e:
        _remove(place, begun)
        if isinstance(e, OSError) and log.is_full(e):
            raise log.no_space(place, e, begun[-1] if begun else "") from e
        raise
    return written


def new_stem(index: int = 0) -> str:
    """A name for the files of one write."""
    return f"part-{index:05d}-{uuid.uuid4()}"


def remove_files(place: Place, files: Iterable[NewFile]) -> None:
    """Delete files that no commit names."""
    _remove(place, [file.path for file in files])


def remove_written(place: Place, stem_part: str) -> None:
    """Delete what a failed write left: the files whose name contains ``stem_part``."""
    filesystem = place.filesystem
    for entry in filesystem.get_file_info(pafs.FileSelector(place.root, recursive=True, allow_not_found=True)):
        if entry.type == pafs.FileType.File and stem_part in entry.base_name:
            filesystem.delete_file(entry.path)


def partition_text(value: Any) -> str | None:
    """A partition value as the log writes it (Delta protocol, "Partition Value Serialization")."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime):
        plain = (value.astimezone(UTC) if value.tzinfo else value).replace(tzinfo=None)
        return plain.isoformat(" ", timespec="microseconds")
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return format(value, "f") if isinstance(value, Decimal) else str(value)


def _write(place: Place, path: str, rows: pa.Table) -> int:
    filesystem, full = place.filesystem, f"{place.root}/{path}"
    with filesystem.open_output_stream(full) as out:
        pq.write_table(
            rows,
            out,
            row_group_size=ROW_GROUP,
            compression="zstd",
            use_dictionary=[name for name in rows.column_names if _repeats(rows[name])],
            write_page_checksum=True,  # else a flipped bit reads as another number
        )
        return int(out.tell())


def _repeats(column: pa.ChunkedArray) -> bool:
    """Whether the first values come again so often that a dictionary makes the file smaller, and quicker to write and
    to read; where nearly all are different it does the opposite."""
    kinds = (pa.types.is_integer, pa.types.is_floating, pa.types.is_temporal, pa.types.is_decimal)
    text = pa.types.is_string(column.type)
    if not text and not any(kind(column.type) for kind in kinds):
        return False
    first = column.slice(0, _SAMPLE)
    most = _MOST_WORDS if text else _MOST_NUMBERS
    return bool(pc.count_distinct(first).as_py() <= max(1, most * len(first)))


def _remove(place: Place, paths: Iterable[str]) -> None:
    for path in paths:
        try:
            place.filesystem.delete_file(f"{place.root}/{path}")
        except FileNotFoundError:
            pass  # never begun
        except OSError:
            logger.exception("a file of a failed write is left; vacuum takes it", extra={"path": path})


def _partitions(data: pa.Table, by: Sequence[str]) -> Iterator[tuple[dict[str, str | None], pa.Table]]:
    """The rows of each combination of partition values, in their order."""
    if not by:
        if data.num_rows:
            yield {}, data
        return
    at = pa.array(range(data.num_rows), pa.int64())
    keys = data.select(list(by)).append_column("\0row", at)
    groups = keys.group_by(list(by), use_threads=False).aggregate([("\0row", "list")])
    rest = data.drop_columns(list(by))
    for i in range(groups.num_rows):
        values = {name: groups[name][i].as_py() for name in by}
        for name, value in values.items():
            if value == "":
                raise InvalidInput(name, "an empty string cannot be a partition value: Delta reads it as null")
        yield {k: partition_text(v) for k, v in values.items()}, rest.take(groups["\0row_list"][i].values)


def _folder(value: str | None) -> str:
    """For people only: the value itself is in the log, and escaped characters in paths confuse some readers."""
    return "__HIVE_DEFAULT_PARTITION__" if value is None else _SPECIAL.sub("_", value)[:_LONGEST_NAME]
