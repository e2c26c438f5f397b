"""Requests per second and latency of one model behind one process, here and at the peers, in turn, in one run.

All of them are up during the whole run and one at a time is asked, in several rounds: what else the machine does falls
on all of them alike. A figure is the median of its rounds, a ratio the median of the ratios within a round.
"""

from __future__ import annotations

import contextlib
import statistics
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.rows import Row, row
from benchmarks.serve import peers, stage, tiny, wrk
from benchmarks.serve.peers import Target

COMMAND = "python -m benchmarks.serve throughput"
OURS, FASTAPI = "rayplat", "FastAPI + uvicorn"
RAY, MLFLOW, MLSERVER = "Ray Serve, defaults", "mlflow models serve", "MLServer"
CONNECTIONS = (1, 8, 32)


def measure(work: Path, quick: bool) -> tuple[list[Row], dict[str, Any]]:
    rounds, seconds = (1, 2.0) if quick else (3, 5.0)
    model = tiny.save(work / "model")
    python = peers.mlserver_python(stage_folder())
    with contextlib.ExitStack() as stack:
        platform = stack.enter_context(stage.running(work))
        platform.register("tiny", model)
        platform.client.aliases.set("tiny", "champion", 1)
        platform.client.endpoints.create("tiny", "champion")
        targets = {
            OURS: platform.target("tiny"),
            FASTAPI: stack.enter_context(peers.fastapi(model)),
            RAY: stack.enter_context(peers.ray_serve(model)),
            MLFLOW: stack.enter_context(peers.mlflow_serve(model)),
            MLSERVER: stack.enter_context(peers.mlserver(python, work)),
        }
        platform.wait(targets[OURS])
        answers = {name: peers.ask(target).decode() for name, target in targets.items()}
        found = _rounds(targets, rounds, seconds)
    return _rows(found), {"answers": answers, "rounds": found, "seconds": seconds}


def stage_folder() -> Path:
    """Where environments of peers are kept between runs."""
    return Path(__file__).resolve().parents[2] / ".venv-mlserver"


def _rounds(targets: dict[str, Target], rounds: int, seconds: float) -> list[dict[str, Any]]:
    for target in targets.values():
        wrk.run(target.url, target.body, target.headers, 8, min(seconds, 2.0))  # warm
    found = []
    for turn in range(rounds):
        for connections in CONNECTIONS:
            order = list(targets.items())
            for name, target in order[turn % len(order) :] + order[: turn % len(order)]:
                load = wrk.run(target.url, target.body, target.headers, connections, seconds)
                found.append({"round": turn, "server": name, **asdict(load)})
    return found


def _rows(found: list[dict[str, Any]]) -> list[Row]:
    def of(server: str, connections: int, what: str) -> list[float]:
        return [f[what] for f in found if f["server"] == server and f["connections"] == connections]

    def ratio(server: str, connections: int, what: str) -> float:
        pairs = zip(of(OURS, connections, what), of(server, connections, what), strict=True)
        return statistics.median(ours / theirs for ours, theirs in pairs)

    servers = list(dict.fromkeys(f["server"] for f in found))
    rows = [
        row("requests/s at 8 connections, of plain FastAPI", ratio(FASTAPI, 8, "per_s"), "x", ">= 0.7", COMMAND),
        row("requests/s at 8 connections, of default Ray Serve", ratio(RAY, 8, "per_s"), "x", ">= 6", COMMAND),
        row("requests/s at 8 connections, of MLServer", ratio(MLSERVER, 8, "per_s"), "x", ">= 2", COMMAND),
        row("requests/s at 8 connections, of mlflow models serve", ratio(MLFLOW, 8, "per_s"), "x", ">= 4", COMMAND),
        row("p50 at 1 connection, of plain FastAPI", ratio(FASTAPI, 1, "p50_ms"), "x", "<= 1.8", COMMAND),
        row("p99 at 8 connections, of plain FastAPI", ratio(FASTAPI, 8, "p99_ms"), "x", "<= 3", COMMAND),
        row("requests failed", sum(of_all(found, OURS, "failed")), "requests", "= 0", COMMAND),
    ]
    for connections in CONNECTIONS:
        for what, unit in (("per_s", "requests/s"), ("p50_ms", "ms"), ("p99_ms", "ms")):
            every = {server: round(statistics.median(of(server, connections, what)), 3) for server in servers}
            ours = every.pop(OURS)
            rows.append(row(f"{what} at {connections} connections", ours, unit, None, COMMAND, every))
    return rows


def of_all(found: list[dict[str, Any]], server: str, what: str) -> list[float]:
    return [f[what] for f in found if f["server"] == server]
