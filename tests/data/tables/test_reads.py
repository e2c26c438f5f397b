"""Tables of other writers: read to the value, or refused by name."""

from __future__ import annotations

import json
import os
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, QueryBuilder, write_deltalake

from rayplat.data.tables import Tables
from rayplat.errors import InvalidInput, NotFound
from tests.data.tables.golden import (
    Log,
    array_of,
    field,
    inline_vector,
    map_of,
    mapped,
    schema,
    stored_vector,
    struct_of,
)

DAY = datetime(2020, 1, 1, tzinfo=UTC)


@pytest.fixture
def tables(tmp_path: Path) -> Tables:
    return Tables(str(tmp_path))


@pytest.fixture
def golden(tmp_path: Path) -> Log:
    return Log(tmp_path / "t")


def numbers(*values: int) -> pa.Table:
    return pa.table({"n": pa.array(values, pa.int64())})


def every_type(rows: int) -> pa.Table:
    """All types of the format, a null in each."""

    def cycle(dtype: pa.DataType, *values: Any) -> pa.Array:
        return pa.array([(None, *values)[i % (len(values) + 1)] for i in range(rows)], dtype)

    inner = pa.struct([("x", pa.int64()), ("y", pa.list_(pa.struct([("z", pa.string())])))])
    return pa.table(
        {
            "id": pa.array(range(rows), pa.int64()),
            "byte": cycle(pa.int8(), -128, 127),
            "short": cycle(pa.int16(), -1, 7),
            "int": cycle(pa.int32(), 1 << 30, -5),
            "float": cycle(pa.float32(), 1.5, float("inf")),
            "double": cycle(pa.float64(), float("nan"), -0.0, 1e300),
            "bool": cycle(pa.bool_(), True, False),
            "text": cycle(pa.string(), "", "ü🎉", "x" * 100),
            "bytes": cycle(pa.binary(), b"", b"\x00\xff"),
            "date": cycle(pa.date32(), date(1, 1, 1), date(9999, 12, 31)),
            "at": cycle(pa.timestamp("us", "UTC"), DAY + timedelta(microseconds=1), DAY.replace(year=1800)),
            "naive": cycle(pa.timestamp("us"), datetime(2020, 1, 1, 0, 0, 0, 999_999)),
            "small": cycle(pa.decimal128(5, 2), Decimal("-1.25"), Decimal("999.99")),
            "large": cycle(pa.decimal128(38, 10), Decimal("1234567890123456789012345678.0123456789")),
            "struct": cycle(inner, {"x": 1, "y": [{"z": "a"}, None]}, {"x": None, "y": []}),
            "list": cycle(pa.list_(pa.int32()), [], [1, None]),
            "map": cycle(pa.map_(pa.string(), pa.float64()), [], [("k", 1.0), ("l", None)]),
        }
    )


def same(found: pa.Table, expected: pa.Table) -> bool:
    """Equal values in any order of rows (``id`` gives it); NaN equals NaN."""
    return str(found.sort_by("id").to_pylist()) == str(expected.sort_by("id").to_pylist())


def test_a_table_of_delta_rs_reads_as_delta_rs_reads_it(tables: Tables, tmp_path: Path) -> None:
    data, uri = every_type(40), str(tmp_path / "t")
    write_deltalake(uri, data.slice(0, 20), configuration={"delta.dataSkippingNumIndexedCols": "3"})
    write_deltalake(uri, data.slice(20), mode="append")
    found = tables.read("t")
    assert same(found, data)
    theirs = pa.table(QueryBuilder().register("t", DeltaTable(uri)).execute("select * from t")).select(
        data.column_names
    )
    assert same(found, theirs.cast(found.schema))
    assert tables.version("t").row_count == 40
    long = Decimal("1234567890123456789012345678.0123456789")
    at, small = DAY + timedelta(microseconds=1), Decimal("999.99")
    values = {"text": "ü🎉", "at": at, "small": small, "byte": -128, "large": long, "double": 1e300}
    for name, value in values.items():
        wanted = pc.field(name) == pa.scalar(value, found.schema.field(name).type)
        assert same(tables.read("t", where=wanted), data.filter(wanted)), name


@pytest.mark.parametrize(
    ("dtype", "values"),
    [
        (pa.string(), ["a b", "ü/%2", "x=y:z", None, "a+b?c#d", "%20"]),
        (pa.int8(), [1, -1, None]),
        (pa.int64(), [1 << 60, None]),
        (pa.bool_(), [True, False, None]),
        (pa.float64(), [1.5, -0.25, None]),
        (pa.date32(), [date(2020, 1, 1), date(1, 1, 1), None]),
        (pa.timestamp("us", "UTC"), [DAY, DAY + timedelta(microseconds=1), None]),
        (pa.timestamp("us"), [datetime(2020, 1, 1, 1, 2, 3, 4), None]),
        (pa.decimal128(12, 3), [Decimal("1.500"), Decimal("0.001"), None]),
    ],
    ids=str,
)
def test_partition_values_of_every_type(tables: Tables, tmp_path: Path, dtype: pa.DataType, values: list[Any]) -> None:
    """As delta-rs writes them, and as we do."""
    data = pa.table({"id": range(len(values)), "p": pa.array(values, dtype)})
    write_deltalake(str(tmp_path / "theirs"), data, partition_by=["p"])
    tables.append("theirs", data.set_column(0, "id", pa.array(range(10, 10 + len(values)))))
    found = tables.read("theirs").sort_by("id")
    assert found["p"].to_pylist() == values * 2
    assert found.schema.field("p").type == dtype
    again = pa.table(DeltaTable(str(tmp_path / "theirs")).scan()).select(["id", "p"])
    assert same(found, again.cast(found.schema))
    for value in values:
        wanted = pc.field("p").is_null() if value is None else pc.field("p") == pa.scalar(value, dtype)
        assert len(tables.scan("theirs").prune(wanted).files) == 2
        assert tables.read("theirs", where=wanted, columns=["id"]).num_rows == 2


def test_columns_mapped_by_name(tables: Tables, golden: Log) -> None:
    _mapped(golden, "name", {"minReaderVersion": 3, "minWriterVersion": 7, "readerFeatures": ["columnMapping"],
                             "writerFeatures": ["columnMapping"]})  # fmt: skip
    _reads_mapped(tables)


def test_columns_mapped_by_name_in_the_old_protocol(tables: Tables, golden: Log) -> None:
    """Other readers give nulls here."""
    _mapped(golden, "name", {"minReaderVersion": 2, "minWriterVersion": 5})
    _reads_mapped(tables)


def test_columns_mapped_by_id(tables: Tables, golden: Log) -> None:
    """The files' own names say nothing."""
    _mapped(golden, "id", {"minReaderVersion": 2, "minWriterVersion": 5})
    _reads_mapped(tables)
    with pytest.raises(InvalidInput, match="column mapping"):
        tables.append("t", tables.read("t"))


def _mapped(golden: Log, mode: str, protocol: dict[str, Any]) -> None:
    """Columns renamed, one dropped and added anew, one added later; nested ones too."""
    inner = struct_of(mapped("left", "string", "c-3", 3), mapped("right", "long", "c-4", 4))
    fields = [
        mapped("an id", "long", "c-1", 1),
        mapped("pair", inner, "c-2", 2),
        mapped("part", "date", "c-5", 5),
        mapped("pairs", array_of(struct_of(mapped("deep", "long", "c-8", 8))), "c-7", 7),
        mapped("dict", map_of("string", struct_of(mapped("v", "long", "c-10", 10))), "c-9", 9),
        mapped("later", "string", "c-6", 6),
    ]
    golden.begin(*fields, partition_by=["part"], protocol=protocol, configuration={"delta.columnMapping.mode": mode})

    def named(number: int) -> str:
        return f"c-{number}" if mode == "name" else f"f{number}"

    def numbered(name: int, dtype: pa.DataType) -> pa.Field:
        return pa.field(named(name), dtype, metadata={"PARQUET:field_id": str(name)})

    pair = pa.struct([numbered(4, pa.int64()), numbered(3, pa.string()), numbered(99, pa.int32())])
    deep, value = pa.struct([numbered(8, pa.int64())]), pa.struct([numbered(10, pa.int64())])
    columns = [
        (numbered(1, pa.int64()), [1, 2, 3]),
        (numbered(2, pair), [{named(4): 10, named(3): "a", named(99): 0}, None, {named(4): None, named(3): "c"}]),
        (numbered(7, pa.list_(deep)), [[{named(8): 1}, None], [], None]),
        (numbered(9, pa.map_(pa.string(), value)), [[("k", {named(10): 7})], None, []]),
        (pa.field("later", pa.string()), ["dropped", "dropped", "dropped"]),
    ]
    rows = pa.table([pa.array(v, f.type) for f, v in columns], schema=pa.schema([f for f, _ in columns]))
    ends = {"minValues": {"c-1": 1}, "maxValues": {"c-1": 3}, "nullCount": {"c-1": 0, "c-6": 3}}
    golden.commit(golden.file(rows, partition={"c-5": "2020-01-01"}, statistics=ends))
    later = pa.table(
        [pa.array([4]), pa.array(["new"])], schema=pa.schema([numbered(1, pa.int64()), numbered(6, pa.string())])
    )
    ends = {"minValues": {"c-1": 4}, "maxValues": {"c-1": 4}, "nullCount": {"c-1": 0}}
    golden.commit(golden.file(later, partition={"c-5": None}, statistics=ends))


def _reads_mapped(tables: Tables) -> None:
    day = date(2020, 1, 1)
    expected = [
        {"an id": 1, "pair": {"left": "a", "right": 10}, "part": day, "pairs": [{"deep": 1}, None],
         "dict": [("k", {"v": 7})], "later": None},
        {"an id": 2, "pair": None, "part": day, "pairs": [], "dict": None, "later": None},
        {"an id": 3, "pair": {"left": "c", "right": None}, "part": day, "pairs": None, "dict": [], "later": None},
        {"an id": 4, "pair": None, "part": None, "pairs": None, "dict": None, "later": "new"},
    ]  # fmt: skip
    assert tables.read("t").to_pylist() == expected
    assert tables.head("t", limit=2).to_pylist() == expected[:2]
    wanted = pc.field("an id") > 3
    assert len(tables.scan("t").prune(wanted).files) == 1
    assert tables.read("t", where=wanted, columns=["later"]).to_pylist() == [{"later": "new"}]
    assert tables.read("t", where=pc.field("part") == pa.scalar(day), columns=["an id"]).num_rows == 3
    assert tables.scan("t").count(pc.field("pair", "right") == 10) == 1
    assert tables.read("t", columns=["later", "an id"]).column_names == ["later", "an id"]


@pytest.mark.parametrize("kind", ["inline", "stored", "absolute"])
def test_deletion_vectors_are_applied(tables: Tables, golden: Log, kind: str) -> None:
    golden.begin(field("n", "long"), features=["deletionVectors"])
    vector = inline_vector([1, 3]) if kind == "inline" else stored_vector(golden.folder, [1, 3], kind == "absolute")
    ends = {"minValues": {"n": 0}, "maxValues": {"n": 4}, "nullCount": {"n": 0}, "tightBounds": False}
    golden.commit(
        golden.file(numbers(0, 1, 2, 3, 4), deletionVector=vector, statistics=ends, path="a%20b.parquet"),
        golden.file(numbers(5, 6), statistics={"minValues": {"n": 5}, "maxValues": {"n": 6}, "nullCount": {"n": 0}}),
        golden.file(numbers(7, 8), deletionVector=inline_vector([0])),
    )
    scan = tables.scan("t")
    assert sorted(scan.table()["n"].to_pylist()) == [0, 2, 4, 5, 6, 8]
    assert scan.count() == tables.version("t").row_count == 6
    assert scan.count(pc.field("n") < 3) == 2
    assert sorted(tables.read("t", where=pc.field("n") >= 4)["n"].to_pylist()) == [4, 5, 6, 8]
    assert scan.prune(pc.field("n") == 5).count() == 3  # the file without statistics stays
    assert sum(part.num_rows for part in scan.batches(["n"])) == 6
    assert scan.head(2).num_rows == 2
    assert tables.version("t", 1).manifest_digest != _without_vectors(tables, golden)


def test_a_slice_may_have_its_words_as_dictionaries(tables: Tables, golden: Log) -> None:
    golden.begin(field("n", "long"), field("word", "string"), features=["deletionVectors"])

    def rows(*words: str | None) -> pa.Table:
        return pa.table({"n": pa.array(range(len(words)), pa.int64()), "word": pa.array(words, pa.string())})

    golden.commit(
        golden.file(rows("a", "b", None, "a"), path="a.parquet"),
        golden.file(rows("x", "b", "c"), path="b.parquet", deletionVector=inline_vector([0])),
        golden.file(rows(*("d" * 3), None), path="c.parquet"),
    )
    scan = tables.scan("t")
    for start, count in ((0, 100), (1, 2), (3, 4), (9, 1), (10, 5), (0, 0)):
        plain = scan.slice(start, count)
        found = scan.slice(start, count, words=["n", "word"])
        assert found.schema.types == [pa.int64(), pa.dictionary(pa.int32(), pa.string())]
        assert found.cast(plain.schema).equals(plain)
        assert scan.slice(start, count, ["n"], words=["word"]).equals(plain.select(["n"]))


def _without_vectors(tables: Tables, golden: Log) -> str:
    """The digest of the same files when nothing is deleted from them."""
    path = golden.folder / "_delta_log" / f"{1:020d}.json"
    actions = [json.loads(line) for line in path.read_text().splitlines()]
    for action in actions:
        action["add"].pop("deletionVector", None)
    path.write_text("\n".join(json.dumps(action) for action in actions))
    return tables.version("t").manifest_digest


def test_rows_of_a_deletion_vector_cannot_be_taken_away_twice(tables: Tables, golden: Log) -> None:
    """delta-rs cannot name the vector when it removes a file, so the removal would not hold."""
    golden.begin(field("n", "long"), features=["deletionVectors"])
    golden.commit(golden.file(numbers(0, 1, 2), deletionVector=inline_vector([1])))
    with pytest.raises(InvalidInput, match="deletion vectors"):
        tables.delete("t", pc.field("n") == 0)
    tables.append("t", numbers(9))
    assert sorted(tables.read("t")["n"].to_pylist()) == [0, 2, 9]
    tables.overwrite("t", numbers(5))
    assert tables.read("t")["n"].to_pylist() == [5]
    assert DeltaTable(str(golden.folder)).count() == 1


def test_a_schema_that_grew(tables: Tables, golden: Log) -> None:
    """Missing columns are null, also inside structs; widened types are cast."""
    inner = struct_of(field("a", "long"), field("b", "string"))
    golden.begin(field("n", "integer"), field("s", struct_of(field("a", "long"))), features=["typeWidening"])
    golden.commit(golden.file(pa.table({"n": pa.array([1], pa.int32()), "s": [{"a": 1}]})))
    golden.commit(schema([field("n", "long"), field("s", inner), field("d", "decimal(12,2)"), field("x", "double")]))
    golden.commit(golden.file(pa.table({"n": [1 << 40], "s": [{"a": 2, "b": "x"}], "d": pa.array([3], pa.int32()),
                                        "x": pa.array([1.5], pa.float32())})))  # fmt: skip
    assert tables.read("t").to_pylist() == [
        {"n": 1, "s": {"a": 1, "b": None}, "d": None, "x": None},
        {"n": 1 << 40, "s": {"a": 2, "b": "x"}, "d": Decimal("3.00"), "x": 1.5},
    ]
    assert tables.read("t", where=pc.field("n") > 5)["x"].to_pylist() == [1.5]
    assert tables.read("t", 1).to_pylist() == [{"n": 1, "s": {"a": 1}}]


def test_files_of_spark(tables: Tables, golden: Log) -> None:
    """INT96 times with years beyond what nanoseconds hold, escaped paths, absolute paths, no statistics."""
    outside = golden.folder.parent / "elsewhere" / "x y.parquet"
    golden.begin(field("at", "timestamp"), field("p", "string"), partition_by=["p"])
    times = [datetime(9999, 12, 31, 23, 59, 59, 999_999), datetime(1583, 1, 1)]
    rows = pa.table({"at": pa.array(times, pa.timestamp("us"))})
    golden.commit(
        golden.file(rows, "p=a%2520b/part%20one.parquet", {"p": "a b"}, int96=True),
        golden.file(rows.slice(1), "p=__HIVE_DEFAULT_PARTITION__/f.parquet", {"p": ""}, int96=True),
    )
    moved = golden.file(rows.slice(0, 1), "moved.parquet", {"p": "z"}, int96=True)
    outside.parent.mkdir()
    (golden.folder / "moved.parquet").rename(outside)
    moved["add"]["path"] = outside.as_uri()
    golden.commit(moved)
    utc = [t.replace(tzinfo=UTC) for t in times]
    assert sorted(tables.read("t").to_pylist(), key=str) == sorted(
        [{"at": utc[0], "p": "a b"}, {"at": utc[1], "p": "a b"}, {"at": utc[1], "p": None}, {"at": utc[0], "p": "z"}],
        key=str,
    )
    assert tables.read("t", where=pc.field("at") > pa.scalar(DAY)).num_rows == 2
    assert tables.version("t").row_count == 4


@pytest.mark.parametrize("writer", ["rowTracking", "domainMetadata", "clustering", "icebergCompatV2", "somethingNew"])
def test_features_of_writers_alone_are_read_and_not_written(tables: Tables, golden: Log, writer: str) -> None:
    golden.begin(field("n", "long"), writer_features=[writer])
    golden.commit(
        golden.file(numbers(1), tags={"x": "y"}, baseRowId=0, defaultRowCommitVersion=1),
        {"txn": {"appId": "a", "version": 1}},
    )
    assert tables.read("t")["n"].to_pylist() == [1]
    with pytest.raises(InvalidInput, match=writer):
        tables.append("t", numbers(2))
    assert tables.read("t")["n"].to_pylist() == [1]


@pytest.mark.parametrize("feature", ["v2Checkpoint", "vacuumProtocolCheck", "timestampNtz"])
def test_features_that_are_read_right(tables: Tables, golden: Log, feature: str) -> None:
    golden.begin(field("n", "long"), features=[feature])
    golden.commit(golden.file(numbers(1)))
    assert tables.read("t")["n"].to_pylist() == [1]


@pytest.mark.parametrize(
    "feature", ["somethingNew", "variantType", "variantType-preview", "variantShredding-preview", "catalogManaged"]
)
def test_unknown_features_are_refused_by_name(tables: Tables, golden: Log, feature: str) -> None:
    golden.begin(field("n", "long"), features=[feature])
    golden.commit(golden.file(numbers(1)))
    with pytest.raises(
        InvalidInput, match=rf"table t: .*{feature if feature != 'catalogManaged' else 'catalog-managed'}"
    ):
        tables.read("t")


def test_a_checkpoint_replaces_the_commits_before_it(tables: Tables, tmp_path: Path) -> None:
    for n in range(4):
        write_deltalake(str(tmp_path / "t"), numbers(n), mode="append")
    DeltaTable(str(tmp_path / "t")).create_checkpoint()
    for version in range(3):
        (tmp_path / "t" / "_delta_log" / f"{version:020d}.json").unlink()
    assert sorted(tables.read("t")["n"].to_pylist()) == [0, 1, 2, 3]
    assert tables.names() == ["t"]
    with pytest.raises(NotFound, match=r"t@1.*log was removed"):
        tables.read("t", 1)
    assert [c.version for c in tables.history("t")] == [3]


def test_a_checkpoint_of_the_second_kind(tables: Tables, golden: Log) -> None:
    """Its name holds a UUID, and the files stand in a sidecar of it."""
    golden.begin(field("n", "long"), features=["v2Checkpoint"])
    for n in (1, 2):
        golden.commit(golden.file(numbers(n), statistics={}))
    folder = golden.folder / "_delta_log"
    commits = [[json.loads(line) for line in path.read_text().splitlines()] for path in sorted(folder.glob("*.json"))]
    adds = [commit[0]["add"] for commit in commits[1:]]
    values = pa.map_(pa.string(), pa.string())
    kinds = {"path": pa.string(), "partitionValues": values, "size": pa.int64(), "modificationTime": pa.int64(),
             "dataChange": pa.bool_(), "stats": pa.string()}  # fmt: skip
    rows = [{**add, "partitionValues": [], "stats": add["stats"]} for add in adds]
    (folder / "_sidecars").mkdir()
    sidecar = folder / "_sidecars" / "3a0d65cd-4056-49b8-937b-95f9e3ee90e5.parquet"
    pq.write_table(pa.table({"add": pa.array(rows, pa.struct(list(kinds.items())))}), sidecar)
    named = {"path": sidecar.name, "sizeInBytes": sidecar.stat().st_size, "modificationTime": 1}
    lines = [{"checkpointMetadata": {"version": 2}}, *commits[0], {"sidecar": named}]
    text = "\n".join(json.dumps(line) for line in lines)
    (folder / f"{2:020d}.checkpoint.80a083e8-7026-4e79-81be-64bd76c43a11.json").write_text(text)
    for version in (0, 1):
        (folder / f"{version:020d}.json").unlink()
    assert sorted(tables.read("t")["n"].to_pylist()) == [1, 2]


@pytest.mark.parametrize("stamp", ["timestamp", "inCommitTimestamp"])
def test_moments_of_a_log_by_hand(tables: Tables, golden: Log, stamp: str) -> None:
    """The time in the commit counts, and more than its writer's clock; not that of the file, which a copy changes."""
    start = datetime(2023, 1, 1, tzinfo=UTC)

    def info(hour: int) -> dict[str, object]:
        return {"timestamp": 0, stamp: int((start + timedelta(hours=hour)).timestamp() * 1000)}

    golden.begin(field("n", "long"), info=info(0))
    for n in (1, 2):
        golden.commit(golden.file(numbers(n)), info=info(n))
    assert [tables.version("t", start + timedelta(minutes=m)).version for m in (0, 59, 60, 500)] == [0, 0, 1, 2]
    assert tables.read("t", datetime(2023, 1, 1, 1, 30))["n"].to_pylist() == [1]  # naive times are UTC
    with pytest.raises(NotFound, match="first version is of 2023-01-01T00:00:00"):
        tables.version("t", start - timedelta(microseconds=1))


def test_commits_that_say_nothing_have_the_time_of_their_file(tables: Tables, golden: Log) -> None:
    golden.begin(field("n", "long"))
    golden.commit(golden.file(numbers(1)))
    for version in (0, 1):
        at = datetime(2023, 1, 1 + version, tzinfo=UTC).timestamp()
        os.utime(golden.folder / "_delta_log" / f"{version:020d}.json", (at, at))
    assert tables.version("t", datetime(2023, 1, 1, 12, tzinfo=UTC)).version == 0
    assert [(c.version, c.at.day, c.operation) for c in tables.history("t")] == [(1, 2, "UNKNOWN"), (0, 1, "UNKNOWN")]


@pytest.mark.ray
def test_workers_apply_vectors_and_mapping(tables: Tables, golden: Log, tmp_path: Path, ray_cluster: str) -> None:
    golden.begin(field("n", "long"), features=["deletionVectors"])
    golden.commit(golden.file(numbers(0, 1, 2), deletionVector=inline_vector([1])), golden.file(numbers(3)))
    found = tables.dataset("t")
    assert sorted(row["n"] for row in found.take_all()) == [0, 2, 3]
    assert found.count() == 3
    _mapped(Log(tmp_path / "m"), "name", {"minReaderVersion": 2, "minWriterVersion": 5})
    late = tables.dataset("m", where=pc.field("an id") > 2, columns=["an id", "later"]).take_all()
    assert sorted(late, key=lambda row: row["an id"]) == [{"an id": 3, "later": None}, {"an id": 4, "later": "new"}]


@pytest.mark.parametrize("ours", [True, False])
def test_nan_is_found_and_is_above_nothing_whatever_statistics_say(tables: Tables, tmp_path: Path, ours: bool) -> None:
    x, data = pc.field("x"), pa.table({"id": [1, 2, 3], "x": [1.0, float("nan"), 1.0]})
    if ours:
        tables.create("t", data)
    else:
        write_deltalake(tmp_path / "t", data)
    for where, rows in ((pc.is_nan(x), [2]), (x > 0, [1, 3]), (x != 1, [2]), (~(x > 0), [2]), (x > 1, [])):
        assert tables.read("t", columns=["id"], where=where)["id"].to_pylist() == rows
        assert sum(part.num_rows for part in tables.scan("t").batches(["id"], where)) == len(rows)
        assert tables.scan("t").count(where) == len(rows)


def test_a_file_that_cannot_hold_a_float_is_not_opened(tables: Tables) -> None:
    for x in (1.0, 2.0, 3.0):
        tables.overwrite("t", pa.table({"x": [x]})) if x == 1 else tables.append("t", pa.table({"x": [x]}))
    assert len(tables.scan("t").prune((pc.field("x") > 1.5) & (pc.field("x") < 2.5)).files) == 1


def test_strings_that_datafusion_wrote_are_compared(
    tables: Tables, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_deltalake(tmp_path / "t", pa.table({"word": ["a", "b", None], "raw": [b"a", b"b", None]}))
    [file] = DeltaTable(tmp_path / "t").file_uris()
    views = pa.schema([("word", pa.string_view()), ("raw", pa.binary_view())])
    pq.write_table(pq.read_table(file).cast(views), file)
    monkeypatch.setattr("rayplat.data.tables.scan._BATCH_BYTES", 0)  # as a large file
    for where in (pc.field("word") == "a", pc.field("raw") == b"a", pc.field("word").isin(["a", "z"])):
        assert tables.read("t", where=where)["word"].to_pylist() == ["a"]
        assert [part["word"].to_pylist() for part in tables.scan("t").batches(None, where) if len(part)] == [["a"]]
        assert tables.scan("t").count(where) == 1
