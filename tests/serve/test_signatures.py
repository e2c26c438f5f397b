"""Signatures: what a spec, an MLmodel or a width says, and when a host must refuse another version."""

from __future__ import annotations

import json
from typing import Any

import pytest

from rayplat.errors import InvalidInput
from rayplat.serve import signatures
from rayplat.serve.signatures import compatible
from rayplat.types import FeatureSpec, ModelSpec, Signature, TensorSpec

VIEWS = {"schedule": "sha256:" + "1" * 64}
FEATURES = (FeatureSpec("distance", "numeric", nullable=False), FeatureSpec("carrier", "categorical"))


def mlflow(inputs: Any, outputs: Any = None, params: Any = None) -> Signature:
    sides = {"inputs": inputs, "outputs": outputs, "params": params}
    return signatures.of_mlflow(
        {side: None if content is None else json.dumps(content) for side, content in sides.items()}
    )


def column(name: str, kind: str = "double", **more: Any) -> dict[str, Any]:
    return {"name": name, "type": kind, **more}


def test_features_that_are_looked_up_need_not_be_sent() -> None:
    found = signatures.of_spec(ModelSpec("m", "flight", FEATURES, VIEWS, ("p", "q")), {"hour": "int64"})
    assert found.keys == ("flight",)
    assert found.inputs == (
        TensorSpec("distance", "FP32", required=False, nullable=False, wide=True),
        TensorSpec("carrier", "BYTES", required=False, nullable=True),
    )
    assert [(s.name, s.datatype, s.logical) for s in found.columns] == [("hour", "INT64", "int64")]
    assert found.output_names == ("p", "q")
    alone = signatures.of_spec(ModelSpec("m", "flight", FEATURES, {}))
    assert (alone.keys, [s.required for s in alone.inputs]) == ((), [True, True])


def test_optional_columns_arrays_and_objects_of_mlflow() -> None:
    items = {"type": "array", "items": {"type": "double"}}
    found = mlflow(
        [
            column("a", "long", required=False),
            {"name": "v", **items},
            column("o", "object", properties={"k": {"type": "string"}}),
            column("any", "any"),
        ],
        [column("y", "string")],
        [{"name": "k", "type": "integer", "default": 3, "shape": None}],
    )
    assert [(s.datatype, s.shape, s.required, s.logical) for s in found.inputs] == [
        ("INT64", (-1,), False, ""),
        ("FP64", (-1, -1), True, ""),
        ("BYTES", (-1,), True, "json"),
        ("BYTES", (-1,), True, "json"),
    ]
    assert (found.tabular, found.matrix, found.params[0].datatype, found.params[0].is_list) == (
        True,
        None,
        "INT32",
        False,
    )


def test_tensors_of_mlflow_with_and_without_names() -> None:
    def tensor(dtype: str, *shape: int, **more: Any) -> dict[str, Any]:
        return {"type": "tensor", "tensor-spec": {"dtype": dtype, "shape": list(shape)}, **more}

    one = mlflow([tensor("float32", -1, 28, 28)], [tensor("int64", -1)])
    assert one.inputs == (TensorSpec("input-0", "FP32", (-1, 28, 28)),)
    assert (one.matrix, one.tabular, one.output_names) == (one.inputs[0], False, ("prediction",))
    two = mlflow([tensor("uint8", -1, 3, name="x"), tensor("str", -1, name="t")])
    assert [(s.name, s.datatype) for s in two.inputs] == [("x", "UINT8"), ("t", "BYTES")]
    assert two.matrix is None


def test_columns_of_numbers_may_come_as_a_matrix() -> None:
    wide = signatures.with_matrix(mlflow([column("a"), column("b", "float")]))
    assert wide.matrix == TensorSpec("input-0", "FP64", (-1, 2), nullable=True)
    assert signatures.with_matrix(mlflow([column("a"), column("b", "string")])).matrix is None
    assert signatures.with_matrix(mlflow([column("a"), column("b", required=False)])).matrix is None
    bare = signatures.of_matrix((), 4, (), "FP32")
    assert (bare.tabular, [s.shape for s in bare.inputs]) == (False, [(-1, 4)])


@pytest.mark.parametrize("inputs", [1, [1], [{"type": "tensor"}], [{}], [column("a"), column("a")], {"type": "double"}])
def test_a_damaged_signature_is_refused(inputs: Any) -> None:
    with pytest.raises(InvalidInput, match="MLmodel"):
        mlflow(inputs)


SERVED = mlflow([column("a"), column("b", "string")], [column("y")])


@pytest.mark.parametrize(
    ("candidate", "problem"),
    [
        (mlflow([column("a")], [column("y")]), "the input 'b' was removed"),
        (mlflow([column("a", "long"), column("b", "string")], [column("y")]), "the input 'a' is long and was number"),
        (mlflow([column("a"), column("b", "string"), column("c")], [column("y")]), "'c' was added and is required"),
        (mlflow([column("a"), column("b", "string")], [column("z")]), "the output 'y' was removed"),
        (mlflow([column("a"), column("b", "string")], [column("y", "string")]), "the output 'y' is string"),
        (signatures.opened(), "the model declares no inputs and outputs"),
        (
            signatures.of_spec(ModelSpec("m", "flight", FEATURES, VIEWS)),
            "the input 'a' was removed",
        ),
    ],
)
def test_another_signature_is_refused_in_words(candidate: Signature, problem: str) -> None:
    assert any(problem in told for told in compatible(candidate, SERVED))


def test_what_still_fits() -> None:
    more = mlflow(
        [column("a", "float"), column("b", "string", required=False), column("c", required=False)],
        [column("y"), column("z")],
    )
    for candidate in (SERVED, more):
        assert compatible(candidate, SERVED) == ()
    assert compatible(SERVED, signatures.opened()) == ()


def test_keys_and_matrices_are_part_of_it() -> None:
    spec = ModelSpec("m", "flight", FEATURES, VIEWS)
    other = signatures.of_spec(ModelSpec("m", "plane", FEATURES, VIEWS))
    assert compatible(other, signatures.of_spec(spec)) == ("features are looked up by plane, and were by flight",)
    alone = signatures.of_spec(ModelSpec("m", "flight", FEATURES, {}))
    assert "the input 'distance' is required and was optional" in compatible(alone, signatures.of_spec(spec))
    three, four = (signatures.of_matrix((), width, (), "FP32") for width in (3, 4))
    assert any("one array of shape [-1, 3] was taken" in told for told in compatible(four, three))
