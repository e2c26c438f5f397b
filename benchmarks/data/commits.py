"""Many writer processes that append to one table at once and are killed in between: what is lost, what comes twice.

Each process is a job that commits its rows one transaction after another. It is killed at random (SIGKILL) and started
again from its first transaction, as a scheduler would; what it had committed is not written anew. At the end every row
of every job must be there exactly once, and nothing else.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import random
import signal
import time
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pyarrow as pa

from benchmarks.rows import Row, row
from rayplat.data.tables import Tables
from rayplat.errors import RayplatError

TABLE = "commits"
ROWS = 10
COMMAND = "python -m benchmarks.data commits"


def write_all(uri: str, writer: int, commits: int) -> None:
    """The job of one writer: ``commits`` transactions of its own, in order; a file says that it is at work."""
    tables = Tables(uri)
    Path(uri, f"{writer}.at_work").write_text(str(os.getpid()))
    for number in range(commits):
        rows = pa.table({"writer": [writer] * ROWS, "commit": [number] * ROWS, "row": range(ROWS)})
        while True:
            try:
                tables.append(TABLE, rows, transaction=(f"writer-{writer}", number), run_id=f"{writer}")
                break
            except RayplatError as e:
                if not e.retryable:
                    raise


@dataclass
class Outcome:
    """What happened: processes killed, seconds, rows that should be there, lost, and twice."""

    kills: int = 0
    seconds: float = 0.0
    expected: int = 0
    lost: int = 0
    twice: int = 0
    versions: int = 0
    orphans: int = 0


def run(folder: Path, writers: int, commits: int, kills: int, seed: int = 0) -> Outcome:
    """Run ``writers`` processes of ``commits`` transactions, kill ``kills`` of them, count what the table holds."""
    tables, chance = Tables(str(folder)), random.Random(seed)
    tables.create(TABLE, pa.schema([("writer", pa.int64()), ("commit", pa.int64()), ("row", pa.int64())]))
    found, began = Outcome(expected=writers * commits * ROWS), time.monotonic()
    jobs = {n: _start(folder, n, commits) for n in range(writers)}
    left = set(jobs)
    while left:
        for n in sorted(left):
            code = jobs[n].exitcode
            if code == 0:
                left.discard(n)
            elif code == -signal.SIGKILL:
                jobs[n] = _start(folder, n, commits)
            elif code is not None:
                raise RuntimeError(f"writer {n} ended with {code}")
        at_work = [n for n in sorted(left) if _is_at_work(folder, n, jobs[n])]
        if found.kills < kills and at_work and _progress(tables) >= found.kills * writers * commits // (kills + 1):
            jobs[chance.choice(at_work)].kill()
            found.kills += 1
        multiprocessing.connection.wait([jobs[n].sentinel for n in left], timeout=0.01)
    found.seconds = time.monotonic() - began
    _count(tables, found)
    return found


def measure(work: Path, quick: bool) -> tuple[list[Row], dict[str, Any]]:
    writers, commits, kills = (4, 5, 3) if quick else (16, 50, 40)
    found = run(work / "commits", writers, commits, kills)
    total = writers * commits
    what = f"{writers} writers × {commits} commits"
    rows = [
        row(f"{what}: rows lost", found.lost, "rows", "= 0", COMMAND),
        row(f"{what}: rows twice", found.twice, "rows", "= 0", COMMAND),
        row(f"{what}: processes killed in between", found.kills, "kills", f">= {kills}", COMMAND),
        row(f"{what}: versions beyond one per commit", found.versions - 1 - total, "versions", "= 0", COMMAND),
        row(f"{what}: commits per second, restarts included", total / found.seconds, "commits/s", None, COMMAND),
    ]
    return rows, {"outcome": vars(found)}


def _start(folder: Path, writer: int, commits: int) -> BaseProcess:
    """A process forked from a server that has the imports done: a kill is to hit the work, not the start."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__", "benchmarks.data.commits", "rayplat.data.tables.writes", "deltalake"])
    process = context.Process(target=write_all, args=(str(folder), writer, commits))
    process.start()
    return process


def _is_at_work(folder: Path, writer: int, process: BaseProcess) -> bool:
    mark = folder / f"{writer}.at_work"
    return process.is_alive() and mark.exists() and mark.read_text() == str(process.pid)


def _progress(tables: Tables) -> int:
    """Commits so far, from the names of the log's files."""
    return len(list(Path(tables.uri, TABLE, "_delta_log").glob("*[0-9].json")))


def _count(tables: Tables, found: Outcome) -> None:
    rows = tables.read(TABLE)
    distinct = rows.group_by(rows.column_names).aggregate([]).num_rows
    found.twice, found.lost = rows.num_rows - distinct, found.expected - distinct
    found.versions = tables.version(TABLE).version + 1
    named = {file.key for file in tables.scan(TABLE).files}
    found.orphans = len({path.name for path in Path(tables.uri, TABLE).glob("*.parquet")} - named)
