"""Large retrievals on the Ray cluster: entity rows as blocks, the join, ranges of rows. Answers stay there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from feast.infra.offline_stores.offline_utils import DEFAULT_ENTITY_DF_EVENT_TIMESTAMP_COL as EVENT_TIMESTAMP

from rayplat.data.feast.entities import Entities, event_time_of, moments_of
from rayplat.data.feast.parquet import ParquetFiles
from rayplat.data.feast.retrieval import History, Pull, filled
from rayplat.data.feast.views import ONLY, ViewRead, only
from rayplat.data.point_in_time import tasks
from rayplat.data.point_in_time.flow import Flow, get, start
from rayplat.data.point_in_time.keys import hashed
from rayplat.data.point_in_time.plan import join_on_cluster
from rayplat.data.point_in_time.sides import Side
from rayplat.data.tables.scan import Scan
from rayplat.errors import InvalidInput

if TYPE_CHECKING:
    from ray import ObjectRef
    from ray.data import Dataset

_PART_BYTES = 32 << 20
_MOST_PARTS = 1024


def connect(address: str | None) -> None:
    """Join the cluster at ``address`` unless this process is in one; None starts a local one."""
    import ray

    if not ray.is_initialized():
        ray.init(address=address, include_dashboard=False, log_to_driver=False, configure_logging=False)


def entities(given: Dataset, address: str | None) -> Entities:
    """A Ray Dataset of entity rows; its blocks stay where they are."""
    connect(address)
    refs = given.to_arrow_refs()
    if not refs:
        raise InvalidInput("entity_df", "the Dataset has no blocks, so its columns are not known")
    schema: pa.Schema = get(start(tasks.schema_of, refs[0]))
    event_time = event_time_of(schema)
    measures, _ = Flow().run(tasks.measure, [(ref, event_time) for ref in refs], 0)
    ends = [end for _, _, end in measures if end is not None]
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    span: tuple[datetime | None, datetime | None] = (None, None)
    if ends:
        span = (
            epoch + min(low for low, _ in ends) * timedelta(microseconds=1),
            epoch + max(high for _, high in ends) * timedelta(microseconds=1),
        )
    return Entities(refs, tuple(schema.names), event_time, span)


def moments(views: Sequence[ViewRead], first: datetime, last: datetime, address: str | None) -> Entities:
    """The entity rows that `rayplat.data.feast.entities.moments` would make, as blocks in no order."""
    connect(address)
    flow = Flow()
    keys = list(dict.fromkeys(key for view in views for key in view.keys))
    given = [view for view in views if view.keys] or list(views)
    calls = [(view, part, (first, last), keys) for view in given for part in _parts(view.scan)]
    count = _partitions([view.scan for view in given])
    cut = [(*call, count) for call in calls]
    _, pieces = flow.run(_cut_moments, cut, count)
    _, blocks = flow.run(_distinct, [tuple(piece[i] for piece in pieces) for i in range(count)], 1)
    return Entities([block[0] for block in blocks], (*keys, EVENT_TIMESTAMP), EVENT_TIMESTAMP, (first, last))


def history(question: History) -> list[ObjectRef[pa.Table]]:
    """The joined blocks, in the order of the entity rows."""
    connect(question.limits.ray_address)
    flow, spine = Flow(), question.entities.rows
    if any(not view.keys for view in question.views):
        spine = _with_only(flow, spine)
    sides = []
    for i, view in enumerate(question.views):
        part = question.part(view)
        rows: Any = part
        if not (view.is_direct and isinstance(part, Scan)):
            where = view.within(*question.entities.span)
            _, blocks = flow.run(_read, [(view, piece, where) for piece in _parts(part)], 1)
            rows = [block[0] for block in blocks]
        sides.append(Side(f"{view.name}#{i}", rows, view.kernel(question.known_by), view.on, view.names))
    found = join_on_cluster(spine, sides, event_time=question.entities.event_time).blocks
    names = list(
        dict.fromkeys([*question.entities.names, *(name for view in question.views for name in view.features)])
    )
    own = set(question.entities.names)
    defaults = {n: value for view in question.views for n, value in view.defaults.items() if n not in own}
    if not defaults and all(view.keys for view in question.views):
        return found
    _, blocks = flow.run(_finished, [(block, names, defaults) for block in found], 1)
    return [block[0] for block in blocks]


def pull(question: Pull) -> list[ObjectRef[pa.Table]]:
    """The rows as blocks: parts of the files in order, or, for the newest of each key, groups of keys."""
    connect(question.limits.ray_address)
    flow, parts = Flow(), _parts(question.part)
    if not question.latest:
        _, found = flow.run(_pulled, [(question, part) for part in parts], 1)
        return [block[0] for block in found]
    count = _partitions([question.part])
    _, pieces = flow.run(_cut_newest, [(question, part, count) for part in parts], count)
    _, found = flow.run(_newest, [(question, *(piece[i] for piece in pieces)) for i in range(count)], 1)
    return [block[0] for block in found]


def fetched(blocks: Sequence[ObjectRef[pa.Table]]) -> Iterator[pa.Table]:
    """One block after the other in this process."""
    for block in blocks:
        yield get(block)


def gathered(blocks: Sequence[ObjectRef[pa.Table]]) -> pa.Table:
    """All blocks in this process."""
    return pa.concat_tables(fetched(blocks))


# --- tasks: a small summary first, then tables ------------------------------------------------------


def _read(view: ViewRead, part: Scan | ParquetFiles, where: Any) -> tuple[int, pa.Table]:
    found = view.shown(part.table(view.columns(), where))
    return found.num_rows, found


def _finished(block: pa.Table, names: list[str], defaults: Mapping[str, Any]) -> tuple[int, pa.Table]:
    columns = {name: filled(block[name], defaults.get(name)) for name in names}
    return block.num_rows, pa.table(columns)


def _only(block: pa.Table) -> tuple[int, pa.Table]:
    return block.num_rows, block.append_column(ONLY, only(block.num_rows))


def _pulled(question: Pull, part: Scan | ParquetFiles) -> tuple[int, pa.Table]:
    found = question.read(part)
    return found.num_rows, found


def _cut_newest(question: Pull, part: Scan | ParquetFiles, count: int) -> tuple[Any, ...]:
    found = question.read(part)
    return found.num_rows, *_groups(found, list(question.keys), count)


def _newest(question: Pull, *pieces: pa.Table) -> tuple[int, pa.Table]:
    found = question.chosen(pa.concat_tables(pieces))
    return found.num_rows, found


def _cut_moments(
    view: ViewRead, part: Scan | ParquetFiles, span: tuple[datetime, datetime], keys: list[str], count: int
) -> tuple[Any, ...]:
    found = moments_of(view, part, *span)
    groups = _groups(found, list(view.keys), count)
    missing = [key for key in keys if key not in found.column_names]
    for key in missing:
        groups = [group.append_column(key, pa.nulls(group.num_rows)) for group in groups]
    return found.num_rows, *(group.select([*keys, EVENT_TIMESTAMP]) for group in groups)


def _distinct(*pieces: pa.Table) -> tuple[int, pa.Table]:
    together = pa.concat_tables(pieces, promote_options="permissive")
    found = together.group_by(together.column_names).aggregate([])
    return found.num_rows, found.select(together.column_names)


# --- inside -----------------------------------------------------------------------------------------


def _groups(rows: pa.Table, keys: list[str], count: int) -> list[pa.Table]:
    """Rows in ``count`` groups: all of a key are in one, in their order."""
    if not keys or count == 1:
        return [rows, *(rows.slice(0, 0) for _ in range(count - 1))]
    hashes, _ = hashed(rows.select(keys))
    group = hashes % np.uint64(count)
    return [rows.filter(pa.array(group == np.uint64(i))) for i in range(count)]


def _with_only(flow: Flow, spine: pa.Table | Sequence[Any]) -> pa.Table | Sequence[Any]:
    if isinstance(spine, pa.Table):
        return spine.append_column(ONLY, only(spine.num_rows))
    _, blocks = flow.run(_only, [(block,) for block in spine], 1)
    return [block[0] for block in blocks]


def _parts(scan: Scan | ParquetFiles) -> Sequence[Scan | ParquetFiles]:
    return scan.split(_partitions([scan])) or [scan]


def _partitions(scans: Sequence[Scan | ParquetFiles]) -> int:
    size = sum(file.size_bytes for scan in scans for file in scan.files)
    return max(1, min(_MOST_PARTS, -(-size // _PART_BYTES)))
