"""Tables that others wrote, made by hand: with deletion vectors, as Spark does it."""

from __future__ import annotations

import json
import struct
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

_Z85 = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"


class Stranger:
    """A table of one column ``a`` whose commits are written as they are."""

    def __init__(self, folder: Path, *, vectors: bool = True, partition_by: tuple[str, ...] = ()) -> None:
        self.folder, self.version = folder, 0
        (folder / "_delta_log").mkdir(parents=True)
        features = ["deletionVectors"] if vectors else []
        protocol = {
            "minReaderVersion": 3,
            "minWriterVersion": 7,
            "readerFeatures": features,
            "writerFeatures": features,
        }
        field = {"name": "a", "type": "long", "nullable": True, "metadata": {}}
        schema = json.dumps({"type": "struct", "fields": [field]})
        about = {"id": "stranger", "format": {"provider": "parquet", "options": {}}, "schemaString": schema}
        rest = {"partitionColumns": list(partition_by), "configuration": {}, "createdTime": 0}
        self.commit({"protocol": protocol}, {"metaData": about | rest})

    def commit(self, *actions: dict[str, Any]) -> int:
        info = {"commitInfo": {"timestamp": int(time.time() * 1000), "operation": "WRITE"}}
        text = "\n".join(json.dumps(action) for action in (info, *actions))
        (self.folder / "_delta_log" / f"{self.version:020d}.json").write_text(text)
        self.version += 1
        return self.version - 1

    def write(self, name: str, *values: int) -> None:
        pq.write_table(pa.table({"a": pa.array(values, pa.int64())}), self.folder / name)

    def add(self, name: str, deleted: tuple[int, ...] = (), *, data_change: bool = True) -> dict[str, Any]:
        rows = pq.read_metadata(self.folder / name).num_rows
        found: dict[str, Any] = {
            "path": name,
            "partitionValues": {},
            "size": (self.folder / name).stat().st_size,
            "modificationTime": int(time.time() * 1000),
            "dataChange": data_change,
            "stats": json.dumps({"numRecords": rows}),
        }
        return {"add": found | ({"deletionVector": vector(deleted)} if deleted else {})}

    def remove(self, name: str, deleted: tuple[int, ...] = (), *, data_change: bool = True) -> dict[str, Any]:
        found = {"path": name, "deletionTimestamp": int(time.time() * 1000), "dataChange": data_change}
        return {"remove": found | ({"deletionVector": vector(deleted)} if deleted else {})}


def vector(rows: tuple[int, ...]) -> dict[str, Any]:
    """An inline deletion vector (Delta protocol, "Deletion Vector Format"): one 32-bit roaring array container."""
    raw = struct.pack("<IqI", 1681511377, 1, 0)
    raw += struct.pack("<IIHHI", 12346, 1, 0, len(rows) - 1, 16)
    raw += b"".join(struct.pack("<H", row) for row in rows)
    size = len(raw)
    return {
        "storageType": "i",
        "pathOrInlineDv": _z85(raw + b"\0" * (-size % 4)),
        "sizeInBytes": size,
        "cardinality": len(rows),
    }


def _z85(raw: bytes) -> str:
    text = ""
    for (number,) in struct.iter_unpack(">I", raw):
        text += "".join(_Z85[number // 85**i % 85] for i in (4, 3, 2, 1, 0))
    return text
