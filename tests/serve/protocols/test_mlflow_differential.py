"""One saved model behind MLflow's own scoring server and behind ours: the same requests, the same answers."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import numpy as np
import pandas as pd
import pytest
from mlflow.models import ModelSignature, infer_signature
from mlflow.types import ColSpec, Schema, TensorSpec
from sklearn.linear_model import LogisticRegression

from rayplat.settings import Settings
from tests.serve.models import folders
from tests.serve.protocols.scoring import Ours, Theirs

pytestmark = pytest.mark.services  # MLflow's own server

ROWS = [{"a": 0.1, "b": 0.2, "c": 0.3}, {"a": 0.9, "b": 0.8, "c": 0.7}]
SPLIT = {"columns": ["a", "b", "c"], "data": [[0.1, 0.2, 0.3], [0.9, 0.8, 0.7]]}
NUMBERS: list[Any] = [
    {"dataframe_records": ROWS},
    {"dataframe_split": SPLIT},
    {"dataframe_split": {**SPLIT, "index": [5, 6]}},
    {"instances": ROWS},
    {"inputs": {name: [row[name] for row in ROWS] for name in "abc"}},
    {"inputs": ROWS},
    {"inputs": ROWS[0]},
    {"dataframe_records": [{**ROWS[0], "extra": "x"}]},
    {"dataframe_records": [{"c": 0.3, "b": 0.2, "a": 0.1}]},
    {"dataframe_records": [{"a": "0.1", "b": True, "c": 1}]},
    {"inputs": ROWS, "params": {"unknown": 1}},
    {"inputs": ROWS, "other": 1},
    b'{"dataframe_records":[{"a":0.1,"b":0.2,"c":0.3}] }',
    (b"a,b,c\n0.1,0.2,0.3\n", "text/csv"),
    (b"a,b,c,d\n0.1,0.2,0.3,x\n", "text/csv; charset=utf-8"),
    ({"inputs": ROWS}, "application/json; charset=UTF-8"),
    # refused
    {"dataframe_records": [{"a": 1, "b": 2}]},
    {"dataframe_records": [{"a": "x", "b": 2, "c": 3}]},
    {"dataframe_records": [{"a": None, "b": 2, "c": 3}]},
    {"dataframe_records": [{"a": [1], "b": 0, "c": 1}]},
    {"dataframe_records": []},
    {"dataframe_records": {}},
    {"dataframe_split": {**SPLIT, "index": [5]}},
    {"dataframe_split": {**SPLIT, "x": 1}},
    {"dataframe_split": {"columns": ["a", "b"], "data": [[1, 2, 3]]}},
    {"dataframe_split": {"data": [[0.1, 0.2, 0.3]]}},
    {"inputs": [[0.1, 0.2, 0.3]]},
    {"inputs": {"a": [0.1, 0.2], "b": [0.2], "c": [0.3]}},
    {"instances": [{"a": 0.1, "b": 0.2}, ROWS[0]]},
    {"inputs": ROWS, "instances": ROWS},
    {"inputs": None},
    {},
    [1],
    b"1",
    b"",
    b"\xff",
    b'{"inputs": [',
    (b"a,b\n0.1,0.2\n", "text/csv"),
    (b"a,b,c\nx,1,2\n", "text/csv"),
    (b"", "text/csv"),
    (b"a,b,c\n1,2,3\n", "text/csv; charset=latin-1"),
    ({"inputs": ROWS}, "application/json; version=1"),
    ({"inputs": ROWS}, "text/plain"),
]
ONE = {"i": 1, "l": 2, "f": 0.5, "d": 0.1, "s": "x", "t": True, "w": "2020-01-01T00:00:00", "y": "/w=="}
CHANGES: list[dict[str, Any]] = [
    {},
    {"i": 1.0},
    {"i": 1.5},
    {"i": "7"},
    {"i": "x"},
    {"i": None},
    {"i": True},
    {"l": 2**53 + 1},
    {"l": 2**64},
    {"f": 1},
    {"f": "1.5"},
    {"f": 1e300},
    {"d": 3},
    {"d": None},
    {"d": 2**60 + 1},
    {"t": 1},
    {"t": None},
    {"w": "2020-01-01"},
    {"w": "x"},
    {"y": "YWI="},
    {"s": "é"},
]
ARRAYS: list[Any] = [
    {"inputs": [[0.1, 0.2, 0.3], [0.9, 0.8, 0.7]]},
    {"instances": [[1, 2, 3]]},
    {"dataframe_split": SPLIT},
    {"dataframe_split": {"data": SPLIT["data"]}},
    {"dataframe_records": ROWS},
    {"dataframe_records": [{"a": [0.1, 0.2, 0.3]}]},
    {"inputs": [["1", "2", "3"]]},
    {"inputs": [0.1, 0.2, 0.3]},
    {"inputs": [[0.1, 0.2]]},
    {"inputs": [[0.1, 0.2], [1]]},
    {"inputs": [["a", "b", "c"]]},
    {"inputs": [[[0.1, 0.2, 0.3]]]},
    {"inputs": {"x": [[0.1, 0.2, 0.3]]}},
    {"inputs": ROWS},
]
NAMED: list[Any] = [
    {"inputs": {"p": [[1, 2], [3, 4]], "q": [1, 2]}},
    {"instances": [{"p": [1, 2], "q": 1}, {"p": [3, 4], "q": 2}]},
    {"dataframe_records": [{"p": [1, 2], "q": 1}]},
    {"inputs": {"p": [[1, 2]], "q": [1], "r": [1]}},
    {"inputs": {"p": [[1, 2, 3]], "q": [1]}},
    {"inputs": {"p": [["x", 2]], "q": [1]}},
    {"inputs": {"p": [[1, 2]]}},
]


class Echo(mlflow.pyfunc.PythonModel):
    """Gives back what it is given."""

    def predict(self, context: Any, model_input: Any, params: Any = None) -> Any:
        return model_input


def body_of(case: Any) -> tuple[bytes, str]:
    body, media = case if isinstance(case, tuple) else (case, "application/json")
    return (body if isinstance(body, bytes) else json.dumps(body).encode()), media


def compare(servers: tuple[Theirs, Ours], case: Any) -> None:
    """The same bytes of an answer, or a refusal of the same status in the same shape."""
    body, media = body_of(case)
    theirs, ours = (server(body, media) for server in servers)
    assert ours.status == theirs.status, (theirs.body, ours.body)
    if theirs.status == 200:
        assert ours.body == theirs.body
    else:
        assert {"error_code", "message"} <= ours.json.keys()


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> tuple[Theirs, Ours]:
    x, y = folders.data()
    folder = folders.sklearn(tmp_path_factory.mktemp("table") / "m", LogisticRegression(), x, y)
    return both(folder, None, tmp_path_factory)


@pytest.fixture(scope="module")
def arrays(tmp_path_factory: pytest.TempPathFactory) -> tuple[Theirs, Ours]:
    x, y = folders.data()
    folder = tmp_path_factory.mktemp("arrays") / "m"
    return both(folders.sklearn(folder, LogisticRegression(), x.to_numpy(), y), None, tmp_path_factory)


@pytest.fixture(scope="module")
def echo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Theirs, Ours]:
    folder = tmp_path_factory.mktemp("echo") / "m"
    frame = typed()
    return both(folders.pyfunc(folder, Echo(), signature=infer_signature(frame, frame)), "w", tmp_path_factory)


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> tuple[Theirs, Ours]:
    specs = [TensorSpec(np.dtype("float32"), (-1, 2), "p"), TensorSpec(np.dtype("int64"), (-1,), "q")]
    folder = tmp_path_factory.mktemp("named") / "m"
    folder = folders.pyfunc(folder, Echo(), signature=ModelSignature(inputs=Schema(specs)))
    return both(folder, "w", tmp_path_factory)


def both(folder: Path, waiver: str | None, tmp: pytest.TempPathFactory) -> tuple[Theirs, Ours]:
    settings = Settings(home=tmp.mktemp("home"))
    return Theirs(folder), Ours(folders.load(settings, folder, waiver))


def typed() -> pd.DataFrame:
    when = pd.to_datetime(["2020-01-01", "2021-02-03"])
    return pd.DataFrame(
        {
            "i": np.array([1, 2], "int32"),
            "l": np.array([1, 2], "int64"),
            "f": np.array([0.5, 1.5], "float32"),
            "d": [0.5, 0.1],
            "s": ["x", "y"],
            "t": [True, False],
            "w": when,
            "y": [b"ab", b"\xff"],
        }
    )


def labelled(cases: list[Any]) -> Iterator[Any]:
    for case in cases:
        body, media = body_of(case)
        yield pytest.param(case, id=f"{body[:60].decode(errors='replace')} {media}")


@pytest.mark.parametrize("case", labelled(NUMBERS))
def test_a_table_of_numbers(table: tuple[Theirs, Ours], case: Any) -> None:
    compare(table, case)


@pytest.mark.parametrize("value", ["NaN", "Infinity"])
def test_numbers_that_json_lacks(echo: tuple[Theirs, Ours], value: str) -> None:
    compare(echo, json.dumps({"dataframe_records": [{**ONE, "d": "?"}]}).replace('"?"', value).encode())


@pytest.mark.parametrize("case", labelled(ARRAYS))
def test_an_array_without_a_name(arrays: tuple[Theirs, Ours], case: Any) -> None:
    compare(arrays, case)


@pytest.mark.parametrize("case", labelled(NAMED))
def test_arrays_with_names(named: tuple[Theirs, Ours], case: Any) -> None:
    compare(named, case)


@pytest.mark.parametrize("form", ["dataframe_records", "instances", "inputs"])
@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_every_type_and_its_casts(echo: tuple[Theirs, Ours], form: str, change: dict[str, Any]) -> None:
    row = {**ONE, **change}
    compare(echo, {form: {name: [value] for name, value in row.items()} if form == "inputs" else [row]})


def test_parquet(echo: tuple[Theirs, Ours]) -> None:
    file = io.BytesIO()
    typed().to_parquet(file)
    compare(echo, (file.getvalue(), "application/vnd.apache.parquet"))
    compare(echo, (b"PAR1", "application/vnd.apache.parquet"))


@pytest.mark.parametrize("row", [{"a": 1.0}, {"a": 1.0, "b": "x"}, {"a": 1.0, "b": None}, {"b": "x"}], ids=str)
def test_an_optional_column(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, row: dict[str, Any]) -> None:
    signature = ModelSignature(inputs=Schema([ColSpec("double", "a"), ColSpec("string", "b", required=False)]))
    servers = both(folders.pyfunc(tmp_path / "m", Echo(), signature=signature), "w", tmp_path_factory)
    compare(servers, {"dataframe_records": [row]})


@pytest.mark.parametrize("change", [{"i": 2**40}, {"l": 2**63}], ids=str)
def test_a_number_that_does_not_fit_is_refused_where_mlflow_wraps_it(
    echo: tuple[Theirs, Ours], change: dict[str, Any]
) -> None:
    theirs, ours = (server(json.dumps({"dataframe_records": [{**ONE, **change}]}).encode()) for server in echo)
    assert theirs.status == 200
    assert ours.status == 400
    assert next(iter(change)) in ours.json["message"]
