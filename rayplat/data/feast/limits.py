"""How large a question may be to be answered in this process."""

from __future__ import annotations

from dataclasses import dataclass

from rayplat.data.feast.parquet import ParquetFiles
from rayplat.data.tables.scan import Scan


@dataclass(frozen=True)
class Limits:
    """Where a question is answered: above ``in_process_bytes`` of files and entity rows on the Ray cluster at
    ``ray_address`` (None: the one this process is in, else a local one that is started)."""

    in_process_bytes: int
    ray_address: str | None = None


def size_of(scan: Scan | ParquetFiles) -> int:
    """Bytes of the files."""
    return sum(file.size_bytes for file in scan.files)
