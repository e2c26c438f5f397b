"""Every way to change a table, and what is left of it when that fails."""

from __future__ import annotations

import json
import threading
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from deltalake import DeltaTable, transaction

from rayplat.data.tables import Tables, log
from rayplat.data.tables.checks import Checks, Range
from rayplat.data.tables.log import Change
from rayplat.data.tables.snapshot import scan_of
from rayplat.errors import AlreadyExists, BadRows, Conflict, InvalidInput, SchemaMismatch
from tests.data.tables.test_reads import every_type, same


@pytest.fixture
def tables(tmp_path: Path) -> Tables:
    return Tables(str(tmp_path / "tables"))


def pairs(**values: int) -> pa.Table:
    return pa.table({"k": list(values), "v": pa.array(values.values(), pa.int64())})


def content(tables: Tables, name: str = "t") -> dict[str, int]:
    rows = tables.read(name).to_pylist()
    found = {row["k"]: row["v"] for row in rows}
    assert len(found) == len(rows)
    return found


def orphans(tables: Tables, name: str = "t") -> set[str]:
    """Data files that no version has named."""
    named: set[str] = set()
    for version in range(tables.version(name).version + 1):
        named |= {file.path for file in tables.scan(name, version).files}
    return {str(path) for path in Path(tables.uri, name).rglob("*.parquet") if "_delta_log" not in str(path)} - named


def test_every_type_is_written_and_read_by_others(tables: Tables, tmp_path: Path) -> None:
    data = every_type(30)
    at = data.schema.get_field_index("naive")
    data = data.set_column(at, "naive", data["naive"].cast(pa.timestamp("us", "UTC")))  # naive times are UTC
    tables.create("t", every_type(30))
    tables.append("t", every_type(30).set_column(0, "id", pa.array(range(30, 60))))
    assert same(tables.read("t").slice(0, 30), data)
    theirs = pa.table(DeltaTable(f"{tables.uri}/t").scan())
    assert same(theirs.select(data.column_names).cast(data.schema), tables.read("t"))


def test_statistics_are_those_of_the_rows(tables: Tables) -> None:
    """Ends rounded outward: times to the millisecond, strings to 32 characters; none for NaN."""
    at = datetime(1960, 1, 1, 0, 0, 0, 1_500, tzinfo=UTC)
    rows = pa.table(
        {
            "text": ["a" * 40, "b" * 40],
            "at": [at, at + timedelta(milliseconds=1)],
            "f": [1.5, -2.5],
            "nan": [1.5, float("nan")],
            "d": pa.array([Decimal("1234567890123456789.01"), None], pa.decimal128(21, 2)),
            "s": [{"x": 1, "y": "a"}, {"x": 3, "y": None}],
            "list": [[1], None],
            "none": pa.array([None, None], pa.int32()),
        }
    )
    tables.create("t", rows)
    path = Path(tables.uri, "t", "_delta_log", f"{0:020d}.json")
    (text,) = [a["add"]["stats"] for a in map(json.loads, path.read_text().splitlines()) if "add" in a]
    found = json.loads(text, parse_float=str)
    assert found["numRecords"] == 2
    assert found["minValues"] == {"text": "a" * 32, "at": "1960-01-01T00:00:00.001Z", "f": "-2.5",
                                  "d": "1234567890123456789.01", "s": {"x": 1, "y": "a"}}  # fmt: skip
    assert found["maxValues"]["text"] == "b" * 32 + chr(0x10FFFF)
    assert found["maxValues"]["at"] == "1960-01-01T00:00:00.003Z"
    assert found["nullCount"] == {"text": 0, "at": 0, "f": 0, "nan": 0, "d": 1, "s": {"x": 0, "y": 1}, "list": 1,
                                  "none": 2}  # fmt: skip
    for wanted in (pc.field("text") == "b" * 40, pc.field("at") == pa.scalar(at), pc.field("nan") > 1):
        assert tables.read("t", where=wanted).num_rows == 1
    assert not tables.scan("t").prune(pc.field("text") < "a").files
    assert not tables.scan("t").prune(pc.field("f") > 2).files


def test_more_columns_than_others_keep_statistics_of(tables: Tables) -> None:
    tables.create("t", pa.table({f"c{i}": [i] for i in range(60)}))
    tables.append("t", pa.table({f"c{i}": [i + 100] for i in range(60)}))
    assert len(tables.scan("t").prune(pc.field("c59") == 59).files) == 1


def test_upsert_replaces_inserts_and_deletes(tables: Tables) -> None:
    tables.create("t", pairs(a=1, b=2))
    tables.append("t", pairs(c=3))
    tables.append("t", pairs(y=9, z=10))
    before = {file.path for file in tables.scan("t").files}
    made = tables.upsert("t", pairs(b=20, d=4), ["k"], deletes=pa.table({"k": ["c", "never"]}), run_id="r")
    assert content(tables) == {"a": 1, "b": 20, "d": 4, "y": 9, "z": 10}
    assert made.version == 3
    assert len(before & {file.path for file in tables.scan("t").files}) == 1  # the file of y and z is as it was
    assert (tables.history("t")[0].operation, tables.history("t")[0].run_id) == ("UPSERT", "r")
    assert not orphans(tables)


def test_other_readers_follow_our_changes(tables: Tables) -> None:
    """Their change feed and their writes, over partition values with special characters."""
    tables.create("t", pa.table({"k": ["a", "b"], "v": [1, 2], "p": ["x y", "ü/%2"]}), partition_by=["p"])
    tables.upsert("t", pa.table({"k": ["a", "c"], "v": [10, 3], "p": ["x y", "q%"]}), ["k"])
    tables.delete("t", pc.field("k") == "b")
    theirs = DeltaTable(f"{tables.uri}/t")
    feed = pa.table(theirs.load_cdf(starting_version=0)).to_pylist()
    net = {"a": 10, "c": 3}
    seen = [(row["k"], row["v"], row["_change_type"]) for row in feed]
    assert {k: v for k, v, kind in seen if kind == "insert" and (k, v, "delete") not in seen} == net
    assert theirs.count() == 2
    theirs.optimize.compact()
    assert content(tables) == net


def test_upsert_by_several_keys_over_partitions(tables: Tables) -> None:
    def rows(*values: tuple[int, date | None, float]) -> pa.Table:
        a, b, v = zip(*values, strict=True)
        return pa.table({"a": pa.array(a, pa.int32()), "b": pa.array(b, pa.date32()), "v": v})

    one, two = date(2020, 1, 1), date(2020, 1, 2)
    tables.create("t", rows((1, one, 1.0), (1, two, 2.0), (2, one, 3.0), (3, None, 4.0)), partition_by=["b"])
    tables.upsert("t", rows((1, one, 10.0), (2, two, 5.0)), ["a", "b"])
    found = sorted((r["a"], str(r["b"]), r["v"]) for r in tables.read("t").to_pylist())
    assert found == [(1, str(one), 10.0), (1, str(two), 2.0), (2, str(one), 3.0), (2, str(two), 5.0), (3, "None", 4.0)]


@pytest.mark.parametrize(
    ("use", "error", "text"),
    [
        (lambda t: t.upsert("t", pa.table({"k": list("aba"), "v": [1, 2, 3]}), ["k"]), InvalidInput, r"'a'} \(2 times"),
        (lambda t: t.upsert("t", pa.table({"k": [None], "v": [1]}), ["k"]), InvalidInput, "no 'k'"),
        (lambda t: t.upsert("f", pa.table({"f": [float("nan")]}), ["f"]), InvalidInput, "NaN for 'f'"),
        (lambda t: t.upsert("t", pairs(a=1), ["nope"]), SchemaMismatch, "nope"),
        (lambda t: t.upsert("t", pairs(a=1), []), InvalidInput, "keys"),
        (lambda t: t.upsert("t", pairs(a=1), "k"), InvalidInput, "list"),
        (lambda t: t.upsert("t", pairs(a=1), ["k"], deletes=pairs(a=1)), InvalidInput, "deletes.*'a'"),
        (lambda t: t.upsert("t", pairs(a=1), ["k"], deletes=pa.table({"x": [1]})), SchemaMismatch, "k: a key"),
        (lambda t: t.delete("t", pc.field("nope") == 1), InvalidInput, "nope"),
        (lambda t: t.replace_partition("t", pairs(a=1), {"k": "a"}), InvalidInput, "no partition column"),
        (lambda t: t.replace_partition("p", pairs(a=1, b=2), {"k": "a"}), InvalidInput, "k=b"),
        (lambda t: t.replace_partition("p", pairs(a=1), {}), InvalidInput, "names no column"),
        (lambda t: t.append("p", pa.table({"k": [""], "v": [1]})), InvalidInput, "empty string"),
        (lambda t: t.create("x", pairs(a=1), partition_by=["k", "v"]), InvalidInput, "at least one"),
        (lambda t: t.create("x", pa.table({"k": [[1]], "v": [1]}), partition_by=["k"]), InvalidInput, "list"),
        (lambda t: t.create("x", pa.table({"k": [b"x"], "v": [1]}), partition_by=["k"]), InvalidInput, "binary"),
        (lambda t: t.overwrite("p", pa.table({"v": [1]}), replace_schema=True), InvalidInput, "'k' is no column"),
        (lambda t: t.append("t", pairs(a=1), evolve=True, checks=Checks(not_null=("w",))), SchemaMismatch, "w"),
        (lambda t: t.append("t", pa.table({"K": [1]}), evolve=True), SchemaMismatch, "K"),
        (lambda t: t.append("t", pa.table({"k": ["a"], "v": ["text"]}), evolve=True), SchemaMismatch, "v: "),
    ],
)  # fmt: skip
def test_refused_writes_change_nothing(tables: Tables, use: Any, error: type[Exception], text: str) -> None:
    tables.create("t", pairs(a=0, b=0))
    tables.create("p", pairs(a=0, b=0), partition_by=["k"])
    tables.create("f", pa.table({"f": [1.0]}))
    with pytest.raises(error, match=text):
        use(tables)
    assert content(tables) == content(tables, "p") == {"a": 0, "b": 0}
    assert tables.version("t").version == tables.version("p").version == 0
    assert not orphans(tables)
    assert not orphans(tables, "p")


def test_delete_takes_only_what_is_true(tables: Tables) -> None:
    tables.create("t", pa.table({"k": ["a", "b", "c"], "v": [1, None, 3]}))
    tables.append("t", pairs(d=4))
    assert tables.delete("t", pc.field("v") > 2, run_id="r").version == 2
    assert content(tables) == {"a": 1, "b": None}
    assert tables.delete("t", pc.field("v") > 100).version == 2
    assert tables.history("t")[0].rows == 2
    tables.delete("t", pc.scalar(True))
    assert tables.version("t").row_count == 0
    tables.append("t", pairs(e=5))
    assert content(tables) == {"e": 5}


def test_replace_a_partition(tables: Tables) -> None:
    tables.create("t", pa.table({"k": ["a", "b", None], "v": [1, 2, 3]}), partition_by=["k"])
    tables.replace_partition("t", pa.table({"k": ["a", "a"], "v": [5, 6]}), {"k": "a"})
    tables.replace_partition("t", pa.table({"k": pa.array([None], pa.string()), "v": [7]}), {"k": None})
    assert sorted(map(str, tables.read("t").to_pylist())) == sorted(
        map(str, [{"k": "a", "v": 5}, {"k": "a", "v": 6}, {"k": "b", "v": 2}, {"k": None, "v": 7}])
    )
    tables.replace_partition("t", tables.read("t").slice(0, 0), {"k": "b"})
    assert tables.version("t").row_count == 3


def test_appended_columns_and_wider_numbers(tables: Tables) -> None:
    tables.create("t", pa.table({"n": pa.array([1], pa.int32()), "f": pa.array([0.5], pa.float32())}))
    with pytest.raises(SchemaMismatch, match=r"n: .*int32.*int64"):
        tables.append("t", pa.table({"n": [1 << 40], "f": pa.array([0.5], pa.float32())}))
    tables.append("t", pa.table({"n": [1 << 40], "text": ["x"]}), evolve=True)
    tables.append("t", pa.table({"n": pa.array([3], pa.int16()), "f": [0.1]}), evolve=True)
    assert [str(c.dtype) for c in tables.info("t").columns] == ["int64", "double", "string"]
    assert tables.read("t").to_pylist() == [
        {"n": 1, "f": 0.5, "text": None}, {"n": 1 << 40, "f": None, "text": "x"}, {"n": 3, "f": 0.1, "text": None},
    ]  # fmt: skip
    assert tables.read("t", 0).to_pylist() == [{"n": 1, "f": 0.5}]
    assert same(pa.table({"id": DeltaTable(f"{tables.uri}/t").to_pyarrow_dataset().to_table()["n"]}),
                pa.table({"id": [1, 1 << 40, 3]}))  # fmt: skip


def test_checks_are_kept_and_stop_every_write(tables: Tables) -> None:
    checks = Checks(not_null=("k",), ranges=(Range("v", 0, 100),), unique=(("k",),))
    tables.create("t", pairs(a=1), checks=checks)
    tables.append("t", pairs(b=2))
    tables.upsert("t", pairs(b=3, c=4), ["k"])
    good = tables.overwrite("t", pairs(a=1, b=3, c=4))
    for bad in (
        lambda: tables.append("t", pairs(d=200)),
        lambda: tables.append("t", pairs(a=1)),
        lambda: tables.append("t", pa.table({"k": ["d", "d"], "v": [1, 1]})),
        lambda: tables.overwrite("t", pa.table({"k": [None], "v": [1]})),
        lambda: tables.upsert("t", pairs(a=-1), ["k"]),
        lambda: tables.upsert("t", pairs(a=7), ["v"]),  # v 7 is new, k 'a' is not
        lambda: tables.append("t", pairs(e=50), checks=Checks(ranges=(Range("v", high=10),))),
        lambda: tables.create("u", pairs(a=1), checks=Checks(ranges=(Range("v", low=5),))),
    ):
        with pytest.raises(BadRows):
            bad()
    assert tables.version("t") == good
    assert tables.names() == ["t"]
    assert not orphans(tables)


# --- other writers --------------------------------------------------------------------------------


def interrupted(tables: Tables, monkeypatch: pytest.MonkeyPatch, other: Any) -> None:
    """Let ``other`` commit between a write's plan and its commit, once."""
    commit, done = log.commit, threading.Event()

    def late(*args: Any) -> int:
        if not done.is_set():
            done.set()
            other()
        return commit(*args)

    monkeypatch.setattr(log, "commit", late)


@pytest.mark.parametrize(
    ("write", "expected"),
    [
        (lambda t: t.overwrite("t", pairs(z=9)), {"z": 9}),
        (lambda t: t.upsert("t", pairs(x=9, b=8), ["k"]), {"a": 1, "b": 8, "x": 9}),
        (lambda t: t.upsert("t", pairs(b=8), ["k"], deletes=pa.table({"k": ["x"]})), {"a": 1, "b": 8}),
        (lambda t: t.delete("t", pc.field("v") >= 2), {"a": 1}),
        (lambda t: t.append("t", pairs(c=3)), {"a": 1, "b": 2, "x": 7, "c": 3}),
    ],
    ids=["overwrite", "upsert", "upsert-delete", "delete", "append"],
)
def test_rows_appended_meanwhile_are_seen(
    tables: Tables, monkeypatch: pytest.MonkeyPatch, write: Any, expected: dict[str, int]
) -> None:
    """A stale overwrite of delta-rs keeps them, a stale merge does not see them."""
    tables.create("t", pairs(a=1, b=2))
    interrupted(tables, monkeypatch, lambda: Tables(tables.uri).append("t", pairs(x=7)))
    write(tables)
    assert content(tables) == expected
    assert not orphans(tables)


def test_one_of_two_makes_the_table(tables: Tables, monkeypatch: pytest.MonkeyPatch) -> None:
    """delta-rs by itself commits the second creation as version 1."""
    create, done = log.create, threading.Event()

    def late(*args: Any) -> int:
        if not done.is_set():
            done.set()
            Tables(tables.uri).create("t", pa.table({"other": [1]}))
        return create(*args)

    monkeypatch.setattr(log, "create", late)
    with pytest.raises(AlreadyExists):
        tables.create("t", pairs(a=1))
    assert tables.read("t").to_pylist() == [{"other": 1}]
    assert tables.version("t").version == 0
    assert not orphans(tables)


def test_two_upserts_of_one_key_leave_one_row(tables: Tables, monkeypatch: pytest.MonkeyPatch) -> None:
    tables.create("t", pairs(a=1))
    interrupted(tables, monkeypatch, lambda: Tables(tables.uri).upsert("t", pairs(n=1, a=5), ["k"]))
    tables.upsert("t", pairs(n=2), ["k"])
    assert content(tables) == {"a": 5, "n": 2}
    assert not orphans(tables)


def test_a_partition_replaced_meanwhile(tables: Tables, monkeypatch: pytest.MonkeyPatch) -> None:
    tables.create("t", pairs(a=1, b=2), partition_by=["k"])
    interrupted(tables, monkeypatch, lambda: Tables(tables.uri).append("t", pairs(a=7, b=3)))
    tables.replace_partition("t", pairs(a=9), {"k": "a"})
    assert sorted(tables.read("t")["v"].to_pylist()) == [2, 3, 9]


def test_columns_replaced_meanwhile_stop_a_write(tables: Tables, monkeypatch: pytest.MonkeyPatch) -> None:
    tables.create("t", pairs(a=1))
    other = pa.table({"other": [1]})
    interrupted(tables, monkeypatch, lambda: Tables(tables.uri).overwrite("t", other, replace_schema=True))
    with pytest.raises(Conflict, match="columns of table 't' changed"):
        tables.append("t", pairs(b=2))
    assert tables.read("t").to_pylist() == [{"other": 1}]
    assert not orphans(tables)


def test_uniqueness_holds_against_a_concurrent_writer(tables: Tables, monkeypatch: pytest.MonkeyPatch) -> None:
    tables.create("t", pairs(a=1), checks=Checks(unique=(("k",),)))
    interrupted(tables, monkeypatch, lambda: Tables(tables.uri).append("t", pairs(x=1)))
    with pytest.raises(BadRows):
        tables.append("t", pairs(x=2))
    assert content(tables) == {"a": 1, "x": 1}
    assert not orphans(tables)


def test_a_compaction_is_rebased_unless_its_files_went(tables: Tables) -> None:
    tables.create("t", pairs(a=1))
    tables.append("t", pairs(b=2))
    place = tables.place("t")
    stale = log.load(place)
    from rayplat.data.tables.files import write_files

    files = list(scan_of(place, stale).files)
    merged = write_files(place, tables.read("t"), [])
    tables.append("t", pairs(c=3))
    made = log.commit(place, stale, Change(merged, files, exact=False, data_change=False))
    assert made == 3
    assert content(tables) == {"a": 1, "b": 2, "c": 3}
    with pytest.raises(log.Moved):
        log.commit(place, stale, Change(write_files(place, pairs(a=1), []), files, exact=False, data_change=False))


def test_a_commit_whose_answer_got_lost_counts(tables: Tables, monkeypatch: pytest.MonkeyPatch) -> None:
    """The log holds it, the writer sees an error: neither a second commit nor removed files."""
    tables.create("t", pairs(a=1))
    write = DeltaTable.create_write_transaction

    def lossy(self: DeltaTable, *args: Any, **kwargs: Any) -> None:
        write(self, *args, **kwargs)
        raise OSError("connection reset")

    monkeypatch.setattr(DeltaTable, "create_write_transaction", lossy)
    make = transaction.create_table_with_add_actions

    def lossy_too(*args: Any, **kwargs: Any) -> None:
        make(*args, **kwargs)
        raise OSError("connection reset")

    monkeypatch.setattr(transaction, "create_table_with_add_actions", lossy_too)
    assert tables.create("u", pairs(a=1)).row_count == 1
    assert content(tables, "u") == {"a": 1}
    assert tables.append("t", pairs(b=2)).version == 1
    assert tables.upsert("t", pairs(c=2), ["k"]).version == 2
    assert content(tables) == {"a": 1, "b": 2, "c": 2}


@pytest.mark.parametrize("evolve", [False, True])
def test_a_write_that_runs_again_happens_once(tables: Tables, evolve: bool) -> None:
    tables.create("t", pairs(a=1, b=2))
    once = ("job", 1)
    for write in (
        lambda n: tables.append("t", pairs(c=3), transaction=("append", n), evolve=evolve),
        lambda n: tables.upsert("t", pairs(a=n), ["k"], transaction=("upsert", n)),
        lambda n: tables.delete("t", pc.field("k") == "b", transaction=("delete", n)),
        lambda n: tables.overwrite("t", pairs(a=n), transaction=("overwrite", n)),
    ):
        first = write(once[1])
        assert write(once[1]) == first
    assert tables.version("t").version == 4
    tables.overwrite("new", pairs(a=1), transaction=once)
    assert tables.overwrite("new", pairs(a=2), transaction=once).version == 0
    assert content(tables, "new") == {"a": 1}


# --- on workers -----------------------------------------------------------------------------------


@pytest.mark.ray
def test_datasets_in_every_write(tables: Tables, ray_cluster: str) -> None:
    import ray

    def dataset(*parts: pa.Table) -> Any:
        return ray.data.from_arrow(list(parts))

    checks = Checks(ranges=(Range("v", 0, 100),), unique=(("k",),))
    tables.create("t", dataset(pairs(a=1, b=2), pairs(c=3)), checks=checks)
    tables.upsert("t", dataset(pairs(b=20), pairs(d=4)), ["k"], deletes=pa.table({"k": ["c"]}), run_id="r")
    assert content(tables) == {"a": 1, "b": 20, "d": 4}
    for bad, error, text in (
        (lambda: tables.append("t", dataset(pairs(e=1, f=500), pairs(g=600))), BadRows, "v"),
        (lambda: tables.append("t", dataset(pairs(e=1), pairs(e=2))), BadRows, "k"),
        (lambda: tables.append("t", dataset(pairs(a=1))), BadRows, "k"),
        (lambda: tables.upsert("t", dataset(pairs(e=1), pairs(e=2)), ["k"]), InvalidInput, "repeat"),
    ):
        with pytest.raises(error, match=text):
            bad()
    with pytest.raises(BadRows) as caught:
        tables.append("t", dataset(pairs(e=1, f=500), pairs(g=600)))
    (broken,) = caught.value.args[2]
    assert (broken["count"], sorted(broken["rows"])) == (2, [1, 2])  # positions in the batch, not in a block
    tables.append("t", dataset(pairs(h=5).append_column("w", pa.array([1.5]))), evolve=True)
    tables.overwrite("t", dataset(pa.table({"k": ["x"], "v": [1]})), replace_schema=True)
    assert tables.read("t").to_pylist() == [{"k": "x", "v": 1}]
    assert not orphans(tables)


@pytest.mark.ray
def test_files_are_rewritten_by_tasks(tables: Tables, ray_cluster: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rayplat.data.tables.rewrite._ON_CLUSTER_BYTES", 0)
    tables.create("t", pairs(a=1, b=2))
    tables.append("t", pairs(c=3, d=4))
    tables.delete("t", pc.field("v").isin([2, 3]))
    assert content(tables) == {"a": 1, "d": 4}
    assert not orphans(tables)
