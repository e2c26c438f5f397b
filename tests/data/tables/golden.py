"""Delta tables written by hand, byte by byte where it matters, as other engines would write them."""

from __future__ import annotations

import base64
import json
import struct
import uuid
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

AT = 1_700_000_000_000


def field(name: str, dtype: Any, nullable: bool = True, **metadata: Any) -> dict[str, Any]:
    return {"name": name, "type": dtype, "nullable": nullable, "metadata": metadata}


def mapped(name: str, dtype: Any, physical: str, number: int) -> dict[str, Any]:
    """A field under column mapping."""
    return field(name, dtype, **{"delta.columnMapping.physicalName": physical, "delta.columnMapping.id": number})


def struct_of(*fields: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "struct", "fields": list(fields)}


def array_of(dtype: Any) -> dict[str, Any]:
    return {"type": "array", "elementType": dtype, "containsNull": True}


def map_of(key: Any, value: Any) -> dict[str, Any]:
    return {"type": "map", "keyType": key, "valueType": value, "valueContainsNull": True}


class Log:
    """A table under ``folder``; every `commit` is one version."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._log = folder / "_delta_log"
        self._log.mkdir(parents=True)
        self.version = -1

    def begin(
        self,
        *fields: Mapping[str, Any],
        partition_by: Sequence[str] = (),
        features: Sequence[str] = (),
        writer_features: Sequence[str] = (),
        protocol: Mapping[str, Any] | None = None,
        configuration: Mapping[str, str] | None = None,
        table_id: str = "golden",
        info: Mapping[str, Any] | None = None,
    ) -> Log:
        """The first commit: protocol and schema."""
        writers = [*features, *writer_features]
        plain: dict[str, Any] = {"minReaderVersion": 1, "minWriterVersion": 2}
        if writers:
            plain = {"minReaderVersion": 3 if features else 1, "minWriterVersion": 7, "writerFeatures": writers}
            plain |= {"readerFeatures": list(features)} if features else {}
        self.commit(
            {"protocol": dict(protocol or plain)}, schema(fields, partition_by, configuration, table_id), info=info
        )
        return self

    def commit(self, *actions: Mapping[str, Any], info: Mapping[str, Any] | None = None) -> None:
        self.version += 1
        lines = [*([{"commitInfo": dict(info)}] if info is not None else []), *actions]
        text = "\n".join(json.dumps(action) for action in lines)
        (self._log / f"{self.version:020d}.json").write_text(text)

    def file(
        self,
        rows: pa.Table,
        path: str = "",
        partition: Mapping[str, str | None] | None = None,
        statistics: Mapping[str, Any] | None = None,
        **more: Any,
    ) -> dict[str, Any]:
        """Write a data file; the action that adds it. ``path`` is as the log has it (encoded once)."""
        from urllib.parse import unquote

        path = path or f"{uuid.uuid4()}.parquet"
        target = self.folder / unquote(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(rows, target, use_deprecated_int96_timestamps=more.pop("int96", False))
        add: dict[str, Any] = {"path": path, "partitionValues": dict(partition or {}), "size": target.stat().st_size}
        add |= {"modificationTime": AT + self.version, "dataChange": True, **more}
        if statistics is not None or "deletionVector" in more:  # the format demands the number of rows then
            add["stats"] = json.dumps({"numRecords": rows.num_rows, **(statistics or {})})
        return {"add": add}


def schema(
    fields: Sequence[Mapping[str, Any]],
    partition_by: Sequence[str] = (),
    configuration: Mapping[str, str] | None = None,
    table_id: str = "golden",
) -> dict[str, Any]:
    """The action that declares the columns."""
    return {
        "metaData": {
            "id": table_id,
            "format": {"provider": "parquet", "options": {}},
            "schemaString": json.dumps(struct_of(*fields)),
            "partitionColumns": list(partition_by),
            "configuration": dict(configuration or {}),
            "createdTime": AT,
        }
    }


def inline_vector(positions: Sequence[int]) -> dict[str, Any]:
    """A deletion vector inside the log."""
    data = _bitmap(positions)
    return {"storageType": "i", "pathOrInlineDv": _z85(data), "sizeInBytes": len(data), "cardinality": len(positions)}


def stored_vector(folder: Path, positions: Sequence[int], absolute: bool = False) -> dict[str, Any]:
    """A deletion vector in a file beside the data."""
    data, name = _bitmap(positions), uuid.uuid4()
    path = folder / f"deletion_vector_{name}.bin"
    path.write_bytes(b"\x01" + struct.pack(">i", len(data)) + data + struct.pack(">I", zlib.crc32(data)))
    kind, text = ("p", path.as_uri()) if absolute else ("u", _z85(name.bytes))
    found = {"storageType": kind, "pathOrInlineDv": text, "offset": 1, "sizeInBytes": len(data)}
    return found | {"cardinality": len(positions)}


def _bitmap(positions: Sequence[int]) -> bytes:
    """RoaringBitmapArray, portable: one bitmap with one array container (all positions below 65,536)."""
    container = struct.pack(f"<{len(positions)}H", *sorted(positions))
    roaring = struct.pack("<II", 12346, 1) + struct.pack("<HH", 0, len(positions) - 1) + struct.pack("<I", 16)
    return struct.pack("<iq", 1681511377, 1) + struct.pack("<i", 0) + roaring + container


_ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"
_PYTHONS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%&()*+-;<=>?@^_`{|}~"


def _z85(data: bytes) -> str:
    padded = data + b"\0" * (-len(data) % 4)
    return base64.b85encode(padded).decode().translate(str.maketrans(_PYTHONS, _ALPHABET))
