"""What changed between versions, against the difference of what the two versions hold."""

from __future__ import annotations

import random
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from deltalake import CommitProperties, DeltaTable, write_deltalake
from hypothesis import given, settings
from hypothesis import strategies as st

from rayplat.data.tables import Tables, changes, upkeep
from rayplat.errors import Conflict, NotFound
from tests.data.tables.strangers import Stranger


@pytest.fixture
def tables(tmp_path: Path) -> Tables:
    return Tables(str(tmp_path / "tables"))


def rows(*keys: int, v: int = 0, p: str = "a") -> pa.Table:
    return pa.table({"k": pa.array(keys, pa.int64()), "v": [float(v)] * len(keys), "p": [p] * len(keys)})


def counted(table: pa.Table) -> Counter[str]:
    return Counter(repr(sorted(row.items())) for row in table.to_pylist())


def check(tables: Tables, after: int, upto: int | None = None) -> changes.Changes:
    """The changes, which are what the two versions differ by."""
    found = changes.read(tables, "t", after, upto)
    schema = tables.scan("t", upto).schema
    before = tables.read("t", after) if after >= 0 else schema.empty_table()
    for field in schema:
        if field.name not in before.column_names:
            before = before.append_column(field, pa.nulls(before.num_rows, field.type))
    old, new = counted(before), counted(tables.read("t", upto))
    assert counted(found.inserted) == new - old
    assert counted(found.deleted) == old - new
    assert found.count() == ((new - old).total(), (old - new).total())
    assert found.inserted.schema == found.deleted.schema == schema
    return found


def check_pairs(tables: Tables) -> None:
    """From each version to the next but one, and from each to the latest."""
    latest = tables.version("t").version
    for after in range(-1, latest):
        check(tables, after, min(after + 2, latest))
        check(tables, after)


def test_appended_rows_are_not_loaded(tables: Tables) -> None:
    tables.create("t", rows(0))
    tables.append("t", rows(1, 2))
    tables.append("t", rows(3))
    found = check(tables, 0)
    assert found.appended is not None
    assert len(found.appended.files) == 2
    assert found.table_version == tables.version("t")
    assert check(tables, 0, 1).inserted["k"].to_pylist() == [1, 2]
    assert check(tables, -1).appended is not None
    assert check(tables, 2).count() == (0, 0)


def test_each_kind_of_write(tables: Tables) -> None:
    tables.create("t", pa.concat_tables([rows(1, 2, 3), rows(4, 5, p="b")]), partition_by=["p"])
    tables.upsert("t", rows(2, 6, v=9), ["k"])
    assert check(tables, 0).count() == (2, 1)
    tables.delete("t", pc.field("k") == 3)
    assert check(tables, 1).count() == (0, 1)
    tables.replace_partition("t", rows(5, 7, p="b"), {"p": "b"})
    assert check(tables, 2).count() == (1, 1)
    tables.overwrite("t", rows(1, 7, p="b"))
    assert check(tables, 3).count() == (1, 4)
    tables.append("t", rows(8))
    tables.delete("t", pc.field("k") == 8)
    assert check(tables, 4).count() == (0, 0)
    check_pairs(tables)


def test_a_compaction_is_no_change(tables: Tables) -> None:
    tables.create("t", rows(0))
    for key in range(1, 5):
        tables.append("t", rows(key))
    compacted = upkeep.compact(tables, "t").version
    assert check(tables, compacted - 1).count() == (0, 0)
    assert check(tables, 2).inserted["k"].to_pylist() == [3, 4]  # whose files the compaction took
    tables.delete("t", pc.field("k") == 4)
    assert check(tables, 2).inserted["k"].to_pylist() == [3]
    assert check(tables, compacted).deleted["k"].to_pylist() == [4]


def test_after_a_vacuum_the_versions_are_compared(tables: Tables) -> None:
    tables.create("t", rows(0))
    for key in range(1, 4):
        tables.append("t", rows(key))
    upkeep.pin(tables, "t", 1, "feature", "built from it")
    tables.delete("t", pc.field("k") == 0)
    upkeep.compact(tables, "t")
    tables.append("t", rows(9))
    upkeep.vacuum(tables, "t", keep=timedelta(0), dry_run=False, safety=timedelta(0))
    assert check(tables, 1).count() == (3, 1)
    with pytest.raises(Conflict, match=r"after version 2 of 't' can no longer be told: .*vacuum"):
        changes.read(tables, "t", 2)


def test_commits_that_left_the_log(tables: Tables) -> None:
    tables.create("t", rows(0))
    for key in range(1, 4):
        tables.append("t", rows(key))
    folder = Path(tables.place("t").uri)
    DeltaTable(str(folder), version=2).create_checkpoint()
    for version in (0, 1, 2):
        (folder / "_delta_log" / f"{version:020d}.json").unlink()
    assert check(tables, 2).inserted["k"].to_pylist() == [3]
    with pytest.raises(Conflict, match="after version 1 of 't' can no longer be told"):
        changes.read(tables, "t", 1)


def test_columns_that_were_added_are_null_in_deleted_rows(tables: Tables) -> None:
    tables.create("t", rows(1, 2, 3))
    tables.append("t", pa.table({"k": [4], "v": [1.0], "p": ["a"], "more": ["x"]}), evolve=True)
    tables.delete("t", pc.field("k") == 2)
    found = check(tables, 0)
    assert found.deleted.to_pylist() == [{"k": 2, "v": 0.0, "p": "a", "more": None}]
    tables.overwrite("t", pa.table({"k": [1]}), replace_schema=True)
    with pytest.raises(Conflict, match="column v of table 't' was double in version 0 and is now gone"):
        changes.read(tables, "t", 0)


def test_too_much_to_compare_is_said(tables: Tables) -> None:
    tables.create("t", rows(*range(1000)))
    tables.delete("t", pc.field("k") == 3)
    with pytest.raises(Conflict, match="more than the 0 MiB that are compared row by row; start from version 1"):
        changes.read(tables, "t", 0, limit_bytes=100)
    tables.append("t", rows(*range(1000)))
    assert changes.read(tables, "t", 1, limit_bytes=100).count() == (1000, 0)


@pytest.mark.parametrize("feed", ["true", "false"])
def test_tables_of_delta_rs(tables: Tables, feed: str) -> None:
    uri = tables.place("t").uri
    write_deltalake(uri, rows(1, 2, 3), configuration={"delta.enableChangeDataFeed": feed}, partition_by=["p"])
    write_deltalake(uri, rows(4, p="b"), mode="append")
    DeltaTable(uri).delete("k = 2")
    DeltaTable(uri).update({"v": "v + 1"}, predicate="k = 3")
    merge = DeltaTable(uri).merge(rows(4, 5, v=7, p="b"), "t.k = s.k", source_alias="s", target_alias="t")
    merge.when_matched_update_all().when_not_matched_insert_all().execute()
    DeltaTable(uri).optimize.compact()
    DeltaTable(uri).restore(2)
    write_deltalake(uri, rows(9), mode="overwrite", commit_properties=CommitProperties(custom_metadata={"x": "y"}))
    latest = tables.version("t").version
    assert latest >= 6
    check_pairs(tables)


def test_deletion_vectors(tables: Tables) -> None:
    made = Stranger(Path(tables.place("t").uri))
    made.write("one.parquet", 0, 1, 2, 3, 1)
    made.write("two.parquet", 4)
    made.commit(made.add("one.parquet"))
    made.commit(made.remove("one.parquet"), made.add("one.parquet", (1,)))
    made.commit(made.add("two.parquet"))
    made.commit(made.remove("one.parquet", (1,)), made.add("one.parquet", (1, 2)))
    made.commit(made.remove("one.parquet", (1, 2)), made.add("one.parquet"))
    check_pairs(tables)
    assert changes.read(tables, "t", 1, 2).deleted["a"].to_pylist() == [1]
    assert changes.read(tables, "t", 2, 4).deleted["a"].to_pylist() == [2]
    assert sorted(changes.read(tables, "t", 4, 5).inserted["a"].to_pylist()) == [1, 2]


@pytest.mark.parametrize("seed", range(3))
def test_any_series_of_writes(tables: Tables, seed: int) -> None:
    chance = random.Random(seed)
    tables.create("t", rows(*range(6)), partition_by=["p"] if seed else [])
    for step in range(10):
        keys = chance.sample(range(9), 3)
        kind = chance.choice(["append", "upsert", "delete", "overwrite", "compact"])
        if kind == "append":
            tables.append("t", rows(*keys, v=step, p=chance.choice("ab")))
        elif kind == "upsert":
            tables.upsert("t", rows(*keys, v=step % 2, p=chance.choice("ab")), ["k", "p"])
        elif kind == "delete":
            tables.delete("t", pc.field("k") == keys[0])
        elif kind == "overwrite":
            tables.overwrite("t", rows(*keys, *keys))
        else:
            upkeep.compact(tables, "t")
    latest = tables.version("t").version
    for _ in range(5):
        after, upto = sorted(chance.choices(range(latest + 1), k=2))
        check(tables, after, upto)


def test_what_is_not_there(tables: Tables) -> None:
    tables.create("t", rows(1))
    with pytest.raises(NotFound, match="t@5"):
        changes.read(tables, "t", 5)
    with pytest.raises(NotFound, match="t@-2"):
        changes.read(tables, "t", -2)
    with pytest.raises(NotFound, match="t@9"):
        changes.read(tables, "t", 0, 9)
    with pytest.raises(NotFound, match="there are t"):
        changes.read(tables, "other", 0)


Rows = list[tuple[int | None, float | None, list[int] | None]]
ANY = st.lists(
    st.tuples(
        st.sampled_from([0, 1, None]),
        st.sampled_from([0.0, -0.0, float("nan"), None]),
        st.sampled_from([None, [], [1], [1, 2]]),
    ),
    max_size=12,
)


@settings(max_examples=50)
@given(ANY, ANY)
def test_equal_rows_cancel_by_count(plus: Rows, minus: Rows) -> None:
    schema = pa.schema([("i", pa.int64()), ("f", pa.float64()), ("l", pa.list_(pa.int64()))])

    def table(values: Rows) -> pa.Table:
        return pa.Table.from_pylist([dict(zip(schema.names, row, strict=True)) for row in values], schema)

    def key(row: dict[str, Any]) -> str:
        number = row["f"]
        return repr((row["i"], None if number is None else np.float64(number).tobytes(), row["l"]))

    more, less = changes.cancel(table(plus), table(minus))
    first, second = (Counter(key(row) for row in table(values).to_pylist()) for values in (plus, minus))
    assert Counter(key(row) for row in more.to_pylist()) == first - second
    assert Counter(key(row) for row in less.to_pylist()) == second - first
