"""Errors keep their class across pickling and across the HTTP API."""

from __future__ import annotations

import pickle

import pytest

from rayplat import errors
from rayplat.errors import RayplatError, by_code

EXAMPLES: list[RayplatError] = [
    errors.BadRequest("the body is not JSON"),
    errors.InvalidInput("rows", "must be positive"),
    errors.InvalidName("alias", "'v2' would shadow a version number"),
    errors.SchemaMismatch("carrier", "int64 instead of string"),
    errors.BadRows(
        "table t", 9, [{"rule": "not_null", "column": "n", "count": 1, "rows": [4], "samples": [{"n": None}]}]
    ),
    errors.Unauthenticated(),
    errors.Forbidden("ada", "it needs the role approver"),
    errors.NeedsWaiver("sha256:a", "model.pkl", "it is a pickle"),
    errors.NotTrusted("the statement sha256:a", "it was signed by an unknown key"),
    errors.NotFound("table", "nope", "see `rayplat table list`"),
    errors.TooLarge("the body", 5, 4),
    errors.Conflict("the promotion is closed"),
    errors.AlreadyExists("the table exists"),
    errors.StaleGeneration("champion moved"),
    errors.Corrupt("object", "sha256:a", "sha256:b"),
    errors.Unavailable("the registry", "restarting"),
    errors.StillRunning("features build"),
    errors.Unschedulable("training", "2 CPUs"),
    errors.UnsupportedMediaType("the content type must be application/json"),
    errors.Overloaded("model 'm'", "12 requests wait", 0.5),
    errors.DeadlineExceeded("the feature lookup", 0.2),
    errors.PartFailed("MLflow", "port in use"),
]


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda e: e.code)
def test_survives_pickle_and_http(error: RayplatError) -> None:
    for copy in (
        pickle.loads(pickle.dumps(error)),
        by_code(error.code, list(error.args), str(error), error.http_status),
    ):
        assert type(copy) is type(error)
        assert copy.args == error.args
        assert str(copy) == str(error)


def test_every_class_has_an_example() -> None:
    def tree(cls: type[RayplatError]) -> set[type[RayplatError]]:
        return {cls}.union(*(tree(sub) for sub in cls.__subclasses__()))

    assert tree(RayplatError) - {RayplatError} == {type(e) for e in EXAMPLES}


def test_unknown_code_keeps_its_text() -> None:
    error = by_code("FromTheFuture", [], "something new", 418)
    assert isinstance(error, errors.BadRequest)
    assert "something new" in str(error)
