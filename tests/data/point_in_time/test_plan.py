"""The join on the cluster, by every plan, against the join in memory."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from rayplat.data.point_in_time import AsOf, FeatureRows, Joined, Side, join, join_on_cluster, shuffle, sides
from rayplat.data.point_in_time import plan as plans
from rayplat.data.point_in_time.sides import in_order
from rayplat.data.tables import Tables
from rayplat.errors import InvalidInput, SchemaMismatch
from tests.data.point_in_time.oracle import sides as generated

TTL = timedelta(microseconds=60)


def collected(joined: Joined) -> pa.Table:
    import ray

    return pa.concat_tables(ray.get(joined.blocks))


def kernel(*features: str, key: str = "k") -> AsOf:
    return AsOf((key,), features, ttl=TTL, created="created")


def in_memory(spine: pa.Table, rows: pa.Table, of: AsOf) -> pa.Table:
    return join(spine, [FeatureRows(rows, of.keys, of.features, ttl=of.ttl, created=of.created)])


# --- what is decided before any row is read ---------------------------------------------------------


def schema(*columns: str) -> pa.Schema:
    times = [(name, pa.timestamp("us", "UTC")) for name in ("event_time", "created")]
    return pa.schema([*((name, pa.string()) for name in columns), *times])


def test_sides_are_put_in_stages_by_their_keys() -> None:
    declared = [
        Side("flights", None, kernel("origin", "carrier", key="flight")),  # type: ignore[arg-type]
        Side("weather", None, kernel("temp", "origin", key="origin")),  # type: ignore[arg-type]
        Side("fleet", None, kernel("age", key="carrier")),  # type: ignore[arg-type]
        Side("other", None, kernel("temp", key="flight"), names={"temp": "flight_temp"}),  # type: ignore[arg-type]
    ]
    schemas = [schema("flight", "origin", "carrier"), schema("origin", "temp"), schema("carrier", "age")]
    planned, columns = in_order(schema("flight"), "event_time", declared, [*schemas, schema("flight", "temp")])
    assert [(p.step.name, p.stage) for p in planned] == [("flights", 0), ("weather", 1), ("fleet", 1), ("other", 0)]
    assert planned[1].step.outputs == (("temp", "temp"),)  # the origin is known from the flights
    assert columns == ["flight", "event_time", "created", "origin", "carrier", "temp", "age", "flight_temp"]


def test_what_does_not_fit_is_refused_before_any_row_is_read() -> None:
    def planned(spine: pa.Schema, side: Side, rows: pa.Schema) -> None:
        in_order(spine, "event_time", [side], [rows])

    side = Side("s", None, kernel("v"))  # type: ignore[arg-type]
    with pytest.raises(SchemaMismatch, match="k: join key found neither"):
        planned(schema("other"), side, schema("k", "v"))
    with pytest.raises(SchemaMismatch, match="event_time: the spine has no such column"):
        planned(pa.schema([("k", pa.string())]), side, schema("k", "v"))
    with pytest.raises(SchemaMismatch, match="v: side 's' has no such column"):
        planned(schema("k"), side, schema("k"))
    with pytest.raises(SchemaMismatch, match="k: the spine has int64, the feature rows have string"):
        planned(schema("x").append(pa.field("k", pa.int64())), side, schema("k", "v"))
    with pytest.raises(SchemaMismatch, match="event_time: a timestamp is needed, got string"):
        planned(schema("k"), side, pa.schema([(n, pa.string()) for n in ("k", "v", "event_time", "created")]))
    with pytest.raises(InvalidInput, match="side 's' has no feature 'w'"):
        planned(schema("k"), Side("s", None, kernel("v"), names={"w": "x"}), schema("k", "v"))  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="'s' is the name of more than one"):
        in_order(schema("k"), "event_time", [side, side], [schema("k", "v")] * 2)
    with pytest.raises(InvalidInput, match="the spine gives"):
        planned(schema("k"), Side("s", None, kernel("v"), on=("k", "k")), schema("k", "v"))  # type: ignore[arg-type]


# --- on the cluster ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Tables:
    """Features in five files, a spine in three."""
    made = Tables(str(tmp_path_factory.mktemp("join") / "tables"))
    spine, features = generated(np.random.default_rng(1), "string", 9_000, 12_000, hot=0.5)
    for name, rows, parts in (("spine", spine, 3), ("features", features, 5)):
        made.create(name, rows.slice(0, 0))
        for i in range(parts):
            made.append(name, rows.slice(i * rows.num_rows // parts, rows.num_rows // parts))
    return made


@pytest.mark.ray
@pytest.mark.parametrize("plan", ["broadcast", "shards", "shuffle", "crowded"])
def test_every_plan_is_the_join(ray_cluster: str, tables: Tables, plan: str, monkeypatch: pytest.MonkeyPatch) -> None:
    spine, features = tables.scan("spine"), tables.scan("features")
    monkeypatch.setattr(sides, "PART_BYTES", 1)
    if plan == "shards":
        monkeypatch.setattr(plans, "BROADCAST_BYTES", 1)
        monkeypatch.setattr(plans, "PARTITION_BYTES", 200_000)
    if plan == "crowded":
        monkeypatch.setattr(shuffle, "CROWDED_ROWS", 1_000)
    for ordered in (True, False):
        joined = join_on_cluster(
            spine,
            [Side("s", features, kernel("value", "number"))],
            ordered=ordered,
            plan="broadcast" if plan in ("broadcast", "shards") else "shuffle",
            partitions=6,
        )
        found = collected(joined)
        expected = in_memory(spine.table(), features.table(), kernel("value", "number"))
        assert joined.rows == found.num_rows == 9_000
        if not ordered:
            found, expected = found.sort_by("row"), expected.sort_by("row")
        assert found.drop_columns("value").equals(expected.drop_columns("value"))
        assert found.to_pandas().equals(expected.to_pandas())
    if plan in ("shuffle", "crowded"):
        assert joined.report["shuffles"] == [{"keys": ["k"], "partitions": 6, "crowded": int(plan == "crowded")}]


@pytest.mark.ray
def test_views_of_several_keys_in_one_pass(ray_cluster: str) -> None:
    """Two sides of one key share a shuffle; a third has a feature of the first as its key; a fourth is small."""
    import ray

    rng = np.random.default_rng(8)
    spine, first = generated(rng, "integer", 3_000, 4_000)
    _, second = generated(rng, "integer", 10, 4_000)
    _, third = generated(rng, "integer", 10, 4_000)
    first = first.append_column("way", pc.cast(pc.fill_null(pc.bit_wise_and(first["number"], 127), 0), pa.int32()))
    third = third.rename_columns(["way", "event_time", "created", "height", "of_way"])
    declared = [
        Side("first", [ray.put(first.slice(0, 1_000)), ray.put(first.slice(1_000))], kernel("way", "number")),
        Side("second", second, kernel("value"), names={"value": "second"}),
        Side("third", third, kernel("height", "of_way", key="way")),
        Side("again", second, AsOf(("k",), ("number",)), names={"number": "again"}),
    ]
    blocks = [ray.put(spine.slice(0, 1_700)), ray.put(spine.slice(0, 0)), ray.put(spine.slice(1_700))]
    joined = join_on_cluster(blocks, declared, plan="shuffle", partitions=3)
    assert [s["keys"] for s in joined.report["shuffles"]] == [["k"], ["way"]]
    expected = in_memory(spine, first, kernel("way", "number"))
    expected = in_memory(expected, second.rename_columns({"value": "second"}), kernel("second"))
    expected = in_memory(expected, third, kernel("height", "of_way", key="way"))
    again = second.rename_columns({"number": "again"})
    expected = join(expected, [FeatureRows(again, "k", ("again",))])
    found = collected(joined)
    assert found.schema.equals(expected.schema)
    assert found.to_pandas().equals(expected.to_pandas())
    broadcast = collected(join_on_cluster(spine, declared))
    assert broadcast.to_pandas().equals(expected.to_pandas())


@pytest.mark.ray
def test_feature_files_out_of_reach_are_not_read(ray_cluster: str, tmp_path: Path) -> None:
    tables = Tables(str(tmp_path / "tables"))
    days = [pa.array([day * 86_400_000_000], pa.timestamp("us", "UTC")) for day in range(6)]
    tables.create("f", pa.table({"k": ["a"], "event_time": days[0], "v": [0]}))
    for day in range(1, 6):
        tables.append("f", pa.table({"k": ["a"], "event_time": days[day], "v": [day]}))
    side = Side("s", tables.scan("f"), AsOf(("k",), ("v",), ttl=timedelta(days=1)))
    joined = join_on_cluster(pa.table({"k": ["a", "b"], "event_time": days[3].take([0, 0])}), [side])
    assert collected(joined)["v"].to_pylist() == [3, None]
    assert joined.report["sides"]["s"]["files"] == (2, 6)
    nothing = join_on_cluster(pa.table({"k": ["a"], "event_time": pa.nulls(1, days[0].type)}), [side], plan="shuffle")
    assert collected(nothing)["v"].to_pylist() == [None]
    assert nothing.report["sides"]["s"]["files"] == (0, 6)
    empty = join_on_cluster(pa.table({"k": ["a"], "event_time": days[0]}).slice(0, 0), [side], plan="shuffle")
    assert collected(empty).column_names == ["k", "event_time", "v"]
    assert empty.rows == 0


@pytest.mark.ray
def test_an_error_in_a_task_is_the_platforms(ray_cluster: str) -> None:
    spine = pa.table({"k": [0.5], "event_time": pa.array([1], pa.timestamp("us"))})
    rows = pa.table({"k": [1.0], "event_time": pa.array([1], pa.timestamp("us")), "v": [1]})
    for plan in ("broadcast", "shuffle"):
        with pytest.raises(SchemaMismatch, match=r"k: double holds values that are no key"):
            join_on_cluster(spine, [Side("s", rows, AsOf(("k",), ("v",)))], plan=plan)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="plan"):
        join_on_cluster(spine, [], plan="hash")  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="partitions"):
        join_on_cluster(spine, [], partitions=0)
