"""Declarations: their digest, their JSON, and what they refuse."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta

import pytest

from rayplat.data.features import (
    Derived,
    Entity,
    FeatureService,
    FeatureView,
    Field,
    OnRequestView,
    Window,
    col,
    view_from_dict,
)
from rayplat.errors import InvalidInput, InvalidName, NotFound
from tests.data.declared import DELAYS, FLIGHT, SCHEDULE, SERVICE, VIEWS, WEATHER


def test_json_and_back_is_the_same() -> None:
    assert FeatureService.from_dict(json.loads(json.dumps(SERVICE.to_dict()))) == SERVICE
    for view in VIEWS:
        assert FeatureView.from_dict(json.loads(json.dumps(view.to_dict()))).digest() == view.digest()


SHOP = Entity("visit", ("shop", "user"), ("int64", "string"))
RICH = FeatureView(
    "rich",
    SHOP,
    "visits",
    "seen",
    fields=(Field("amount_eur", "double", default=0.0), Field("kind", "string", default="none")),
    ttl=timedelta(days=1, microseconds=1),
    created="written",
    where=col("amount") > 0,
    derived=(
        Derived("rate", col("rate_text").cast("double"), "double"),
        Derived("amount_eur", col("amount") * col("rate"), "double"),
    ),
    known_at={"amount": "paid", "rate_text": "published"},
)
WINDOWED = FeatureView(
    "windowed",
    SHOP,
    "visits",
    "seen",
    windows=(
        Window("n", "kind", "count", timedelta(minutes=5)),
        Window("kind_last", "kind_text", "last", timedelta(days=30), "told", "string"),
        Window("amount_last", "amount", "last", timedelta(days=30)),
    ),
    derived=(Derived("kind_text", col("kind").cast("string"), "string"),),
    tile=timedelta(hours=1),
)
NOW = OnRequestView(
    "now",
    inputs=(Field("amount_now", "double"),),
    features=(
        Derived("ratio", col("amount_now") / col("amount_eur"), "double"),
        Derived("high", col("ratio") > 2, "bool"),
    ),
)


def test_a_view_says_what_it_reads_and_holds() -> None:
    assert RICH.keys == ("shop", "user")
    assert RICH.origins("amount_eur") == ("amount", "rate_text")
    assert RICH.source_columns == (
        "shop",
        "user",
        "seen",
        "written",
        "amount",
        "rate_text",
        "kind",
        "paid",
        "published",
    )
    assert RICH.defaults == {"amount_eur": 0.0, "kind": "none"}
    assert WINDOWED.clocks == ("seen", "told")
    assert {c.name: c.dtype for c in WINDOWED.columns} == {"n": "int64", "kind_last": "string", "amount_last": "double"}
    assert RICH.info().join_keys == ("shop", "user")
    with pytest.raises(InvalidInput, match="named by several columns: shop, user"):
        _ = SHOP.join_key


def test_a_changed_definition_is_another_version_with_its_own_table() -> None:
    changed = replace(RICH, where=col("amount") > 1)
    assert changed != RICH
    assert {changed.table, changed.id}.isdisjoint({RICH.table, RICH.id})
    assert (RICH.id, RICH.table) == (f"rich@{RICH.digest()[7:19]}", f"features_rich_{RICH.digest()[7:19]}")
    assert replace(changed, where=col("amount") > 0).table == RICH.table


def test_rich_views_survive_json() -> None:
    for view in (RICH, WINDOWED, NOW):
        again = view_from_dict(json.loads(json.dumps(view.to_dict())))
        assert again == view
        assert again.digest() == view.digest()
    service = FeatureService("s", SHOP, (RICH, WINDOWED, NOW))
    assert FeatureService.from_dict(json.loads(json.dumps(service.to_dict()))) == service
    assert service.features == ("amount_eur", "kind", "n", "kind_last", "amount_last", "ratio", "high")
    assert (service.stored, service.on_request) == ((RICH, WINDOWED), (NOW,))
    assert service.inputs == NOW.inputs
    assert list(service.view_digests()) == ["rich", "windowed", "now"]


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


def test_wrong_declarations_are_refused_by_name() -> None:
    with pytest.raises(InvalidInput, match="distinct column names"):
        Entity("e", ("a", "a"))
    with pytest.raises(InvalidInput, match="1 dtypes for 2 join keys"):
        Entity("e", ("a", "b"), ("string",))
    with pytest.raises(InvalidInput, match="dtype 'double' is none of string, int64"):
        Entity("e", "a", ("double",))
    with pytest.raises(InvalidInput, match="default 'x' is no double"):
        Field("a", "double", default="x")
    with pytest.raises(InvalidInput, match="default True is no int64"):
        Field("a", "int64", default=True)
    with pytest.raises(InvalidInput, match="begin with col"):
        Derived("a", "amount", "double")  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="the name is longer than 41"):
        replace(RICH, name="n" * 42)
    with pytest.raises(
        InvalidInput, match="'told' says when something was known, so it must be a timestamp, not int64"
    ):
        replace(WINDOWED, derived=(*WINDOWED.derived, Derived("told", col("told_us"), "int64")))
    with pytest.raises(InvalidInput, match="derived 'b' reads 'a' before that is computed"):
        replace(RICH, derived=(Derived("b", col("a"), "double"), Derived("a", col("amount"), "double")))
    with pytest.raises(InvalidInput, match="window 'w' takes the mean of a string"):
        replace(WINDOWED, windows=(Window("w", "kind_text", "mean", timedelta(hours=1)),))
    with pytest.raises(InvalidInput, match="a window has its own length"):
        replace(WINDOWED, ttl=timedelta(hours=1))
    with pytest.raises(InvalidInput, match="a tile is a positive length and belongs to windows"):
        replace(RICH, tile=timedelta(hours=1))


def test_wrong_services_are_refused_by_name() -> None:
    with pytest.raises(InvalidInput, match="view 'now' needs 'amount_eur', which no view before it yields"):
        FeatureService("s", SHOP, (NOW, RICH))
    again = OnRequestView("then", (Field("amount_now", "string"),), (Derived("x", col("amount_now"), "string"),))
    late = replace(RICH, name="late", fields=(Field("amount_now", "double"),))
    with pytest.raises(InvalidInput, match="request column 'amount_now' of 'then' has another meaning"):
        FeatureService("s", SHOP, (RICH, NOW, again))
    with pytest.raises(InvalidInput, match="'rich' is already taken"):
        FeatureService("s", SHOP, (RICH, replace(WINDOWED, name="rich")))
    with pytest.raises(InvalidInput, match="'amount_now' comes both from the request and 'late'"):
        FeatureService("s", SHOP, (RICH, NOW, late))
