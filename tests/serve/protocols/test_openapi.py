"""The document that a model gives of itself, against its host: schemathesis finds nothing undocumented."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)

from rayplat.serve.protocols import openapi
from rayplat.types import ParamSpec, Signature, TensorSpec
from tests.serve.fakes import SPEC
from tests.serve.protocols.serving import looked_up, of_function, served

pytestmark = pytest.mark.services  # a fuzzer at work

ROUTE = f"/v2/models/{SPEC.model}"
MIXED = Signature(
    (
        TensorSpec("image", "FP32", (-1, 2, 2)),
        TensorSpec("count", "INT8", nullable=True),
        TensorSpec("text", "BYTES", required=False, nullable=True),
        TensorSpec("flag", "BOOL", (-1, 1)),
    ),
    (TensorSpec("y", "FP64"), TensorSpec("words", "BYTES", (-1, -1))),
    params=(ParamSpec("top_k", "INT32", 3), ParamSpec("stop", "BYTES", None, is_list=True)),
)
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    negative_data_rejection,
]


def mixed(columns: Any, params: Any) -> Any:
    import numpy as np

    rows = len(columns["image"])
    return {"y": np.arange(rows) * 0.5, "words": np.array([["a", "b"]] * rows, dtype=object)}


@pytest.fixture(scope="module", params=["looked up", "arrays"])
def address(request: pytest.FixtureRequest) -> Iterator[str]:
    make = looked_up if request.param == "looked up" else of_function(MIXED, mixed)
    with served(make) as found:
        yield found


def test_nothing_is_undocumented(address: str) -> None:
    schema = schemathesis.openapi.from_url(f"http://{address}{ROUTE}/openapi.json")
    seen: set[str] = set()
    for operation in schema.get_all_operations():
        found = operation.ok()
        seen.add(f"{found.method} {found.path}")

        @settings(
            max_examples=10 if found.body else 2, deadline=None, suppress_health_check=list(HealthCheck), database=None
        )
        @given(case=found.as_strategy())
        def one(case: Any) -> None:
            case.call_and_validate(checks=CHECKS)

        one()
    assert f"post {ROUTE}/infer" in seen
    assert f"post {ROUTE}/invocations" in seen


def test_the_document_is_valid_and_names_every_input() -> None:
    document = json.loads(openapi.document(looked_up(SPEC.model, 1, "sha256:1"), ROUTE, "champion"))
    assert document["openapi"] == "3.1.0"
    assert document["security"] == [{"token": []}]
    inputs = document["components"]["schemas"]["InferRequest"]["properties"]["inputs"]["items"]["anyOf"]
    named = [one["properties"]["name"]["const"] for one in inputs]
    assert named == ["flight", "distance", "temp", "carrier", "origin"]
    assert f"{ROUTE}/explain" in document["paths"]
    assert f"{ROUTE}/generate_stream" not in document["paths"]


def test_a_request_that_the_document_describes_is_answered(address: str) -> None:
    document = httpx.get(f"http://{address}{ROUTE}/openapi.json").json()
    assert document["info"]["title"] == f"Model {SPEC.model}"
    other = httpx.delete(f"http://{address}{ROUTE}/infer")
    assert (other.status_code, other.headers["allow"]) == (405, "POST")
