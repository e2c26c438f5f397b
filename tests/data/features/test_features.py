"""Declarations: their digest, their JSON, and what they refuse."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta

import pytest

from rayplat.data.features import Entity, FeatureService, FeatureView, Field
from rayplat.errors import InvalidInput, InvalidName, NotFound
from tests.data.declared import DELAYS, FLIGHT, SCHEDULE, SERVICE, VIEWS, WEATHER


def test_json_and_back_is_the_same() -> None:
    assert FeatureService.from_dict(json.loads(json.dumps(SERVICE.to_dict()))) == SERVICE
    for view in VIEWS:
        assert FeatureView.from_dict(json.loads(json.dumps(view.to_dict()))).digest() == view.digest()


def test_the_digest_changes_with_the_meaning() -> None:
    changed = [
        replace(WEATHER, ttl=timedelta(hours=3)),
        replace(WEATHER, event_time="other"),
        replace(WEATHER, fields=(Field("temp", "float"),)),
        replace(DELAYS, windows=DELAYS.windows[::-1]),
        replace(DELAYS, windows=(replace(DELAYS.windows[0], length=timedelta(hours=2)), DELAYS.windows[1])),
    ]
    digests = {view.digest() for view in (*VIEWS, *changed)}
    assert len(digests) == len(VIEWS) + len(changed)
    assert all(digest.startswith("sha256:") and len(digest) == 71 for digest in digests)


def test_a_service_lists_what_a_model_may_use() -> None:
    looked_up = replace(SCHEDULE, fields=(Field("origin", "string", lookup=True), Field("distance", "double")))
    assert SERVICE.features == ("origin", "distance", "temp", "departures_1h", "delay_1h")
    assert FeatureService("s", FLIGHT, (looked_up, WEATHER)).features == ("distance", "temp")
    assert list(SERVICE.view_digests()) == ["schedule", "weather", "delays"]
    with pytest.raises(NotFound, match="nope"):
        SERVICE.view("nope")


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(InvalidInput, match="'origin', which no view before it yields"):
        FeatureService("s", FLIGHT, (WEATHER, SCHEDULE))
    with pytest.raises(InvalidInput, match="'temp' comes both from"):
        FeatureService("s", FLIGHT, (SCHEDULE, WEATHER, replace(WEATHER, name="again")))
    with pytest.raises(InvalidInput, match="either fields or windows"):
        FeatureView("v", FLIGHT, "t", "at")
    with pytest.raises(InvalidInput, match="'flight' is already taken"):
        FeatureView("v", FLIGHT, "t", "at", fields=(Field("flight", "string"),))
    with pytest.raises(InvalidInput, match="dtype 'object'"):
        Field("x", "object")
    with pytest.raises(InvalidName):
        Entity("No Name", "key")
