"""How release control looks in a terminal."""

from __future__ import annotations

from collections.abc import Sequence

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
    return Group(*shown, Text(), _variants(found), *_notes(found))


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
            f"\n{'':<10}  each step {canary.hold_s:g} s and {canary.min_requests} requests{since}"
            f"\n{'':<10}  errors up to {_percent(canary.max_error_rate)}{ratio}{escape(watch)}"
        )
    if canary.reason:
        lines += f"\n{'':<10}  {escape(canary.reason)}"
    return Text.from_markup(lines)


def _variants(found: ReleaseStatus) -> Table:
    shadows = any(load.role == "shadow" for load in found.variants)
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 1, 0, 0) if shadows else (0, 1))
    names = ("variant", "role", "version", "share", "requests", "errors", "p50 ms", "p99 ms")
    for name in (*names, *(("copies", "dropped") if shadows else ())):
        table.add_column(name, justify="left" if name in ("variant", "role") else "right", overflow="fold")
    for load in found.variants:
        table.add_row(*_row(load, shadows))
    return table


def _row(load: VariantLoad, shadows: bool) -> list[str]:
    errors = f"{load.errors}" + (f" ({load.errors / load.requests:.2%})" if load.errors else "")
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
    ]


def _notes(found: ReleaseStatus) -> list[Text]:
    """A line for each variant that something is wrong with."""
    notes = []
    for load in found.variants:
        fallen = f"{load.unreached} requests were answered by the default alias instead" if load.unreached else ""
        said = "; ".join(filter(None, (load.note, fallen)))
        if said:
            notes.append(Text.from_markup(f"[yellow]{escape(load.variant)}[/yellow]: {escape(said)}"))
    return notes


def history(found: Sequence[Release]) -> Table:
    """A line for each release: who, when, and what it said."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("generation", "changed at", "changed by", "split", "canary", "shadows"):
        table.add_column(name, overflow="fold")
    for one in found:
        shares = one.split.shares if one.split is not None else ()
        canary = "" if one.canary is None else f"{one.canary.target} {_percent(one.canary.steps[one.canary.step])} "
        canary += "" if one.canary is None else one.canary.state.value.replace("_", " ")
        said = (
            " ".join(f"{share.target}={share.weight:g}" for share in shares),
            canary,
            " ".join(f"{shadow.target} {_percent(shadow.sample)}" for shadow in one.shadows),
        )
        when = f"{one.changed_at:%Y-%m-%d %H:%M:%S}" if one.changed_at else "-"
        table.add_row(str(one.generation), when, *map(escape, (one.changed_by, *said)))
    return table


def _lines(pairs: list[tuple[str, str]]) -> Text:
    return Text.from_markup("\n".join(f"[bold]{name:<10}[/bold]  {escape(value)}" for name, value in pairs))


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _percent(share: float) -> str:
    return f"{share * 100:.4g}%"
