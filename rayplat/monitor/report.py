"""A drift report for people (a rich table, good from 80 columns on) and for programs (JSON-ready values)."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from typing import Any

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from rayplat.monitor.drift import DRIFT, NOT_ENOUGH_ROWS, STABLE
from rayplat.types import ColumnDrift, DriftReport, QualityReport

_COLOURS = {STABLE: "green", DRIFT: "red", NOT_ENOUGH_ROWS: "yellow"}
_NAMES = {
    "psi": "PSI",
    "wasserstein_sd": "W / σ",
    "js2": "JS",
    "unseen_share": "unseen",
    "null_rate": "Δ nulls",
}
_BAR = 8


def to_json(report: DriftReport) -> dict[str, Any]:
    """The report as plain values; times in ISO 8601."""
    return {k: v.isoformat() if isinstance(v, datetime) else v for k, v in asdict(report).items()}


def render(report: DriftReport) -> RenderableType:
    """The verdict, every column with its decisive statistic, the prediction, and live quality."""
    parts: list[RenderableType] = [_headline(report), _columns(report)]
    if report.quality:
        parts.append(_quality(report.quality))
    title = f"[bold]{report.model}[/] version {report.version}"
    return Panel(Group(*parts), title=title, title_align="left", border_style=_COLOURS.get(report.verdict, ""))


def _headline(report: DriftReport) -> Text:
    drifted = sum(column.drifted for column in report.columns)
    line = Text.assemble(("● ", _COLOURS.get(report.verdict, "")), (report.verdict, "bold"))
    if report.verdict != NOT_ENOUGH_ROWS:
        line.append(f"   {drifted} of {len(report.columns)} features moved")
        if report.prediction:
            line.append(", and so did the predictions" if report.prediction.drifted else ", the predictions did not")
    line.append(f"\n  {report.rows:,} requests, {_moment(report.window_start)} to {_moment(report.window_end)} UTC")
    line.append(f"\n  baseline {report.baseline[:19]}…\n", "dim")
    return line


def _moment(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M}"


def _columns(report: DriftReport) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim", expand=True)
    table.add_column("", no_wrap=True, width=1)
    table.add_column("column", no_wrap=True, overflow="ellipsis", max_width=28)
    table.add_column("effect", no_wrap=True)
    table.add_column("value", justify="right", no_wrap=True)
    table.add_column("limit", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True, width=_BAR)
    table.add_column("what changed", no_wrap=True, overflow="ellipsis", ratio=1)
    if report.prediction:
        _add(table, report.prediction, "bold")
    for column in report.columns:
        _add(table, column, "")
    return table


def _add(table: Table, column: ColumnDrift, style: str) -> None:
    strength = column.value / max(column.threshold, 1e-9)
    colour = "red" if column.drifted else "green" if strength <= 1 else "yellow"
    # half of the bar is the threshold, so a column that alerts is over the middle
    filled = min(round(strength * _BAR / 2), _BAR)
    bar = Text.assemble(("━" * filled, colour), ("·" * (_BAR - filled), "bright_black"))
    table.add_row(
        Text("▲" if column.drifted else "", style="red"),
        Text(column.column, style=style),
        _NAMES.get(column.statistic, column.statistic),
        Text(f"{column.value:.3f}", style="bold red" if column.drifted else ""),
        Text(f"{column.threshold:.3f}", style="dim"),
        bar,
        Text(column.note.removeprefix(f"{NOT_ENOUGH_ROWS}; "), style="" if column.drifted else "dim"),
    )


def _quality(quality: QualityReport) -> Text:
    line = Text("\nlive quality  ", style="bold")
    line.append(f"{quality.labelled:,} of {quality.predictions:,} predictions have a label", "not bold")
    if quality.unlabelled:
        line.append(f", {quality.unlabelled:,} have none", "not bold")
    shown = {
        "ROC AUC": quality.auc,
        "log loss": quality.log_loss,
        "positives": quality.positive_rate,
        "mean score": quality.mean_score,
        "calibration": quality.calibration_error,
    }
    known = [f"{name} {value:.3f}" for name, value in shown.items() if value is not None]
    line.append("\n  " + ("   ".join(known) if known else "too few labels for a figure"), "not bold")
    return line
