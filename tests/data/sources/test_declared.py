"""Sources in plain values."""

from __future__ import annotations

import pyarrow as pa
import pytest

from rayplat.data.sources import FileSource, SqlSource, declared
from rayplat.errors import InvalidInput, SchemaMismatch
from rayplat.types import SourceSpec


def test_files_and_databases() -> None:
    types = {"i": "int64", "t": "timestamp", "d": "decimal128(10, 2)", "z": "timestamp[ms, tz=UTC]", "s": "string"}
    files = declared(SourceSpec("a", "csv", "/in", types, delimiter=";", nulls=("", "NA")))
    schema = pa.schema(
        [
            ("i", pa.int64()),
            ("t", pa.timestamp("us", "UTC")),
            ("d", pa.decimal128(10, 2)),
            ("z", pa.timestamp("ms", "UTC")),
            ("s", pa.string()),
        ]
    )
    assert files == FileSource("a", "/in", "csv", schema, ";", ("", "NA"))
    spec = SourceSpec("b", "sql", "sqlite://", table="t", watermark="n", key=("id",))
    assert declared(spec) == SqlSource("b", "sqlite://", "t", "n", ("id",))
    assert "sqlite" not in repr(spec)


@pytest.mark.parametrize(
    ("spec", "error", "text"),
    [
        (SourceSpec("a", "xml", "/in"), InvalidInput, "'xml' is not one of parquet, csv, json, sql"),
        (SourceSpec("a", "csv", "/in", {"n": "number"}), SchemaMismatch, "n: 'number' is no type"),
        (SourceSpec("a", "csv", "/in", watermark="n"), InvalidInput, "watermark: is for SQL databases"),
        (SourceSpec("a", "sql", "sqlite://", table="t"), InvalidInput, "watermark"),
    ],
)
def test_refusals(spec: SourceSpec, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        declared(spec)
