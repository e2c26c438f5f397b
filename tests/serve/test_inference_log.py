"""The log's writer: few commits, each row once, whatever dies when."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from rayplat.data.tables import Tables
from rayplat.errors import Conflict, InvalidInput
from rayplat.serve import log_schema
from rayplat.serve.inference_log import InferenceLogWriter
from rayplat.settings import Settings
from rayplat.types import TableVersion
from tests.serve.log_fakes import record


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
