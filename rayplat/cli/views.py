"""What of the registry's values fits a terminal of 100 columns; `--json` has all of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.console import Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from rayplat.cli import lineage_tree, model_diff
from rayplat.types import (
    AliasHead,
    AuditEntry,
    AuditReport,
    GateResult,
    Impact,
    LineageGraph,
    ModelDiff,
    ModelVersion,
    Promotion,
    TokenInfo,
    Verdict,
)

# Rows of a list show these fields and no others.
COLUMNS: Mapping[type, tuple[str, ...]] = {
    ModelVersion: ("version", "state", "format", "digest", "author", "created_at"),
    AliasHead: ("alias", "version", "generation", "moved_at", "moved_by", "promotion_id"),
    Promotion: ("promotion_id", "model", "version", "alias", "state", "requester", "created_at"),
    AuditEntry: ("seq", "at", "actor", "action", "subject"),
    TokenInfo: ("token_id", "principal", "role", "kind", "expires_at", "revoked_at", "last_used_at"),
}
_COLOURS = {Verdict.PASS: "green", Verdict.FAIL: "red", Verdict.WAIVED: "yellow"}


def promotion(found: Promotion) -> Group:
    """Where it stands, the verdict of every gate with its reason, and who said what."""
    replaces = "nothing" if not found.expected_generation else f"generation {found.expected_generation}"
    if found.baseline_version is not None:
        replaces = f"version {found.baseline_version} ({replaces})"
    state = found.state.value.replace("_", " ") + (f": {found.reason}" if found.reason else "")
    lines = [
        ("promotion", found.promotion_id),
        ("moves", f"{found.model}@{found.alias} to version {found.version}"),
        ("replaces", replaces),
        ("state", state),
        ("requested", f"{found.created_at:%Y-%m-%d %H:%M:%S} by {found.requester}"),
        ("subject", found.subject_digest),
    ]
    if found.live_after is not None:
        lines.append(("live after", f"{found.live_after:%Y-%m-%d %H:%M:%S}"))
    if found.break_glass:
        lines.append(("break-glass", f"reviewed by {found.reviewed_by}" if found.reviewed_by else "waits for a review"))
    for given in found.approvals:
        lines.append((given.decision, f"{given.at:%Y-%m-%d %H:%M:%S} by {given.approver} {given.reason}".rstrip()))
    for waived in found.waivers:
        lines.append(("waiver", f"{waived.gate}, {waived.at:%Y-%m-%d %H:%M:%S} by {waived.by}: {waived.reason}"))
    return Group(pairs(lines), "", gates(found.gates)) if found.gates else Group(pairs(lines))


def gates(results: Sequence[GateResult]) -> Table:
    table = _table("gate", "verdict", "reason")
    for result in results:
        colour = _COLOURS[result.verdict]
        table.add_row(escape(result.gate), f"[{colour}]{result.verdict.value}[/{colour}]", escape(result.reason))
    return table


def audit_report(report: AuditReport) -> str:
    if report.problem is not None:
        return f"[red]{escape(str(report.problem))}[/red]"
    anchored = f"anchored up to entry {report.anchored_seq}" if report.anchors else "no anchor was compared"
    unsigned = "" if report.signatures or not report.anchors else ", signatures not checked"
    return f"[green]intact[/green]: {report.entries} entries, {anchored}{unsigned}, last hash {report.last_hash}"


def pairs(lines: Sequence[tuple[str, str]]) -> Text:
    """One line for each value, never broken: a secret, a digest or a path can be copied."""
    width = max((len(name) for name, _ in lines), default=0)
    return Text.from_markup("\n".join(f"[bold]{name:<{width}}[/bold]  {escape(value)}" for name, value in lines))


def _table(*names: str) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in names:
        table.add_column(name, overflow="fold")
    return table


VIEWS: Mapping[type, Callable[[Any], Any]] = {
    Promotion: promotion,
    AuditReport: audit_report,
    ModelDiff: model_diff.view,
    LineageGraph: lineage_tree.tree,
    Impact: lineage_tree.impact,
}
