"""The comparison of two model versions in a terminal of 100 columns. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Group
from rich.markup import escape
from rich.table import Table

from rayplat.types import Change, Difference, FileDifference, ModelDiff, PinDifference

_COLOURS = {Change.ADDED: "green", Change.REMOVED: "red", Change.CHANGED: "yellow", Change.SAME: "dim"}
_SIGNS = {Change.ADDED: "+", Change.REMOVED: "-", Change.CHANGED: "~", Change.SAME: " "}
_MOST_FILES = 200


def view(found: ModelDiff) -> Group:
    """Section by section what differs, below one another; a section without a difference is left out."""
    parts: list[Any] = [f"from [bold]{escape(found.a)}[/bold] to [bold]{escape(found.b)}[/bold]"]
    for title in ("identity", "metrics", "params", "signature"):
        parts += _section(title, [_row(one) for one in getattr(found, title)])
    parts += _section("data", [_pin(one) for one in found.pins])
    parts += _section("environment", [_row(one) for one in found.environment])
    parts += _section("files", [_file(one) for one in found.files[:_MOST_FILES]])
    if len(found.files) > _MOST_FILES:
        parts.append(f"[dim]{len(found.files) - _MOST_FILES} more files; --json has all[/dim]")
    parts += [f"[dim]{escape(note)}[/dim]" for note in found.notes]
    return Group(*parts) if len(parts) > 1 else Group(*parts, "no difference")


Row = tuple[Change, str, str, str, str]


def _section(title: str, rows: Sequence[Row]) -> list[Any]:
    if not rows:
        return []
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("", title, "a", "b", ""):
        table.add_column(name, overflow="fold")
    for change, *texts in rows:
        colour = _COLOURS[change]
        name, a, b, more = map(escape, texts)
        table.add_row(f"[{colour}]{_SIGNS[change]}[/{colour}]", name, a, b, f"[{colour}]{more}[/{colour}]")
    return ["", table]


def _row(one: Difference) -> Row:
    step = one.difference
    return one.change, one.name, _short(one.a), _short(one.b), "" if not step else f"{step:+.6g}"


def _pin(one: PinDifference) -> Row:
    more = "made again under its name" if one.recreated else ""
    if not more and one.rows_a is not None and one.rows_b is not None and one.rows_a != one.rows_b:
        more = f"{one.rows_b - one.rows_a:+d} rows"
    return one.change, one.table, _version(one.version_a, one.rows_a), _version(one.version_b, one.rows_b), more


def _file(one: FileDifference) -> Row:
    return one.change, one.path, _size(one.size_a), _size(one.size_b), one.role


def _version(version: int | None, rows: int | None) -> str:
    return "" if version is None else f"version {version} ({rows} rows)"


def _size(size_bytes: int | None) -> str:
    if size_bytes is None:
        return ""
    return f"{size_bytes} B" if size_bytes < 10_000 else f"{size_bytes / 1e6:.2f} MB"


def _short(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.6g}"
    text = str(value)
    return text[:19] + "…" if text.startswith("sha256:") else text
