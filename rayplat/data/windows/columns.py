"""Arrow columns as numbers: keys as codes, values of any permitted type as doubles that compare alike.

A value is held as a double everywhere inside windows: numbers as they are, truth values as 0 and 1, times as
microseconds, text as its rank among the texts at hand (bytewise order), NaN for nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rayplat.data.windows.plan import stored_type
from rayplat.data.windows.window import MOMENT
from rayplat.errors import InvalidInput, SchemaMismatch

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

_EXACT = 2**53


def stored(column: str, values: pa.ChunkedArray, target: pa.DataType) -> pa.ChunkedArray:
    """``values`` as the tile table keeps them, in ``target``; NaN becomes null and -0.0 becomes 0.0.

    Raises `InvalidInput` for integers and times that a double cannot tell from their neighbours, `SchemaMismatch`
    for values of another kind.
    """
    if pa.types.is_null(values.type):
        return values.cast(target)
    if stored_type(column, values.type) != target:
        raise SchemaMismatch(column, f"the tiles hold {target}, these events {values.type}")
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    if pa.types.is_integer(values.type) or pa.types.is_timestamp(values.type):
        whole = micros(values) if pa.types.is_timestamp(values.type) else values
        bounds = pc.min_max(whole).as_py()
        for bound in (bounds["min"], bounds["max"]):
            if bound is not None and abs(bound) > _EXACT:
                raise InvalidInput(column, f"{bound} is beyond 2**53, where doubles skip integers; cast it to a string")
    if target == MOMENT:
        return _as_moments(values)
    if target == pa.string():
        return values.cast(pa.string())
    if pa.types.is_boolean(values.type):
        values = values.cast(pa.int8())
    numbers = pc.add(values.cast(pa.float64(), safe=False), pa.scalar(0.0))
    return pc.if_else(pc.fill_null(pc.is_nan(numbers), False), pa.scalar(None, pa.float64()), numbers)


def micros(times: pa.ChunkedArray) -> pa.ChunkedArray:
    """Microseconds since the epoch, finer times rounded down; times without a zone are UTC; nulls stay."""
    return _as_moments(times).cast(pa.int64())


def _as_moments(times: pa.ChunkedArray) -> pa.ChunkedArray:
    if not pa.types.is_timestamp(times.type):
        raise SchemaMismatch("moment", f"a timestamp is needed, got {times.type}")
    if times.type.unit == "ns":
        whole = times.cast(pa.int64())
        down = np.floor_divide(pc.fill_null(whole, 0).to_numpy(), 1000)
        return pa.chunked_array([pa.array(down, pa.int64(), mask=whole.is_null().to_numpy())]).cast(MOMENT)
    try:
        return times.cast(pa.timestamp("us", times.type.tz)).cast(MOMENT)
    except pa.ArrowInvalid as e:
        raise InvalidInput("moment", f"a time lies beyond what microseconds in 64 bits can tell: {e}") from e


@dataclass(frozen=True)
class Texts:
    """The texts at hand, sorted; a text's rank in them stands for it."""

    sorted: pa.Array

    @staticmethod
    def of(arrays: Sequence[pa.Array | pa.ChunkedArray]) -> Texts:
        chunks = [c for a in arrays for c in (a.chunks if isinstance(a, pa.ChunkedArray) else [a])]
        unique = pc.unique(pa.chunked_array(chunks, pa.string())).drop_null()
        return Texts(unique.take(pc.array_sort_indices(unique)))

    def ranks(self, values: pa.Array | pa.ChunkedArray) -> Floats:
        found = pc.index_in(values, value_set=self.sorted)
        return _numpy(found.cast(pa.float64()))

    def take(self, ranks: Floats) -> pa.Array:
        missing = np.isnan(ranks)
        return self.sorted.take(pa.array(np.where(missing, 0, ranks).astype(np.int64), mask=missing))

    def hashes(self) -> npt.NDArray[np.uint64]:
        """A 64-bit hash of each, the same everywhere (BLAKE2b)."""
        digests = [hashlib.blake2b(t.encode(), digest_size=8).digest() for t in self.sorted.to_pylist()]
        return np.frombuffer(b"".join(digests), "<u8")


def doubles(values: pa.Array | pa.ChunkedArray, texts: Texts | None) -> Floats:
    """Stored values as doubles."""
    if texts is not None:
        return texts.ranks(values)
    if pa.types.is_timestamp(values.type):
        values = values.cast(pa.int64()).cast(pa.float64())
    return _numpy(values)


def arrow(values: Floats, dtype: pa.DataType, texts: Texts | None = None) -> pa.Array:
    """The way back from doubles to stored or declared values; NaN gives null."""
    if texts is not None:
        return texts.take(values)
    missing = np.isnan(values)
    if dtype == pa.float64():
        return pa.array(values, mask=missing)
    whole = pa.array(np.where(missing, 0, values).astype(np.int64), mask=missing)
    return whole.cast(pa.int8()).cast(dtype) if dtype == pa.bool_() else whole.cast(dtype)


def number_hashes(values: Floats) -> npt.NDArray[np.uint64]:
    """A 64-bit hash of each double, the same everywhere (the finaliser of SplitMix64, Steele et al. 2014)."""
    x = (values + 0.0).view(np.uint64).copy()
    x += np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@dataclass(frozen=True)
class KeyIndex:
    """The distinct keys of some rows, in order; a key's code is its rank. ``pairs`` are the combinations that occur,
    one array for each key column after the first."""

    columns: tuple[pa.Array, ...]
    pairs: tuple[Ints, ...]

    @staticmethod
    def of(keys: pa.Table) -> tuple[KeyIndex, Ints]:
        """The index of ``keys`` (one column for each part, no nulls) and each row's code."""
        columns: list[pa.Array] = []
        pairs: list[Ints] = []
        codes = np.zeros(keys.num_rows, np.int64)
        for i, column in enumerate(keys.columns):
            values, ranks = _ranked(column)
            columns.append(values)
            if i == 0:
                codes = ranks
                continue
            found, codes = np.unique(codes * (len(values) + 1) + ranks, return_inverse=True)
            pairs.append(found)
        return KeyIndex(tuple(columns), tuple(pairs)), codes

    def __len__(self) -> int:
        return len(self.pairs[-1] if self.pairs else self.columns[0])

    def codes(self, keys: pa.Table) -> Ints:
        """The code of each row of ``keys``; -1 for one that is not in the index or has a null part."""
        codes = np.zeros(keys.num_rows, np.int64)
        for i, (values, column) in enumerate(zip(self.columns, keys.columns, strict=True)):
            if not column.type.equals(values.type):
                column = _alike(keys.column_names[i], column, values.type)
            found = pc.index_in(column, value_set=values, skip_nulls=True).fill_null(-1).to_numpy().astype(np.int64)
            if i == 0:
                codes = found
                continue
            known, pair = self.pairs[i - 1], codes * (len(values) + 1) + found
            place = np.minimum(np.searchsorted(known, pair), max(len(known) - 1, 0))
            hit = (codes >= 0) & (found >= 0) & (len(known) > 0)
            hit[hit] = known[place[hit]] == pair[hit]
            codes = np.where(hit, place, -1)
        return codes


def whole_keys(keys: pa.Table) -> pa.Table:
    """``keys`` with floats and decimals as int64 (frames turn integers with holes into floats), NaN as null. Raises
    `SchemaMismatch` for one that is not whole, or a float beyond 2**53."""
    for i, name in enumerate(keys.column_names):
        column = keys.column(i)
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        if pa.types.is_floating(column.type):
            column = column.cast(pa.float64())
            column = pc.if_else(pc.is_nan(column), pa.scalar(None, pa.float64()), column)
            largest = pc.max(pc.abs(column)).as_py()
            if largest is not None and largest > _EXACT:
                raise SchemaMismatch(name, f"the keys hold {largest}, too large to be exact; cast them to integers")
        elif not pa.types.is_decimal(column.type):
            continue
        try:
            keys = keys.set_column(i, name, column.cast(pa.int64()))
        except pa.ArrowInvalid as e:
            raise SchemaMismatch(name, f"{column.type} holds values that are no whole numbers ({e})") from e
    return keys


def _ranked(column: pa.ChunkedArray) -> tuple[pa.Array, Ints]:
    encoded = pc.dictionary_encode(column.combine_chunks())
    if isinstance(encoded, pa.ChunkedArray):
        encoded = pa.array([], column.type).dictionary_encode() if encoded.num_chunks == 0 else encoded.chunk(0)
    order = pc.array_sort_indices(encoded.dictionary)
    rank = np.empty(len(order), np.int64)
    rank[order.to_numpy()] = np.arange(len(order))
    return encoded.dictionary.take(order), rank[encoded.indices.to_numpy()]


def _alike(name: str, column: pa.ChunkedArray, dtype: pa.DataType) -> pa.ChunkedArray:
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_null(column.type) or pa.types.is_integer(column.type) == pa.types.is_integer(dtype):
        try:
            return column.cast(dtype)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as e:
            raise SchemaMismatch(name, f"keys of type {column.type} cannot be looked up among {dtype}") from e
    raise SchemaMismatch(name, f"keys of type {column.type} cannot be looked up among {dtype}")


def _numpy(values: pa.Array | pa.ChunkedArray) -> Floats:
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks() if values.num_chunks else pa.array([], values.type)
    found: Floats = values.to_numpy(zero_copy_only=False)
    return found
