"""The log's writer: few commits, each row once, whatever dies when."""

from __future__ import annotations

import asyncio
import random
import time
from concurrent.futures import Future
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from rayplat.data.tables import Tables
from rayplat.errors import Conflict, InvalidInput
from rayplat.serve.log import schema as log_schema
from rayplat.serve.log import spool
from rayplat.serve.log import upkeep as log_upkeep
from rayplat.serve.log import writer as inference_log
from rayplat.serve.log.hosts import Hosts
from rayplat.serve.log.tap import InferenceTap
from rayplat.serve.log.writer import InferenceLogWriter
from rayplat.settings import LogSettings, Settings
from rayplat.types import Logging, TableVersion
from tests.serve.log.test_spool import die, still
from tests.serve.log_fakes import FakeSink, record
from tests.serve.writer_process import WriterProcess


class FailingTables(Tables):
    """Real tables, whose commits fail on demand: before they happen, or with only their answer lost."""

    fail: str | None = None

    def append(self, name: str, data: Any, **options: Any) -> TableVersion:
        if self.fail == "before":
            raise OSError("disk full")
        done = super().append(name, data, **options)
        if self.fail == "after":
            raise OSError("the answer was lost")
        return done

    def ids(self) -> list[str]:
        found: list[str] = self.read(log_schema.TABLE).column("request_id").to_pylist()
        return found

    def commits(self) -> int:
        return len(self.history(log_schema.TABLE))


def batch(name: str) -> bytes:
    return log_schema.encode([record(name)], "r")


@pytest.fixture
def tables(settings: Settings) -> FailingTables:
    return FailingTables(settings.tables_uri)


def writer(settings: Settings, tables: FailingTables, commit_s: float = 60.0) -> InferenceLogWriter:
    log = settings.log.model_copy(update={"commit_s": commit_s})
    return InferenceLogWriter(settings.model_copy(update={"log": log}), tables)


async def sent(w: InferenceLogWriter, *batches: tuple[str, str, int]) -> list[asyncio.Task[None]]:
    """Writes under way: each is waiting for its commit when this returns."""
    before = (await w.heartbeat())["rows_waiting"]
    tasks = [asyncio.create_task(w.write(batch(name), epoch, seq)) for name, epoch, seq in batches]
    while (await w.heartbeat())["rows_waiting"] + sum(task.done() for task in tasks) < before + len(tasks):
        await asyncio.sleep(0.001)
    return tasks


def test_a_write_returns_after_its_commit_and_many_share_one(settings: Settings, tables: FailingTables) -> None:
    async def run() -> None:
        w = writer(settings, tables)
        tasks = await sent(w, ("a", "e1", 0), ("b", "e1", 1), ("c", "e2", 0))
        assert not any(task.done() for task in tasks)
        assert await w.flush() == 3
        await asyncio.gather(*tasks)
        assert sorted(tables.ids()) == ["a", "b", "c"]
        assert tables.commits() == 2  # the empty table, and one commit of all three
        assert [tables.transaction_version(log_schema.TABLE, epoch) for epoch in ("e1", "e2")] == [1, 0]
        assert (await w.heartbeat())["rows"] == 3

    asyncio.run(run())


def test_commits_happen_by_themselves(settings: Settings, tables: FailingTables) -> None:
    async def run() -> None:
        await asyncio.wait_for(writer(settings, tables, commit_s=0.01).write(batch("a"), "e1", 0), 5)
        assert tables.ids() == ["a"]

    asyncio.run(run())


def test_a_batch_sent_again_is_stored_once(settings: Settings, tables: FailingTables) -> None:
    async def run() -> None:
        w = writer(settings, tables)
        tasks = await sent(w, ("a", "e1", 0))
        tasks += [asyncio.create_task(w.write(batch("a"), "e1", 0))]
        await asyncio.sleep(0)
        await w.flush()
        await asyncio.gather(*tasks)
        await w.write(batch("a"), "e1", 0)
        restarted = writer(settings, tables)
        await restarted.write(batch("a"), "e1", 0)
        assert tables.ids() == ["a"]
        assert (await restarted.heartbeat())["batches_skipped"] == 1

    asyncio.run(run())


def test_a_gap_waits_for_what_belongs_in_it(settings: Settings, tables: FailingTables) -> None:
    """After a restart the second of two batches may arrive first: committing it alone would lose the first."""

    async def run() -> None:
        w = writer(settings, tables)
        tasks = await sent(w, ("b", "e1", 1))
        assert await w.flush() == 0
        tasks += await sent(w, ("a", "e1", 0))
        assert await w.flush() == 2
        await asyncio.gather(*tasks)
        assert sorted(tables.ids()) == ["a", "b"]

    asyncio.run(run())


def test_a_commit_that_fails_is_tried_again(settings: Settings, tables: FailingTables) -> None:
    async def run() -> None:
        w = writer(settings, tables)
        tables.fail = "before"
        tasks = await sent(w, ("a", "e1", 0))
        with pytest.raises(OSError, match="disk full"):
            await w.flush()
        assert not tasks[0].done()
        tables.fail = None
        assert await w.flush() == 1
        await asyncio.gather(*tasks)
        assert tables.ids() == ["a"]

    asyncio.run(run())


def test_a_commit_whose_answer_was_lost_is_not_repeated(settings: Settings, tables: FailingTables) -> None:
    async def run() -> None:
        w = writer(settings, tables)
        tables.fail = "after"
        tasks = await sent(w, ("a", "e1", 0))
        with pytest.raises(OSError, match="the answer was lost"):
            await w.flush()
        tables.fail = None
        tasks += await sent(w, ("b", "e1", 1))
        assert await w.flush() == 1
        await asyncio.gather(*tasks)
        assert tables.ids() == ["a", "b"]

    asyncio.run(run())


def test_a_faster_writer_of_the_same_batches_is_noticed(settings: Settings, tables: FailingTables) -> None:
    """In a partition the old writer may live on beside its replacement, and a host's batch reach both."""

    async def run() -> None:
        old, new = writer(settings, tables), writer(settings, tables)
        tasks = await sent(new, ("a", "e1", 0), ("b", "e1", 1), ("c", "e2", 0))
        tasks += await sent(old, ("a", "e1", 0), ("b", "e1", 1))
        assert await old.flush() == 2
        with pytest.raises(Conflict):
            await new.flush()
        assert await new.flush() == 1
        await asyncio.gather(*tasks)
        assert sorted(tables.ids()) == ["a", "b", "c"]

    asyncio.run(run())


def test_bytes_that_are_no_rows_are_refused_and_do_not_block_the_next(
    settings: Settings, tables: FailingTables
) -> None:
    async def run() -> None:
        w = writer(settings, tables)
        bad = asyncio.create_task(w.write(b"nonsense", "e1", 0))
        (good,) = await sent(w, ("a", "e1", 1))
        while await w.flush() == 0:
            await asyncio.sleep(0)
        with pytest.raises(InvalidInput, match="no Arrow stream"):
            await bad
        await good
        assert tables.ids() == ["a"]

    asyncio.run(run())


# --- a log of an earlier release, and one of many small files ---------------------------------------


def test_a_table_of_an_earlier_release_is_given_the_columns_it_lacks(settings: Settings, tables: FailingTables) -> None:
    new = ("variant", "role", "status", "answer")
    before = log_schema.decode(log_schema.encode([record("old")], "r")).drop_columns(new)
    tables.create(log_schema.TABLE, before, partition_by=log_schema.PARTITION_BY)

    async def run() -> None:
        w = writer(settings, tables)
        tasks = await sent(w, ("a", "e1", 0))
        await w.flush()
        await asyncio.gather(*tasks)

    asyncio.run(run())
    rows = tables.read(log_schema.TABLE, columns=["request_id", *new]).sort_by("request_id").to_pylist()
    assert rows[0] == {"request_id": "a", "variant": "champion", "role": "primary", "status": 200, "answer": None}
    assert rows[1] == {"request_id": "old", "variant": None, "role": None, "status": None, "answer": None}


def test_rows_of_a_host_of_an_earlier_release_are_taken() -> None:
    table = log_schema.decode(batch("a")).drop_columns(["variant", "role", "status", "answer"])
    out = pa.BufferOutputStream()
    with pa.ipc.new_stream(out, table.schema) as stream:
        stream.write_table(table)
    assert log_schema.decode(bytes(out.getvalue())).column("status").to_pylist() == [None]


def appended(tables: Tables, names: list[str], days: list[date]) -> None:
    for i, name in enumerate(names):
        rows = log_schema.decode(batch(name))
        day = pa.array([days[i % len(days)]], pa.date32())
        rows = rows.set_column(rows.schema.get_field_index("date"), "date", day)
        if log_schema.TABLE not in tables.names():
            tables.create(log_schema.TABLE, log_schema.SCHEMA, partition_by=log_schema.PARTITION_BY)
        tables.append(log_schema.TABLE, rows, transactions=[(f"e{i}", 0)])


def test_days_of_many_small_files_are_joined_and_the_others_left(tables: FailingTables) -> None:
    names = [str(i) for i in range(8)]
    appended(tables, names, [date(2026, 1, 1), date(2026, 1, 1), date(2026, 1, 1), date(2026, 1, 2)])
    before = tables.version(log_schema.TABLE)
    assert log_upkeep.compact(tables, 6) == 1
    assert len(tables.scan(log_schema.TABLE).files) == 3
    assert sorted(tables.ids()) == names
    assert sorted(tables.read(before).column("request_id").to_pylist()) == names
    assert tables.transaction_version(log_schema.TABLE, "e7") == 0
    assert log_upkeep.compact(tables, 6) == 0


def test_joining_files_beside_commits_loses_nothing_and_doubles_nothing(
    settings: Settings, tables: FailingTables
) -> None:
    log = settings.log.model_copy(update={"commit_s": 0.001, "compact_s": 0.02, "compact_files": 2})
    rows = 60

    async def run() -> int:
        w = InferenceLogWriter(settings.model_copy(update={"log": log}), tables)
        for seq in range(rows):
            await w.write(batch(str(seq)), "e1", seq)
        return int((await w.heartbeat())["compactions"])

    assert asyncio.run(run()) > 0
    assert sorted(tables.ids(), key=int) == [str(i) for i in range(rows)]
    assert len(tables.scan(log_schema.TABLE).files) < rows


# --- hosts that die ---------------------------------------------------------------------------------


def test_the_spool_of_a_dead_host_is_delivered_by_the_writer(settings: Settings, tables: FailingTables) -> None:
    root = spool.folder(settings)
    t = still(FakeSink(prompt=False), root)
    for name in "abc":
        t.record(record(name))
        t.step()
    die(t)

    async def run() -> None:
        w = writer(settings, tables)
        tasks = await sent(w)
        first = t._sent[0][0]
        tasks.append(asyncio.create_task(w.write(first.stream, t.epoch, first.seq)))  # it had come before the kill
        while (await w.heartbeat())["spooled_rows_delivered"] < 3:
            await asyncio.sleep(0.005)
        await asyncio.gather(*tasks)
        assert (await w.heartbeat())["unclosed_epochs"] == 0

    asyncio.run(run())
    assert sorted(tables.ids()) == ["a", "b", "c"]
    assert list(root.iterdir()) == []


def test_what_a_killed_host_lost_from_memory_is_counted() -> None:
    now = [0.0]
    hosts = Hosts(lambda: now[0])
    counts = {"recorded": 30, "committed": 10, "dropped": 5, "waiting": 15}
    for epoch in ("killed", "stopped", "alive", f"{spool.PREFIX}killed"):
        hosts.seen(epoch, counts, False)
    hosts.committed("killed", 6)
    hosts.seen("stopped", {**counts, "committed": 25, "waiting": 0}, True)
    assert hosts.counts() == {"hosts": 3, "unclosed_epochs": 0, "rows_lost_at_least": 0, "rows_dropped": 20}
    now[0] = 100.0
    hosts.seen("alive", counts, False)
    assert hosts.counts() == {"hosts": 2, "unclosed_epochs": 1, "rows_lost_at_least": 9, "rows_dropped": 20}
    now[0] = 10_000.0
    hosts.sent("alive")
    assert hosts.counts() == {"hosts": 1, "unclosed_epochs": 1, "rows_lost_at_least": 9, "rows_dropped": 20}


def test_a_gap_that_a_dead_host_left_does_not_keep_what_came_after_it(
    settings: Settings, tables: FailingTables, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inference_log, "_GAP_S", 0.0)
    monkeypatch.setattr(inference_log, "_LOOK_S", 0.001)

    async def run() -> None:
        w = writer(settings, tables, commit_s=0.001)
        spooled = asyncio.create_task(w.write(batch("s"), f"{spool.PREFIX}e", 1))
        await asyncio.wait_for(w.write(batch("b"), "e1", 1), 5)
        assert not spooled.done()  # the missing one of a spool is not lost, so it is waited for
        await w.write(batch("r"), f"{spool.PREFIX}e", 0)
        await spooled

    asyncio.run(run())
    assert sorted(tables.ids()) == ["b", "r", "s"]


def killed_under_load(settings: Settings, folder: Path, kills: int, rows_per_s: int) -> tuple[int, list[str]]:
    """Rows recorded by two hosts (one of each durability), and those in the table, with the writer killed so often."""
    sink = WriterProcess(settings, folder)
    quick = LogSettings(flush_s=0.02)
    taps = [InferenceTap(sink, quick, "m"), InferenceTap(sink, quick, "s", Logging(durability="spool"), folder / "s")]
    rng, recorded = random.Random(7), 0
    for _ in range(kills):
        until = time.monotonic() + rng.uniform(0.2, 1.2)
        while time.monotonic() < until:
            for t in taps:
                for _ in range(max(1, rows_per_s // 100)):
                    t.record(record(str(recorded)))
                    recorded += 1
            time.sleep(0.01)
        sink.kill()
    assert all(t.close(60) for t in taps)
    assert [t.stats()["dropped"] for t in taps] == [0, 0]
    sink.close()
    found: list[str] = Tables(settings.tables_uri).read(log_schema.TABLE).column("request_id").to_pylist()
    return recorded, found


def test_a_writer_that_is_killed_under_load_loses_no_row_and_doubles_none(settings: Settings, tmp_path: Path) -> None:
    recorded, found = killed_under_load(settings, tmp_path, kills=2, rows_per_s=500)
    assert sorted(found, key=int) == [str(i) for i in range(recorded)]


def test_an_acknowledgement_is_never_given_before_its_commit(settings: Settings, tmp_path: Path) -> None:
    sink = WriterProcess(settings, tmp_path)
    acknowledged: list[Future[None]] = []
    for seq in range(40):
        acknowledged.append(sink.write(batch(str(seq)), "e1", seq))
        time.sleep(0.005)
    acknowledged[10].result(20)
    sink.kill()
    sink.close()
    done = [str(seq) for seq, future in enumerate(acknowledged) if future.done() and future.exception() is None]
    found = Tables(settings.tables_uri).read(log_schema.TABLE).column("request_id").to_pylist()
    assert len(done) > 10
    assert set(done) <= set(found)
    assert len(found) == len(set(found))
