"""Which of Delta's table features are honoured, in reading and in writing. A table that asks for more is refused by
the feature's name: never read wrong, never written in a way that breaks what it promises."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from rayplat.errors import InvalidInput

if TYPE_CHECKING:
    from deltalake import DeltaTable

READ = frozenset(
    {
        "columnMapping",
        "deletionVectors",
        "timestampNtz",
        "typeWidening",
        "typeWidening-preview",
        "v2Checkpoint",
        "vacuumProtocolCheck",
    }
)
# Writer features that ask nothing of a writer until the table uses them: `_used` looks for the use.
WRITTEN = frozenset(
    {
        "appendOnly",
        "changeDataFeed",
        "checkConstraints",
        "columnMapping",
        "deletionVectors",
        "generatedColumns",
        "invariants",
        "timestampNtz",
        "v2Checkpoint",
        "vacuumProtocolCheck",
    }
)
_TYPES = ("variant", "interval", "void")


def schema_tree(table: DeltaTable) -> list[dict[str, Any]]:
    """The fields of the table's schema as the log declares them, metadata included."""
    fields: list[dict[str, Any]] = json.loads(table.schema().to_json())["fields"]
    return fields


def mapping_mode(table: DeltaTable) -> str:
    """``none``, ``name`` or ``id``: how the columns of the files are found."""
    return str(table.metadata().configuration.get("delta.columnMapping.mode") or "none")


def refuse_unreadable(name: str, table: DeltaTable) -> None:
    """Raises `InvalidInput` naming the features that would be read wrong."""
    protocol = table.protocol()
    unknown = sorted(set(protocol.reader_features or []) - READ)
    if protocol.min_reader_version > 3:
        unknown.append(f"reader version {protocol.min_reader_version}")
    if mapping_mode(table) not in ("none", "name", "id"):
        unknown.append(f"column mapping mode {mapping_mode(table)!r}")
    for path, field in _fields(schema_tree(table)):
        if isinstance(field["type"], str) and field["type"].startswith(_TYPES):
            unknown.append(f"the type {field['type']} (column {path})")
    if unknown:
        raise InvalidInput(
            f"table {name}", f"uses {', '.join(unknown)}, which would be read wrong; rewrite it without that"
        )


def refuse_unwritable(name: str, table: DeltaTable, *, removes: bool) -> None:
    """Raises `InvalidInput` naming what the table demands of its writers and ours does not do. ``removes``: whether
    rows that exist are taken away."""
    found = sorted(set(table.protocol().writer_features or []) - WRITTEN)
    found += _used(table)
    if found:
        raise InvalidInput(f"table {name}", f"cannot be written here, it uses {', '.join(dict.fromkeys(found))}")
    if removes and _is_true(table.metadata().configuration.get("delta.appendOnly")):
        raise InvalidInput(f"table {name}", "is append-only (delta.appendOnly): its rows cannot be removed or replaced")


def _used(table: DeltaTable) -> list[str]:
    settings = table.metadata().configuration
    found = [f"check constraint {k.removeprefix('delta.constraints.')}" for k in settings if _is_constraint(k)]
    if mapping_mode(table) != "none":
        found.append(f"column mapping ({mapping_mode(table)})")
    for setting in ("delta.enableRowTracking", "delta.enableInCommitTimestamps", "delta.enableTypeWidening"):
        if _is_true(settings.get(setting)):
            found.append(setting)
    for path, field in _fields(schema_tree(table)):
        for key in field.get("metadata") or {}:
            if key in ("delta.invariants", "delta.generationExpression", "CURRENT_DEFAULT") or _is_identity(key):
                found.append(f"{key} of column {path}")
    return found


def _is_constraint(key: str) -> bool:
    return key.lower().startswith("delta.constraints.")


def _is_identity(key: str) -> bool:
    return key.startswith("delta.identity.")


def _is_true(value: str | None) -> bool:
    return (value or "").lower() == "true"


def _fields(fields: list[dict[str, Any]], under: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every field at every depth with its path."""
    for field in fields:
        path = f"{under}{field['name']}"
        yield path, field
        yield from _inner(field["type"], path)


def _inner(dtype: Any, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    if not isinstance(dtype, Mapping):
        return
    if dtype["type"] == "struct":
        yield from _fields(dtype["fields"], f"{path}.")
    for part in ("elementType", "keyType", "valueType"):
        if part in dtype:
            yield f"{path}.{part}", {"name": part, "type": dtype[part]}
            yield from _inner(dtype[part], f"{path}.{part}")
