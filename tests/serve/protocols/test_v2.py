"""Requests as clients write them, right and wrong, against what the protocol and the model declare."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from rayplat.errors import BadRequest, InvalidInput, TooLarge
from rayplat.serve import signatures
from rayplat.serve.ports import LoadedVersion
from rayplat.serve.protocols import v2
from rayplat.serve.request import Answer
from rayplat.types import ParamSpec, Signature, TensorSpec
from tests.serve.fakes import SPEC, head

SIGNATURE = signatures.of_spec(SPEC)
KEYS = {"name": "flight", "datatype": "BYTES", "shape": [2], "data": ["F1", "F2"]}


def parse(request: Any, max_rows: int = 100) -> v2.Request:
    body = request if isinstance(request, bytes) else json.dumps(request).encode()
    return v2.parse(body, SIGNATURE, max_rows)


def with_input(**tensor: Any) -> dict[str, Any]:
    return {"inputs": [KEYS, {"shape": [2], **tensor}]}


def test_keys_alone() -> None:
    request = parse({"inputs": [KEYS]})
    assert (request.rows, request.entity, request.inputs) == (2, ["F1", "F2"], {})
    assert (request.id, request.event_time, request.outputs) == (None, None, ("probability",))


@pytest.mark.parametrize("data", [["F1", "F2"], [["F1"], ["F2"]]])
def test_column_shape_in_both_forms(data: list[Any]) -> None:
    assert parse({"inputs": [{**KEYS, "shape": [2, 1], "data": data}]}).entity == ["F1", "F2"]


@pytest.mark.parametrize("datatype", ["FP32", "FP64", "INT8", "INT64", "UINT16"])
def test_numeric_override(datatype: str) -> None:
    request = parse(with_input(name="temp", datatype=datatype, data=[3, 4]))
    np.testing.assert_array_equal(request.inputs["temp"], [3.0, 4.0])


def test_null_is_a_missing_value_where_the_feature_may_be_missing() -> None:
    request = parse({"inputs": [KEYS, {"name": "temp", "datatype": "FP32", "shape": [2], "data": [None, 1.5]}]})
    assert math.isnan(request.inputs["temp"][0])  # type: ignore[arg-type]
    request = parse(with_input(name="carrier", datatype="BYTES", data=[None, "UA"]))
    assert request.inputs["carrier"] == [None, "UA"]


def test_every_feature_given_needs_no_key() -> None:
    inputs = [
        {"name": "distance", "datatype": "FP32", "shape": [1], "data": [1]},
        {"name": "temp", "datatype": "FP32", "shape": [1], "data": [None]},
        {"name": "carrier", "datatype": "BYTES", "shape": [1], "data": ["UA"]},
        {"name": "origin", "datatype": "BYTES", "shape": [1], "data": ["EWR"]},
    ]
    assert parse({"inputs": inputs}).entity is None
    with pytest.raises(InvalidInput, match=r"inputs.flight: missing.*'origin'"):
        parse({"inputs": inputs[:3]})


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2013-11-05T14:30:00Z", datetime(2013, 11, 5, 14, 30, tzinfo=UTC)),
        ("2013-11-05T14:30:00", datetime(2013, 11, 5, 14, 30, tzinfo=UTC)),
        ("2013-11-05T09:30:00-05:00", datetime(2013, 11, 5, 14, 30, tzinfo=UTC)),
    ],
)
def test_event_time_is_utc(text: str, moment: datetime) -> None:
    parsed = parse({"inputs": [KEYS], "parameters": {"event_time": text}}).event_time
    assert parsed == moment
    assert parsed is not None
    assert parsed.tzinfo is UTC


def test_requested_outputs_and_id() -> None:
    request = parse({"id": "42", "inputs": [KEYS], "outputs": [{"name": "probability"}]})
    assert (request.id, request.outputs) == ("42", ("probability",))


def test_asking_for_no_binary_data_is_fine() -> None:
    parse({"inputs": [KEYS], "parameters": {"binary_data_output": False}})


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON: .* line 1, column 2"),
        (b"[]", "must be a JSON object"),
        (b"null", "must be a JSON object"),
        (b'{"inputs": [], "inputs": []}', "'inputs' appears twice"),
        (b'{"inputs": [{"name": "a", "name": "b"}]}', "'name' appears twice"),
        (b"\xff\xfe{}", "not valid UTF-8"),
        (b'{"inputs": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nests too deeply"),
        (b'{"id": ' + b"9" * 5000 + b"}", "too many digits"),
        (b'{"inputs": [{"name": "a\\u003a", "shape": [1], "x": 1, "x": 2}]}', "'x' appears twice"),
        (b'{"id": "a:b", "id": "c"}', "'id' appears twice"),
        (b'{"id": "::", "inputs": [], "inputs": [{"a": 1}]}', "'inputs' appears twice"),
    ],
)
def test_bytes_that_are_no_request(body: bytes, reason: str) -> None:
    with pytest.raises(BadRequest, match=reason):
        parse(body)


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        ({}, "inputs"),
        ({"inputs": []}, "inputs"),
        ({"inputs": {}}, "inputs"),
        ({"inputs": ["flight"]}, "inputs[0]"),
        ({"inputs": [{}]}, "inputs[0].name"),
        ({"inputs": [{"name": 7}]}, "inputs[0].name"),
        ({"inputs": [{"name": ""}]}, "inputs[0].name"),
        ({"inputs": [KEYS], "extra": 1}, "request.extra"),
        ({"inputs": [{**KEYS, "extra": 1}]}, "inputs.flight.extra"),
        ({"inputs": [{"name": "flight", "datatype": "BYTES", "shape": [1]}]}, "inputs.flight.data"),
        ({"inputs": [{"name": "flight", "datatype": "BYTES", "data": ["F1"]}]}, "inputs.flight.shape"),
        ({"inputs": [{"name": "flight", "shape": [1], "data": ["F1"]}]}, "inputs.flight.datatype"),
        ({"inputs": [KEYS, KEYS]}, "inputs.flight"),
        ({"inputs": [{**KEYS, "datatype": "STRING"}]}, "inputs.flight.datatype"),
        ({"inputs": [{**KEYS, "datatype": 7}]}, "inputs.flight.datatype"),
        ({"inputs": [{**KEYS, "datatype": "FP32"}]}, "inputs.flight.datatype"),
        ({"inputs": [{**KEYS, "shape": 2}]}, "inputs.flight.shape"),
        ({"inputs": [{**KEYS, "shape": []}]}, "inputs.flight.shape"),
        ({"inputs": [{**KEYS, "shape": [True]}]}, "inputs.flight.shape"),
        ({"inputs": [{**KEYS, "shape": [2.0]}]}, "inputs.flight.shape"),
        ({"inputs": [{**KEYS, "shape": [-2]}]}, "inputs.flight.shape"),
        ({"inputs": [{**KEYS, "shape": [2, 2]}]}, "inputs.flight.shape"),
        ({"inputs": [{**KEYS, "shape": [1, 2]}]}, "inputs.flight.shape"),
        ({"inputs": [{**KEYS, "shape": [0], "data": []}]}, "inputs.flight.shape"),
        ({"inputs": [{**KEYS, "shape": [3]}]}, "inputs.flight.data"),
        ({"inputs": [{**KEYS, "data": "F1"}]}, "inputs.flight.data"),
        ({"inputs": [{**KEYS, "data": ["F1", 2]}]}, "inputs.flight[1]"),
        ({"inputs": [{**KEYS, "data": ["F1", None]}]}, "inputs.flight[1]"),
        ({"inputs": [{**KEYS, "data": ["F1", ""]}]}, "inputs.flight[1]"),
        ({"inputs": [{**KEYS, "data": ["F1", ["F2"]]}]}, "inputs.flight[1]"),
        ({"inputs": [{**KEYS, "data": ["F1", "a\x00b"]}]}, "inputs.flight[1]"),
        ({"inputs": [{**KEYS, "data": ["F1", "\ud800"]}]}, "inputs.flight[1]"),
        ({"inputs": [{**KEYS, "data": ["F1", "x" * 2000]}]}, "inputs.flight[1]"),
        ({"inputs": [{**KEYS, "shape": [2, 1], "data": [["F1"], "F2"]}]}, "inputs.flight[1]"),
        ({"inputs": [{**KEYS, "shape": [2, 1], "data": [["F1"], ["F2", "F3"]]}]}, "inputs.flight[1]"),
        (with_input(name="nonsense", datatype="FP32", data=[1, 2]), "inputs.nonsense"),
        (with_input(name="temp", datatype="BYTES", data=["1", "2"]), "inputs.temp.datatype"),
        (with_input(name="temp", datatype="BOOL", data=[True, False]), "inputs.temp.datatype"),
        (with_input(name="temp", datatype="FP32", data=[1, "2"]), "inputs.temp[1]"),
        (with_input(name="temp", datatype="FP32", data=[1, True]), "inputs.temp[1]"),
        (with_input(name="temp", datatype="FP32", data=[1, {}]), "inputs.temp[1]"),
        (with_input(name="temp", datatype="FP32", data=[1, float("nan")]), "inputs.temp[1]"),
        (with_input(name="temp", datatype="FP32", data=[None, float("inf")]), "inputs.temp[1]"),
        (with_input(name="temp", datatype="FP32", data=[1, 1e300]), "inputs.temp[1]"),
        (with_input(name="temp", datatype="FP32", data=[1, 10**400]), "inputs.temp[1]"),
        (with_input(name="temp", datatype="INT64", data=[1, 2.5]), "inputs.temp[1]"),
        (with_input(name="temp", datatype="INT8", data=[1, 128]), "inputs.temp[1]"),
        (with_input(name="temp", datatype="UINT64", data=[1, -1]), "inputs.temp[1]"),
        (with_input(name="distance", datatype="FP32", data=[1, None]), "inputs.distance[1]"),
        (with_input(name="origin", datatype="BYTES", data=["EWR", None]), "inputs.origin[1]"),
        (with_input(name="carrier", datatype="INT64", data=[1, 2]), "inputs.carrier.datatype"),
        (with_input(name="temp", datatype="FP32", shape=[1], data=[1]), "inputs.temp.shape"),
        ({"id": 42, "inputs": [KEYS]}, "id"),
        ({"id": "", "inputs": [KEYS]}, "id"),
        ({"id": "\ud800", "inputs": [KEYS]}, "id"),
        ({"parameters": [], "inputs": [KEYS]}, "parameters"),
        ({"parameters": {"event_time": 5}, "inputs": [KEYS]}, "parameters.event_time"),
        ({"parameters": {"event_time": {"deep": 1}}, "inputs": [KEYS]}, "parameters.event_time"),
        ({"parameters": {"event_time": "yesterday"}, "inputs": [KEYS]}, "parameters.event_time"),
        ({"parameters": {"event_time": "0001-01-01T00:00:00+14:00"}, "inputs": [KEYS]}, "parameters.event_time"),
        ({"outputs": {}, "inputs": [KEYS]}, "outputs"),
        ({"outputs": ["probability"], "inputs": [KEYS]}, "outputs[0]"),
        ({"outputs": [{"name": "other"}], "inputs": [KEYS]}, "outputs.other"),
        ({"outputs": [{"name": "probability"}] * 2, "inputs": [KEYS]}, "outputs.probability"),
    ],
)
def test_values_that_do_not_fit_name_the_field(request_: Any, field: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        parse(request_)
    assert refused.value.field == field
    json.dumps(str(refused.value)).encode()


def test_an_overflowing_literal_is_refused() -> None:
    body = json.dumps(with_input(name="temp", datatype="FP64", data=[1, 2])).replace("[1, 2]", "[1, 1e999]")
    with pytest.raises(InvalidInput, match=r"inputs.temp\[1\]: NaN and Infinity are not accepted; send null"):
        parse(body.encode())


@pytest.mark.parametrize("depth", [65, 500, 900, 990])
@pytest.mark.parametrize("field", ["data", "shape", "datatype", "parameters", "name"])
def test_deep_nesting_is_refused_wherever_it_stands(depth: int, field: str) -> None:
    body = json.dumps({"inputs": [{**KEYS, field: "DEEP"}]}).replace('"DEEP"', "[" * depth + "]" * depth)
    with pytest.raises((InvalidInput, BadRequest)):
        parse(body.encode())


def test_too_many_rows() -> None:
    with pytest.raises(TooLarge, match="2 rows, the limit is 1"):
        parse({"inputs": [KEYS]}, max_rows=1)


def answer(outputs: dict[str, Any], signature: Signature = SIGNATURE) -> Answer:
    loaded = LoadedVersion("flight-delay", 7, "sha256:7", None, signature, platform="onnx_onnxv1")  # type: ignore[arg-type]
    return Answer("42", head(7, 3), loaded, "champion", outputs)


def test_response_has_the_protocols_fields() -> None:
    body, headers = v2.response(answer({"probability": np.array([0.5, 0.25], np.float32)}))
    assert headers == ()
    assert json.loads(body) == {
        "model_name": "flight-delay",
        "model_version": "7",
        "id": "42",
        "parameters": {"alias": "champion", "variant": "champion", "generation": 3, "digest": "sha256:7"},
        "outputs": [{"name": "probability", "shape": [2], "datatype": "FP32", "data": [0.5, 0.25]}],
    }


def test_an_answer_names_the_version_that_made_it_and_no_other() -> None:
    outputs = {"probability": np.array([0.5], np.float32)}
    for version, generation in ((1, 1), (2, 2), (1, 3)):
        loaded = LoadedVersion("flight-delay", version, f"sha256:{version}", None, SIGNATURE)  # type: ignore[arg-type]
        found = json.loads(v2.response(Answer("1", head(version, generation), loaded, "champion", outputs))[0])
        assert (found["model_version"], found["parameters"]["generation"]) == (str(version), generation)


def test_numbers_that_json_lacks_are_null() -> None:
    body, _ = v2.response(answer({"probability": np.array([np.nan, np.inf, 1], np.float64)}))
    assert json.loads(body)["outputs"][0]["data"] == [None, None, 1.0]
    assert b"NaN" not in body


def test_metadata_lists_key_and_features() -> None:
    loaded = answer({}).loaded
    found = v2.metadata(loaded, [1, 2])
    assert (found["name"], found["versions"], found["platform"]) == ("flight-delay", ["1", "2"], "onnx_onnxv1")
    assert [(t["name"], t["datatype"]) for t in found["inputs"]] == [
        ("flight", "BYTES"),
        ("distance", "FP32"),
        ("temp", "FP32"),
        ("carrier", "BYTES"),
        ("origin", "BYTES"),
    ]
    assert found["inputs"][2]["parameters"] == {"optional": True, "nullable": True}
    assert found["outputs"] == [{"name": "probability", "datatype": "FP32", "shape": [-1]}]


COLUMNS = {"minutes": "int64", "zone": "string", "asked": "timestamp[us, tz=UTC]", "vip": "bool", "share": "double"}


def with_columns(**data: list[Any]) -> v2.Request:
    datatypes = {"minutes": "INT32", "vip": "BOOL", "share": "FP64"}
    given = [{"name": n, "shape": [2], "datatype": datatypes.get(n, "BYTES"), "data": d} for n, d in data.items()]
    return v2.parse(json.dumps({"inputs": [KEYS, *given]}).encode(), signatures.of_spec(SPEC, COLUMNS), 100)


def test_columns_for_features_on_request_come_beside_the_keys() -> None:
    request = with_columns(
        minutes=[3, None],
        zone=["EST", None],
        asked=["2013-11-05T14:30:00+01:00", None],
        vip=[True, False],
        share=[1, 0.5],
    )
    assert request.columns == {
        "minutes": [3, None],
        "zone": ["EST", None],
        "asked": [datetime(2013, 11, 5, 13, 30, tzinfo=UTC), None],
        "vip": [True, False],
        "share": [1.0, 0.5],
    }
    names = [one["name"] for one in v2.metadata(answer({}, signatures.of_spec(SPEC, COLUMNS)).loaded, [1])["inputs"]]
    assert names[-len(COLUMNS) :] == list(COLUMNS)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"minutes": [3, "4"]}, r"inputs\.minutes\[1\]: must be an integer"),
        ({"minutes": [3, 2**63]}, r"inputs\.minutes\[1\]"),
        ({"zone": [1, "x"]}, r"inputs\.zone\[0\]: must be a string"),
        ({"asked": ["soon", None]}, r"inputs\.asked\[0\]: 'soon' is no ISO 8601 time"),
        ({"vip": [1, 0]}, r"inputs\.vip\[0\]: must be a boolean"),
        ({"other": ["a", "b"]}, r"inputs\.other: unknown input; the model takes .*minutes"),
    ],
)
def test_columns_of_another_type_are_refused(data: dict[str, list[Any]], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        with_columns(**data)


PARAMS = Signature(
    (TensorSpec("x", "FP32"),),
    (TensorSpec("y", "FP32"),),
    params=(
        ParamSpec("temperature", "FP64", 1.0),
        ParamSpec("top_k", "INT32", 5),
        ParamSpec("stop", "BYTES", None, is_list=True),
        ParamSpec("sample", "BOOL", False),
    ),
)
X = {"name": "x", "datatype": "FP32", "shape": [1], "data": [1.5]}


def with_parameters(**said: Any) -> v2.Request:
    return v2.parse(json.dumps({"inputs": [X], "parameters": said}).encode(), PARAMS, 10)


def test_parameters_of_the_model_reach_it() -> None:
    said = {"temperature": 1, "top_k": 3, "stop": ["a", "b"], "sample": True}
    assert with_parameters(**said).params == {"temperature": 1.0, "top_k": 3, "stop": ["a", "b"], "sample": True}


def test_unknown_parameters_are_let_pass() -> None:
    request = with_parameters(content_type="pd", sequence_id=7, sequence_start=True, headers={"a": "b"}, other=None)
    assert request.params == {}


def test_timeout_and_priority_mean_what_they_mean_to_triton() -> None:
    request = with_parameters(timeout=1_500_000, priority=1)
    assert (request.timeout_s, request.priority) == (1.5, 1)
    assert (with_parameters(timeout=0, priority=0).timeout_s, with_parameters(priority=0).priority) == (None, None)


@pytest.mark.parametrize(
    ("said", "field"),
    [
        ({"temperature": "hot"}, "parameters.temperature"),
        ({"top_k": 1.5}, "parameters.top_k"),
        ({"top_k": 2**40}, "parameters.top_k"),
        ({"stop": "a"}, "parameters.stop"),
        ({"sample": 1}, "parameters.sample"),
        ({"timeout": "soon"}, "parameters.timeout"),
        ({"timeout": -1}, "parameters.timeout"),
        ({"priority": "high"}, "parameters.priority"),
        ({"binary_data_output": "yes"}, "parameters.binary_data_output"),
    ],
)
def test_parameters_of_another_type_are_refused(said: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        with_parameters(**said)
    assert refused.value.field == field


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"parameters": {"shared_memory_region": "r"}}, "shared memory is not supported"),
        ({"parameters": {"binary_data_size": 4}}, "send the header inference-header-content-length"),
    ],
)
def test_extensions_that_are_not_there_are_refused_by_name(change: dict[str, Any], named: str) -> None:
    with pytest.raises(BadRequest, match=named):
        v2.parse(json.dumps({"inputs": [X | change]}).encode(), PARAMS, 10)
    asked = {"inputs": [X], "outputs": [{"name": "y", "parameters": {"classification": 2}}]}
    with pytest.raises(BadRequest, match="classification is not supported"):
        v2.parse(json.dumps(asked).encode(), PARAMS, 10)
