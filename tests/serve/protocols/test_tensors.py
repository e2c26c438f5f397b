"""Tensors of every datatype and rank, as JSON and as raw bytes: what comes in goes to the model as it was."""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from rayplat.errors import BadRequest, InvalidInput, RayplatError, TooLarge
from rayplat.serve.ports import LoadedVersion
from rayplat.serve.protocols import v2
from rayplat.serve.protocols.elements import DTYPES, RANGES
from rayplat.serve.request import Answer
from rayplat.types import Signature, TensorSpec
from rayplat.types.signature import DATATYPES, FLOATS, INTEGERS
from tests.serve.fakes import head

NUMERIC = ("BOOL", *INTEGERS, *FLOATS)


def one(datatype: str, shape: tuple[int, ...], **spec: Any) -> Signature:
    return Signature((TensorSpec("x", datatype, shape, **spec),), ())


def tensor(datatype: str, shape: list[int], data: Any, **more: Any) -> dict[str, Any]:
    return {"name": "x", "datatype": datatype, "shape": shape, "data": data, **more}


def parse(signature: Signature, *tensors: dict[str, Any]) -> v2.Request:
    return v2.parse(json.dumps({"inputs": list(tensors)}).encode(), signature, 100)


def raw(signature: Signature, datatype: str, shape: list[int], packed: bytes, **change: Any) -> v2.Request:
    said = {"name": "x", "datatype": datatype, "shape": shape, "parameters": {"binary_data_size": len(packed)}}
    head_ = json.dumps({"inputs": [said | change]}).encode()
    return v2.parse(head_ + packed, signature, 100, len(head_))


def arrays(datatype: str) -> st.SearchStrategy[Any]:
    shapes = hnp.array_shapes(min_dims=1, max_dims=4, max_side=4)
    dtype = DTYPES[datatype]
    if datatype in FLOATS:
        elements = st.floats(width=int(datatype[2:]), allow_nan=False, allow_infinity=False)  # type: ignore[call-overload]
        return hnp.arrays(dtype, shapes, elements=elements)
    return hnp.arrays(dtype, shapes)


@pytest.mark.parametrize("datatype", NUMERIC)
@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_every_way_to_send_an_array_gives_the_same_array(datatype: str, data: Any) -> None:
    array = data.draw(arrays(datatype))
    signature = one(datatype, (-1,) * array.ndim)
    shape = list(array.shape)
    for request in (
        parse(signature, tensor(datatype, shape, array.tolist())),
        parse(signature, tensor(datatype, shape, array.ravel().tolist())),
        raw(signature, datatype, shape, array.tobytes()),
    ):
        found = request.inputs["x"]
        assert isinstance(found, np.ndarray)
        assert found.dtype == array.dtype
        np.testing.assert_array_equal(found, array)
        assert request.rows == shape[0]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=8), min_size=1, max_size=6))
def test_text_in_every_way(values: list[str]) -> None:
    packed = b"".join(struct.pack("<I", len(v.encode())) + v.encode() for v in values)
    signature, shape = one("BYTES", (-1,)), [len(values)]
    assert parse(signature, tensor("BYTES", shape, values)).inputs["x"] == values
    assert raw(signature, "BYTES", shape, packed).inputs["x"] == values
    square = one("BYTES", (-1, 1, -1))
    found = raw(square, "BYTES", [1, 1, len(values)], packed).inputs["x"]
    assert isinstance(found, np.ndarray)
    assert (found.shape, found.dtype, found.ravel().tolist()) == ((1, 1, len(values)), np.dtype(object), values)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.binary(max_size=8), min_size=1, max_size=6))
def test_bytes_that_are_no_text(values: list[bytes]) -> None:
    packed = b"".join(struct.pack("<I", len(v)) + v for v in values)
    signature = one("BYTES", (-1,), logical="binary")
    assert raw(signature, "BYTES", [len(values)], packed).inputs["x"] == values


def test_base64_where_the_content_type_says_so() -> None:
    signature = one("BYTES", (-1,), logical="binary")
    said = {"content_type": "base64"}
    assert parse(signature, tensor("BYTES", [1], ["AP8="], parameters=said)).inputs["x"] == [b"\x00\xff"]
    assert parse(signature, tensor("BYTES", [1], ["AP8="])).inputs["x"] == [b"AP8="]
    with pytest.raises(InvalidInput, match=r"inputs.x\[0\]: is no base64"):
        parse(signature, tensor("BYTES", [1], ["?"], parameters=said))


@pytest.mark.parametrize("datatype", NUMERIC)
@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_answers_in_json_and_raw_hold_the_same(datatype: str, data: Any) -> None:
    array = data.draw(arrays(datatype))
    loaded = LoadedVersion("m", 1, "sha256:1", None, one("FP32", (-1,)))  # type: ignore[arg-type]
    answer = Answer("1", head(1, 1), loaded, "champion", {"y": array, "z": array})
    found = json.loads(v2.response(answer)[0])["outputs"][0]
    assert (found["datatype"], found["shape"]) == (datatype, list(array.shape))
    np.testing.assert_array_equal(np.array(found["data"], array.dtype).reshape(array.shape), array)
    body, headers = v2.response(answer, v2.Request(1, {}, (), binary=frozenset({"z"})))
    said = dict(headers)
    assert said[b"content-type"] == b"application/octet-stream"
    length = int(said[b"inference-header-content-length"])
    plain, other = json.loads(body[:length])["outputs"]
    assert "data" in plain
    assert "data" not in other
    assert other["parameters"]["binary_data_size"] == len(body) - length
    np.testing.assert_array_equal(np.frombuffer(body[length:], array.dtype).reshape(array.shape), array)


def test_answers_of_text_and_bytes() -> None:
    loaded = LoadedVersion("m", 1, "sha256:1", None, one("FP32", (-1,)))  # type: ignore[arg-type]
    outputs = {
        "text": np.array([["é", "b"]]),
        "missing": np.array([None, "b"], dtype=object),
        "bytes": np.array([b"\xff", b"\x00"], dtype=object),
        "when": np.array(["2020-01-02T03:04:05"], dtype="datetime64[s]"),
        "tree": np.array([{"a": [1]}], dtype=object),
    }
    answer = Answer("1", head(1, 1), loaded, "champion", outputs)
    found = {one["name"]: one for one in json.loads(v2.response(answer)[0])["outputs"]}
    assert all(one["datatype"] == "BYTES" for one in found.values())
    assert found["text"]["data"] == ["é", "b"]
    assert found["text"]["shape"] == [1, 2]
    assert found["missing"]["data"] == [None, "b"]
    assert (found["bytes"]["data"], found["bytes"]["parameters"]) == (["/w==", "AA=="], {"content_type": "base64"})
    assert found["when"]["data"] == ["2020-01-02T03:04:05"]
    assert found["tree"]["data"] == ['{"a":[1]}']
    body, headers = v2.response(answer, v2.Request(1, {}, (), binary=None))
    raw_ = body[int(dict(headers)[b"inference-header-content-length"]) :]
    assert raw_.startswith(struct.pack("<I", 2) + "é".encode() + struct.pack("<I", 1) + b"b")
    assert struct.pack("<I", 1) + b"\xff" in raw_


@pytest.mark.parametrize("datatype", [*INTEGERS, *FLOATS])
def test_the_ends_of_each_range(datatype: str) -> None:
    low, high = RANGES[datatype]
    found = parse(one(datatype, (-1,)), tensor(datatype, [2], [low, high])).inputs["x"]
    assert list(found) == [low, high]
    beyond = [0, high * 2 if datatype in FLOATS else high + 1]
    if datatype != "FP64":
        with pytest.raises(InvalidInput, match=rf"inputs.x\[1\]: is outside the range of ({datatype}|64-bit)"):
            parse(one(datatype, (-1,)), tensor(datatype, [2], beyond))


def test_integers_too_wide_for_the_model_are_refused_in_raw_bytes_too() -> None:
    data = np.array([1, 300], np.int64).tobytes()
    with pytest.raises(InvalidInput, match=r"inputs.x\[1\]: is outside the range of INT8"):
        raw(one("INT8", (-1,)), "INT64", [2], data)
    assert list(raw(one("INT8", (-1,)), "INT64", [1], data[:8]).inputs["x"]) == [1]
    high = np.array([2**63], np.uint64).tobytes()
    with pytest.raises(InvalidInput, match="outside the range of INT64"):
        raw(one("INT64", (-1,)), "UINT64", [1], high)
    with pytest.raises(InvalidInput, match="outside the range of FP16"):
        raw(Signature((TensorSpec("x", "FP16"),), (), tabular=True), "INT32", [1], np.array([10**6], "<i4").tobytes())


@pytest.mark.parametrize(
    ("shape", "given_", "data", "reason"),
    [
        ((-1, 3), [1, 2], [1, 2], r"must be \[n, 3\], found \[1, 2\]"),
        ((-1, 3), [3], [1, 2, 3], r"must be \[n, 3\]"),
        ((-1, 3), [1, 3], [[1, 2]], r"inputs.x\[0\]: must be arrays as the shape says"),
        ((-1, 3), [2, 3], [[1, 2, 3], [1, 2]], r"inputs.x\[1\]: must be arrays"),
        ((-1, 3), [2, 3], [[1, 2, 3]], r"inputs.x.data: has 1 values, the shape says 2 rows"),
        ((-1, 3), [2, 3], [[1, 2, 3], 4], r"inputs.x\[1\]: .* found a single value"),
        ((-1, 3), [2, 3], [1, 2, 3, 4, 5], r"has 5 values, the shape says 6"),
        ((-1, -1), [1, 2**62], [1], r"has 1 values, the shape says 4611686018427387904"),
        ((-1, -1), [1, 2**64], [1], r"inputs.x.shape: must be an array of non-negative integers of 64 bits"),
        ((-1, -1, -1), [2, 2**40, 2**40], [1], "the shape says"),
        ((-1,), [1] * 40, [1], "1 to 32 dimensions"),
        ((-1, 2, 2), [1, 2, 2], [[[1, 2], [3]]], r"inputs.x\[0\]"),
        ((2, 2), [3, 2], [1] * 6, r"must be \[2, 2\]"),
    ],
)
def test_shapes_that_do_not_fit(shape: tuple[int, ...], given_: list[int], data: Any, reason: str) -> None:
    with pytest.raises(InvalidInput, match=reason):
        parse(one("FP32", shape), tensor("FP32", given_, data))


def test_rows_beyond_the_limit() -> None:
    with pytest.raises(TooLarge, match="101 rows, the limit is 100"):
        parse(one("FP32", (-1, 1)), tensor("FP32", [101, 1], [0.0] * 101))


@pytest.mark.parametrize(
    ("datatype", "shape", "data", "reason"),
    [
        ("FP32", [2], b"\x00" * 7, "has 7 bytes, the shape says 8 bytes"),
        ("FP32", [2**20, 2**43], b"\x00", "must be"),
        ("BOOL", [2], b"\x01\x02", r"inputs.x\[1\]: a BOOL is one byte"),
        ("BYTES", [1], b"\x01\x00", "ends before the length of value 0"),
        ("BYTES", [1], b"\xff\xff\xff\xffa", "ends within value 0"),
        ("BYTES", [1], b"\x00\x00\x00\x00aa", "has 2 bytes behind the 1 values"),
        ("BYTES", [1], b"\x01\x00\x00\x00\xff", r"inputs.x\[0\]: is not valid UTF-8"),
    ],
)
def test_raw_bytes_that_do_not_fit(datatype: str, shape: list[int], data: bytes, reason: str) -> None:
    with pytest.raises((InvalidInput, TooLarge), match=reason if shape[0] < 100 else "rows"):
        raw(one(datatype, (-1,) * len(shape)), datatype, shape, data)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"parameters": {"binary_data_size": 99}}, "says 99 bytes, the body has 4 left"),
        ({"parameters": {"binary_data_size": 2}}, "2 bytes behind the last tensor's data"),
        ({"parameters": {"binary_data_size": -1}}, "must be an integer, 0 or more"),
        ({"parameters": {"binary_data_size": "4"}}, "must be an integer"),
        ({"data": [1.0]}, "given in JSON and as binary data"),
        ({"parameters": {}}, "inputs.x.data: missing"),
    ],
)
def test_raw_tensors_that_contradict_the_body(change: dict[str, Any], reason: str) -> None:
    with pytest.raises((BadRequest, InvalidInput), match=reason):
        raw(one("FP32", (-1,)), "FP32", [1], np.float32(1).tobytes(), **change)


@pytest.mark.parametrize("length", [10**9, 3])
def test_a_header_length_that_contradicts_the_body(length: int) -> None:
    body = json.dumps({"inputs": [tensor("FP32", [1], [1.0])]}).encode()
    with pytest.raises(BadRequest, match=r"header|JSON"):
        v2.parse(body, one("FP32", (-1,)), 10, length)


def test_missing_numbers_in_raw_bytes() -> None:
    data = np.array([1, np.nan], np.float32).tobytes()
    table = Signature((TensorSpec("x", "FP32", nullable=True),), (), tabular=True)
    assert np.isnan(raw(table, "FP32", [2], data).inputs["x"][1])
    strict = Signature((TensorSpec("x", "FP32"),), (), tabular=True)
    with pytest.raises(InvalidInput, match=r"inputs.x\[1\]: NaN is not accepted"):
        raw(strict, "FP32", [2], data)
    assert np.isnan(raw(one("FP32", (-1,)), "FP32", [2], data).inputs["x"][1])  # an array is the model's to judge


def test_one_matrix_stands_for_all_columns() -> None:
    columns = tuple(TensorSpec(name, "FP32", wide=True, nullable=True) for name in "abc")
    signature = Signature(columns, (), tabular=True, matrix=TensorSpec("input-0", "FP32", (-1, 3), nullable=True))
    for name in ("input-0", "anything"):
        request = parse(signature, tensor("FP32", [2, 3], [[1, 2, None], [4, 5, 6]], name=name))
        assert list(request.inputs) == ["a", "b", "c"]
        np.testing.assert_array_equal(request.inputs["b"], [2.0, 5.0])
        assert np.isnan(request.inputs["c"][0])
        assert request.inputs["a"].dtype == np.float64  # type: ignore[union-attr]
    with pytest.raises(InvalidInput, match=r"must be \[n, 3\]"):
        parse(signature, tensor("FP32", [2, 2], [[1, 2], [4, 5]]))


def test_inputs_come_in_the_models_order_and_none_is_missing() -> None:
    signature = Signature(tuple(TensorSpec(name, "FP32", required=name != "c") for name in "abc"), ())
    found = parse(signature, *(tensor("FP32", [1], [1], name=name) for name in "cba"))
    assert list(found.inputs) == ["a", "b", "c"]
    assert list(parse(signature, *(tensor("FP32", [1], [1], name=name) for name in "ba")).inputs) == ["a", "b"]
    with pytest.raises(InvalidInput, match=r"inputs\.a: missing"):
        parse(signature, tensor("FP32", [1], [1], name="b"))


def test_a_model_that_declares_nothing_takes_what_it_is_given() -> None:
    request = parse(
        Signature((), (), open=True), tensor("INT8", [2, 2], [1, 2, 3, 4]), tensor("BYTES", [2], ["a", "b"], name="t")
    )
    np.testing.assert_array_equal(request.inputs["x"], [[1, 2], [3, 4]])
    assert request.inputs["t"] == ["a", "b"]


def test_several_keys_make_a_tuple_per_row() -> None:
    signature = Signature((TensorSpec("x", "FP32", required=False),), (), keys=("a", "b"), tabular=True)
    named = [tensor("BYTES", [2], [f"{name}1", f"{name}2"], name=name) for name in "ba"]
    assert parse(signature, *named).entity == [("a1", "b1"), ("a2", "b2")]
    with pytest.raises(InvalidInput, match=r"inputs\.b: missing"):
        parse(signature, named[1])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from(["x", "y"]) | JSON,
        "shape": st.lists(st.integers(0, 3), max_size=3) | JSON,
        "datatype": st.sampled_from(DATATYPES) | JSON,
        "data": st.lists(st.floats() | st.integers() | st.none(), max_size=4) | JSON,
        "parameters": st.none() | JSON,
    },
)


@settings(max_examples=200, deadline=None)
@given(
    st.fixed_dictionaries({"inputs": st.lists(FIELDS, max_size=3)}, optional={"outputs": JSON, "id": JSON}),
    st.sampled_from(DATATYPES),
    st.booleans(),
)
def test_any_json_is_taken_or_refused_with_a_reason(request: Any, datatype: str, nullable: bool) -> None:
    signature = Signature((TensorSpec("x", datatype, nullable=nullable),), (), tabular=nullable)
    refused: RayplatError | None = None
    try:
        found = v2.parse(json.dumps(request).encode("utf-8", "surrogatepass"), signature, 10)
    except RayplatError as e:
        refused = e
    if refused is None:
        assert len(found.inputs["x"]) == found.rows > 0
    else:
        assert refused.http_status in (400, 413, 422)
        assert str(refused)
