"""Rows of a benchmark's result: what was measured, what was promised, whether it holds."""

from __future__ import annotations

import json
import operator
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results"
_RELATIONS = {"<=": operator.le, ">=": operator.ge, "=": operator.eq}
_TOKEN = re.compile(r"rpt_\w+")


@dataclass(frozen=True)
class Row:
    """``target`` is text such as ``<= 300``; None where nothing was promised, and then ``holds`` is None too.
    ``peers`` are figures of other products taken in the same run. A ``value`` of None could not be measured."""

    metric: str
    value: float | None
    unit: str
    target: str | None
    holds: bool | None
    peers: dict[str, float] | None
    command: str


def row(
    metric: str,
    value: float | None,
    unit: str,
    target: str | None,
    command: str,
    peers: dict[str, float] | None = None,
) -> Row:
    """A row that judges itself."""
    holds = None
    if target is not None:
        relation, _, limit = target.partition(" ")
        holds = value is not None and bool(_RELATIONS[relation](value, float(limit)))
    return Row(metric, None if value is None else round(value, 4), unit, target, holds, peers, command)


def demo_rows(
    demo: Mapping[str, Any], wall_s: float | None, peak_pss_bytes: int | None, import_s: float, left: int, command: str
) -> list[Row]:
    """The rows of one demo run. ``demo`` is its ``demo.json`` (empty when it failed); ``left`` counts the processes
    that were still there after ``rayplat down``."""
    replay, auc, log = (demo.get(key) or {} for key in ("replay", "auc", "inference_log"))
    answered = replay.get("answered")
    figures = every_auc(demo)
    unnamed = None if answered is None else answered - sum((replay.get("by_version") or {}).values())
    unlogged = None if answered is None or "requests" not in log else log["requests"] - answered
    rows = [
        row("demo wall time", wall_s, "s", "<= 300", command),
        row(
            "peak memory (summed PSS)",
            None if peak_pss_bytes is None else peak_pss_bytes / 2**30,
            "GiB",
            "<= 10",
            command,
        ),
        row("holdout ROC AUC, champion", auc.get("champion"), "", ">= 0.66", command),
        row("holdout ROC AUC, challenger", auc.get("challenger"), "", ">= 0.71", command),
        row("largest ROC AUC anywhere", max(figures) if figures else None, "", "<= 0.8", command),
        row("requests replayed", replay.get("requests"), "requests", ">= 500", command),
        row("requests failed", replay.get("failed"), "requests", "= 0", command),
        row("answers without a version", unnamed, "requests", "= 0", command),
        row("requests logged minus answered", unlogged, "requests", "= 0", command),
        row("processes left after down", left, "processes", "= 0", command),
        row("import rayplat (median of 7)", import_s, "s", "<= 0.5", command),
    ]
    return rows + [row(f"step: {s['step']}", s["seconds"], "s", None, command) for s in demo.get("steps") or ()]


def every_auc(node: Any, under: str = "") -> list[float]:
    """All numbers in a JSON document that stand under a key with ``auc`` in its name."""
    if isinstance(node, Mapping):
        return [x for key, value in node.items() for x in every_auc(value, f"{under}/{key}")]
    if isinstance(node, list):
        return [x for value in node for x in every_auc(value, under)]
    is_number = isinstance(node, int | float) and not isinstance(node, bool)
    return [float(node)] if is_number and "auc" in under.lower() else []


def suite_rows(
    unmarked_s: float, whole_s: float, failed: int, tests: int, slowest: Sequence[tuple[str, float]], command: str
) -> list[Row]:
    """The rows of the two test runs; ``slowest`` are (test, seconds) of the whole run."""
    return [
        row("unmarked tests, wall time", unmarked_s, "s", "<= 60", command),
        row("all tests, wall time", whole_s, "s", "<= 900", command),
        row("tests failed", failed, "tests", "= 0", command),
        row("tests run", tests, "tests", ">= 1", command),
        *(row(f"slow test: {name}", seconds, "s", None, command) for name, seconds in slowest),
    ]


def clean(text: str, home: Path) -> str:
    """``text`` without tokens and without the place where this run happened to lie."""
    return _TOKEN.sub("rpt_…", text.replace(str(home), "<home>"))


def write(name: str, rows: Iterable[Row], raw: Mapping[str, Any], home: Path, results: Path | None = None) -> None:
    """``<name>.json``, the rows, and ``<name>.raw.json``, what they were made from."""
    results = results or RESULTS
    results.mkdir(parents=True, exist_ok=True)
    text = json.dumps([asdict(r) for r in rows], indent=2, ensure_ascii=False)
    (results / f"{name}.json").write_text(text + "\n")
    (results / f"{name}.raw.json").write_text(clean(json.dumps(raw, indent=2, ensure_ascii=False), home) + "\n")


def show(rows: Sequence[Row]) -> str:
    """The rows as text, one line each."""
    width = max(len(r.metric) for r in rows)
    marks = {True: "ok  ", False: "MISS", None: "    "}
    lines = []
    for r in rows:
        value = "not measured" if r.value is None else f"{r.value:,.6g} {r.unit}".strip()
        target = f"  (target {r.target})" if r.target else ""
        lines.append(f"{marks[r.holds]} {r.metric:<{width}}  {value}{target}")
    return "\n".join(lines)
