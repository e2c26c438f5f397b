"""Columns of a table as inputs of a model, and its outputs as columns."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from rayplat.errors import SchemaMismatch
from rayplat.serve.batch_scoring.columns import Given, Reader, output_columns
from rayplat.types import Signature, TensorSpec


def _read(spec: TensorSpec, values: Any, **options: Any) -> Given:
    rows = pa.table({spec.name: values})
    return Reader(Signature((spec,), ()), rows.schema, **options).read(rows)


def test_numbers_come_in_the_model_s_type_whatever_the_column_has() -> None:
    for column in (pa.array([1, 2], pa.int8()), pa.array([1.0, 2.0]), pa.array([1, 2], pa.float32())):
        given = _read(TensorSpec("x", "FP32"), column)
        assert given.values["x"].dtype == np.float32
        assert given.values["x"].tolist() == [1.0, 2.0]
        assert given.good is None
    assert _read(TensorSpec("x", "FP32", wide=True), pa.array([1])).values["x"].dtype == np.float64
    assert _read(TensorSpec("x", "INT64"), pa.array([1.0, 2.0])).values["x"].tolist() == [1, 2]
    assert _read(TensorSpec("x", "BOOL"), pa.array([True, False])).values["x"].tolist() == [True, False]
    moment = datetime(2013, 1, 1, tzinfo=UTC)
    assert _read(TensorSpec("x", "FP64"), pa.array([moment])).values["x"].tolist() == [moment.timestamp() * 1e6]


@pytest.mark.parametrize(
    ("spec", "values", "wrong"),
    [
        (TensorSpec("x", "FP32"), [1.0, None, 3.0], [1]),
        (TensorSpec("x", "FP32"), [1.0, float("nan"), float("inf")], [1, 2]),
        (TensorSpec("x", "FP32", nullable=True), [None, float("nan"), float("-inf")], [2]),
        (TensorSpec("x", "FP32"), [1.0, 1e39], [1]),
        (TensorSpec("x", "FP64"), [1.0, 1e39], []),
        (TensorSpec("x", "INT8"), [1, 128, None], [1, 2]),
        (TensorSpec("x", "INT64"), [1.0, 1.5], [1]),
        (TensorSpec("x", "BOOL"), [True, None], [1]),
        (TensorSpec("x", "BYTES"), ["a", None], [1]),
        (TensorSpec("x", "BYTES", nullable=True), ["a", None], []),
        (TensorSpec("x", "FP32", (-1, 2)), [[1.0, 2.0], [1.0], None], [1, 2]),
    ],
)
def test_a_value_that_the_model_cannot_take_makes_a_row_wrong(spec: TensorSpec, values: Any, wrong: list[int]) -> None:
    given = _read(spec, pa.array(values))
    assert sorted(given.reasons) == wrong
    assert all(reason.startswith("x: ") for reason in given.reasons.values())
    assert len(given.values["x"]) == len(values) - len(wrong)


def test_texts_are_lists_or_stay_in_arrow() -> None:
    spec = TensorSpec("x", "BYTES", nullable=True)
    assert _read(spec, pa.array(["a", None])).values["x"] == ["a", None]
    assert _read(spec, pa.array(["a", "b", "a"]).dictionary_encode()).values["x"] == ["a", "b", "a"]
    assert _read(spec, pa.array([1, 2])).values["x"] == ["1", "2"]
    assert _read(spec, pa.array([b"a"])).values["x"] == ["a"]
    assert _read(TensorSpec("x", "BYTES", logical="binary"), pa.array(["a"])).values["x"] == [b"a"]
    moment = _read(spec, pa.array([datetime(2013, 1, 2, 3, tzinfo=UTC)])).values["x"]
    assert datetime.fromisoformat(moment[0]).hour == 3
    for column in (pa.array(["a", None]), pa.array(["a", None]).dictionary_encode()):
        kept = _read(spec, column, arrow=True).values["x"]
        assert isinstance(kept, pa.ChunkedArray)
        assert kept.type == column.type
        given = _read(TensorSpec("x", "BYTES"), column, arrow=True)
        assert (given.values["x"].to_pylist(), list(given.reasons)) == (["a"], [1])


def test_lists_are_arrays_and_columns_can_be_stacked_into_one() -> None:
    spec = TensorSpec("x", "FP32", (-1, 2))
    assert _read(spec, pa.array([[1.0, 2.0], [3.0, 4.0]])).values["x"].shape == (2, 2)
    rows = pa.table({"a": [1, 2], "b": [0.5, 1.5]})
    given = Reader(Signature((spec,), ()), rows.schema, ("a", "b")).read(rows)
    assert given.values["x"].tolist() == [[1.0, 0.5], [2.0, 1.5]]
    assert given.values["x"].dtype == np.float32


def test_what_does_not_fit_is_refused_before_a_row_is_read() -> None:
    schema = pa.schema({"a": pa.float64(), "t": pa.string()})
    one = Signature((TensorSpec("a", "FP64"),), ())
    cases: list[tuple[Signature, tuple[str, ...], str]] = [
        (Signature((TensorSpec("b", "FP64"),), ()), (), "the model needs this column"),
        (Signature((TensorSpec("t", "FP64"),), ()), (), "the column is string"),
        (Signature((TensorSpec("a", "FP64", (-1, 3)),), ()), (), "a list"),
        (one, ("a",), "not one array"),
        (Signature((TensorSpec("m", "FP64", (-1, 3)),), ()), ("a",), "has 3"),
        (Signature((), (), open=True), (), "name the columns"),
    ]
    for signature, columns, said in cases:
        with pytest.raises(SchemaMismatch, match=said):
            Reader(signature, schema, columns)


def test_a_model_that_declares_nothing_is_given_the_columns_that_are_named() -> None:
    rows = pa.table({"a": [1, 2], "t": ["p", "q"]})
    given = Reader(Signature((), (), open=True), rows.schema, ("a", "t")).read(rows)
    assert given.values["a"].tolist() == [1.0, 2.0]
    assert given.values["t"] == ["p", "q"]


def test_outputs_become_columns_with_nulls_where_nothing_was_scored() -> None:
    outputs = [{"y": np.array([1.0, 2.0]), "m": np.ones((2, 3)), "t": np.array(["a", None], object)}]
    found = output_columns(outputs, np.array([0, 2]), 3)
    assert found["y"].to_pylist() == [1.0, None, 2.0]
    assert found["m"].to_pylist() == [[1.0] * 3, None, [1.0] * 3]
    assert found["t"].to_pylist() == ["a", None, None]
    assert output_columns([{"y": np.ones((2, 1), np.float16)}], None, 2)["y"].to_pylist() == [1.0, 1.0]
    assert output_columns([], None, 2) == {}
