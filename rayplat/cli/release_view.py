"""How release control looks in a terminal."""

from __future__ import annotations

from rich.console import Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from rayplat.services.releases import ReleaseStatus, VariantLoad
from rayplat.types import Canary, CanaryState, Release

_COLOURS = {
    CanaryState.RAMPING: "green",
    CanaryState.PAUSED: "yellow",
    CanaryState.DONE: "green",
    CanaryState.ROLLED_BACK: "red",
}


def status(found: ReleaseStatus) -> Group:
    """What is in force, where it is obeyed, and a line for each variant."""
    shown = [release(found.release)]
    if found.replicas:
        behind = found.replicas - found.obeying
        colour = "green" if not behind else "yellow"
        said = f"[{colour}]{found.obeying} of {found.replicas} replicas[/{colour}]"
        problem = f"  [red]{escape(found.problem)}[/red]" if found.problem else ""
        shown.append(Text.from_markup(f"[bold]in force  [/bold]  {said}{problem}"))
    else:
        shown.append(Text.from_markup("[bold]in force  [/bold]  [yellow]no host of the default alias answers[/yellow]"))
    return Group(*shown, Text(), _variants(found))


def release(found: Release) -> Text:
    """The release itself, a line for each thing that it says."""
    lines = [("model", found.model)]
    if found.generation:
        when = f"{found.changed_at:%Y-%m-%d %H:%M:%S}" if found.changed_at else "-"
        lines.append(("release", f"generation {found.generation}, {when} by {found.changed_by}"))
    else:
        lines.append(("release", "none: the default alias answers everything"))
    if found.split is not None:
        total = sum(share.weight for share in found.split.shares)
        parts = ", ".join(f"{share.target} {share.weight / total:.4g}" for share in found.split.shares)
        test = f", test of {found.split.promotion_id}" if found.split.promotion_id else ""
        lines.append(("split", f"{parts}; by {found.split.sticky}, salt {found.split.salt}{test}"))
    text = _lines(lines)
    if found.canary is not None:
        text.append("\n")
        text.append(_canary(found.canary))
    if not found.overrides:
        text.append("\n")
        text.append(_lines([("overrides", "no: a tester's header is refused")]))
    return text


def _canary(canary: Canary) -> Text:
    steps = " ".join(
        f"[bold]{_percent(step)}[/bold]" if i == canary.step else f"[dim]{_percent(step)}[/dim]"
        for i, step in enumerate(canary.steps)
    )
    colour = _COLOURS[canary.state]
    state = f"[{colour}]{canary.state.value.replace('_', ' ')}[/{colour}]"
    lines = f"[bold]{'canary':<10}[/bold]  {escape(canary.target)} {state}  {steps}"
    if canary.state in (CanaryState.RAMPING, CanaryState.PAUSED):
        since = f" since {canary.since:%H:%M:%S}" if canary.since else ""
        ratio = "" if canary.max_p99_ratio is None else f", p99 up to {canary.max_p99_ratio:g}x"
        watch = f", watches {', '.join(canary.watch)}" if canary.watch else ""
        lines += (
            f"\n{'':<10}  each step {canary.hold_s:g} s and {canary.min_requests} requests{since}; "
            f"errors up to {_percent(canary.max_error_rate)}{ratio}{escape(watch)}"
        )
    if canary.reason:
        lines += f"\n{'':<10}  {escape(canary.reason)}"
    return Text.from_markup(lines)


def _variants(found: ReleaseStatus) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    shadows = any(load.role == "shadow" for load in found.variants)
    names = ("variant", "role", "version", "share", "requests", "errors", "p50 ms", "p99 ms")
    for name in (*names, *(("copies", "dropped") if shadows else ()), "note"):
        table.add_column(name, justify="left" if name in ("variant", "role", "note") else "right", overflow="fold")
    for load in found.variants:
        table.add_row(*_row(load, shadows))
    return table


def _row(load: VariantLoad, shadows: bool) -> list[str]:
    errors = f"{load.errors}" + (f" ({load.errors / load.requests:.2%})" if load.errors else "")
    note = load.note + (f"; {load.unreached} answered by the default alias" if load.unreached else "")
    copies = [str(load.copies), str(load.dropped)] if load.role == "shadow" else ["", ""]
    counted = [
        str(load.requests),
        f"[red]{errors}[/red]" if load.errors else errors,
        _ms(load.p50_ms),
        _ms(load.p99_ms),
    ]
    return [
        escape(load.variant),
        load.role,
        "-" if load.version is None else str(load.version),
        _percent(load.share),
        *(["", "", "", ""] if load.role == "shadow" else counted),
        *(copies if shadows else []),
        escape(note.strip("; ")),
    ]


def _lines(pairs: list[tuple[str, str]]) -> Text:
    return Text.from_markup("\n".join(f"[bold]{name:<10}[/bold]  {escape(value)}" for name, value in pairs))


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _percent(share: float) -> str:
    return f"{share * 100:.4g}%"
