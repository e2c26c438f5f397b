"""What a write names: the partition to replace, the keys of an upsert. Checked against the table's columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from rayplat.data.tables.batch import Written
from rayplat.data.tables.files import NewFile
from rayplat.data.tables.place import Place
from rayplat.data.tables.scan import File, Scan
from rayplat.data.tables.schema import conform
from rayplat.errors import InvalidInput, SchemaMismatch

if TYPE_CHECKING:
    from ray.data import Dataset


def partition_values(
    place: Place, schema: pa.Schema, by: Sequence[str], partition: Mapping[str, Any]
) -> dict[str, Any]:
    """``partition`` in the types of the table. Raises `InvalidInput` for anything but values of partition columns."""
    if not partition:
        raise InvalidInput("partition", f"names no column; table {place.name!r} is partitioned by {', '.join(by)}")
    found = {}
    for name, value in partition.items():
        if name not in by:
            raise InvalidInput(
                "partition", f"{name!r} is no partition column of {place.name}: {', '.join(by) or 'none'}"
            )
        try:
            found[name] = pa.scalar(value, schema.field(name).type).as_py()
        except (pa.ArrowInvalid, pa.ArrowTypeError, TypeError) as e:
            raise InvalidInput("partition", f"{name}: {value!r} is no {schema.field(name).type}") from e
    return found


def check_keys(place: Place, schema: pa.Schema, keys: Sequence[str]) -> None:
    """Raises `InvalidInput` or `SchemaMismatch` for what cannot be a key of the table."""
    if isinstance(keys, str) or not keys:
        raise InvalidInput("keys", "give a list of one or more columns")
    for name in keys:
        if name not in schema.names:
            raise SchemaMismatch(name, f"no column of {place.name}; it has {', '.join(schema.names)}")
        if pa.types.is_nested(schema.field(name).type):
            raise InvalidInput("keys", f"{name!r} is {schema.field(name).type}, which cannot be a key")


def keys_of(rows: pa.Table, schema: pa.Schema, keys: Sequence[str]) -> pa.Table:
    """The key columns of ``rows`` in the types of the table."""
    for name in keys:
        if name not in rows.column_names:
            raise SchemaMismatch(name, "a key that is missing in the rows to delete")
    wanted = pa.schema([schema.field(name).with_nullable(True) for name in keys])
    return conform(rows.select(list(keys)), wanted).drop_null()


def all_keys(
    place: Place, data: pa.Table | Dataset, written: Written, keys: Sequence[str], leaving: pa.Table | None
) -> pa.Table:
    """The keys of all rows that go. Raises `InvalidInput` for keys in ``data`` that are null or come twice."""
    assert written.schema is not None
    wanted = pa.schema([written.schema.field(name) for name in keys])
    if isinstance(data, pa.Table):
        found = conform(data.select(list(keys)), wanted)
    else:
        found = with_new(Scan(place, written.schema, ()), written.files).table(list(keys))
    for name in keys:
        if found[name].null_count:
            raise InvalidInput("data", f"{found[name].null_count} rows have no {name!r}, which is a key")
        if pa.types.is_floating(found[name].type) and pc.any(pc.is_nan(found[name])).as_py():
            raise InvalidInput("data", f"some rows have NaN for {name!r}, which is a key")
    counted = found.group_by(list(keys)).aggregate([([], "count_all")])
    if counted.num_rows < found.num_rows:
        some = counted.filter(pc.field("count_all") > 1).slice(0, 3)
        times = zip(some.select(list(keys)).to_pylist(), some["count_all"].to_pylist(), strict=True)
        such = ", ".join(f"{key} ({n} times)" for key, n in times)
        raise InvalidInput("data", f"{found.num_rows - counted.num_rows} rows repeat a key of others, such as {such}")
    if leaving is None or not leaving.num_rows:
        return found
    both = leaving.join(found, list(keys), join_type="left semi")
    if both.num_rows:
        raise InvalidInput("deletes", f"{both.num_rows} keys are in data too, such as {both.slice(0, 3).to_pylist()}")
    leaving = leaving.group_by(list(keys)).aggregate([]).cast(pa.schema([f.with_nullable(True) for f in wanted]))
    return pa.concat_tables([found.cast(leaving.schema), leaving])


def with_new(scan: Scan, files: Sequence[NewFile]) -> Scan:
    """``scan`` and files that are not committed yet."""
    added = []
    for new in files:
        values = {name: _typed(text, scan.schema.field(name).type) for name, text in new.partition.items()}
        added.append(File(f"{scan.uri}/{new.path}", new.size_bytes, new.rows, new.path, values, new.partition))
    return replace(scan, files=(*scan.files, *added))


def _typed(text: str | None, dtype: pa.DataType) -> Any:
    if text is None or pa.types.is_string(dtype):
        return text
    if pa.types.is_timestamp(dtype):
        return pa.scalar(text).cast(pa.timestamp("us")).cast(dtype).as_py()
    return pa.scalar(text).cast(dtype).as_py()
