"""Taking rows away from files that exist: each file that holds one is written again without it, the others stay.

Knows files and nothing of commits: what `Rewriter` gives is committed by `writes`. Planned anew on a later version it
writes only files that it has not seen.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rayplat.data.tables.files import NewFile, remove_files, write_files
from rayplat.data.tables.layout import where_columns
from rayplat.data.tables.scan import File, Scan

_LISTED_KEYS = 1000
_ON_CLUSTER_BYTES = 64 << 20  # less is rewritten here: starting tasks would take longer
_ROW = "\0row"


@dataclass(frozen=True)
class Gone:
    """Which rows go: those for which ``where`` is true (null is not), or those with one of ``keys`` (distinct, without
    nulls)."""

    where: pc.Expression | None = None
    keys: pa.Table | None = None

    def reach(self) -> pc.Expression:
        """Holds for every row that goes."""
        if self.where is not None:
            return self.where
        assert self.keys is not None
        holds = pc.scalar(True)
        for name in self.keys.column_names if self.keys.num_rows else ():
            column, values = pc.field(name), self.keys[name]
            if pa.types.is_boolean(values.type):
                continue
            ends = pc.min_max(values)
            holds = holds & (column >= ends["min"]) & (column <= ends["max"])
            if len(values) <= _LISTED_KEYS:
                holds = holds & column.isin(pc.unique(values))
        return holds

    def columns(self, schema: pa.Schema) -> list[str]:
        """Those needed to tell."""
        if self.where is not None:
            return where_columns(self.where, schema.names) or schema.names[:1]
        assert self.keys is not None
        return list(self.keys.column_names)

    def mask(self, rows: pa.Table) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        """Of ``rows`` (with `columns`): which go."""
        found = np.zeros(rows.num_rows, bool)
        at = pa.array(np.arange(rows.num_rows))
        if self.where is not None:
            hit = rows.append_column(_ROW, at).filter(self.where)[_ROW]
            found[hit.to_numpy()] = True
        elif self.keys is not None and self.keys.num_rows:
            names = self.keys.column_names
            if len(names) == 1:
                values = self.keys[names[0]].combine_chunks()
                return np.asarray(pc.is_in(rows[names[0]], value_set=values).to_numpy(zero_copy_only=False), dtype=bool)
            hit = rows.select(names).append_column(_ROW, at).join(self.keys, names, join_type="left semi")[_ROW]
            found[hit.to_numpy()] = True
        return found


def thin(scan: Scan, gone: Gone, partition_by: Sequence[str]) -> list[NewFile] | None:
    """What is left of the one file of ``scan``, written anew; None: nothing of it goes."""
    mask = gone.mask(scan.table(gone.columns(scan.schema)))
    if not mask.any():
        return None
    if mask.all():
        return []
    kept = scan.table().filter(pa.array(~mask))
    return write_files(scan.place, kept, partition_by)


@dataclass(frozen=True)
class Rewritten:
    """Files to remove, what was written in their place, and the files that stay."""

    removes: list[File]
    adds: list[NewFile]
    stay: Scan


class Rewriter:
    """Takes ``gone`` away from one version after another until a commit holds. ``run`` works on many files at once and
    answers in their order (on a cluster, say)."""

    def __init__(
        self,
        gone: Gone,
        partition_by: Sequence[str],
        run: Callable[[Sequence[Scan], Gone, Sequence[str]], list[list[NewFile] | None]],
    ) -> None:
        self._gone, self._partition_by, self._run = gone, list(partition_by), run
        self._done: dict[tuple[str, bytes], list[NewFile] | None] = {}

    def plan(self, scan: Scan) -> Rewritten:
        files = scan.prune(self._gone.reach()).files
        new = [file for file in files if (file.key, file.deleted) not in self._done]
        results = self._run([replace(scan, files=(file,)) for file in new], self._gone, self._partition_by)
        self._done.update({(file.key, file.deleted): result for file, result in zip(new, results, strict=True)})
        removes, adds = [], []
        for file in files:
            result = self._done[file.key, file.deleted]
            if result is not None:
                removes.append(file)
                adds += result
        taken = {file.key for file in removes}
        return Rewritten(removes, adds, replace(scan, files=tuple(f for f in scan.files if f.key not in taken)))

    def written(self) -> list[NewFile]:
        """All files written so far, whether a commit names them or not."""
        return [file for result in self._done.values() for file in result or ()]


def partition_is(files: Sequence[File], wanted: Mapping[str, object]) -> list[File]:
    """The files whose partition values are ``wanted``."""
    return [f for f in files if all(f.partition.get(name) == value for name, value in wanted.items())]


def runner(scan: Scan, on_cluster: bool) -> Callable[[Sequence[Scan], Gone, Sequence[str]], list[list[NewFile] | None]]:
    """Rewrites files here one by one, or many at once as Ray tasks where a cluster is at hand and it is worth it."""

    def here(scans: Sequence[Scan], gone: Gone, by: Sequence[str]) -> list[list[NewFile] | None]:
        done: list[list[NewFile] | None] = []
        try:
            for one in scans:
                done.append(thin(one, gone, by))
        except BaseException:
            remove_files(scan.place, [file for result in done for file in result or ()])
            raise
        return done

    def anywhere(scans: Sequence[Scan], gone: Gone, by: Sequence[str]) -> list[list[NewFile] | None]:
        from rayplat.data.tables import ray_io

        return ray_io.thin_all(scans, gone, by)

    large = sum(file.size_bytes for file in scan.files) >= _ON_CLUSTER_BYTES
    return anywhere if (on_cluster or large) and _has_cluster() else here


def _has_cluster() -> bool:
    ray = sys.modules.get("ray")
    return bool(ray is not None and getattr(ray, "is_initialized", bool)())
