"""A benchmark that consists of named parts, as a command line: ``python -m benchmarks.<name> [part …] [--quick]``.

Each part is a module of the benchmark's folder with ``measure(work, quick) -> (rows, raw)`` and runs in a process of
its own, so that none inherits another's memory or cluster. Writes ``results/<name>.json`` (rows) and
``results/<name>.raw.json`` (what they were made from). With names of parts only those are run, and only their rows are
replaced.
"""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks import measure, rows

ROOT = Path(__file__).resolve().parents[1]


def main(name: str, parts: Sequence[str], about: str, arguments: Sequence[str] | None = None) -> int:
    """Run ``parts`` of the benchmark in ``benchmarks/<name>``, or those that ``arguments`` (default: of the process)
    name. Returns 1 when a row fails, else 0; exits with a message when a part does not end well."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=about)
    parser.add_argument("parts", nargs="*", default=list(parts), help=f"of {', '.join(parts)}")
    parser.add_argument("--quick", action="store_true", help="small sizes; prints, writes no results")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.part:
        return _one(name, given.part, given.quick)
    unknown = sorted(set(given.parts) - set(parts))
    if unknown:
        parser.error(f"no such part: {', '.join(unknown)}; there are {', '.join(parts)}")
    found = {part: _measured(name, part, given.quick) for part in given.parts}
    made = _rows(found)
    if not given.quick:
        _write(name, parts, found)
    print(rows.show(made))
    return 0 if all(row.holds is not False for row in made) else 1


def _measured(name: str, part: str, quick: bool) -> dict[str, Any]:
    """What `_one` prints in a process of its own."""
    command = [sys.executable, "-m", f"benchmarks.{name}", "--part", part, *(["--quick"] if quick else [])]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=False)
    if done.returncode:
        raise SystemExit(f"benchmark part {part} failed with exit code {done.returncode}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def _one(name: str, part: str, quick: bool) -> int:
    with tempfile.TemporaryDirectory(prefix="rp-bench-") as work:
        made, raw = importlib.import_module(f"benchmarks.{name}.{part}").measure(Path(work), quick)
    print(json.dumps({"rows": [asdict(row) for row in made], "raw": raw}))
    return 0


def _write(name: str, parts: Sequence[str], found: dict[str, dict[str, Any]]) -> None:
    """Keep the rows of parts that were not run this time."""
    raw_file = rows.RESULTS / f"{name}.raw.json"
    kept = json.loads(raw_file.read_text())["parts"] if raw_file.exists() else {}
    known = {part: found.get(part) or kept[part] for part in parts if part in found or part in kept}
    rows.write(name, _rows(known), {"machine": measure.machine(), "parts": known}, ROOT)


def _rows(found: dict[str, dict[str, Any]]) -> list[rows.Row]:
    return [rows.Row(**row) for part in found.values() for row in part["rows"]]
