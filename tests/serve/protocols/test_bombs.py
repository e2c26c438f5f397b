"""Small bodies that would cost minutes or gigabytes: refused, or read for what they are."""

from __future__ import annotations

import io
import time
import tracemalloc
from typing import Any

import orjson
import pyarrow as pa
import pytest
from pyarrow import parquet

from rayplat.errors import BadRequest, InvalidInput, RayplatError, TooLarge
from rayplat.serve.protocols import mlflow, v2
from rayplat.types import Signature, TensorSpec

OPEN = Signature(inputs=(), outputs=(), open=True)
TABLE = Signature(inputs=(TensorSpec("a", "FP64"), TensorSpec("b", "FP64")), outputs=(TensorSpec("p", "FP64"),))
TEXTS = Signature(inputs=(TensorSpec("input-0", "BYTES", (-1, 2)),), outputs=())
JSON = "application/json"
LONG = "x" * 100_000


def refused(kind: type[RayplatError], body: bytes, media: str = JSON, signature: Signature = TABLE) -> str:
    began = time.monotonic()
    with pytest.raises(kind) as e:
        mlflow.parse(body, media, signature, 10_000)
    assert time.monotonic() - began < 5
    return str(e.value)


def test_rows_that_leave_out_a_million_cells_are_not_filled_up() -> None:
    ragged = [list(range(20_000)), *([] for _ in range(5_000))]
    said = refused(TooLarge, orjson.dumps({"dataframe_split": {"data": ragged}}))
    assert said.startswith("dataframe_split has 100000000 missing cells")
    apart = [{f"{row}-{i}": 1 for i in range(20)} for row in range(3_000)]
    for name in ("dataframe_records", "instances", "inputs"):
        said = refused(TooLarge, orjson.dumps({name: apart}), signature=OPEN)
        assert said.startswith(f"{name} has 179940000 missing cells")


def test_a_few_missing_cells_are_filled_up() -> None:
    body = orjson.dumps({"dataframe_split": {"data": [[1, 2], []]}})
    signature = Signature(inputs=tuple(TensorSpec(n, "FP64", nullable=True) for n in "ab"), outputs=())
    columns = orjson.dumps({"dataframe_records": [{"a": 1, "b": 2}, {"a": 3}]})
    assert mlflow.parse(columns, JSON, signature, 10).rows == mlflow.parse(body, JSON, OPEN, 10).rows == 2


@pytest.mark.parametrize(
    ("signature", "given"),
    [
        (OPEN, {"inputs": [LONG] + ["a"] * 5_000}),
        (OPEN, {"dataframe_split": {"columns": ["a"], "data": [[LONG]] + [["a"]] * 5_000}}),
        (TEXTS, {"inputs": [[LONG, "b"]] + [["a", "b"]] * 5_000}),
    ],
)
def test_one_long_text_does_not_make_the_others_long(signature: Signature, given: dict[str, Any]) -> None:
    body = orjson.dumps(given)
    tracemalloc.start()
    try:
        found = mlflow.parse(body, JSON, signature, 10_000)
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()
    assert found.rows == 5_001


def test_uneven_texts_are_no_array() -> None:
    for rows in ([["a", "b"], ["c"]], [["a", "b"], "c"], [["a", ["b"]], ["c", "d"]]):
        with pytest.raises(InvalidInput, match="no array of one shape"):
            mlflow.parse(orjson.dumps({"inputs": rows}), JSON, TEXTS, 10)


def test_a_csv_file_of_a_million_columns() -> None:
    for body in (b"," * 1_000_000 + b"\n1\n", b'"\n",\n' + b"," * 1_000_000, b" \n" + b"," * 1_000_000):
        assert "columns, the limit is 10000" in refused(TooLarge, body, "text/csv")
    refused(BadRequest, b'"' + b"," * 200_000, "text/csv")
    assert mlflow.parse(b"a,b\n" + b"1,2\n" * 9_999, "text/csv", TABLE, 10_000).rows == 9_999


def parquet_of(**columns: Any) -> bytes:
    file = io.BytesIO()
    dictionary = [name for name, values in columns.items() if pa.types.is_string(values.type)]
    parquet.write_table(pa.table(columns), file, compression="zstd", use_dictionary=dictionary)
    return file.getvalue()


def test_a_parquet_file_that_unpacks_to_more_than_memory_holds() -> None:
    media = "application/vnd.apache.parquet"
    packed = parquet_of(a=pa.array([0.0] * 9_000_000))
    assert "the unpacked Parquet file has" in refused(TooLarge, packed, media)
    rows = 2_000
    body = parquet_of(a=pa.array(["x" * 50_000] * rows), b=pa.array(["1"] * (rows - 1) + [None]))
    before = pa.default_memory_pool().max_memory()
    signature = Signature(inputs=tuple(TensorSpec(n, "BYTES", nullable=True) for n in "ab"), outputs=())
    found = mlflow.parse(body, media, signature, 10_000)
    assert found.rows == rows
    assert [found.inputs["a"][-1], found.inputs["b"][-1]] == ["x" * 50_000, None]
    assert pa.default_memory_pool().max_memory() <= max(before, 50e6)


def test_looking_for_what_is_there_twice_takes_one_pass() -> None:
    names = [f"{i:x}" for i in range(150_000)]
    twice = [*names, names[-1]]
    assert "given twice" in refused(BadRequest, orjson.dumps({"dataframe_split": {"columns": twice, "data": [twice]}}))
    ambiguous = b'{"inputs":{' + b",".join(b'"%s":1' % name.encode() for name in twice) + b"}}"
    assert "appears twice" in refused(BadRequest, ambiguous)
    asked = b",".join(b'{"name":"%s"}' % name.encode() for name in twice)
    body = b'{"inputs":[{"name":"a","datatype":"FP64","shape":[1],"data":[1]}],"outputs":[' + asked + b"]}"
    began = time.monotonic()
    with pytest.raises(InvalidInput, match="asked for twice"):
        v2.parse(body, OPEN, 10)
    assert time.monotonic() - began < 5


def test_an_integer_beyond_a_double_beside_a_fraction() -> None:
    for given in (
        {"inputs": {"a": [0, 1.5], "b": [1, 2]}},
        {"dataframe_split": {"columns": ["a", "b"], "data": [[0, 1], [1.5, 1]]}},
    ):
        body = orjson.dumps(given).replace(b"[0", b"[1" + b"0" * 400)
        assert refused(InvalidInput, body).startswith("inputs.a[0]: Failed to convert")
