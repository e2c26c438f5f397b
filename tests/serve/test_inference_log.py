"""The log's writer: few commits, each row once, whatever dies when."""

from __future__ import annotations

import asyncio
from typing import Any

import pyarrow as pa
import pytest

from rayplat.errors import InvalidInput
from rayplat.serve import log_schema
from rayplat.serve.inference_log import InferenceLogWriter
from rayplat.settings import Settings
from tests.serve.test_tap import record


class FakeTables:
    """One table in memory. ``fail`` commits and raises after, or raises before, the way a store can."""

    def __init__(self) -> None:
        self.commits: list[pa.Table] = []
        self.transactions: dict[str, int] = {}
        self.fail: str | None = None

    def names(self) -> list[str]:
        return [log_schema.TABLE] if self.commits else []

    def transaction_version(self, name: str, app_id: str) -> int | None:
        assert name == log_schema.TABLE
        return self.transactions.get(app_id)

    def append(self, name: str, data: pa.Table, *, transactions: list[tuple[str, int]], **_: Any) -> None:
        if self.fail == "before":
            raise OSError("disk full")
        self.commits.append(data)
        self.transactions.update(transactions)
        if self.fail == "after":
            raise OSError("the answer was lost")

    def ids(self) -> list[str]:
        return pa.concat_tables(self.commits).column("request_id").to_pylist() if self.commits else []


def batch(name: str) -> bytes:
    return log_schema.encode([record(name)], "r")


@pytest.fixture
def tables() -> FakeTables:
    return FakeTables()


def writer(settings: Settings, tables: FakeTables, commit_s: float = 60.0) -> InferenceLogWriter:
    log = settings.log.model_copy(update={"commit_s": commit_s})
    return InferenceLogWriter(settings.model_copy(update={"log": log}), tables)


async def sent(w: InferenceLogWriter, *batches: tuple[str, str, int]) -> list[asyncio.Task[None]]:
    """Writes under way: each is waiting for its commit when this returns."""
    before = (await w.heartbeat())["rows_waiting"]
    tasks = [asyncio.create_task(w.write(batch(name), epoch, seq)) for name, epoch, seq in batches]
    while (await w.heartbeat())["rows_waiting"] + sum(task.done() for task in tasks) < before + len(tasks):
        await asyncio.sleep(0.001)
    return tasks


def test_a_write_returns_after_its_commit_and_many_share_one(settings: Settings, tables: FakeTables) -> None:
    async def run() -> None:
        w = writer(settings, tables)
        tasks = await sent(w, ("a", "e1", 0), ("b", "e1", 1), ("c", "e2", 0))
        assert not any(task.done() for task in tasks)
        assert await w.flush() == 3
        await asyncio.gather(*tasks)
        assert len(tables.commits) == 1
        assert tables.transactions == {"e1": 1, "e2": 0}
        assert (await w.heartbeat())["rows"] == 3

    asyncio.run(run())


def test_commits_happen_by_themselves(settings: Settings, tables: FakeTables) -> None:
    async def run() -> None:
        await asyncio.wait_for(writer(settings, tables, commit_s=0.01).write(batch("a"), "e1", 0), 5)
        assert tables.ids() == ["a"]

    asyncio.run(run())


def test_a_batch_sent_again_is_stored_once(settings: Settings, tables: FakeTables) -> None:
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


def test_a_gap_waits_for_what_belongs_in_it(settings: Settings, tables: FakeTables) -> None:
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


def test_a_commit_that_fails_is_tried_again(settings: Settings, tables: FakeTables) -> None:
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


def test_a_commit_whose_answer_was_lost_is_not_repeated(settings: Settings, tables: FakeTables) -> None:
    async def run() -> None:
        w = writer(settings, tables)
        tables.fail = "after"
        tasks = await sent(w, ("a", "e1", 0))
        assert await w.flush() == 1
        await asyncio.gather(*tasks)
        assert await w.flush() == 0
        assert tables.ids() == ["a"]

    asyncio.run(run())


def test_bytes_that_are_no_rows_are_refused_and_do_not_block_the_next(settings: Settings, tables: FakeTables) -> None:
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
