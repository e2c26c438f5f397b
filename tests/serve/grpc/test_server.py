"""The gRPC server, driven by the client that people use."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from google.protobuf import descriptor_pb2
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from rayplat.errors import DeadlineExceeded, Forbidden, Overloaded, PartFailed, Unavailable
from rayplat.serve.grpc import definition
from rayplat.serve.grpc.codec import CONTENTS
from rayplat.types import Signature, TensorSpec
from rayplat.types.signature import DATATYPES
from tests.serve.grpc.fakes import NUMPY, Running, echo, running

VALUES: dict[str, list[Any]] = {
    "BOOL": [True, False, True],
    "BYTES": ["a", "ü", ""],
    **{name: [0, 1, 127] for name in DATATYPES if "INT" in name},
    **{name: [0.5, -1.25, 3.0] for name in ("FP16", "FP32", "FP64")},
}


@pytest.fixture(scope="module")
def started() -> Iterator[Running]:
    with running() as server:
        for datatype in DATATYPES:
            server.forwarder.add(f"echo-{datatype.lower()}", echo(datatype))
        server.forwarder.add("matrix", echo("FP32", rank=2))
        server.forwarder.add("open-to-all", echo("FP32"), public=True)
        server.forwarder.add("keyed", _keyed())
        yield server


@pytest.fixture
def server(started: Running) -> Iterator[Running]:
    yield started
    started.forwarder.error, started.forwarder.hang = None, False
    started.forwarder.seen.clear()
    started.forwarder.stale.clear()


@pytest.fixture(scope="module")
def client(started: Running) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(started.url) as client:
        yield client


def _keyed() -> Signature:
    inputs = (TensorSpec("distance", "FP32", required=False, wide=True),)
    return Signature(inputs, (TensorSpec("probability", "FP32"),), keys=("flight",), tabular=True)


def _tensor(values: Any, name: str = "x", datatype: str | None = None) -> triton.InferInput:
    array = np.asarray(values)
    tensor = triton.InferInput(name, array.shape, datatype or np_to_triton_dtype(array.dtype))
    tensor.set_data_from_numpy(array)
    return tensor


def _refused(call: Any) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value


def _stub(server: Running) -> service_pb2_grpc.GRPCInferenceServiceStub:
    return service_pb2_grpc.GRPCInferenceServiceStub(grpc.insecure_channel(server.url))


def _typed(datatype: str, values: list[Any], model: str | None = None) -> Any:
    request = service_pb2.ModelInferRequest(model_name=model or f"echo-{datatype.lower()}", id="r1")
    tensor = request.inputs.add(name="x", datatype=datatype, shape=[len(values)])
    values = [v.encode() for v in values] if datatype == "BYTES" else values
    getattr(tensor.contents, CONTENTS[datatype]).extend(values)
    return request


def _metadata(server: Running) -> tuple[tuple[str, str], ...]:
    return tuple(server.headers.items())


# --- health and metadata ----------------------------------------------------------------------------


def test_server_and_models_say_that_they_are_ready(client: triton.InferenceServerClient, server: Running) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("echo-fp32")
    assert client.is_model_ready("echo-fp32", "3")
    assert not client.is_model_ready("echo-fp32", "77")
    assert not client.is_model_ready("nobody")


def test_server_metadata(client: triton.InferenceServerClient, server: Running) -> None:
    found = client.get_server_metadata()
    assert (found.name, found.version) == ("rayplat", "1.2.3")


def test_model_metadata_names_inputs_with_keys_and_outputs(
    client: triton.InferenceServerClient, server: Running
) -> None:
    found = client.get_model_metadata("keyed", headers=server.headers)
    assert [(t.name, t.datatype, list(t.shape)) for t in found.inputs] == [
        ("flight", "BYTES", [-1]),
        ("distance", "FP32", [-1]),
    ]
    assert [t.name for t in found.outputs] == ["probability"]
    assert list(found.versions) == ["2", "3"]
    assert found.platform == "test_echo"


def test_metadata_of_an_unknown_model_is_not_found(client: triton.InferenceServerClient, server: Running) -> None:
    with pytest.raises(InferenceServerException) as caught:
        client.get_model_metadata("nobody", headers=server.headers)
    assert caught.value.status() == "StatusCode.NOT_FOUND"


def test_grpc_health(server: Running) -> None:
    request, response = (definition.message(f"grpc.health.v1.HealthCheck{k}") for k in ("Request", "Response"))
    with grpc.insecure_channel(server.url) as channel:
        check = channel.unary_unary("/grpc.health.v1.Health/Check", request.SerializeToString, response.FromString)
        assert check(request()).status == 1
        assert check(request(service="inference.GRPCInferenceService")).status == 1
        assert _refused(lambda: check(request(service="another"))).code() is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("name", definition.REFLECTION)
def test_reflection_describes_the_service(server: Running, name: str) -> None:
    ((_, request, response),) = definition.calls(name)
    with grpc.insecure_channel(server.url) as channel:
        ask = channel.stream_stream(f"/{name}/ServerReflectionInfo", request.SerializeToString, response.FromString)
        asked = [
            request(list_services=""),
            request(file_containing_symbol="inference.GRPCInferenceService"),
            request(file_containing_symbol="google.rpc.Status"),
            request(file_containing_symbol="no.such.Thing"),
        ]
        listed, described, with_imports, absent = list(ask(iter(asked)))
    assert "inference.GRPCInferenceService" in [s.name for s in listed.list_services_response.service]
    (file,) = described.file_descriptor_response.file_descriptor_proto
    names = [m.name for m in descriptor_pb2.FileDescriptorProto.FromString(file).service[0].method]
    assert names == ["ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata", "ModelInfer"]
    assert len(with_imports.file_descriptor_response.file_descriptor_proto) == 3
    assert absent.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]


# --- inference --------------------------------------------------------------------------------------


@pytest.mark.parametrize("datatype", DATATYPES)
def test_raw_contents_of_every_datatype_come_back_raw(
    client: triton.InferenceServerClient, server: Running, datatype: str
) -> None:
    values = np.array(VALUES[datatype], dtype=NUMPY[datatype])
    answer = client.infer(f"echo-{datatype.lower()}", [_tensor(values)], request_id="r7", headers=server.headers)
    found = answer.as_numpy("y")
    expected = [v.encode() for v in VALUES[datatype]] if datatype == "BYTES" else VALUES[datatype]
    assert found.tolist() == expected
    message = answer.get_response()
    assert message.id == "r7"
    assert message.model_version == "3"
    assert len(message.raw_output_contents) == 1
    assert message.parameters["generation"].int64_param == 9


@pytest.mark.parametrize("datatype", [name for name in DATATYPES if name != "FP16"])
def test_typed_contents_of_every_datatype_come_back_typed(server: Running, datatype: str) -> None:
    answer = _stub(server).ModelInfer(_typed(datatype, VALUES[datatype]), metadata=_metadata(server))
    expected = [v.encode() for v in VALUES[datatype]] if datatype == "BYTES" else VALUES[datatype]
    assert list(getattr(answer.outputs[0].contents, CONTENTS[datatype])) == expected
    assert not answer.raw_output_contents
    assert list(answer.outputs[0].shape) == [3]


def test_arrays_keep_their_shape(client: triton.InferenceServerClient, server: Running) -> None:
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert client.infer("matrix", [_tensor(values)], headers=server.headers).as_numpy("y").tolist() == values.tolist()


def test_keys_metadata_and_version_reach_the_host(client: triton.InferenceServerClient, server: Running) -> None:
    headers = server.headers | {"x-user": "u1", "x-rayplat-target": "challenger", "x-request-id": "from-header"}
    keys = _tensor(np.array(["AA1", "UA2"], dtype=object), "flight")
    client.infer("keyed", [keys], parameters={"event_time": "2013-11-05T14:30:00Z"}, headers=headers)
    place, request, call = server.forwarder.seen[-1]
    assert (place.model, place.alias, place.version) == ("keyed", "champion", None)
    assert request.entity == ["AA1", "UA2"]
    assert request.event_time is not None
    assert request.event_time.hour == 14
    assert call.target == "challenger"
    assert call.headers["x-user"] == "u1"
    assert call.request_id == "from-header"
    assert call.principal is not None
    client.infer("echo-fp32", [_tensor(np.zeros(1, np.float32))], model_version="7", headers=server.headers)
    assert server.forwarder.seen[-1][0].version == 7
    with pytest.raises(InferenceServerException, match="nightly"):
        client.infer("echo-fp32", [_tensor(np.zeros(1, np.float32))], model_version="nightly", headers=server.headers)


def test_only_the_outputs_asked_for_are_given(client: triton.InferenceServerClient, server: Running) -> None:
    wanted = [triton.InferRequestedOutput("y")]
    tensor = _tensor(np.zeros(2, np.float32))
    assert client.infer("echo-fp32", [tensor], outputs=wanted, headers=server.headers).as_numpy("y") is not None
    with pytest.raises(InferenceServerException, match="unknown output"):
        client.infer("echo-fp32", [tensor], outputs=[triton.InferRequestedOutput("z")], headers=server.headers)
    with pytest.raises(InferenceServerException, match="classification"):
        client.infer(
            "echo-fp32", [tensor], outputs=[triton.InferRequestedOutput("y", class_count=2)], headers=server.headers
        )


def test_a_signature_that_changed_is_looked_at_again(client: triton.InferenceServerClient, server: Running) -> None:
    server.forwarder.stale["echo-fp32"] = server.forwarder.models["echo-bytes"]
    answer = client.infer("echo-fp32", [_tensor(np.ones(1, np.float32))], headers=server.headers)
    assert answer.as_numpy("y").tolist() == [1.0]


# --- refusals ---------------------------------------------------------------------------------------


def _wrong(change: Any) -> Any:
    request = _typed("INT8", [1, 2])
    change(request)
    return request


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda r: r.inputs[0].contents.ClearField("int_contents"), "has 0 values, the shape says 2"),
        (lambda r: r.inputs[0].contents.int_contents.append(3), "has 3 values"),
        (lambda r: r.inputs[0].contents.fp32_contents.append(3), "belongs into int_contents"),
        (
            lambda r: r.inputs[0].contents.int_contents.__setitem__(1, 300),
            r"inputs.x\[1\]: is outside the range of INT8",
        ),
        (lambda r: setattr(r.inputs[0], "datatype", "FP8"), "no tensor datatype"),
        (lambda r: setattr(r.inputs[0], "name", "w"), "unknown input"),
        (lambda r: setattr(r.inputs[0], "name", ""), "missing"),
        (lambda r: r.inputs.add().CopyFrom(r.inputs[0]), "given twice"),
        (lambda r: r.ClearField("inputs"), "non-empty"),
        (lambda r: r.inputs[0].ClearField("shape"), "the shape says 1"),
        (lambda r: r.raw_input_contents.append(b"\x01\x02"), "must be empty"),
        (lambda r: r.raw_input_contents.extend([b"\x01", b"\x02"]), "has 2 items for 1 inputs"),
        (lambda r: setattr(r.inputs[0], "datatype", "FP16"), "no typed form"),
        (lambda r: r.outputs.add(name="z"), "unknown output"),
        (lambda r: r.outputs.extend([type(r.outputs.add())(name="y")] * 2), "missing|asked for twice"),
        (lambda r: r.inputs[0].parameters["shared_memory_region"].__setattr__("string_param", "a"), "shared memory"),
        (lambda r: r.parameters["event_time"].__setattr__("string_param", "soon"), "ISO 8601"),
        (lambda r: setattr(r, "id", "x" * 2000), "1 to 1024 characters"),
    ],
)
def test_what_does_not_fit_is_an_invalid_argument(server: Running, change: Any, said: str) -> None:
    error = _refused(lambda: _stub(server).ModelInfer(_wrong(change), metadata=_metadata(server)))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert re.search(said, error.details()), error.details()


def test_raw_bytes_of_the_wrong_size_and_too_many_rows(server: Running) -> None:
    request = service_pb2.ModelInferRequest(model_name="echo-fp32")
    request.inputs.add(name="x", datatype="FP32", shape=[2])
    request.raw_input_contents.append(b"\0" * 7)
    error = _refused(lambda: _stub(server).ModelInfer(request, metadata=_metadata(server)))
    assert "has 7 bytes" in error.details()
    error = _refused(lambda: _stub(server).ModelInfer(_typed("FP32", [0.0] * 101), metadata=_metadata(server)))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "limit is 100" in error.details()


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Unavailable("the host", "it restarts"), grpc.StatusCode.UNAVAILABLE),
        (Overloaded("the host", "full", 2.5), grpc.StatusCode.RESOURCE_EXHAUSTED),
        (DeadlineExceeded("the host", 1.0), grpc.StatusCode.DEADLINE_EXCEEDED),
        (Forbidden("someone", "it needs another role"), grpc.StatusCode.PERMISSION_DENIED),
        (PartFailed("version 3", "its output is wrong"), grpc.StatusCode.INTERNAL),
        (ValueError("secret inner text"), grpc.StatusCode.INTERNAL),
    ],
)
def test_errors_of_hosts_have_their_status(server: Running, error: Exception, code: grpc.StatusCode) -> None:
    server.forwarder.error = error
    found = _refused(lambda: _stub(server).ModelInfer(_typed("FP32", [1.0]), metadata=_metadata(server)))
    assert found.code() is code
    assert "secret" not in found.details()
    trailing = dict(found.trailing_metadata())
    told = definition.message("google.rpc.Status").FromString(trailing["grpc-status-details-bin"])
    info = definition.message("google.rpc.ErrorInfo")()
    assert told.details[0].Unpack(info)
    assert info.domain == "rayplat"
    if isinstance(error, Overloaded):
        retry = definition.message("google.rpc.RetryInfo")()
        assert told.details[1].Unpack(retry)
        assert (retry.retry_delay.seconds, retry.retry_delay.nanos) == (2, 500_000_000)
        assert trailing["grpc-retry-pushback-ms"] == "2500"
        assert json.loads(info.metadata["args"]) == ["the host", "full", 2.5]


def test_without_a_token_only_public_models_answer(client: triton.InferenceServerClient, server: Running) -> None:
    tensor = _tensor(np.ones(1, np.float32))
    assert client.infer("open-to-all", [tensor]).as_numpy("y").tolist() == [1.0]
    for model in ("echo-fp32", "nobody"):  # the answer does not tell which models there are
        with pytest.raises(InferenceServerException) as caught:
            client.infer(model, [tensor])
        assert caught.value.status() == "StatusCode.UNAUTHENTICATED"
    for model in ("echo-fp32", "open-to-all", "nobody"):  # a wrong token is refused, needed or not
        with pytest.raises(InferenceServerException) as caught:
            client.infer(model, [tensor], headers={"authorization": "Bearer nonsense"})
        assert caught.value.status() == "StatusCode.UNAUTHENTICATED"
    with pytest.raises(InferenceServerException) as caught:
        client.get_model_metadata("echo-fp32")
    assert caught.value.status() == "StatusCode.UNAUTHENTICATED"


def test_a_deadline_reaches_the_host_and_ends_the_call(server: Running) -> None:
    server.forwarder.hang = True
    server.forwarder.cancelled.clear()
    error = _refused(lambda: _stub(server).ModelInfer(_typed("FP32", [1.0]), metadata=_metadata(server), timeout=0.3))
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert server.forwarder.cancelled.wait(5)
    deadline = server.forwarder.seen[-1][2].deadline
    assert deadline is not None
    assert deadline - time.monotonic() < 0.3


def test_triton_s_timeout_parameter_shortens_the_deadline(server: Running) -> None:
    request = _typed("FP32", [1.0])
    request.parameters["timeout"].int64_param = 500_000
    _stub(server).ModelInfer(request, metadata=_metadata(server))
    deadline = server.forwarder.seen[-1][2].deadline
    assert deadline is not None
    assert deadline - time.monotonic() <= 0.5


def test_a_client_that_leaves_ends_its_call(server: Running) -> None:
    server.forwarder.hang = True
    server.forwarder.cancelled.clear()
    call = _stub(server).ModelInfer.future(_typed("FP32", [1.0]), metadata=_metadata(server))
    while not server.forwarder.seen:
        assert not call.done()
    call.cancel()
    assert server.forwarder.cancelled.wait(5)


def test_large_messages_up_to_the_limit(server: Running, client: triton.InferenceServerClient) -> None:
    wide = np.zeros((50, 20_000), np.float32)  # 4,000,000 bytes
    answer = client.infer("matrix", [_tensor(wide)], headers=server.headers)
    assert answer.as_numpy("y").shape == wide.shape
    with pytest.raises(InferenceServerException) as caught:
        client.infer("matrix", [_tensor(np.zeros((60, 20_000), np.float32))], headers=server.headers)
    assert caught.value.status() == "StatusCode.RESOURCE_EXHAUSTED"


def test_what_decompresses_to_too_much_is_refused(server: Running, client: triton.InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException) as caught:
        client.infer(
            "matrix",
            [_tensor(np.zeros((60, 200_000), np.float32))],
            headers=server.headers,
            compression_algorithm="gzip",
        )
    assert caught.value.status() == "StatusCode.RESOURCE_EXHAUSTED"


def test_answers_are_counted_by_their_status(server: Running, client: triton.InferenceServerClient) -> None:
    before = server.service.answers["OK"]
    client.infer("echo-fp32", [_tensor(np.ones(1, np.float32))], headers=server.headers)
    assert server.service.answers["OK"] == before + 1
