"""Compacting, pinning and vacuuming: no row changes, and what must stay readable does."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from deltalake import DeltaTable

from rayplat.data.tables import Tables, entries, log, pins, upkeep
from rayplat.errors import Conflict, InvalidInput, NotFound, Unavailable
from tests.data.tables.strangers import Stranger
from tests.servers import S3

NOW = timedelta(0)


@pytest.fixture
def tables(tmp_path: Path) -> Tables:
    return Tables(str(tmp_path / "tables"))


def rows(*numbers: int) -> pa.Table:
    return pa.table({"n": pa.array(numbers, pa.int64())})


def grow(tables: Tables, count: int, name: str = "t") -> None:
    tables.create(name, rows(0))
    for n in range(1, count):
        tables.append(name, rows(n))


def numbers(tables: Tables, version: int | None = None) -> list[int]:
    found: list[int] = tables.read("t", version)["n"].to_pylist()
    return found


# --- compact --------------------------------------------------------------------------------------


def test_small_files_become_one_and_nobody_sees_a_change(tables: Tables) -> None:
    grow(tables, 6)
    before = tables.version("t")
    after = upkeep.compact(tables, "t", run_id="r")
    assert (after.version, after.row_count) == (before.version + 1, 6)
    assert len(tables.scan("t").files) == 1
    assert numbers(tables) == numbers(tables, before.version) == [0, 1, 2, 3, 4, 5]
    changed = [next(iter(a.values())).get("dataChange") for a in entries.actions(tables.place("t"), after.version)[1:]]
    assert set(changed) == {False}
    assert tables.history("t")[0].operation == "COMPACT"
    assert tables.history("t")[0].run_id == "r"
    assert upkeep.compact(tables, "t") == after  # nothing more to do
    tables.append("t", rows(6))
    assert numbers(tables) == [0, 1, 2, 3, 4, 5, 6]
    assert tables.scan("t").prune(pc.field("n") == 6).count() == 1  # statistics are there


def test_large_files_stay_and_keep_their_place(tables: Tables) -> None:
    tables.create("t", rows(0))
    tables.append("t", rows(1))
    tables.append("t", rows(*range(2, 50_002)))
    tables.append("t", rows(50_002))
    tables.append("t", rows(50_003))
    large = max(tables.scan("t").files, key=lambda f: f.size_bytes)
    upkeep.compact(tables, "t", target_bytes=large.size_bytes)
    assert len(tables.scan("t").files) == 3
    assert large.key in {file.key for file in tables.scan("t").files}
    assert numbers(tables) == list(range(50_004))


def test_partitions_stay_apart_and_some_can_be_left_alone(tables: Tables) -> None:
    def part(n: int) -> pa.Table:
        return pa.table({"n": [n] * 3, "p": ["x/y z%", None, "ü=1"], "d": pa.array([datetime(2024, 5, 1)] * 3)})

    tables.create("t", part(0), partition_by=["p", "d"])
    tables.append("t", part(1))
    tables.append("t", part(2))
    upkeep.compact(tables, "t", where=pc.field("p") == "x/y z%")
    assert len(tables.scan("t").files) == 7
    upkeep.compact(tables, "t")
    assert len(tables.scan("t").files) == 3
    assert sorted(numbers(tables)) == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert tables.read("t", where=pc.field("p").is_null())["n"].to_pylist() == [0, 1, 2]
    assert set(tables.read("t")["p"].to_pylist()) == {"x/y z%", None, "ü=1"}


def test_two_compactions_at_once_do_not_double_rows(tables: Tables, monkeypatch: pytest.MonkeyPatch) -> None:
    grow(tables, 4)
    whole, other = upkeep._rewrite_all, []

    def overtaken(*args: Any) -> Any:
        written = whole(*args)
        if not other:
            other.append(True)
            upkeep.compact(tables, "t")
        return written

    monkeypatch.setattr(upkeep, "_rewrite_all", overtaken)
    with pytest.raises(Conflict, match="were replaced while they were compacted"):
        upkeep.compact(tables, "t")
    assert numbers(tables) == [0, 1, 2, 3]
    on_disk = {path.name for path in Path(tables.place("t").uri).glob("*.parquet")}
    assert on_disk == {Path(f.key).name for v in range(5) for f in tables.scan("t", v).files}


@pytest.mark.parametrize(
    ("other", "left"),
    [
        (lambda t: t.append("t", rows(9)), [0, 1, 2, 3, 9]),
        (lambda t: t.delete("t", pc.field("n") == 3), None),
        (lambda t: t.upsert("t", rows(3, 4), ["n"]), None),
        (lambda t: t.overwrite("t", rows(7)), None),
    ],
)
def test_a_write_that_comes_between_holds(
    tables: Tables,
    monkeypatch: pytest.MonkeyPatch,
    other: Callable[[Tables], Any],
    left: list[int] | None,
) -> None:
    grow(tables, 4)
    whole, done = upkeep._rewrite_all, []

    def overtaken(*args: Any) -> Any:
        written = whole(*args)
        if not done:
            other(tables)
            done.append(numbers(tables))
        return written

    monkeypatch.setattr(upkeep, "_rewrite_all", overtaken)
    if left is None:
        with pytest.raises(Conflict):
            upkeep.compact(tables, "t")
    else:
        upkeep.compact(tables, "t")
        assert len(tables.scan("t").files) == 2
    assert sorted(numbers(tables)) == sorted(done[0])
    monkeypatch.undo()
    upkeep.compact(tables, "t")
    assert sorted(numbers(tables)) == sorted(done[0])


def test_writers_and_compactions_in_a_crowd(tables: Tables) -> None:
    grow(tables, 2)
    stop = threading.Event()

    def tidy() -> None:
        while not stop.is_set():
            try:
                upkeep.compact(tables, "t")
            except Conflict:
                continue

    tidying = [threading.Thread(target=tidy) for _ in range(2)]
    writing = [
        threading.Thread(target=lambda s=s: [tables.append("t", rows(s + i)) for i in range(5)]) for s in (10, 20)
    ]
    for thread in tidying + writing:
        thread.start()
    for thread in writing:
        thread.join(60)
    stop.set()
    for thread in tidying:
        thread.join(60)
    assert sorted(numbers(tables)) == [0, 1, *range(10, 15), *range(20, 25)]


def test_deletion_vectors_are_purged(tables: Tables, tmp_path: Path) -> None:
    made = Stranger(tmp_path / "tables" / "t")
    made.write("one.parquet", 0, 1, 2, 3)
    made.write("two.parquet", 4, 5)
    made.commit(made.add("one.parquet", (1, 2)), made.add("two.parquet"))
    assert tables.read("t")["a"].to_pylist() == [0, 3, 4, 5]
    upkeep.compact(tables, "t")
    assert not any(file.deleted for file in tables.scan("t").files)
    assert tables.read("t")["a"].to_pylist() == [0, 3, 4, 5]
    tables.delete("t", pc.field("a") == 3)  # refused before
    assert tables.read("t")["a"].to_pylist() == [0, 4, 5]


def test_a_file_whose_version_was_replaced_at_once_stays(tables: Tables, monkeypatch: pytest.MonkeyPatch) -> None:
    tables.create("t", rows(0))
    whole = log.commit

    def replaced(*args: Any) -> int:
        version = whole(*args)
        monkeypatch.setattr(log, "commit", whole)
        tables.overwrite("t", rows(9))
        return version

    monkeypatch.setattr(log, "commit", replaced)
    tables.append("t", rows(1))
    assert numbers(tables) == [9]
    assert numbers(tables, 1) == [0, 1]


@pytest.mark.ray
def test_tasks_write_the_files(tables: Tables, ray_cluster: str) -> None:
    tables.create("t", pa.table({"n": [0, 1], "p": ["a", "b"]}), partition_by=["p"])
    tables.append("t", pa.table({"n": [2, 3], "p": ["a", "b"]}))
    upkeep.compact(tables, "t")
    assert len(tables.scan("t").files) == 2
    assert sorted(numbers(tables)) == [0, 1, 2, 3]
    tables.append("t", pa.table({"n": [4, 5], "p": ["a", "b"]}))
    Path(tables.scan("t").files[-1].path).write_bytes(b"damaged")
    before = set(Path(tables.place("t").uri).rglob("*.parquet"))
    with pytest.raises(Exception, match="damaged"):
        upkeep.compact(tables, "t")
    assert set(Path(tables.place("t").uri).rglob("*.parquet")) == before


# --- pins -----------------------------------------------------------------------------------------


def test_pins_have_holders_and_can_be_repeated(tables: Tables) -> None:
    grow(tables, 3)
    first = upkeep.pin(tables, "t", 1, "training_set:x/ä", "trained on")
    again = upkeep.pin(tables, "t", 1, "training_set:x/ä", "another reason")
    assert again == first
    upkeep.pin(tables, "t", 1, "ada", "a look")
    upkeep.pin(tables, "t", 0, "ada", "a look")
    assert [(p.version, p.by, p.reason) for p in upkeep.pins(tables, "t")] == [
        (0, "ada", "a look"),
        (1, "ada", "a look"),
        (1, "training_set:x/ä", "trained on"),
    ]
    assert first.at.tzinfo is UTC
    upkeep.unpin(tables, "t", 1, "ada")
    with pytest.raises(NotFound, match=r"t@1 by ada.*pinned by training_set:x/ä"):
        upkeep.unpin(tables, "t", 1, "ada")
    assert len(upkeep.pins(tables, "t")) == 2
    assert tables.version("t").version == 2  # no commit
    assert len(DeltaTable(tables.place("t").uri).file_uris()) == 3


def test_what_cannot_be_pinned(tables: Tables) -> None:
    grow(tables, 1)
    with pytest.raises(NotFound, match="t@7"):
        upkeep.pin(tables, "t", 7, "ada", "x")
    with pytest.raises(NotFound, match="no_such"):
        upkeep.pins(tables, "no_such")
    with pytest.raises(InvalidInput, match="what for"):
        upkeep.pin(tables, "t", 0, "ada", " ")
    assert upkeep.pins(tables, "t") == []


def test_a_pin_and_a_vacuum_at_the_same_time(tables: Tables) -> None:
    grow(tables, 3)
    with pins.vacuuming(tables.place("t"), 2):
        with pytest.raises(Unavailable, match="a vacuum is running; pin version 1 when it has ended"):
            upkeep.pin(tables, "t", 1, "ada", "x")
        upkeep.pin(tables, "t", 2, "ada", "x")
    upkeep.pin(tables, "t", 1, "ada", "x")
    assert [p.version for p in upkeep.pins(tables, "t")] == [1, 2]


# --- vacuum ---------------------------------------------------------------------------------------


def vacuum(tables: Tables, keep: timedelta = NOW, *, dry_run: bool = False) -> Any:
    return upkeep.vacuum(tables, "t", keep=keep, dry_run=dry_run, safety=NOW)


def test_a_vacuum_keeps_the_latest_and_what_is_pinned(tables: Tables) -> None:
    for n in range(6):
        tables.overwrite("t", rows(n))
    upkeep.pin(tables, "t", 2, "ada", "x")
    upkeep.pin(tables, "t", 2, "training_set:y", "x")
    planned = vacuum(tables, dry_run=True)
    assert numbers(tables, 0) == [0]
    done = vacuum(tables)
    assert (planned.files, planned.size_bytes, planned.examples) == (done.files, done.size_bytes, done.examples)
    assert (done.files, done.kept_from, done.pinned, done.dry_run, planned.dry_run) == (4, 5, (2,), False, True)
    assert numbers(tables) == [5]
    assert numbers(tables, 2) == [2]
    for gone in (0, 1, 3, 4):
        with pytest.raises(NotFound, match=r"part-.*parquet"):
            numbers(tables, gone)
        with pytest.raises(NotFound, match=f"t@{gone}"):
            upkeep.pin(tables, "t", gone, "ada", "too late")
    upkeep.unpin(tables, "t", 2, "ada")
    assert vacuum(tables).files == 0
    upkeep.unpin(tables, "t", 2, "training_set:y")
    assert vacuum(tables).files == 1
    with pytest.raises(NotFound):
        numbers(tables, 2)


def test_pinned_versions_survive_checkpoints_and_other_writers(tables: Tables) -> None:
    grow(tables, 4)
    upkeep.pin(tables, "t", 2, "ada", "x")
    upkeep.compact(tables, "t")
    tables.delete("t", pc.field("n") == 1)
    DeltaTable(tables.place("t").uri).create_checkpoint()
    pinned = tables.version("t", 2)
    vacuum(tables)
    assert numbers(tables, 2) == [0, 1, 2]
    assert tables.version("t", 2) == pinned
    assert numbers(tables) == [0, 2, 3]
    with pytest.raises(NotFound):
        numbers(tables, 3)


def test_versions_younger_than_keep_stay(tables: Tables) -> None:
    for n in range(4):
        tables.overwrite("t", rows(n))
    assert vacuum(tables, timedelta(days=1)).files == 0
    for version, days in ((0, 4), (1, 3), (2, 2)):
        commit = Path(tables.place("t").uri, "_delta_log", f"{version:020d}.json")
        then = int((datetime.now(UTC) - timedelta(days=days)).timestamp() * 1000)
        commit.write_text(re.sub(r'"timestamp":\d+', f'"timestamp":{then}', commit.read_text()))
    done = vacuum(tables, timedelta(days=1))
    assert (done.kept_from, done.files) == (2, 2)  # a day ago version 2 was the latest
    assert numbers(tables, 2) == [2]
    assert numbers(tables, 3) == [3]


def test_files_of_writers_in_flight_are_safe(tables: Tables) -> None:
    grow(tables, 2)
    folder = Path(tables.place("t").uri)
    (folder / "part-00009-new.parquet").write_bytes(b"about to be committed")
    (folder / "notes.txt").write_text("not ours")
    (folder / "_hidden").mkdir()
    (folder / "_hidden" / "x.parquet").write_bytes(b"not ours either")
    assert upkeep.vacuum(tables, "t", keep=NOW, dry_run=False).files == 0
    assert vacuum(tables).examples == ("part-00009-new.parquet",)
    assert (folder / "notes.txt").exists()
    assert (folder / "_hidden" / "x.parquet").exists()
    assert numbers(tables) == [0, 1]


def test_a_pin_that_cannot_be_honoured_stops_the_vacuum(tables: Tables) -> None:
    for n in range(3):
        tables.overwrite("t", rows(n))
    upkeep.pin(tables, "t", 0, "ada", "x")
    folder = Path(tables.place("t").uri)
    DeltaTable(str(folder)).create_checkpoint()
    for version in (0, 1):
        (folder / "_delta_log" / f"{version:020d}.json").unlink()
    with pytest.raises(Conflict, match="version 0 of table 't', pinned by ada, cannot be reconstructed"):
        vacuum(tables)
    upkeep.unpin(tables, "t", 0, "ada")
    assert vacuum(tables).files == 2
    assert numbers(tables) == [2]


def test_refusals(tables: Tables) -> None:
    grow(tables, 1)
    with pytest.raises(InvalidInput, match="keep"):
        vacuum(tables, timedelta(seconds=-1))
    with pytest.raises(InvalidInput, match="target_bytes"):
        upkeep.compact(tables, "t", target_bytes=0)
    with pytest.raises(NotFound, match="there are t"):
        upkeep.compact(tables, "other")
    with pytest.raises(NotFound, match="there are t"):
        upkeep.vacuum(tables, "other", keep=NOW)


@pytest.mark.services
def test_the_same_on_s3(s3: S3) -> None:
    tables = Tables(f"{s3.uri}/upkeep", s3.options)
    grow(tables, 3)
    upkeep.pin(tables, "t", 1, "ada", "x")
    upkeep.pin(tables, "t", 1, "ada", "x")
    upkeep.compact(tables, "t")
    tables.overwrite("t", rows(9))
    assert vacuum(tables).files == 2
    assert numbers(tables, 1) == [0, 1]
    assert numbers(tables) == [9]
    with pytest.raises(NotFound):
        numbers(tables, 3)
    upkeep.unpin(tables, "t", 1, "ada")
    assert upkeep.pins(tables, "t") == []
