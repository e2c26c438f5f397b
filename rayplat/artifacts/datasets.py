"""A dataset as an artifact: the identity of one version of one table, as a canonical document.

The table's files are not copied: Delta's own are immutable, and a pin keeps them (`rayplat.data.tables`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict

from rayplat.artifacts.manifest import canonical, check_digest
from rayplat.errors import InvalidInput
from rayplat.types import TableVersion

KIND = "dataset"
FORMAT = "rayplat-dataset/1"


def dataset(pin: TableVersion, files: Mapping[str, int] | None = None) -> bytes:
    """The document to put with kind `KIND`. ``files`` are the version's files by path, with their sizes in bytes.

    Raises `InvalidInput` for a pin that does not identify a version.
    """
    for field in ("manifest_digest", "schema_digest"):
        check_digest(field, getattr(pin, field))
    if not pin.table_id or type(pin.version) is not int or pin.version < 0:
        raise InvalidInput("dataset", f"table {pin.table!r} needs its table id and a version number of 0 or more")
    document: dict[str, object] = {"format": FORMAT, "pin": asdict(pin)}
    if files is not None:
        if any(type(size) is not int or size < 0 for size in files.values()):
            raise InvalidInput("dataset", "the size of each file is a number of bytes")
        document["files"] = [{"path": path, "size": files[path]} for path in sorted(files)]
    return canonical(document)


def read(content: bytes) -> TableVersion:
    """The version that a document identifies. Raises `InvalidInput` for bytes that are none."""
    try:
        found = json.loads(content)
        if found["format"] != FORMAT:
            raise InvalidInput("dataset", f"format {found['format']!r} is not {FORMAT!r}")
        pin = TableVersion(**found["pin"])
        files = {file["path"]: file["size"] for file in found["files"]} if "files" in found else None
        same = dataset(pin, files) == content
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
        raise InvalidInput("dataset", f"the object is no dataset document ({type(e).__name__})") from e
    if not same:
        raise InvalidInput("dataset", "the document is not in canonical form")
    return pin
