"""How results look: rich tables for people, one JSON document with ``--json``."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from pydantic import TypeAdapter
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rayplat.cli.views import COLUMNS, LISTS, VIEWS
from rayplat.monitor.report import render as drift_table
from rayplat.types import DriftReport, ParityReport

OUT = Console()
ERR = Console(stderr=True)

_LONG = 60
_IDENTITY = ("uri", "table_id", "manifest_digest", "schema_digest")  # of a nested version: too wide for a row


def show(result: Any, as_json: bool, nothing: str = "[green]done[/green]") -> None:
    """Print ``result``: a value, a frozen dataclass, or a sequence of them; ``nothing`` stands for None."""
    if as_json:
        sys.stdout.write(TypeAdapter(Any).dump_json(result, indent=2).decode() + "\n")
    elif result is None:
        OUT.print(nothing)
    elif isinstance(result, dict):
        OUT.print(_pairs(result), soft_wrap=True)
    elif isinstance(result, DriftReport):
        OUT.print(drift_table(result))
    elif type(result) in VIEWS:
        OUT.print(VIEWS[type(result)](result))
    elif isinstance(result, ParityReport):
        OUT.print(_parity(result), _parity_sum(result), sep="\n")
    elif dataclasses.is_dataclass(result):
        OUT.print(_pairs(_spread(result)), soft_wrap=True)
    elif isinstance(result, Sequence) and result and all(isinstance(r, DriftReport) for r in result):
        OUT.print(*(drift_table(r) for r in result), sep="\n\n")
    elif isinstance(result, Sequence) and result and type(result[0]) in LISTS:
        OUT.print(LISTS[type(result[0])](result))
    elif isinstance(result, Sequence) and not isinstance(result, str):
        OUT.print(_rows(result)) if result else OUT.print("[dim]none[/dim]")
    else:
        OUT.print(str(result))


def fail(message: str) -> None:
    """One line on stderr."""
    line = " ".join(message.split())
    ERR.print(f"[bold red]error:[/bold red] {_escape(line)}", soft_wrap=True)


def _parity(report: ParityReport) -> Table:
    """A row per feature, those that differ most often first."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("feature", "compared", "mismatches", "share", "first example"):
        table.add_column(name, overflow="fold")
    for found in sorted(report.features, key=lambda f: (-f.mismatches, f.compared == 0)):
        if not found.compared:
            table.add_row(_escape(found.feature), "[dim]none[/dim]", "-", "-", "[dim]a request sent it[/dim]")
            continue
        share = f"{found.mismatches / found.compared:.2%}"
        style = "red" if found.mismatches else "green"
        first = next(iter(found.examples), None)
        shown = f"{first['key']} at {first['at']}: {first['online']} ≠ {first['offline']}" if first else ""
        counts = (str(found.compared), f"[{style}]{found.mismatches}[/{style}]", share)
        table.add_row(_escape(found.feature), *counts, _escape(shown))
    return table


def _parity_sum(report: ParityReport) -> str:
    style = "red" if report.mismatched else "green"
    return (
        f"[{style}]{report.mismatched} of {report.vectors} vectors differ[/{style}] "
        f"({report.mismatch_rate:.2%}; {_escape(report.model)} version {report.version}, examples: online ≠ offline)"
    )


def _rows(items: Sequence[Any]) -> Table:
    records = [_flat(i) if isinstance(i, dict) or dataclasses.is_dataclass(i) else {"name": i} for i in items]
    table = Table(box=None, header_style="bold", pad_edge=False)
    names = list(dict.fromkeys(n for r in records for n in r))
    for name in names:
        table.add_column(name.replace("_", " "), overflow="fold")
    for record in records:
        table.add_row(*(_text(record.get(name)) for name in names))
    return table


def _flat(item: Any) -> dict[str, Any]:
    """What fits into a row: plain values, those of a nested value or of a dict in a dict too; `--json` has the rest."""
    own = item if isinstance(item, dict) else _fields(item)
    if type(item) in COLUMNS:
        return {name: own[name] for name in COLUMNS[type(item)]}
    flat = {name: value for name, value in own.items() if not _is_nested(value)}
    for value in own.values():
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            flat = {n: v for n, v in _fields(value).items() if not _is_nested(v) and n not in _IDENTITY} | flat
        elif isinstance(value, dict) and isinstance(item, dict):
            flat |= value
    return flat or {name: _text(value) for name, value in own.items()}


def _is_nested(value: Any) -> bool:
    return isinstance(value, dict | list | tuple) or dataclasses.is_dataclass(value)


def _pairs(record: dict[str, Any]) -> Text:
    """One line for each value, never broken: a secret or a path can be copied."""
    width = max((len(name) for name in record), default=0)
    lines = [f"[bold]{name.replace('_', ' '):<{width}}[/bold]  {_text(value, 2000)}" for name, value in record.items()]
    return Text.from_markup("\n".join(lines))


def _spread(value: Any) -> dict[str, Any]:
    """The fields of a value, and in place of a nested value its own."""
    spread: dict[str, Any] = {}
    for name, inner in _fields(value).items():
        spread |= _fields(inner) if dataclasses.is_dataclass(inner) else {name: inner}
    return spread


def _fields(value: Any) -> dict[str, Any]:
    return {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}


def _text(value: Any, limit: int = _LONG) -> str:
    if value is None:
        return "[dim]-[/dim]"
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%d %H:%M:%S")
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, str) and value.startswith("sha256:") and limit == _LONG:
        return value[:19] + "…"
    if dataclasses.is_dataclass(value) or isinstance(value, dict | list | tuple):
        value = json.dumps(TypeAdapter(Any).dump_python(value, mode="json"), ensure_ascii=False)
    text = str(value)
    return _escape(text if len(text) <= limit else text[: limit - 1] + "…")


def _escape(text: str) -> str:
    return text.replace("[", r"\[")
