"""A version from the real store with its real online features: what loads, and what must not."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from rayplat.artifacts.store import ArtifactStore
from rayplat.errors import Corrupt, InvalidInput, NotFound, RayplatError
from rayplat.serve import inputs
from rayplat.serve.loader import VersionLoader
from rayplat.serve.ports import LoadedVersion
from rayplat.serve.request import InferRequest
from rayplat.settings import Settings
from tests.serve.tiny import DEPARTURE, MODEL, put_bundle, put_features


def request(*keys: str) -> InferRequest:
    return InferRequest(len(keys), {}, ("probability",), entity=list(keys), event_time=DEPARTURE)


def columns(loaded: LoadedVersion, asked: InferRequest, at: datetime) -> Any:
    (found,) = inputs.columns(loaded, [(asked, at)])
    if isinstance(found, RayplatError):
        raise found
    return found


def test_a_loaded_version_answers_from_the_online_features(settings: Settings) -> None:
    put_features(settings)
    loaded = VersionLoader(settings).load(MODEL, 3, put_bundle(settings, 0.25))
    assert (loaded.version, loaded.spec and loaded.spec.model, loaded.signature.keys) == (3, MODEL, ("flight",))
    found = columns(loaded, request("F1", "F7"), DEPARTURE)
    assert loaded.predictor.predict(found)["probability"].tolist() == pytest.approx([0.251, 0.257])


def test_age_counts_from_the_requests_own_moment(settings: Settings) -> None:
    put_features(settings)
    loaded = VersionLoader(settings).load(MODEL, 1, put_bundle(settings, 0.25))
    columns(loaded, request("F1"), DEPARTURE + timedelta(hours=2))
    with pytest.raises(InvalidInput, match=r"inputs.distance\[0\]: .* \(feature views: schedule expired\)"):
        columns(loaded, request("F1"), DEPARTURE + timedelta(hours=3))
    with pytest.raises(InvalidInput, match=r"inputs.flight\[0\]: unknown flight 'F1' \(feature views: schedule future"):
        columns(loaded, request("F1"), DEPARTURE - timedelta(hours=1))
    with pytest.raises(InvalidInput, match=r"inputs.flight\[1\]: unknown flight 'X' \(feature views: schedule missing"):
        columns(loaded, request("F1", "X"), DEPARTURE)
    with pytest.raises(
        InvalidInput, match=r"inputs.distance\[0\]: the model needs it, and it is missing for 'F-bare'$"
    ):
        columns(loaded, request("F-bare"), DEPARTURE)


def test_requests_looked_up_together_get_what_each_gets_alone(settings: Settings) -> None:
    put_features(settings)
    loaded = VersionLoader(settings).load(MODEL, 1, put_bundle(settings, 0.25))
    asked = [
        (request("F1", "F7"), DEPARTURE),
        (request("F1"), DEPARTURE + timedelta(hours=2)),
        (request("F1"), DEPARTURE + timedelta(hours=3)),
        (request("F2", "X"), DEPARTURE),
        (request("F-bare"), DEPARTURE),
        (request("F9"), DEPARTURE - timedelta(hours=1)),
        (request("F3"), DEPARTURE),
    ]
    alone = [found for one in asked for found in inputs.columns(loaded, [one])]
    together = inputs.columns(loaded, asked)
    for one, other in zip(together, alone, strict=True):
        if isinstance(other, RayplatError):
            assert (type(one), str(one)) == (type(other), str(other))
        else:
            assert isinstance(one, dict)
            assert {name: list(values) for name, values in one.items()} == {n: list(v) for n, v in other.items()}
    assert [isinstance(found, dict) for found in together] == [True, True, False, False, False, False, True]


def test_bytes_that_are_not_those_registered_are_never_loaded(settings: Settings) -> None:
    put_features(settings)
    digest = put_bundle(settings, 0.25)
    store = ArtifactStore.of(settings)
    weights = next(entry for entry in store.manifest(digest).entries if entry.path.endswith("model.pt2"))
    name = weights.digest.removeprefix("sha256:")
    path = next(path for path in Path(settings.artifacts_root).rglob(f"*{name[4:]}") if path.is_file())
    path.chmod(0o644)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(Corrupt):
        VersionLoader(settings).load(MODEL, 1, digest)


def test_what_is_not_there_or_is_another_model_is_refused(settings: Settings) -> None:
    put_features(settings)
    with pytest.raises(NotFound):
        VersionLoader(settings).load(MODEL, 1, "sha256:" + "0" * 64)
    with pytest.raises(InvalidInput, match="was made for 'tiny'"):
        VersionLoader(settings).load("other", 1, put_bundle(settings, 0.25))


def test_views_that_are_not_applied_are_refused(settings: Settings) -> None:
    with pytest.raises(NotFound, match="feature view 'schedule'"):
        VersionLoader(settings).load(MODEL, 1, put_bundle(settings, 0.25))
