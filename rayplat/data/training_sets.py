"""Training sets: labelled moments joined with what was known then, pinned and written once.

A `Spine` says which rows: keys, moment and label of a table at one version. Every feature table is pinned too, so
the same pins, service and spine give the same rows and the same digest on any machine and by any plan of the join.
Rows are ordered by moment and key. The pinned versions are kept from being vacuumed for as long as the set is there.
The rows never pass through this process; trainers read them from the set's table (`stream`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from rayplat.data.features import EVENT_TIME, Expr, FeatureService
from rayplat.data.features.notes import built
from rayplat.data.features.sides import side
from rayplat.data.point_in_time.plan import Plan, join_on_cluster
from rayplat.data.tables import upkeep
from rayplat.data.training_rows import SpineColumns, slices, spine_blocks
from rayplat.errors import Conflict, InvalidInput, NotFound, SchemaMismatch
from rayplat.resources import require_resources
from rayplat.types import TableVersion, TrainingSet, check_name

if TYPE_CHECKING:
    from ray.data import Dataset

    from rayplat.data.tables import Tables

_NOTE = "training_set"


@dataclass(frozen=True)
class Spine:
    """Which rows a training set has: ``where`` (an expression on the table's columns) selects them, rows without a
    label are left out. ``version`` pins the table: a number, a moment, or None for the latest.

    The table must hold what a request would carry: the keys, and the inputs of on-request views. ``known_by`` leaves
    out feature rows that were created after the moment, of views that declare ``created``.
    """

    table: str
    key: str | tuple[str, ...]
    event_time: str
    label: str
    where: Expr | pc.Expression | None = None
    version: int | datetime | None = None
    known_by: bool = False

    @property
    def keys(self) -> tuple[str, ...]:
        return (self.key,) if isinstance(self.key, str) else tuple(self.key)

    @property
    def rows(self) -> pc.Expression:
        """True for the rows of the set."""
        labelled = pc.field(self.label).is_valid()
        if self.where is None:
            return labelled
        return labelled & (self.where.to_arrow() if isinstance(self.where, Expr) else self.where)


def build(
    tables: Tables,
    name: str,
    spine: Spine,
    service: FeatureService,
    *,
    pins: Mapping[str, int | datetime] | None = None,
    run_id: str | None = None,
    plan: Plan = "auto",
) -> TrainingSet:
    """Join, write as a new version of table ``training_set_<name>``, and describe. Where the newest version already
    is this very set, nothing is written.

    ``pins`` maps feature views to versions of their tables (default: the latest). The label is int8 for a
    truth value. Raises `NotFound` for a table that is not there (build the view first), `SchemaMismatch` for a
    column that the spine's table lacks, `InvalidInput` where a feature is the label itself, `Unschedulable` within
    10 s where not even one task of a CPU fits.
    """
    table = f"training_set_{check_name('training set', name)}"
    source = tables.version(spine.table, spine.version)
    _check_table(spine, service, tables.scan(source).schema)
    _check_service(spine, service)
    pinned = {view.name: built(tables, view, (pins or {}).get(view.name)) for view in service.stored}
    require_resources(f"building the training set {name!r}", [{"CPU": 1}])
    all_pins = (source, *pinned.values())
    with _pinned(tables, all_pins, name):
        blocks, contents = _joined(tables, spine, service, pinned, source, plan)
        digest = _digest(all_pins, service, spine, contents)
        found = find(tables, name)
        if found is not None and found.digest == digest:
            return found
        note = _note(name, digest, all_pins, spine, service)
        data = _written(tables, table, blocks, note, run_id)
    return _described(note, data)


def find(tables: Tables, name: str, version: int | datetime | None = None) -> TrainingSet | None:
    """The training set in the newest (or a given) version of its table; None where there is none."""
    table = f"training_set_{name}"
    if table not in tables.names():
        return None
    data = tables.version(table, version)
    for number in range(data.version, -1, -1):  # compaction adds versions that hold the same rows
        try:
            noted = tables.metadata(table, number).get(_NOTE)
        except NotFound:
            return None
        if noted is not None:
            return _described(json.loads(noted), data if number == data.version else tables.version(table, number))
    return None


def get(tables: Tables, name: str, version: int | datetime | None = None) -> TrainingSet:
    """As `find`, but raises `NotFound`."""
    found = find(tables, name, version)
    if found is None:
        raise NotFound("training set", name, "build it first")
    return found


def stream(
    tables: Tables, training_set: TrainingSet, columns: Sequence[str] | None = None, where: Expr | None = None
) -> Dataset:
    """The rows of the set as a Ray Dataset that workers read from its files, for trainers."""
    return tables.dataset(training_set.data, columns=columns, where=None if where is None else where.to_arrow())


# --- inside ---------------------------------------------------------------------------------------


def _check_service(spine: Spine, service: FeatureService) -> None:
    if spine.keys != service.entity.join_keys:
        keys = ", ".join(service.entity.join_keys)
        raise InvalidInput("spine", f"service {service.name!r} is keyed by {keys!r}, not {', '.join(spine.keys)!r}")
    for view in service.stored:
        for field in view.fields:
            is_label = view.source == spine.table and spine.label in view.origins(field.name)
            if is_label and spine.label not in dict(view.known_at):
                raise InvalidInput(
                    f"feature {field.name}",
                    f"view {view.name!r} computes it from the label {spine.label!r}: it would read its own future; "
                    "leave it out, or declare in known_at when the label becomes known",
                )
    for name in (spine.label, EVENT_TIME):
        by = next((view.name for view in service.views if name in view.feature_names), None)
        if by is not None:
            raise InvalidInput(f"feature {name}", f"of view {by!r} has the name of the spine's own column; rename it")


def _check_table(spine: Spine, service: FeatureService, schema: pa.Schema) -> None:
    inputs = tuple(field.name for field in service.inputs)
    uses = {"join key": spine.keys, "event time": (spine.event_time,), "label": (spine.label,), "input": inputs}
    for use, names in uses.items():
        for name in names:
            if name not in schema.names:
                there = ", ".join(schema.names)
                raise SchemaMismatch(f"table {spine.table}", f"there is no {use} {name!r} in it; there are {there}")
    found = schema.field(spine.event_time).type
    if not pa.types.is_timestamp(found):
        raise SchemaMismatch(
            f"table {spine.table}", f"event time {spine.event_time!r} must be a timestamp, not {found}"
        )


def _joined(
    tables: Tables,
    spine: Spine,
    service: FeatureService,
    pinned: Mapping[str, TableVersion],
    source: TableVersion,
    plan: Plan,
) -> tuple[list[Any], list[str]]:
    """References to the rows of the set in slices, and the content digest of each slice."""
    inputs = tuple(field.name for field in service.inputs)
    columns = SpineColumns(spine.keys, spine.event_time, spine.label, inputs, spine.rows)
    rows = spine_blocks(tables.scan(source), columns)
    sides = [side(view, tables.scan(pinned[view.name]), known_by=spine.known_by) for view in service.stored]
    joined = join_on_cluster(rows, sides, event_time=EVENT_TIME, ordered=True, plan=plan)
    return slices(joined.blocks, service, (*spine.keys, EVENT_TIME, spine.label, *service.features))


def _written(
    tables: Tables, table: str, blocks: list[Any], note: Mapping[str, Any], run_id: str | None
) -> TableVersion:
    """One commit, unless another writer was faster: then there is one all the same."""
    import ray.data

    before = tables.version(table).version if table in tables.names() else -1
    data = tables.overwrite(
        table,
        ray.data.from_arrow_refs(blocks),
        run_id=run_id,
        transaction=(_NOTE, before + 1),
        metadata={_NOTE: json.dumps(note)},
        replace_schema=True,
    )
    found = find(tables, note["name"])
    if found is None or found.digest != note["digest"]:
        raise Conflict(f"training set {note['name']!r} was built otherwise by another writer meanwhile; build it again")
    upkeep.pin(tables, table, found.data.version, _by(note["name"]), f"holds {note['digest']}")
    return data


@contextmanager
def _pinned(tables: Tables, versions: Sequence[TableVersion], name: str) -> Iterator[None]:
    """Keeps ``versions`` from being vacuumed; after a failure only those that were kept before."""
    by = _by(name)
    made = []
    for at in versions:
        kept = any(pin.version == at.version and pin.by == by for pin in upkeep.pins(tables, at.table))
        if not kept:
            upkeep.pin(tables, at.table, at.version, by, f"training set {name} was computed from it")
            made.append(at)
    try:
        yield
    except BaseException:
        for at in made:
            upkeep.unpin(tables, at.table, at.version, by)
        raise


def _by(name: str) -> str:
    return f"training_set:{name}"


def _digest(pins: tuple[TableVersion, ...], service: FeatureService, spine: Spine, contents: list[str]) -> str:
    tree = {
        "pins": [[pin.table, pin.table_id, pin.version, pin.manifest_digest] for pin in pins],
        "service": service.digest(),
        "spine": [spine.table, list(spine.keys), spine.event_time, spine.label, str(spine.where), spine.known_by],
        "contents": contents,
    }
    text = json.dumps(tree, sort_keys=True, separators=(",", ":"))
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def _note(
    name: str, digest: str, pins: tuple[TableVersion, ...], spine: Spine, service: FeatureService
) -> dict[str, Any]:
    return {
        "name": name,
        "digest": digest,
        "pins": [asdict(pin) for pin in pins],
        "features": list(service.features),
        "label": spine.label,
        "event_time": EVENT_TIME,
        "keys": list(spine.keys),
        "service": service.name,
        "service_digest": service.digest(),
    }


def _described(note: Mapping[str, Any], data: TableVersion) -> TrainingSet:
    return TrainingSet(
        name=note["name"],
        digest=note["digest"],
        data=data,
        pins=tuple(TableVersion(**pin) for pin in note["pins"]),
        features=tuple(note["features"]),
        label=note["label"],
        event_time=note["event_time"],
        join_key=",".join(note["keys"]),
        keys=tuple(note["keys"]),
        service=note["service"],
        service_digest=note["service_digest"],
    )
