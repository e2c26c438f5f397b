"""``make bench-registry``: artifacts, alias moves, contention, a killed actor, watchers and the tamper corpus.

Each part is a module with ``measure(work, quick) -> (rows, raw)`` and runs in a process of its own, so that none
inherits another's memory or cluster. Writes ``results/registry.json`` (rows) and ``results/registry.raw.json``. With
names of parts only those are run, and only their rows are replaced. Exit code 1 when a row fails.
"""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import measure  # noqa: E402 (found by the path above)
import rows  # noqa: E402

PARTS = ("artifacts", "moves", "contention", "kill", "watchers", "tampering")
COMMAND = "make bench-registry"


def main() -> int:
    arguments = argparse.ArgumentParser(prog="python -m benchmarks.registry", description=__doc__)
    arguments.add_argument("parts", nargs="*", default=list(PARTS), help=f"of {', '.join(PARTS)}")
    arguments.add_argument("--quick", action="store_true", help="small sizes; prints, writes no results")
    arguments.add_argument("--part", help=argparse.SUPPRESS)
    given = arguments.parse_args()
    if given.part:
        return _one(given.part, given.quick)
    unknown = sorted(set(given.parts) - set(PARTS))
    if unknown:
        arguments.error(f"no such part: {', '.join(unknown)}; there are {', '.join(PARTS)}")
    found = {part: _measured(part, given.quick) for part in given.parts}
    made = [rows.Row(**row) for part in found.values() for row in part["rows"]]
    if not given.quick:
        _write(found)
    print(rows.show(made))
    return 0 if all(row.holds is not False for row in made) else 1


def _measured(part: str, quick: bool) -> dict[str, Any]:
    """What `_one` prints in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.registry", "--part", part, *(["--quick"] if quick else [])]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=False)
    if done.returncode:
        raise SystemExit(f"benchmark part {part} failed with exit code {done.returncode}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def _one(part: str, quick: bool) -> int:
    with tempfile.TemporaryDirectory(prefix="rp-bench-") as work:
        made, raw = importlib.import_module(f"benchmarks.registry.{part}").measure(Path(work), quick)
    print(json.dumps({"rows": [asdict(row) for row in made], "raw": raw}))
    return 0


def _write(found: dict[str, dict[str, Any]]) -> None:
    """Keep the rows of parts that were not run this time."""
    raw_file = rows.RESULTS / "registry.raw.json"
    kept = json.loads(raw_file.read_text())["parts"] if raw_file.exists() else {}
    parts = {name: found.get(name) or kept[name] for name in PARTS if name in found or name in kept}
    made = [rows.Row(**row) for part in parts.values() for row in part["rows"]]
    rows.write("registry", made, {"machine": measure.machine(), "parts": parts}, ROOT)


if __name__ == "__main__":
    sys.exit(main())
