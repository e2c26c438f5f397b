"""Tables on real Delta logs in a temporary folder."""

from __future__ import annotations

import threading
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from rayplat.data.tables import Tables
from rayplat.errors import AlreadyExists, Conflict, InvalidInput, InvalidName, NotFound, SchemaMismatch
from tests.servers import S3

DAY = datetime(2013, 1, 1, tzinfo=UTC)


@pytest.fixture
def tables(tmp_path: Path) -> Tables:
    return Tables(str(tmp_path / "tables"))


def rows(*numbers: int) -> pa.Table:
    return pa.table({"n": numbers, "at": pa.array([DAY + timedelta(hours=n) for n in numbers])})


def test_versions_are_numbered_and_stay_readable(tables: Tables) -> None:
    first = tables.create("t", rows(1, 2), run_id="r1")
    second = tables.append("t", rows(3), run_id="r2")
    third = tables.overwrite("t", rows(9))
    assert [v.version for v in (first, second, third)] == [0, 1, 2]
    assert [v.row_count for v in (first, second, third)] == [2, 3, 1]
    assert tables.read("t", 1)["n"].to_pylist() == [1, 2, 3]
    assert tables.read(first)["n"].to_pylist() == [1, 2]
    assert tables.read("t")["n"].to_pylist() == [9]
    assert [(c.version, c.run_id, c.rows) for c in tables.history("t")] == [(2, None, 1), (1, "r2", 1), (0, "r1", 2)]
    assert tables.names() == ["t"]
    assert [c.dtype for c in tables.info("t").columns] == ["int64", "timestamp[us, tz=UTC]"]
    assert tables.head("t", 1, limit=2)["n"].to_pylist() == [1, 2]


def test_identity_names_content_and_survives_a_reload(tables: Tables) -> None:
    first = tables.create("t", rows(1))
    second = tables.append("t", rows(2))
    assert tables.version("t", 0) == first
    assert tables.version("t") == second == Tables(tables.uri).version("t")
    assert first.manifest_digest != second.manifest_digest
    assert first.schema_digest == second.schema_digest
    assert first.table_id == second.table_id


def test_a_moment_becomes_the_version_of_that_moment(tables: Tables) -> None:
    tables.create("t", rows(1))
    tables.append("t", rows(2))
    first, second = (commit.at for commit in reversed(tables.history("t")))
    assert tables.version("t", first).version == 0
    assert tables.version("t", second + timedelta(days=1)).version == 1
    with pytest.raises(NotFound, match="first version is of"):
        tables.version("t", first - timedelta(seconds=1))


@pytest.mark.parametrize(
    ("use", "error", "text"),
    [
        (lambda t: t.read("other"), NotFound, "table 'other' does not exist; there are t"),
        (lambda t: t.append("other", rows(1)), NotFound, "other"),
        (lambda t: t.read("t", 7), NotFound, "t@7"),
        (lambda t: t.read("t", -1), NotFound, "t@-1"),
        (lambda t: t.read("Bad Name"), InvalidName, "Bad Name"),
        (lambda t: t.read("../t"), InvalidName, "no valid name"),
        (lambda t: t.create("t", rows(1)), AlreadyExists, "append or overwrite"),
        (lambda t: t.append("t", rows(1).drop_columns(["at"])), SchemaMismatch, "at: missing"),
        (lambda t: t.append("t", rows(1).append_column("x", pa.array([1]))), SchemaMismatch, "x: the table has no"),
        (lambda t: t.append("t", rows(1).set_column(0, "n", pa.array(["1"]))), SchemaMismatch, "n: .*int64.*string"),
        (lambda t: t.overwrite("t", pa.table({"other": [1]})), SchemaMismatch, "other"),
        (lambda t: t.create("u", pa.table({"x": pa.array([1], pa.uint8())})), SchemaMismatch, "x: .*uint8"),
        (lambda t: t.create("u", pa.schema([])), InvalidInput, "a table needs at least one"),
        (lambda t: t.overwrite("t", pa.table({}), replace_schema=True), InvalidInput, "a table needs at least one"),
        (lambda t: t.read("t", columns="at"), InvalidInput, r"columns: 'at' is one string.* write \('at',\)"),
        (lambda t: t.create("u", rows(1), partition_by="at"), InvalidInput, r"partition_by: .* write \('at',\)"),
        (lambda t: t.read("t", columns=["nope"]), SchemaMismatch, "nope"),
        (lambda t: t.read("t", where=pc.field("nope") == 1), InvalidInput, "nope"),
    ],
)
def test_refusals_name_what_is_wrong(tables: Tables, use, error, text) -> None:  # type: ignore[no-untyped-def]
    tables.create("t", rows(1))
    with pytest.raises(error, match=text):
        use(tables)
    assert tables.version("t").version == 0


def test_a_commit_of_one_transaction_happens_once(tables: Tables) -> None:
    tables.create("t", rows(0))
    once = tables.append("t", rows(1), transaction=("job", 0))
    assert tables.append("t", rows(1), transaction=("job", 0)) == once
    assert tables.transaction_version("t", "job") == 0
    assert tables.transaction_version("t", "other") is None
    tables.append("t", rows(2, 3), transactions=[("job", 1), ("other", 4)])
    with pytest.raises(Conflict, match="job"):
        tables.append("t", rows(4, 5), transactions=[("job", 1), ("other", 5)])
    assert tables.read("t")["n"].to_pylist() == [0, 1, 2, 3]


def test_concurrent_appends_are_all_kept(tables: Tables) -> None:
    tables.create("t", rows(0))
    threads = [threading.Thread(target=tables.append, args=("t", rows(n))) for n in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(tables.read("t")["n"].to_pylist()) == list(range(9))
    assert tables.version("t").version == 8


def test_overwrite_makes_the_table_and_may_replace_its_columns(tables: Tables) -> None:
    assert tables.overwrite("t", rows(1)).version == 0
    tables.overwrite("t", pa.table({"name": ["a"]}), replace_schema=True, metadata={"why": "new columns"})
    assert tables.read("t").to_pylist() == [{"name": "a"}]
    assert tables.read("t", 0)["n"].to_pylist() == [1]
    assert tables.metadata("t", 1)["why"] == "new columns"


def test_partitions_prune_and_give_their_values_back(tables: Tables) -> None:
    data = pa.table(
        {
            "v": [1, 2, 3, 4],
            "name": ["a b", "ü/%2", None, "a b"],
            "day": [date(2013, 1, 1), date(2013, 1, 2), date(2013, 1, 1), None],
            "map": pa.array([[("k", 1.5)], None, [], [("k", None)]], pa.map_(pa.string(), pa.float64())),
        }
    )
    tables.create("t", data, partition_by=["name", "day"])
    found = tables.read("t").sort_by("v")
    assert found.to_pylist() == data.to_pylist()
    wanted = pc.field("name") == "ü/%2"
    assert len(tables.scan("t").files) == 4
    assert len(tables.scan("t").prune(wanted).files) == 1
    assert tables.read("t", where=wanted, columns=["v"])["v"].to_pylist() == [2]
    assert tables.read("t", where=pc.field("day").is_null())["v"].to_pylist() == [4]


def test_statistics_prune_files_to_the_microsecond(tables: Tables) -> None:
    """The log keeps times to the millisecond; a file must not be lost for the rest of it."""
    edge = DAY.replace(microsecond=1_999)
    tables.create("t", pa.table({"at": pa.array([DAY, edge]), "n": [1, None]}))
    tables.append("t", pa.table({"at": pa.array([DAY + timedelta(days=1)]), "n": [5]}))
    assert len(tables.scan("t").prune(pc.field("at") >= pa.scalar(edge)).files) == 2
    assert len(tables.scan("t").prune(pc.field("at") > pa.scalar(DAY + timedelta(hours=1))).files) == 1
    assert len(tables.scan("t").prune(pc.field("n") > 4).files) == 1
    assert tables.read("t", where=pc.field("at") == pa.scalar(edge)).num_rows == 1
    assert tables.read("t", where=pc.field("n").is_null()).num_rows == 1


@pytest.mark.ray
def test_datasets_write_and_read_on_workers(tables: Tables, ray_cluster: str) -> None:
    import ray

    blocks = [rows(*range(start, start + 10)) for start in (0, 10, 20)]
    written = tables.overwrite("t", ray.data.from_arrow(blocks), run_id="r")
    assert written.row_count == 30
    assert tables.read("t")["n"].to_pylist() == list(range(30))
    late = pc.field("at") >= pa.scalar(DAY + timedelta(hours=25))
    assert sorted(row["n"] for row in tables.dataset(written, columns=["n"], where=late).take_all()) == list(
        range(25, 30)
    )
    assert len(tables.scan("t").prune(late).files) < 3
    with pytest.raises(SchemaMismatch, match="n: "):
        tables.append("t", ray.data.from_arrow([rows(1), pa.table({"n": ["x"], "at": [DAY]})]))
    on_disk = {str(path) for path in Path(written.uri).glob("*.parquet")}
    assert on_disk == {file.path for file in tables.scan("t").files}
    assert tables.version("t") == written


def core(tables: Tables) -> None:
    """Create, append, read, upsert, delete, replace, history: the same wherever the tables lie."""
    start = pa.table({"k": ["a", "b c", "d"], "v": [1, 2, 3], "p": ["x/y", "x/y", "ü z"]})
    pinned = tables.create("t", start, partition_by=["p"], run_id="r")
    tables.append("t", pa.table({"k": ["e"], "v": [4], "p": pa.array([None], pa.string())}), transaction=("job", 1))
    tables.append("t", pa.table({"k": ["e"], "v": [4], "p": pa.array([None], pa.string())}), transaction=("job", 1))
    tables.upsert("t", pa.table({"k": ["b c", "f"], "v": [20, 5], "p": ["x/y", "q"]}), ["k"])
    tables.delete("t", pc.field("v") == 3)
    tables.replace_partition("t", pa.table({"k": ["g"], "v": [6], "p": ["q"]}), {"p": "q"})
    tables.append("t", pa.table({"k": ["h"], "v": [7], "p": ["x/y"], "more": [1.5]}), evolve=True)
    assert {row["k"]: row["v"] for row in tables.read("t").to_pylist()} == {"a": 1, "b c": 20, "e": 4, "g": 6, "h": 7}
    assert tables.read("t", where=pc.field("p") == "x/y", columns=["k"]).num_rows == 3
    assert len(tables.scan("t").prune(pc.field("p") == "x/y").files) == 3
    assert tables.read(pinned).sort_by("k").equals(start)
    assert [c.operation for c in tables.history("t")] == [
        "APPEND", "ADD COLUMN", "REPLACE PARTITION", "DELETE", "UPSERT", "APPEND", "CREATE",
    ]  # fmt: skip
    assert tables.version("t", tables.history("t")[-1].at) == pinned
    with pytest.raises(AlreadyExists):
        tables.create("t", start)
    with pytest.raises(NotFound, match="there are t"):
        tables.read("other")
    assert tables.names() == ["t"]


def test_the_core_on_a_local_folder(tables: Tables) -> None:
    core(tables)


@pytest.mark.ray
@pytest.mark.services
def test_the_core_on_s3(ray_cluster: str, s3: S3) -> None:
    """With workers that write and read, and two writers of one version: the second is planned anew."""
    import ray

    tables = Tables(f"{s3.uri}/core tables", s3.options)
    assert tables.names() == []
    core(tables)
    tables.create("d", ray.data.from_arrow([rows(1, 2), rows(3)]))
    tables.append("d", ray.data.from_arrow([rows(4)]))
    assert sorted(row["n"] for row in tables.dataset("d", where=pc.field("n") > 1).take_all()) == [2, 3, 4]
    threads = [threading.Thread(target=tables.append, args=("d", rows(n))) for n in range(5, 9)]
    threads.append(threading.Thread(target=tables.upsert, args=("d", rows(1, 99), ["n"])))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(tables.read("d")["n"].to_pylist()) == [1, 2, 3, 4, 5, 6, 7, 8, 99]


@pytest.mark.parametrize("version", ["latest", True, 1.0, date(2100, 1, 1)])
def test_what_is_no_version_is_named(tmp_path: Path, version: Any) -> None:
    tables = Tables(str(tmp_path))
    tables.create("t", pa.table({"n": [1]}))
    with pytest.raises(InvalidInput, match=r"version: .* is no version: give its number"):
        tables.read("t", version)


def test_data_of_another_kind_and_columns_that_come_twice_are_named(tmp_path: Path) -> None:
    tables = Tables(str(tmp_path))
    tables.create("t", pa.table({"n": [1]}))
    odd: Any
    for odd, message in (
        (None, "data: a pyarrow.Table or a Ray Dataset is needed, got NoneType"),
        ({"n": [1]}, "got dict"),
        (pa.table([[1], [2]], names=["n", "n"]), "n: the data has two columns of this name"),
    ):
        with pytest.raises(InvalidInput, match=message):
            tables.append("t", odd)
    assert tables.read("t").to_pydict() == {"n": [1]}
