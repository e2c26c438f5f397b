"""Load from ``wrk``, which costs the machine little beside what it measures, and what it says."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass

_SCRIPT = """
wrk.method = "POST"
wrk.body = {body}
{headers}
function done(summary, latency, requests)
  local e = summary.errors
  local shape = '"requests":%d,"duration_s":%f,"failed":%d,"p50_ms":%f,"p90_ms":%f,"p99_ms":%f,"max_ms":%f'
  io.write(string.format('\\nJSON {{' .. shape .. '}}\\n',
    summary.requests, summary.duration / 1e6, e.connect + e.read + e.write + e.status + e.timeout,
    latency:percentile(50) / 1e3, latency:percentile(90) / 1e3, latency:percentile(99) / 1e3, latency.max / 1e3))
end
"""


@dataclass(frozen=True)
class Load:
    """``failed`` counts connections, timeouts and statuses above 399; latencies in milliseconds."""

    connections: int
    requests: int
    failed: int
    per_s: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    max_ms: float


def run(url: str, body: bytes, headers: Mapping[str, str], connections: int, seconds: float) -> Load:
    """Closed loop: ``connections`` clients, each with one request at a time."""
    if shutil.which("wrk") is None:
        raise SystemExit("wrk is not installed: apt-get install wrk")
    lines = "\n".join(f"wrk.headers[{json.dumps(k)}] = {json.dumps(v)}" for k, v in headers.items())
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(_SCRIPT.format(body=json.dumps(body.decode()), headers=lines))
        script.flush()
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "--timeout", "20s", "-s", script.name, url]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    line = next(line for line in done.stdout.splitlines() if line.startswith("JSON "))
    found = json.loads(line.removeprefix("JSON "))
    per_s = (found["requests"] - found["failed"]) / found.pop("duration_s")
    return Load(connections=connections, per_s=per_s, **found)
