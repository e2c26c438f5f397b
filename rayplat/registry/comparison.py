"""Two model versions beside each other: what changed between them, section by section. Pure, over what `sheet` read."""

from __future__ import annotations

from dataclasses import replace
from itertools import zip_longest
from typing import TypeVar

from rayplat.artifacts import bundle
from rayplat.artifacts.manifest import Entry
from rayplat.artifacts.store import ArtifactStore
from rayplat.registry.sheet import MLMODEL, PYTHON, REQUIREMENTS, Sheet, Values, read
from rayplat.tracking import Tracking
from rayplat.types import Change, Difference, FileDifference, ModelDiff, ModelVersion, PinDifference, TableVersion
from rayplat.types.comparison import Plain

Item = TypeVar("Item", Difference, PinDifference, FileDifference)

_METADATA = frozenset(
    {
        MLMODEL,
        bundle.SPEC_FILE,
        *REQUIREMENTS,
        PYTHON,
        "input_example.json",
        "serving_input_example.json",
        "input_example_params.json",
        "registered_model_meta",
    }
)


def diff(
    a: ModelVersion, b: ModelVersion, store: ArtifactStore, tracking: Tracking | None, everything: bool = False
) -> ModelDiff:
    """From ``a`` to ``b``: only what differs, or ``everything``."""
    return compare(read(a, store, tracking), read(b, store, tracking), everything)


def compare(a: Sheet, b: Sheet, everything: bool = False) -> ModelDiff:
    """The differences between two versions. Pure."""
    notes = [*a.notes, *(note for note in b.notes if note not in a.notes)]
    in_a, in_b, note = _signatures(a, b)
    notes += [note] if note else []
    notes += [
        f"{s.name} says nothing of its environment: packages are not compared"
        for s, other in ((a, b), (b, a))
        if s.environment is None and s.files is not None and other.environment is not None
    ]
    tracked = a.params is not None and b.params is not None
    metrics = [{**s.metrics, **s.version.metrics} if tracked else s.version.metrics for s in (a, b)]
    found = ModelDiff(
        a.name,
        b.name,
        identity=_differences(_identity(a.version), _identity(b.version)),
        metrics=_differences(*metrics),
        params=_differences(a.params, b.params),
        signature=_differences(in_a, in_b),
        pins=_pins(a.version.pins, b.version.pins),
        environment=_differences(a.environment, b.environment),
        files=_files(a.files, b.files),
        notes=tuple(notes),
    )
    return found if everything else only_differences(found)


def only_differences(found: ModelDiff) -> ModelDiff:
    """``found`` without what is the same in both."""
    return replace(
        found,
        identity=_changed(found.identity),
        metrics=_changed(found.metrics),
        params=_changed(found.params),
        signature=_changed(found.signature),
        pins=_changed(found.pins),
        environment=_changed(found.environment),
        files=_changed(found.files),
    )


# --- pure -----------------------------------------------------------------------------------------


def _changed(items: tuple[Item, ...]) -> tuple[Item, ...]:
    return tuple(item for item in items if item.change is not Change.SAME)


def _change(a: object, b: object) -> Change:
    if a is None or b is None:
        return Change.SAME if a is b else Change.ADDED if a is None else Change.REMOVED
    return Change.SAME if a == b else Change.CHANGED


def _differences(a: Values | None, b: Values | None) -> tuple[Difference, ...]:
    """By name. A section that one side could not read says nothing of the other side either."""
    if a is None or b is None:
        return ()
    return tuple(_difference(name, a.get(name), b.get(name)) for name in sorted(a.keys() | b.keys()))


def _difference(name: str, a: Plain, b: Plain) -> Difference:
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in (a, b))
    step = float(b) - float(a) if numbers and a is not None and b is not None else None
    return Difference(name, _change(a, b), a, b, step)


def _identity(version: ModelVersion) -> Values:
    return {
        "digest": version.digest,
        "run": version.run_id,
        "author": version.author,
        "training set": version.training_set,
        "baseline": version.baseline,
        "format": version.format or None,
        "payload": version.payload_digest,
        "code": version.code_digest,
        "environment": version.env_digest,
    }


def _signatures(a: Sheet, b: Sheet) -> tuple[Values | None, Values | None, str]:
    """Both in the same form, and a note where there is none that both have."""
    if a.spec is not None and b.spec is not None:
        return a.spec, b.spec, ""
    if a.signature is not None and b.signature is not None:
        return a.signature, b.signature, ""
    without = [s.name for s in (a, b) if s.spec is None and s.signature is None and s.files is not None]
    if without:
        verb = "carries" if len(without) == 1 else "carry"
        return None, None, f"{' and '.join(without)} {verb} no signature: signatures are not compared"
    if a.files is None or b.files is None:
        return None, None, ""
    return None, None, "one version has only MLflow's signature, the other only ours: signatures are not compared"


def _pins(a: tuple[TableVersion, ...], b: tuple[TableVersion, ...]) -> tuple[PinDifference, ...]:
    """Tables in order of their names; one that is pinned at several versions is compared version by version."""
    found = []
    for table in sorted({pin.table for pin in (*a, *b)}):
        sides = [sorted((p for p in pins if p.table == table), key=lambda p: p.version) for pins in (a, b)]
        for old, new in zip_longest(*sides):
            found.append(_pin(table, old, new))
    return tuple(found)


def _pin(table: str, a: TableVersion | None, b: TableVersion | None) -> PinDifference:
    one = None if a is None else (a.table_id, a.version, a.manifest_digest)
    other = None if b is None else (b.table_id, b.version, b.manifest_digest)
    return PinDifference(
        table,
        _change(one, other),
        None if a is None else a.version,
        None if b is None else b.version,
        None if a is None else a.row_count,
        None if b is None else b.row_count,
        recreated=a is not None and b is not None and a.table_id != b.table_id,
    )


def _files(a: tuple[Entry, ...] | None, b: tuple[Entry, ...] | None) -> tuple[FileDifference, ...]:
    if a is None or b is None:
        return ()
    old, new = ({e.path: e for e in entries} for entries in (a, b))
    return tuple(_file(path, old.get(path), new.get(path)) for path in sorted(old.keys() | new.keys()))


def _file(path: str, a: Entry | None, b: Entry | None) -> FileDifference:
    return FileDifference(
        path,
        _role(path),
        _change(None if a is None else (a.digest, a.executable), None if b is None else (b.digest, b.executable)),
        None if a is None else a.size,
        None if b is None else b.size,
        None if a is None else a.digest,
        None if b is None else b.digest,
    )


def _role(path: str) -> str:
    if path in _METADATA or path.startswith("metadata/"):
        return "metadata"
    return "code" if path.startswith("code/") or path.endswith(".py") else "weights"
