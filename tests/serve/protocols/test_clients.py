"""Clients that others wrote, against a host: tritonclient over HTTP and MLflow's scoring client."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pytest
import tritonclient.http as triton
from mlflow.pyfunc.scoring_server.client import ScoringServerClient
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from rayplat.serve.protocols.elements import DTYPES
from rayplat.types import ParamSpec, Signature, TensorSpec
from rayplat.types.signature import FLOATS, INTEGERS
from tests.serve.fakes import SPEC
from tests.serve.protocols.serving import looked_up, of_function, served

DATATYPES = ("BOOL", *INTEGERS, *FLOATS, "BYTES")
EVERY = Signature(
    tuple(TensorSpec(f"in-{name}", name, (-1, -1), required=False) for name in DATATYPES),
    (),
    params=(ParamSpec("times", "INT64", 1),),
)
TABLE = Signature(
    (TensorSpec("a", "FP64", nullable=True), TensorSpec("b", "INT64"), TensorSpec("c", "BYTES", nullable=True)),
    (TensorSpec("total", "FP64"),),
    tabular=True,
)


def echoed(columns: Any, params: Any) -> Any:
    return {name.replace("in", "out"): values for name, values in columns.items()}


def total(columns: Any, params: Any) -> Any:
    return {"total": columns["a"] + columns["b"]}


@pytest.fixture(scope="module")
def every() -> Iterator[str]:
    with served(of_function(EVERY, echoed)) as address:
        yield address


@pytest.fixture(scope="module")
def table() -> Iterator[str]:
    with served(of_function(TABLE, total)) as address:
        yield address


@pytest.fixture
def client(every: str) -> Iterator[triton.InferenceServerClient]:
    with contextlib.closing(triton.InferenceServerClient(every)) as found:
        yield found


def array(datatype: str) -> Any:
    if datatype == "BYTES":
        return np.array([["é", "b"], ["", "d\n"]], dtype=object)
    return (np.arange(6).reshape(2, 3) % 2 if datatype == "BOOL" else np.arange(6).reshape(2, 3)).astype(
        DTYPES[datatype]
    )


@pytest.mark.parametrize("datatype", DATATYPES)
@pytest.mark.parametrize(("sent", "wanted"), [(True, True), (True, False), (False, True), (False, False)])
def test_every_datatype_in_json_and_binary(client: Any, datatype: str, sent: bool, wanted: bool) -> None:
    given = array(datatype)
    one = triton.InferInput(f"in-{datatype}", list(given.shape), np_to_triton_dtype(given.dtype))
    one.set_data_from_numpy(given, binary_data=sent)
    asked = [triton.InferRequestedOutput(f"out-{datatype}", binary_data=wanted)]
    result = client.infer(SPEC.model, [one], outputs=asked, request_id="r1")
    found = result.as_numpy(f"out-{datatype}")
    if datatype == "BYTES" and wanted:
        found = np.vectorize(lambda item: item.decode(), otypes=[object])(found)
    assert found.dtype == given.dtype
    np.testing.assert_array_equal(found, given)
    said = result.get_response()
    assert (said["model_name"], said["model_version"], said["id"]) == (SPEC.model, "1", "r1")


@pytest.mark.parametrize("packing", ["gzip", "deflate"])
def test_packed_requests_and_answers(client: Any, packing: str) -> None:
    given = np.arange(4096, dtype=np.float32).reshape(2, -1)
    one = triton.InferInput("in-FP32", list(given.shape), "FP32").set_data_from_numpy(given)
    result = client.infer(
        SPEC.model, [one], request_compression_algorithm=packing, response_compression_algorithm=packing
    )
    np.testing.assert_array_equal(result.as_numpy("out-FP32"), given)


def test_what_a_server_is_asked_about(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.get_server_metadata()["name"] == "rayplat"
    assert client.is_model_ready(SPEC.model)
    assert client.is_model_ready(SPEC.model, "1")
    assert not client.is_model_ready("other")
    found = client.get_model_metadata(SPEC.model)
    assert [one["datatype"] for one in found["inputs"]] == list(DATATYPES)


def test_by_version_with_parameters_and_a_time_limit(client: Any) -> None:
    one = triton.InferInput("in-FP32", [1, 1], "FP32").set_data_from_numpy(np.ones((1, 1), np.float32))
    result = client.infer(
        SPEC.model, [one], model_version="7", timeout=10_000_000, priority=1, sequence_id=3, parameters={"times": 2}
    )
    assert result.get_response()["model_version"] == "7"


def test_async_requests(client: Any) -> None:
    one = triton.InferInput("in-INT64", [1, 2], "INT64").set_data_from_numpy(np.array([[1, 2]]))
    waiting = [client.async_infer(SPEC.model, [one]) for _ in range(3)]
    assert [one.get_result().as_numpy("out-INT64").tolist() for one in waiting] == [[[1, 2]]] * 3


def test_what_is_not_there_is_refused_by_name(client: Any) -> None:
    one = triton.InferInput("in-FP32", [1, 1], "FP32").set_data_from_numpy(np.ones((1, 1), np.float32))
    asked = triton.InferRequestedOutput("out-FP32", class_count=2)
    with pytest.raises(InferenceServerException, match="classification is not supported"):
        client.infer(SPEC.model, [one], outputs=[asked])
    shared = triton.InferInput("in-FP32", [1, 1], "FP32").set_shared_memory("region", 4)
    with pytest.raises(InferenceServerException, match="shared memory is not supported"):
        client.infer(SPEC.model, [shared])
    other = triton.InferInput("other", [1, 1], "FP32").set_data_from_numpy(np.ones((1, 1), np.float32))
    with pytest.raises(InferenceServerException, match="unknown input"):
        client.infer(SPEC.model, [other])


def test_mlflows_client(table: str) -> None:
    host, port = table.split(":")
    client = ScoringServerClient(host, port)
    client.wait_server_ready()
    client.ping()
    assert client.get_version() == __import__("mlflow").__version__
    frame = pd.DataFrame({"a": [1.5, np.nan], "b": [1, 2], "c": ["x", None]})
    found = client.invoke(frame).get_predictions("ndarray")
    np.testing.assert_array_equal(found, [2.5, np.nan])
    with pytest.raises(Exception, match=r"error code 400.*Model is missing inputs"):
        client.invoke(frame[["b"]])


def test_mlflows_routes_under_the_model(table: str) -> None:
    route = f"http://{table}/v2/models/{SPEC.model}"
    body = b"a,b,c\n1.5,1,x\n"
    found = httpx.post(f"{route}/invocations", content=body, headers={"content-type": "text/csv"})
    assert (found.status_code, found.json()) == (200, {"predictions": [2.5]})
    refused = httpx.post(f"{route}/invocations", content=body, headers={"content-type": "text/html"})
    assert (refused.status_code, refused.json()["error_code"]) == (415, "BAD_REQUEST")
    assert [httpx.get(f"{route}/{path}").status_code for path in ("ping", "health", "version")] == [200] * 3


def test_answers_in_pieces(every: str) -> None:
    route = f"http://{every}/v2/models/{SPEC.model}"
    request = {"inputs": [{"name": "in-INT64", "datatype": "INT64", "shape": [3, 1], "data": [1, 2, 3]}]}
    for path, headers in (("generate_stream", {}), ("infer_stream", {}), ("infer", {"accept": "text/event-stream"})):
        with httpx.stream("POST", f"{route}/{path}", json=request, headers=headers) as answer:
            assert answer.headers["content-type"] == "text/event-stream"
            events = [json.loads(line.removeprefix("data: ")) for line in answer.iter_lines() if line]
        assert [event["outputs"][0]["data"] for event in events] == [[1], [2], [3]]
        assert {event["model_version"] for event in events} == {"1"}


def test_an_explanation(every: str) -> None:
    request = {"inputs": [{"name": "in-FP32", "datatype": "FP32", "shape": [1, 1], "data": [1]}]}
    found = httpx.post(f"http://{every}/v2/models/{SPEC.model}/explain", json=request).json()
    assert (found["method"], found["values"], found["base"]) == ("permutation", {"in-FP32": [0.0]}, [0.0])


def test_a_token_is_needed_where_the_endpoint_is_not_public() -> None:
    with served(looked_up, public=False) as address:
        refused = httpx.post(f"http://{address}/v2/models/{SPEC.model}/infer", json={})
        assert (refused.status_code, refused.json()["code"]) == (401, "Unauthenticated")
        assert httpx.get(f"http://{address}/v2/models/{SPEC.model}/ready").json() == {"name": SPEC.model, "ready": True}
