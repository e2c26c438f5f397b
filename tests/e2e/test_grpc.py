"""The platform's gRPC port, as a client of the protocol sees it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from rayplat.platform import state
from tests.e2e.conftest import Live

pytestmark = pytest.mark.e2e
MODEL = "flight-delay"
AT = datetime(2013, 11, 5, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def client(live: Live) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(str(state.require(live.rayplat.home).grpc_url)) as client:
        yield client


def test_an_answer_is_the_one_that_http_gives(live: Live, client: triton.InferenceServerClient) -> None:
    owner, headers = live.client(), {"authorization": f"Bearer {live.token}"}
    assert client.is_server_ready()
    assert client.is_model_ready(MODEL)
    found = client.get_model_metadata(MODEL, headers=headers)
    entity, output = found.inputs[0].name, found.outputs[0].name
    keys = [owner.tables.head("flights", limit=1)[0]["flight"]]
    tensor = triton.InferInput(entity, [len(keys)], "BYTES")
    tensor.set_data_from_numpy(np.array(keys, dtype=object))
    for version in ("", *live.result["replay"]["by_version"]):
        expected = owner.predict(MODEL, keys, at=AT, version=int(version) if version else None)
        answer = client.infer(
            MODEL, [tensor], model_version=version, parameters={"event_time": AT.isoformat()}, headers=headers
        )
        assert answer.get_response().model_version == str(expected.version)
        np.testing.assert_allclose(answer.as_numpy(output), expected.outputs[output], rtol=1e-6)


def test_without_a_token_nothing_is_told(live: Live, client: triton.InferenceServerClient) -> None:
    tensor = triton.InferInput("flight", [1], "BYTES")
    tensor.set_data_from_numpy(np.array(["x"], dtype=object))
    for model in (MODEL, "nobody"):
        with pytest.raises(InferenceServerException) as caught:
            client.infer(model, [tensor])
        assert caught.value.status() == "StatusCode.UNAUTHENTICATED"


def test_it_has_a_line_in_the_status(live: Live) -> None:
    lines = {part["part"]: part for part in live.rayplat.json("status")}
    assert lines["gRPC server"]["state"] == "up"
    assert lines["gRPC server"]["address"] == state.require(live.rayplat.home).grpc_url
