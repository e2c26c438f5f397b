"""``make bench-demo``: one demo run in a fresh home, its wall time, memory and figures against what is promised.

Needs the package installed in the environment that runs this. Writes ``results/demo.json`` (rows),
``demo.raw.json`` (samples, the demo's own JSON) and ``demo.raw.log`` (its output). Exit code 1 when a row fails.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import measure
import rows

RAYPLAT = str(Path(sys.executable).parent / "rayplat")
COMMAND = "make bench-demo"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--home", type=Path, help="a folder for the platform; default: a temporary one")
    parser.add_argument("--limit-s", type=float, default=1800, help="give up after this many seconds")
    chosen = parser.parse_args(arguments)
    if not Path(RAYPLAT).exists():
        parser.error(f"{RAYPLAT} does not exist: install the package here, or run `{COMMAND}`")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the platform is stopped on the way out
    with tempfile.TemporaryDirectory(prefix="rp-", ignore_cleanup_errors=True) as folder:
        return run((chosen.home or Path(folder) / "home").absolute(), chosen.limit_s)


def run(home: Path, limit_s: float) -> int:
    imports = import_times()
    rows.RESULTS.mkdir(parents=True, exist_ok=True)
    log = rows.RESULTS / "demo.raw.log"
    started = time.monotonic()
    try:
        code, mark, samples = run_demo(home, log, limit_s)
        wall_s = time.monotonic() - started
    finally:
        down = subprocess.run([RAYPLAT, "down", "--home", str(home)], capture_output=True, text=True, check=False)
    left = len(measure.members(measure.processes(), mark, root=-1))
    demo = read_json(home / "demo.json") if code == 0 else {}
    peak = max((s.pss_bytes for s in samples), default=None)
    found = rows.demo_rows(demo, wall_s if code == 0 else None, peak, statistics.median(imports), left, COMMAND)
    raw = {
        "machine": measure.machine(),
        "exit_code": code,
        "wall_s": round(wall_s, 2),
        "down_exit_code": down.returncode,
        "import_s": imports,
        "demo": demo,
        "samples": [asdict(s) for s in samples],
    }
    rows.write("demo", found, raw, home)
    log.write_text(rows.clean(log.read_text(errors="replace"), home))
    print(rows.show(found))
    if code != 0:
        print(f"the demo ended with exit code {code}; its last lines:\n{last_lines(log)}", file=sys.stderr)
    return 0 if code == 0 and all(r.holds is not False for r in found) else 1


def run_demo(home: Path, log: Path, limit_s: float) -> tuple[int, str | None, list[measure.Sample]]:
    """The exit code of ``rayplat demo``, the mark of the platform it started, and a sample for each second."""
    samples: list[measure.Sample] = []
    mark: str | None = None
    started = time.monotonic()
    with log.open("wb") as out:
        command = [RAYPLAT, "demo", "--json", "--home", str(home)]
        demo = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT)
        try:
            while demo.poll() is None and time.monotonic() - started < limit_s:
                mark = read_json(home / "platform.json").get("mark") or mark
                samples.append(measure.sample(started, mark, demo.pid))
                with contextlib.suppress(subprocess.TimeoutExpired):
                    demo.wait(timeout=max(started + len(samples) - time.monotonic(), 0.05))
        finally:
            if demo.poll() is None:
                demo.kill()
                demo.wait()
    return demo.returncode, mark, samples


def import_times(runs: int = 7) -> list[float]:
    """Seconds that a fresh process takes to start, import rayplat and end."""
    found = []
    for _ in range(runs):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", "import rayplat"], check=True)
        found.append(round(time.perf_counter() - started, 4))
    return found


def read_json(file: Path) -> dict[str, Any]:
    """The object in ``file``, or an empty one while it is not there or half written."""
    try:
        content = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def last_lines(log: Path, count: int = 20) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-count:])


if __name__ == "__main__":
    sys.exit(main())
