"""Join keys: what may be one, when two are equal, their integer codes for sorting and their hash for a shuffle.

Equal keys are equal whatever their columns' width or encoding: int32 and int64, string and large string, plain and
dictionary. A null (or NaN, where a frame turned integers with holes into floats) is no key. Knows no times.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rayplat.data.point_in_time.times import Ints
from rayplat.errors import SchemaMismatch

Hashes = npt.NDArray[np.uint64]
Mask = npt.NDArray[np.bool_]

_NARROW = 1 << 22
_WHOLE = 2**53
_GOLDEN, _MIX = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9)
_NO_KEY = "no key: integers, strings, binaries, booleans, dates, timestamps and whole decimals are; cast it"


def kind(dtype: pa.DataType) -> str:
    """What a column of ``dtype`` can be compared with; ``null`` with everything."""
    if pa.types.is_dictionary(dtype):
        return kind(dtype.value_type)
    whole = pa.types.is_integer(dtype) or pa.types.is_floating(dtype) or pa.types.is_decimal(dtype)
    tests = {
        "integer": whole,
        "string": pa.types.is_string(dtype) or pa.types.is_large_string(dtype) or pa.types.is_string_view(dtype),
        "binary": pa.types.is_binary(dtype)
        or pa.types.is_large_binary(dtype)
        or pa.types.is_fixed_size_binary(dtype)
        or pa.types.is_binary_view(dtype),
        "boolean": pa.types.is_boolean(dtype),
        "date": pa.types.is_date(dtype),
        "timestamp": pa.types.is_timestamp(dtype),
        "null": pa.types.is_null(dtype),
    }
    return next((name for name, holds in tests.items() if holds), "")


def check_kinds(spine: pa.Schema, features: pa.Schema, names: tuple[str, ...]) -> None:
    """Raises `SchemaMismatch` naming the first key whose two columns cannot be compared."""
    for name in names:
        left, right = spine.field(name).type, features.field(name).type
        if kind(left) != kind(right) and "null" not in (kind(left), kind(right)):
            raise SchemaMismatch(name, f"the spine has {left}, the feature rows have {right}; cast one of them")


def canonical(column: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    """int64, large_string or large_binary; equal keys have equal values. Raises `SchemaMismatch` for a column that
    holds no keys."""
    dtype, found = column.type, kind(column.type)
    if not found:
        raise SchemaMismatch(name, f"{dtype} is {_NO_KEY}")
    if pa.types.is_dictionary(dtype):
        return canonical(column.cast(dtype.value_type), name)
    try:
        if found in ("string", "binary"):
            return column.cast(pa.large_string() if found == "string" else pa.large_binary())
        if pa.types.is_floating(dtype):
            return _whole(column, name)
        if found == "boolean":
            return column.cast(pa.int8()).cast(pa.int64())
        if found == "date":
            return column.cast(pa.date32()).cast(pa.int32()).cast(pa.int64())
        if found == "timestamp":
            return column.cast(pa.timestamp("us", dtype.tz)).cast(pa.int64())
        return column.cast(pa.int64())
    except pa.ArrowInvalid as e:
        raise SchemaMismatch(name, f"{dtype} holds values that are {_NO_KEY} ({e})") from e


def _whole(column: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    values = column.cast(pa.float64())
    values = pc.if_else(pc.is_nan(values), pa.scalar(None, pa.float64()), values)
    largest = pc.max(pc.abs(values)).as_py()
    if largest is not None and largest > _WHOLE:
        raise SchemaMismatch(name, f"{column.type} holds {largest}, too large to be exact; cast it to an integer")
    return values.cast(pa.int64())


@dataclass(frozen=True)
class _Column:
    """Codes 0 to size - 1: distance from ``low``, or place among ``values``."""

    low: int
    size: int
    values: pa.Array | None

    def find(self, column: pa.ChunkedArray) -> Ints:
        """Codes; -1 for null and for what is not among them."""
        if self.values is not None:
            if not column.type.equals(self.values.type):  # a column of nulls only
                return np.full(len(column), -1, np.int64)
            return _ints(pc.index_in(column, value_set=self.values, skip_nulls=True).cast(pa.int64()), -1)
        numbers = _ints(column, self.low - 1 if self.low > np.iinfo(np.int64).min else self.low + self.size)
        inside = (numbers >= self.low) & (numbers <= self.low + self.size - 1)
        if inside.all():
            return numbers - self.low
        return np.where(inside, np.where(inside, numbers, self.low) - self.low, -1)


@dataclass(frozen=True)
class KeyCodes:
    """The distinct keys of a table as integers 0 to ``size`` - 1, so that a key and a time can be one number."""

    names: tuple[str, ...]
    schema: pa.Schema
    columns: tuple[_Column, ...]
    dense: tuple[pa.Array | None, ...]
    size: int

    def find(self, keys: pa.Table) -> Ints:
        """The code of each row of ``keys``; -1 where it holds a null or is not known. Raises `SchemaMismatch`."""
        check_kinds(keys.schema, self.schema, self.names)
        codes = np.zeros(keys.num_rows, np.int64)
        for name, column, dense in zip(self.names, self.columns, self.dense, strict=True):
            own = column.find(canonical(keys[name], name))
            codes = np.where((codes < 0) | (own < 0), -1, codes * column.size + own) if len(self.names) > 1 else own
            if dense is not None:
                codes = _ints(pc.index_in(pa.array(codes), value_set=dense).cast(pa.int64()), -1)
        return codes


def encode(keys: pa.Table) -> tuple[KeyCodes, Ints]:
    """The codes of all keys of a table without nulls, and the code of each row."""
    columns: list[_Column] = []
    dense: list[pa.Array | None] = []
    codes, size = np.zeros(keys.num_rows, np.int64), 1
    limit = min(max(_NARROW, 4 * keys.num_rows), 2**31)
    for name in keys.column_names:
        column, own = _encode(canonical(keys[name], name), limit)
        codes, size = (codes * column.size + own if columns else own), size * column.size
        columns.append(column)
        again = None
        if size > limit:
            again, codes = _numbered(pa.chunked_array([codes]))
            size = len(again)
        dense.append(again)
    return KeyCodes(tuple(keys.column_names), keys.schema, tuple(columns), tuple(dense), max(size, 1)), codes


def _encode(column: pa.ChunkedArray, limit: int) -> tuple[_Column, Ints]:
    if pa.types.is_integer(column.type) and len(column):
        numbers = _ints(column, 0)
        low, high = int(numbers.min()), int(numbers.max())
        if high - low < limit:
            return _Column(low, high - low + 1, None), numbers - low
    values, codes = _numbered(column)
    return _Column(0, max(len(values), 1), values), codes


def _numbered(column: pa.ChunkedArray) -> tuple[pa.Array, Ints]:
    """The distinct values, and each row's place among them."""
    encoded = pc.dictionary_encode(column)
    if encoded.num_chunks == 0:
        return pa.array([], column.type), np.zeros(0, np.int64)
    parts = [chunk.indices.to_numpy(zero_copy_only=False) for chunk in encoded.chunks]
    return encoded.chunks[-1].dictionary, np.concatenate(parts).astype(np.int64)


def hashed(keys: pa.Table) -> tuple[Hashes, Mask]:
    """A 64-bit hash of each row, the same for equal keys on every machine and in every run, and which rows have a
    null in them (their hash says nothing)."""
    total: Hashes | None = None
    missing = np.zeros(keys.num_rows, np.bool_)
    for name in keys.column_names:
        column = canonical(keys[name], name)
        if column.null_count:
            missing |= column.is_null().to_numpy()
        is_number = pa.types.is_integer(column.type)
        own = _ints(column, 0).view(np.uint64) if is_number else _hashed_bytes(column)
        total = _mixed(own.copy() if total is None else total * _GOLDEN + own)
    return np.zeros(keys.num_rows, np.uint64) if total is None else total, missing


def places(hashes: Hashes, count: int) -> npt.NDArray[np.uint16]:
    """Which of ``count`` places (at most 65,535) each hash belongs to, by its upper half."""
    share = hashes >> np.uint64(32)
    share *= np.uint64(count)
    share >>= np.uint64(32)
    return share.astype(np.uint16)


def _mixed(values: Hashes) -> Hashes:
    """In place: the finalizer of SplitMix64 (Steele, Lea, Flood 2014), with one multiplier of its own."""
    moved = values >> np.uint64(30)
    values ^= moved
    values *= _MIX
    np.right_shift(values, np.uint64(27), out=moved)
    values ^= moved
    values *= _GOLDEN
    np.right_shift(values, np.uint64(31), out=moved)
    values ^= moved
    return values


def _hashed_bytes(column: pa.ChunkedArray) -> Hashes:
    parts = [_hashed_chunk(chunk) for chunk in column.chunks if len(chunk)]
    return np.concatenate(parts) if parts else np.zeros(0, np.uint64)


def _hashed_chunk(chunk: pa.Array) -> Hashes:
    """Eight bytes of every row at a time, so the loop runs over the longest row's words and never over rows."""
    _, offsets, data = chunk.buffers()
    ends = np.frombuffer(offsets, np.int64)[chunk.offset : chunk.offset + len(chunk) + 1]
    first, last = int(ends[0]), int(ends[-1])
    text = np.zeros(last - first + 8, np.uint8)
    if last > first:
        text[: last - first] = np.frombuffer(data, np.uint8)[first:last]
    words = np.lib.stride_tricks.as_strided(text[:8].view(np.uint64), shape=(len(text) - 7,), strides=(1,))
    start, left = ends[:-1] - first, np.diff(ends)
    if chunk.null_count:
        left = np.where(chunk.is_valid().to_numpy(zero_copy_only=False), left, 0)
    total = _mixed(left.astype(np.uint64) * _GOLDEN)
    masks = np.array([2 ** (8 * n) - 1 for n in range(9)], np.uint64)
    rows: Ints | None = None  # which rows go on; None: all
    while len(left) and (longest := int(left.max())) > 0:
        if rows is not None or int(left.min()) <= 0:
            going = np.flatnonzero(left > 0)
            rows = going if rows is None else rows[going]
            start, left = start[going], left[going]
        word = words[start] & masks[np.minimum(left, 8)] if longest else words[start]
        if rows is None:
            total = _mixed(total ^ word)
        else:
            total[rows] = _mixed(total[rows] ^ word)
        start, left = start + 8, left - 8
    return total


def _ints(column: pa.ChunkedArray | pa.Array, missing: int) -> Ints:
    """int64 with nulls as ``missing``."""
    filled = column.fill_null(missing) if column.null_count else column
    found: Ints = filled.to_numpy()
    return found
