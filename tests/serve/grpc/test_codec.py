"""Messages to requests and back, for any values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tritonclient.grpc import InferResult, service_pb2

from rayplat.errors import RayplatError
from rayplat.serve.grpc import codec, definition
from rayplat.serve.request import Answer
from rayplat.types import AliasHead, ParamSpec, Signature, TensorSpec
from rayplat.types.signature import DATATYPES
from tests.serve.grpc.fakes import NUMPY, START, echo, loaded

REQUEST = definition.message("inference.ModelInferRequest")
NUMBERS = [name for name in DATATYPES if name != "BYTES"]


def _arrays(datatype: str) -> st.SearchStrategy[Any]:
    shapes = st.tuples(st.integers(1, 5), st.integers(1, 3))
    return hnp.arrays(np.dtype(NUMPY[datatype]), shapes)


def _message(values: np.ndarray, datatype: str, *, raw: bool) -> Any:
    message = REQUEST(model_name="echo", id="r")
    tensor = message.inputs.add(name="x", datatype=datatype, shape=values.shape)
    if raw:
        message.raw_input_contents.append(np.ascontiguousarray(values).tobytes())
    else:
        getattr(tensor.contents, codec.CONTENTS[datatype]).extend(values.ravel().tolist())
    return message


def _received(sent: Any, datatype: str) -> np.ndarray:
    """What a client library reads; Triton's reads raw contents only."""
    message = service_pb2.ModelInferResponse.FromString(sent.SerializeToString())
    if message.raw_output_contents:
        return np.asarray(InferResult(message).as_numpy("y"))
    (output,) = message.outputs
    typed = getattr(output.contents, codec.CONTENTS[datatype])
    return np.array(typed, NUMPY[datatype]).reshape(list(output.shape))


def _answer(outputs: dict[str, Any], signature: Signature, request_id: str = "r") -> Answer:
    version = loaded("echo", signature)
    return Answer(
        request_id, AliasHead("echo", "champion", 3, version.digest, 4, START, "x"), version, "champion", outputs
    )


@settings(max_examples=20, deadline=None)
@given(st.data())
@pytest.mark.parametrize("datatype", NUMBERS)
def test_values_go_there_and_back_bit_by_bit(datatype: str, data: st.DataObject) -> None:
    values = data.draw(_arrays(datatype))
    signature = echo(datatype, rank=2)
    for raw in (True, False):
        if not raw and datatype == "FP16":
            continue
        request = codec.parse(_message(values, datatype, raw=raw), signature, 100)
        assert request.inputs["x"].dtype == values.dtype
        sent = codec.response(_answer({"y": request.inputs["x"]}, signature), "echo", raw=raw)
        assert bool(sent.raw_output_contents) is raw
        np.testing.assert_array_equal(_received(sent, datatype), values)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.text(st.characters(blacklist_categories=["Cs"]), max_size=20), min_size=1, max_size=6))
def test_texts_go_there_and_back(values: list[str]) -> None:
    message = REQUEST(model_name="echo")
    tensor = message.inputs.add(name="x", datatype="BYTES", shape=[len(values)])
    tensor.contents.bytes_contents.extend(v.encode() for v in values)
    signature = echo("BYTES")
    request = codec.parse(message, signature, 100)
    assert request.inputs["x"] == values
    sent = codec.response(_answer({"y": np.array(values, object)}, signature), "echo", raw=False)
    assert [v.decode() for v in sent.outputs[0].contents.bytes_contents] == values


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_refused_with_a_reason(body: bytes) -> None:
    try:
        message = REQUEST.FromString(body)
    except DecodeError:  # gRPC itself answers that
        return
    refusal: RayplatError | None = None
    try:
        codec.parse(message, echo("FP32"), 100)
    except RayplatError as e:
        refusal = e
    assert refusal is None or (refusal.http_status in (400, 413, 422) and str(refusal))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1, max_size=4), st.sampled_from(["INT8", "INT16", "INT32"]))
def test_small_integers_are_in_range_or_refused(values: list[int], datatype: str) -> None:
    info = np.iinfo(NUMPY[datatype])
    message = _message(np.array(values, np.int64), datatype, raw=False)
    if all(info.min <= value <= info.max for value in values):
        assert codec.parse(message, echo(datatype), 100).inputs["x"].tolist() == values
    else:
        with pytest.raises(RayplatError, match="outside the range"):
            codec.parse(message, echo(datatype), 100)


def test_parameters_of_the_model_and_of_the_protocol() -> None:
    signature = Signature(
        (TensorSpec("x", "FP32"),), (TensorSpec("y", "FP32"),), (ParamSpec("top_k", "INT64"), ParamSpec("t", "FP64"))
    )
    message = _message(np.ones(1, np.float32), "FP32", raw=True)
    message.parameters["top_k"].int64_param = 5
    message.parameters["t"].double_param = 0.5
    message.parameters["timeout"].int64_param = 2_000_000
    message.parameters["unset"]
    message.parameters["theirs"].string_param = "passes"
    request = codec.parse(message, signature, 100)
    assert request.params == {"top_k": 5, "t": 0.5}
    assert request.timeout_s == 2.0
    assert request.outputs == ("y",)
    assert request.id == "r"


def test_one_half_float_makes_the_whole_answer_raw() -> None:
    signature = Signature((), (TensorSpec("a", "FP32"), TensorSpec("b", "FP16")), open=True)
    outputs = {"a": np.ones(2, np.float32), "b": np.ones(2, np.float16)}
    sent = codec.response(_answer(outputs, signature), "echo", raw=False)
    assert [len(content) for content in sent.raw_output_contents] == [8, 4]
    assert not any(output.HasField("contents") for output in sent.outputs)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([True]), "BOOL"),
        (np.array([1], np.uint8), "UINT8"),
        (np.array([1.0], np.float16), "FP16"),
        (np.array(["a"], object), "BYTES"),
        (np.array(["a"]), "BYTES"),
        (np.array([1.0], np.longdouble), "FP64"),
    ],
)
def test_an_undeclared_output_says_its_datatype(values: np.ndarray, expected: str) -> None:
    assert codec.datatype_of(values) == expected


def test_missing_texts_and_bytes_of_an_answer() -> None:
    signature = Signature((), (TensorSpec("y", "BYTES"),), open=True)
    sent = codec.response(_answer({"y": np.array(["a", None, b"\xff"], object)}, signature), "echo", raw=False)
    assert list(sent.outputs[0].contents.bytes_contents) == [b"a", b"", b"\xff"]


def test_metadata_gives_every_dimension() -> None:
    found = codec.metadata(loaded("echo", echo("FP32", rank=2)), [1, 3])
    assert list(found.inputs[0].shape) == [-1, -1]
    assert found.name == "echo"
