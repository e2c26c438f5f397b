"""Verdicts on a shadow and on an A/B test in a terminal of 100 columns. Pure."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from rich.console import Group
from rich.markup import escape
from rich.table import Table

from rayplat.types import ArmVerdict, Estimate, ExperimentVerdict, ShadowVerdict

_MOST_SEGMENTS = 25


def shadow(found: ShadowVerdict) -> Group:
    """The counts with their intervals, the latencies side by side, and agreement by segment."""
    seen = found.evidence
    title = (
        f"[bold]{escape(found.model)}[/bold]  shadow [bold]{escape(found.shadow)}[/bold] (version "
        f"{found.shadow_version}) beside {escape(found.primary)} (version {found.primary_version})"
    )
    shift, moved = found.score_shift, f"{seen.score_shift:+.4f}"
    figures = _table("", "", f"{found.level:.0%} interval", right=(1, 2))
    figures.add_row("requests", f"{seen.requests:,}", "")
    figures.add_row("rows, in pairs", f"{seen.pairs:,}", "")
    figures.add_row(f"agree ({found.rule})", _share(found.agreement.value), _shares(found.agreement))
    figures.add_row("requests only the shadow failed", _share(found.error_rate.value), _shares(found.error_rate))
    figures.add_row("score shift", moved, "-" if shift is None else f"{shift.low:+.4f} to {shift.high:+.4f}")
    times = _table("latency, ms", "p50", "p99", right=(1, 2))
    times.add_row("shadow", f"{seen.candidate_p50_ms:.2f}", f"{seen.candidate_p99_ms:.2f}")
    times.add_row("primary", f"{seen.primary_p50_ms:.2f}", f"{seen.primary_p99_ms:.2f}")
    parts: list[Any] = [title, _time(found.since, found.until), "", figures, "", times]
    if found.by_segment:
        segments = _table("segment", "requests", "rows", "agree", f"{found.level:.0%} interval", right=(1, 2, 3, 4))
        for one in found.by_segment[:_MOST_SEGMENTS]:
            apart = one.agreement.high < found.agreement.low
            colour = "red" if apart else "default"
            share = f"[{colour}]{_share(one.agreement.value)}[/{colour}]"
            segments.add_row(escape(one.segment), f"{one.requests:,}", f"{one.pairs:,}", share, _shares(one.agreement))
        parts += ["", segments]
        if len(found.by_segment) > _MOST_SEGMENTS:
            parts.append(f"[dim]{len(found.by_segment) - _MOST_SEGMENTS} more segments; --json has all[/dim]")
    return Group(*parts, *_notes(found.notes))


def experiment(found: ExperimentVerdict) -> Group:
    """The arms, the gain with its interval, how far the test is, and the verdict."""
    design = found.evidence.design
    colour = {"candidate wins": "green", "not won": "red"}.get(found.verdict, "yellow")
    title = f"[bold]{escape(found.model)}[/bold]  A/B test of promotion [bold]{escape(found.promotion_id)}[/bold]"
    arms = _table("arm", "version", f"{found.unit} units", "outcomes", f"mean {found.metric}", right=(1, 2, 3, 4))
    for name, arm in (("candidate", found.candidate), ("baseline", found.baseline)):
        arms.add_row(name, *_arm(arm))
    counted = found.candidate.outcomes + found.baseline.outcomes
    lines = _table("", "", right=())
    lines.add_row("verdict", f"[{colour}]{found.verdict}[/{colour}]")
    if found.gain is not None and found.ratio is not None:
        gain = found.gain
        lines.add_row(
            "gain", f"{gain.value:+.5f}, {1 - design.alpha:.0%} sure at every look: {gain.low:+.5f} to {gain.high:+.5f}"
        )
        lines.add_row("ratio", f"{found.ratio:.4g}, {found.needed:g} wins")
    lines.add_row("outcomes", f"{counted:,} of at most {design.max_samples:,}")
    lines.add_row("split", f"{design.share:.0%} to the candidate as designed (p = {found.split_p:.2g})")
    return Group(title, _time(found.since, found.until), "", arms, "", lines, *_notes(found.notes))


def _arm(arm: ArmVerdict) -> tuple[str, ...]:
    mean = "-" if arm.mean is None else f"{arm.mean:.5f}"
    return f"{arm.version}", f"{arm.units:,}", f"{arm.outcomes:,}", mean


def _table(*names: str, right: tuple[int, ...]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for at, name in enumerate(names):
        table.add_column(escape(name), justify="right" if at in right else "left", overflow="fold")
    return table


def _time(since: datetime, until: datetime) -> str:
    return f"[dim]requests from {since:%Y-%m-%d %H:%M} to {until:%Y-%m-%d %H:%M} UTC[/dim]"


def _share(value: float) -> str:
    return f"{value:.2%}"


def _shares(found: Estimate) -> str:
    return f"{found.low:.2%} to {found.high:.2%}"


def _notes(notes: tuple[str, ...]) -> list[str]:
    return ["", *(f"[dim]{escape(note)}[/dim]" for note in notes)] if notes else []
