"""The sides of a join on the cluster: declared, checked against the spine before any row is read, put in order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from rayplat.data.point_in_time import tasks
from rayplat.data.point_in_time.exchange import Step, wanted
from rayplat.data.point_in_time.flow import Flow, get, start
from rayplat.data.point_in_time.kernel import Kernel, check_moments, missing_key
from rayplat.data.tables.scan import Scan
from rayplat.errors import InvalidInput, SchemaMismatch

if TYPE_CHECKING:
    import pyarrow.compute as pc
    from ray import ObjectRef

BLOCK_ROWS = 1 << 20
PART_BYTES = 48 << 20  # of Parquet in one reading task
_STRING_BYTES = 24


@dataclass(frozen=True)
class Side:
    """Feature rows and how they answer. ``on`` names the spine's columns that hold the keys (default: as the kernel's
    keys), ``names`` the features' names in the result (default: their own)."""

    name: str
    rows: Scan | pa.Table | Sequence[ObjectRef[pa.Table]]
    kernel: Kernel
    on: tuple[str, ...] | None = None
    names: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Planned:
    """A side's step and its stage: 0 where the spine has its keys, else one after the stage that brings them."""

    step: Step
    stage: int


@dataclass(frozen=True)
class Source:
    """The parts of a side that can matter: scans (read with ``where``) or references to tables; about ``size_bytes``
    in memory."""

    parts: list[Any]
    where: pc.Expression | None
    size_bytes: int
    files: tuple[int, int] | None = None


def in_order(
    spine: pa.Schema, event_time: str, sides: Sequence[Side], schemas: Sequence[pa.Schema]
) -> tuple[list[Planned], list[str]]:
    """Every side's step and the result's columns. Raises `SchemaMismatch` for a key or column that is missing or of
    the wrong type, before any row is read."""
    check_moments(spine, event_time)
    names = [side.name for side in sides]
    if twice := {name for name in names if names.count(name) > 1}:
        raise InvalidInput("sides", f"{min(twice)!r} is the name of more than one")
    known = {column.name: (0, column.type) for column in spine}
    planned = []
    for side, schema in zip(sides, schemas, strict=True):
        on = side.kernel.keys if side.on is None else side.on
        if len(on) != len(side.kernel.keys):
            raise InvalidInput("on", f"side {side.name!r} has the keys {side.kernel.keys}, the spine gives {on}")
        for key in on:
            if key not in known:
                raise missing_key(key, list(known))
        for column in side.kernel.columns:
            if column not in schema.names:
                raise SchemaMismatch(column, f"side {side.name!r} has no such column; it has {', '.join(schema.names)}")
        keys = [pa.array([], known[key][1]) for key in on]
        moments = pa.chunked_array([[]], spine.field(event_time).type)
        empty = side.kernel.prepare(schema.empty_table().select(list(side.kernel.columns)))
        made = empty.features(pa.table(keys, names=list(side.kernel.keys)), moments).schema
        for name in side.names:
            if name not in made.names:
                raise InvalidInput("names", f"side {side.name!r} has no feature {name!r}; it has {made.names}")
        stage = max(known[key][0] for key in on)
        outputs: dict[str, str] = {}
        for feature in made:
            name = side.names.get(feature.name, feature.name)
            if name not in known:
                known[name] = (stage + 1, feature.type)
                outputs[feature.name] = name
        planned.append(Planned(Step(side.name, side.kernel, on, tuple(outputs.items())), stage))
    return planned, list(known)


def schema_of(rows: Scan | pa.Table | Sequence[ObjectRef[pa.Table]], what: str) -> pa.Schema:
    if isinstance(rows, Scan | pa.Table):
        return rows.schema
    if not rows:
        raise InvalidInput(what, "no blocks were given, so the columns are not known; give an empty table")
    return get(start(tasks.schema_of, rows[0]))


def spine_blocks(flow: Flow, spine: Scan | pa.Table | Sequence[ObjectRef[pa.Table]], event_time: str) -> Any:
    """(measures, references) of the spine's blocks, in its order."""
    if isinstance(spine, Scan):
        parts = spine.split(_parts(spine)) or [spine]
        measures, found = flow.run(tasks.read_spine, [(part, event_time) for part in parts], 1)
        return measures, [blocks[0] for blocks in found]
    refs = _put(spine) if isinstance(spine, pa.Table) else list(spine)
    return flow.run(tasks.measure, [(ref, event_time) for ref in refs], 0)[0], refs


def source(flow: Flow, side: Side, schema: pa.Schema, ends: tuple[int, int] | None) -> Source:
    """What of a side can matter for moments between ``ends``."""
    rows, columns = side.rows, side.kernel.columns
    if isinstance(rows, Scan):
        if ends is None:
            return Source([replace(rows, files=())], None, 0, (0, len(rows.files)))
        where = wanted(side.kernel, schema, *ends)
        pruned = rows.prune(where)
        count = sum(-1 if f.rows is None else f.rows for f in pruned.files)
        exact = all(f.rows is not None for f in pruned.files)
        size = count * _width(schema, columns) if exact else 4 * sum(f.size_bytes for f in pruned.files)
        files = (len(pruned.files), len(rows.files))
        return Source(list(pruned.split(_parts(pruned))) or [pruned], where, size, files)
    if isinstance(rows, pa.Table):
        kept = rows.select(list(columns))
        return Source(_put(kept), None, kept.nbytes)
    measures, _ = flow.run(tasks.measure, [(ref, None) for ref in rows], 0)
    return Source(list(rows), None, sum(size for _, size, _ in measures))


def _parts(scan: Scan) -> int:
    size = sum(f.size_bytes for f in scan.files)
    return max(1, min(len(scan.files), max(-(-size // PART_BYTES), Flow.cpus())))


def _put(rows: pa.Table) -> list[Any]:
    import ray

    return [ray.put(rows.slice(at, BLOCK_ROWS)) for at in range(0, max(rows.num_rows, 1), BLOCK_ROWS)]


def _width(schema: pa.Schema, columns: Sequence[str]) -> int:
    total = 0
    for name in columns:
        dtype = schema.field(name).type
        total += max(dtype.bit_width // 8, 1) if pa.types.is_primitive(dtype) else _STRING_BYTES
    return total
