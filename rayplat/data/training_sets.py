"""Training sets: labelled moments joined with what was known then, pinned and written once.

A `Spine` says which rows: key, moment and label of a table at one version. Every feature table is pinned too, so
the same pins, service and spine give the same rows and the same digest on any machine. Rows are ordered by moment
and key. The join is a broadcast: each feature table is indexed once by a task and shared by all tasks that join a
slice of the spine; the rows of the set never pass through the driver.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from rayplat.data.features import FeatureService, FeatureView
from rayplat.data.point_in_time import FeatureRows, Index, index, join
from rayplat.data.tables.scan import Scan
from rayplat.errors import InvalidInput, NotFound
from rayplat.resources import require_resources
from rayplat.types import TableVersion, TrainingSet, check_name

if TYPE_CHECKING:
    from rayplat.data.tables import Tables

SLICE_ROWS = 131_072
EVENT_TIME = "event_time"
_TIME = pa.timestamp("us", tz="UTC")
_NOTE = "training_set"


@dataclass(frozen=True)
class Spine:
    """Which rows a training set has: ``where`` (an Arrow expression on the table's columns) selects them, rows
    without a label are left out. ``version`` pins the table: a number, a moment, or None for the latest."""

    table: str
    key: str
    event_time: str
    label: str
    where: pc.Expression | None = None
    version: int | datetime | None = None


def build(
    tables: Tables,
    name: str,
    spine: Spine,
    service: FeatureService,
    *,
    pins: Mapping[str, int | datetime] | None = None,
    run_id: str | None = None,
) -> TrainingSet:
    """Join, write as a new version of table ``training_set_<name>``, and describe. Where the newest version already
    is this very set, nothing is written.

    ``pins`` maps feature views to versions of their tables (default: the latest). The label is int8 for a
    truth value. Raises `NotFound` for a table that is not there (build the view first), `Unschedulable` within 10 s
    where not even one task of a CPU fits.
    """
    check_name("training set", name)
    if spine.key != service.entity.join_key:
        raise InvalidInput(
            "spine", f"service {service.name!r} is keyed by {service.entity.join_key!r}, not {spine.key!r}"
        )
    source = tables.version(spine.table, spine.version)
    pinned = {view.name: tables.version(view.table, (pins or {}).get(view.name)) for view in service.views}
    require_resources(f"building the training set {name!r}", [{"CPU": 1}])
    rows = _spine_rows(tables, source, spine)
    scans = {view: tables.scan(pinned[view.name]) for view in service.views}
    parts, contents = _joined(rows, scans, service.features)
    table = f"training_set_{name}"
    all_pins = (source, *pinned.values())
    digest = _digest(all_pins, service, spine, contents)
    found = find(tables, name)
    if found is not None and found.digest == digest:
        return found
    note = {
        "name": name,
        "digest": digest,
        "pins": [asdict(pin) for pin in all_pins],
        "features": list(service.features),
        "label": spine.label,
        "event_time": EVENT_TIME,
        "join_key": spine.key,
        "service": service.name,
        "service_digest": service.digest(),
    }
    noted = {_NOTE: json.dumps(note)}
    data = tables.overwrite(table, parts, run_id=run_id, metadata=noted, replace_schema=True)
    return _described(note, data)


def find(tables: Tables, name: str, version: int | datetime | None = None) -> TrainingSet | None:
    """The training set in the newest (or a given) version of its table; None where there is none."""
    table = f"training_set_{name}"
    if table not in tables.names():
        return None
    data = tables.version(table, version)
    note = tables.metadata(table, data.version).get(_NOTE)
    return None if note is None else _described(json.loads(note), data)


def get(tables: Tables, name: str, version: int | datetime | None = None) -> TrainingSet:
    """As `find`, but raises `NotFound`."""
    found = find(tables, name, version)
    if found is None:
        raise NotFound("training set", name, "build it first")
    return found


def _spine_rows(tables: Tables, source: TableVersion, spine: Spine) -> pa.Table:
    columns = [spine.key, spine.event_time, spine.label]
    labelled = pc.field(spine.label).is_valid()
    rows = tables.read(source, columns=columns, where=labelled if spine.where is None else labelled & spine.where)
    label = rows[spine.label]
    if pa.types.is_boolean(label.type):
        label = label.cast(pa.int8())
    made = pa.table({spine.key: rows[spine.key], EVENT_TIME: rows[spine.event_time].cast(_TIME), spine.label: label})
    return made.sort_by([(EVENT_TIME, "ascending"), (spine.key, "ascending")])


def _joined(rows: pa.Table, scans: Mapping[FeatureView, Scan], features: tuple[str, ...]) -> tuple[Any, list[str]]:
    """A Dataset with one block per slice of the spine, in order, and the content digest of each block."""
    import ray

    index_side = ray.remote(num_cpus=1)(_index)
    join_slice = ray.remote(num_cpus=1, num_returns=2)(_join)
    indexes = [index_side.remote(view, scan, _moments(rows, view.ttl)) for view, scan in scans.items()]
    kept = (*rows.column_names, *features)
    slices = [rows.slice(start, SLICE_ROWS) for start in range(0, max(rows.num_rows, 1), SLICE_ROWS)]
    made = [join_slice.remote(part, kept, *indexes) for part in slices]
    return ray.data.from_arrow_refs([block for block, _ in made]), ray.get([content for _, content in made])


def _moments(rows: pa.Table, ttl: timedelta | None) -> pc.Expression:
    """Feature rows outside of this are no candidate for any row of the spine."""
    ends = pc.min_max(rows[EVENT_TIME])
    wanted = pc.field("event_time") <= ends["max"]
    if ttl is not None and ends["min"].is_valid:
        wanted = wanted & (pc.field("event_time") >= pc.subtract(ends["min"], pa.scalar(ttl, pa.duration("us"))))
    return wanted


def _index(view: FeatureView, scan: Scan, wanted: pc.Expression) -> Index:
    key = view.entity.join_key
    rows = scan.prune(wanted).table([key, "event_time", *view.feature_names], wanted)
    return index(FeatureRows(rows, key, view.feature_names, ttl=view.ttl))


def _join(rows: pa.Table, kept: tuple[str, ...], *indexes: Index) -> tuple[pa.Table, str]:
    joined = join(rows, indexes, event_time=EVENT_TIME).select(list(kept)).combine_chunks()
    content = hashlib.sha256()
    with pa.ipc.new_stream(_HashSink(content), joined.schema) as out:
        out.write_table(joined)
    return joined, content.hexdigest()


class _HashSink:
    """A file that keeps nothing but the digest of what is written."""

    closed = False

    def __init__(self, content: Any) -> None:
        self._content = content

    def write(self, data: Any) -> int:
        self._content.update(data)
        return len(data)

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        self.closed = True


def _digest(pins: tuple[TableVersion, ...], service: FeatureService, spine: Spine, contents: list[str]) -> str:
    tree = {
        "pins": [[pin.table, pin.table_id, pin.version, pin.manifest_digest] for pin in pins],
        "service": service.digest(),
        "spine": [spine.table, spine.key, spine.event_time, spine.label, str(spine.where)],
        "contents": contents,
    }
    text = json.dumps(tree, sort_keys=True, separators=(",", ":"))
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def _described(note: Mapping[str, Any], data: TableVersion) -> TrainingSet:
    return TrainingSet(
        name=note["name"],
        digest=note["digest"],
        data=data,
        pins=tuple(TableVersion(**pin) for pin in note["pins"]),
        features=tuple(note["features"]),
        label=note["label"],
        event_time=note["event_time"],
        join_key=note["join_key"],
    )
