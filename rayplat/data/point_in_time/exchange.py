"""Bringing all rows of a key together, in plain Ray tasks between two Ray Data stages.

Not by Ray Data's keyed shuffle: it sends equal keys to different places when a block holds a null, and starts new
worker processes for each stage of each shuffle, which costs more than the work itself on a small cluster.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

if TYPE_CHECKING:
    from ray.data import Dataset


def by_key(rows: Dataset, key: str, partitions: int) -> Dataset:
    """The same rows in at most ``partitions`` blocks; all rows of a key are in one block, in their order. Rows
    without a key are in the first. Tasks of one CPU each: the caller has made sure that one fits."""
    import ray

    cut, join = ray.remote(num_cpus=1)(split), ray.remote(num_cpus=1)(_together)
    cuts: list[Any] = [
        cut.options(num_returns=partitions).remote(block, key, partitions) for block in rows.to_arrow_refs()
    ]
    if partitions == 1:
        return ray.data.from_arrow_refs([join.remote(*cuts)])
    return ray.data.from_arrow_refs([join.remote(*(parts[i] for parts in cuts)) for i in range(partitions)])


def split(rows: pa.Table, key: str, partitions: int) -> tuple[pa.Table, ...] | pa.Table:
    """The rows of each partition."""
    encoded = pc.dictionary_encode(rows[key].combine_chunks())
    if isinstance(encoded, pa.ChunkedArray):  # an empty column stays chunked
        return tuple(rows for _ in range(partitions)) if partitions > 1 else rows
    of_key = np.array([*(_hash(str(name)) % partitions for name in encoded.dictionary.to_pylist()), 0])
    of_row = of_key[encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False)]
    parts = tuple(rows.filter(pa.array(of_row == i)) for i in range(partitions))
    return parts if partitions > 1 else parts[0]


def _together(*parts: pa.Table) -> pa.Table:
    return pa.concat_tables(parts)


def _hash(text: str) -> int:
    """The same on every worker and in every run (FNV-1a, 64 bits)."""
    found = 0xCBF29CE484222325
    for byte in text.encode():
        found = (found ^ byte) * 0x100000001B3 % 2**64
    return found
