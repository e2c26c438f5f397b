"""Parquet files as Feast's `FileSource` names them: a file, or a folder with ``name=value`` folders as columns.

Read like a table's scan (`schema`, `size_bytes`, `table`, `split`), written whole or not at all.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from rayplat.data.tables.place import Place
from rayplat.errors import Corrupt, InvalidInput, NotFound, SchemaMismatch


@dataclass(frozen=True)
class ParquetFile:
    """One file; ``holds`` is true for all of its rows (the values in the names of its folders)."""

    path: str
    size_bytes: int
    holds: pc.Expression


@dataclass(frozen=True)
class ParquetFiles:
    """The files that were there when they were listed, with the columns of all of them."""

    place: Place
    schema: pa.Schema
    files: tuple[ParquetFile, ...]

    def table(self, columns: Sequence[str] | None = None, where: pc.Expression | None = None) -> pa.Table:
        """Rows in the order of the files' names. Raises `SchemaMismatch` for an unknown column, `NotFound` and
        `Corrupt` for a file that is gone or cannot be read."""
        for name in columns or ():
            if name not in self.schema.names:
                raise SchemaMismatch(name, f"no such column; there are {', '.join(self.schema.names)}")
        parquet = pads.ParquetFileFormat()
        pieces = [parquet.make_fragment(file.path, self.place.filesystem, file.holds) for file in self.files]
        found = pads.FileSystemDataset(pieces, self.schema, parquet, self.place.filesystem)
        try:
            return found.to_table(columns=None if columns is None else list(columns), filter=where)
        except FileNotFoundError as e:
            raise NotFound("data file", str(e), f"it was there when {self.place.uri} was listed") from e
        except (pa.ArrowInvalid, OSError) as e:
            raise Corrupt(self.place.uri, "Parquet files of one schema", str(e)) from e

    def prune(self, where: pc.Expression) -> ParquetFiles:
        """The same: Parquet files outside a table carry no statistics that are known beforehand."""
        del where
        return self

    def split(self, parts: int) -> list[ParquetFiles]:
        """At most ``parts`` groups of about equally many bytes, in order."""
        total, before = sum(file.size_bytes for file in self.files), 0
        groups: list[list[ParquetFile]] = [[] for _ in range(parts)]
        for file in self.files:
            groups[min(parts - 1, before * parts // max(total, 1))].append(file)
            before += file.size_bytes
        return [replace(self, files=tuple(group)) for group in groups if group]


def listed(place: Place) -> ParquetFiles:
    """Raises `NotFound` for a path that is not there and `InvalidInput` where a file is no Parquet."""
    if place.filesystem.get_file_info(place.root).type == pafs.FileType.NotFound:
        raise NotFound("data source", place.uri, "there is no such file or folder")
    found = _dataset(place)
    sizes = {info.path: info.size for info in place.filesystem.get_file_info(list(found.files))}
    pieces = sorted(found.get_fragments(), key=lambda piece: str(piece.path))
    files = tuple(ParquetFile(piece.path, sizes[piece.path], piece.partition_expression) for piece in pieces)
    return ParquetFiles(place, found.schema.remove_metadata(), files)


def exists(place: Place) -> bool:
    return bool(place.filesystem.get_file_info(place.root).type != pafs.FileType.NotFound)


def append(place: Place, rows: pa.Table) -> None:
    """Add ``rows`` (of the files' schema): a new file in a folder, or a single file written anew."""
    if place.filesystem.get_file_info(place.root).type == pafs.FileType.Directory:
        _put(place.filesystem, f"{place.root}/{uuid.uuid4().hex}.parquet", rows)
    else:
        _put(place.filesystem, place.root, pa.concat_tables([listed(place).table(), rows]))


def add(place: Place, rows: pa.Table, partition_by: Sequence[str] = ()) -> None:
    """Add ``rows`` of any columns as new files in a folder, which is made if need be."""
    place.filesystem.create_dir(place.root, recursive=True)
    pads.write_dataset(
        rows,
        place.root,
        filesystem=place.filesystem,
        format="parquet",
        basename_template=f"{uuid.uuid4().hex}-{{i}}.parquet",
        partitioning=list(partition_by) or None,
        partitioning_flavor="hive" if partition_by else None,
        existing_data_behavior="overwrite_or_ignore",
    )


def replace_all(place: Place, rows: pa.Table) -> None:
    """Make the place hold exactly ``rows``: one file where its name ends in ``.parquet``, else a folder of one."""
    if place.root.endswith(".parquet"):
        _put(place.filesystem, place.root, rows)
        return
    before = listed(place).files if exists(place) else ()
    place.filesystem.create_dir(place.root, recursive=True)
    _put(place.filesystem, f"{place.root}/{uuid.uuid4().hex}.parquet", rows)
    for file in before:
        place.filesystem.delete_file(file.path)


def _dataset(place: Place) -> pads.Dataset:
    folder = place.filesystem.get_file_info(place.root).type == pafs.FileType.Directory
    options = pads.FileSystemFactoryOptions(
        partitioning=pads.HivePartitioning.discover(), partition_base_dir=place.root if folder else None
    )
    chosen = pafs.FileSelector(place.root, recursive=True) if folder else [place.root]
    try:
        factory = pads.FileSystemDatasetFactory(place.filesystem, chosen, pads.ParquetFileFormat(), options)
        return factory.finish(factory.inspect(promote_options="permissive"))
    except (pa.ArrowInvalid, pa.ArrowTypeError) as e:
        raise InvalidInput(place.uri, f"these are no Parquet files of one schema: {e}") from e


def _put(filesystem: pafs.FileSystem, path: str, rows: pa.Table) -> None:
    """Readers skip names that begin with a dot, so they see the file whole or not at all."""
    folder, _, name = path.rpartition("/")
    unfinished = f"{folder}/.{uuid.uuid4().hex}-{name}"
    try:
        pq.write_table(rows, unfinished, filesystem=filesystem)
        filesystem.move(unfinished, path)
    except BaseException:
        if filesystem.get_file_info(unfinished).type != pafs.FileType.NotFound:
            filesystem.delete_file(unfinished)
        raise
