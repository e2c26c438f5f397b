"""An open-loop client: requests leave when they are due, whether or not the ones before were answered.

Latency counts from the moment a request was due, so a server that stalls is charged for everybody who waited. Runs in a
process of its own, apart from what it measures; keep-alive connections, no HTTP library.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.serve.peers import Target

_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")
_VERSION = re.compile(rb"(?i)\r\nx-rayplat-model-version: *(\S+)")
_ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Sample:
    """``at_s``: when it was due (`time.time`). ``status`` 0: no answer. ``version`` as the header names it, ``value``
    the last number of the first output."""

    at_s: float
    latency_ms: float
    status: int
    version: str
    value: float | None


@dataclass(frozen=True)
class Plan:
    """``rate`` requests per second for ``seconds`` (exponential gaps: ``poisson``), over ``connections`` at most."""

    target: Target
    rate: float
    seconds: float
    connections: int = 64
    poisson: bool = False


class Running:
    """A load that runs in another process; `samples` waits for its end."""

    def __init__(self, plan: Plan, out: Path) -> None:
        self._out = out
        out.with_suffix(".plan").write_text(json.dumps(asdict(plan) | {"target": _plain(plan.target)}))
        command = [sys.executable, "-m", "benchmarks.serve.load", str(out)]
        self._process = subprocess.Popen(command, cwd=_ROOT, stdout=sys.stderr)

    def samples(self) -> list[Sample]:
        if self._process.wait():
            raise SystemExit("the load generator failed")
        return [Sample(*line) for line in json.loads(self._out.read_text())]


def run(plan: Plan, work: Path) -> list[Sample]:
    """Run ``plan`` to its end."""
    return Running(plan, work / f"load-{time.monotonic_ns()}.json").samples()


def latencies(samples: Sequence[Sample], status: int = 200) -> list[float]:
    """Of the requests that were answered with ``status``, sorted."""
    return sorted(s.latency_ms for s in samples if s.status == status)


def percentile(ordered: Sequence[float], share: float) -> float:
    """The smallest value that at least ``share`` of the sorted values do not exceed; NaN of none."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


def _plain(target: Target) -> dict[str, object]:
    return {"url": target.url, "body": target.body.decode(), "headers": dict(target.headers)}


async def _send(plan: Plan) -> list[Sample]:
    parts = urlsplit(plan.target.url)
    head = f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Length: {len(plan.target.body)}\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in plan.target.headers.items())
    request = head.encode() + b"\r\n" + plan.target.body
    free: asyncio.LifoQueue[tuple[asyncio.StreamReader, asyncio.StreamWriter] | None] = asyncio.LifoQueue()
    for _ in range(plan.connections):
        free.put_nowait(None)
    found: list[Sample] = []

    async def one(due: float) -> None:
        connection = await free.get()
        try:
            if connection is None:
                connection = await asyncio.open_connection(parts.hostname, parts.port)
            reader, writer = connection
            writer.write(request)
            async with asyncio.timeout(30):
                top = await reader.readuntil(b"\r\n\r\n")
                body = await reader.readexactly(int(_LENGTH.search(top)[1]))  # type: ignore[index]
            status = int(top[9:12])
            if b"connection: close" in top.lower():
                writer.close()
                connection = None
        except (OSError, asyncio.IncompleteReadError, TimeoutError, TypeError):
            status, top, body, connection = 0, b"", b"", None
        free.put_nowait(connection)
        version = _VERSION.search(top)
        value = _value(body) if status == 200 else None
        at = time.time() - time.monotonic() + due
        found.append(Sample(at, (time.monotonic() - due) * 1e3, status, version[1].decode() if version else "", value))

    tasks, due = [], time.monotonic() + 0.2
    end = due + plan.seconds
    while due < end:
        await asyncio.sleep(max(due - time.monotonic(), 0))
        tasks.append(asyncio.create_task(one(due)))
        due += random.expovariate(plan.rate) if plan.poisson else 1 / plan.rate
    await asyncio.gather(*tasks)
    return found


def _value(body: bytes) -> float | None:
    outputs = json.loads(body).get("outputs")
    data = outputs[0]["data"] if outputs else None
    while isinstance(data, list) and data:
        data = data[-1]
    return float(data) if isinstance(data, int | float) else None


def _main(out: Path) -> None:
    given = json.loads(out.with_suffix(".plan").read_text())
    target = given.pop("target")
    plan = Plan(Target(target["url"], target["body"].encode(), target["headers"]), **given)
    samples = asyncio.run(_send(plan))
    out.write_text(json.dumps([[s.at_s, s.latency_ms, s.status, s.version, s.value] for s in samples]))


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
