"""``make bench-test``: how long the tests take, the unmarked ones and all of them, and which are the slowest.

Writes ``results/suite.json`` (rows), ``suite.raw.json`` (every test's time) and ``suite.raw.log``. Exit code 1 when
a row fails.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from dataclasses import asdict, dataclass
from pathlib import Path

import measure
import rows

ROOT = Path(__file__).resolve().parent.parent
COMMAND = "make bench-test"
UNMARKED = ["-m", "not ray and not services and not e2e and not chaos", "-n", "2"]
MARKED = ["-m", "(ray or services or e2e) and not chaos"]


@dataclass(frozen=True)
class TestRun:
    """One run of pytest. ``times`` maps each test to its seconds, set-up and tear-down included."""

    command: str
    exit_code: int
    wall_s: float
    failed: int
    times: dict[str, float]


def main() -> int:
    rows.RESULTS.mkdir(parents=True, exist_ok=True)
    log = rows.RESULTS / "suite.raw.log"
    log.write_text("")
    return report([run(UNMARKED, log), run(MARKED, log)], log)  # as `make test` does


def report(runs: list[TestRun], log: Path) -> int:
    """Write the rows for the unmarked tests and for both runs together; the exit code to end with."""
    times = {name: seconds for r in runs for name, seconds in r.times.items()}
    slowest = sorted(times.items(), key=lambda pair: -pair[1])[:3]
    failed = sum(r.failed + (r.exit_code not in (0, 1)) for r in runs)
    wall_s = round(sum(r.wall_s for r in runs), 2)
    found = rows.suite_rows(runs[0].wall_s, wall_s, failed, len(times), slowest, COMMAND)
    raw = {"machine": measure.machine(), "runs": [asdict(r) for r in runs]}
    rows.write("suite", found, raw, ROOT)
    log.write_text(rows.clean(log.read_text(errors="replace"), ROOT))
    print(rows.show(found))
    return 0 if all(r.holds is not False for r in found) else 1


def run(selection: list[str], log: Path) -> TestRun:
    """Run pytest once in the project's root, its output appended to ``log``."""
    with tempfile.TemporaryDirectory() as folder, log.open("ab") as out:
        report = Path(folder) / "junit.xml"
        arguments = ["-m", "pytest", "-q", "--durations=10", *selection]
        command = [sys.executable, *arguments, f"--junitxml={report}"]
        started = time.monotonic()
        code = subprocess.run(command, cwd=ROOT, stdout=out, stderr=subprocess.STDOUT, check=False).returncode
        wall_s = round(time.monotonic() - started, 2)
        times, failed = parse_junit(report.read_text()) if report.exists() else ({}, 0)
    return TestRun(" ".join(["python", *arguments]), code, wall_s, failed, times)


def parse_junit(xml: str) -> tuple[dict[str, float], int]:
    """Seconds of each test, and how many failed or could not run."""
    times: dict[str, float] = {}
    failed = 0
    for case in ElementTree.fromstring(xml).iter("testcase"):
        name = f"{case.get('classname', '')}::{case.get('name', '')}"
        times[name] = times.get(name, 0.0) + float(case.get("time", 0))
        failed += case.find("failure") is not None or case.find("error") is not None
    return times, failed


if __name__ == "__main__":
    sys.exit(main())
