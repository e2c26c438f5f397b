"""What of the platform's values fits a terminal of 100 columns; `--json` has all of it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.console import Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from rayplat.cli import lineage_tree, model_diff, release_view, verdict_view
from rayplat.registry.promotion import waits_for
from rayplat.services.artifacts import ArtifactFiles
from rayplat.services.policies import GateInfo
from rayplat.services.releases import ReleaseStatus
from rayplat.types import (
    AliasHead,
    AliasPolicy,
    ArtifactInfo,
    AuditEntry,
    AuditReport,
    Endpoint,
    ExperimentVerdict,
    GateResult,
    GcReport,
    Impact,
    LineageGraph,
    ModelDiff,
    ModelVersion,
    Promotion,
    PromotionState,
    Release,
    ScoreReport,
    ShadowVerdict,
    Signal,
    TokenInfo,
    Verdict,
    VerificationEvidence,
    VerifyReport,
    WaiverInfo,
    Webhook,
)

# Rows of a list show these fields and no others.
COLUMNS: Mapping[type, tuple[str, ...]] = {
    ModelVersion: ("version", "state", "format", "digest", "author", "created_at"),
    AliasHead: ("alias", "version", "generation", "moved_at", "moved_by", "promotion_id"),
    Endpoint: ("model", "alias", "version", "status", "placement", "route"),
    Promotion: ("promotion_id", "model", "version", "alias", "state", "requester", "created_at"),
    AuditEntry: ("seq", "at", "actor", "action", "subject"),
    AliasPolicy: ("model", "alias", "protected", "min_approvals", "cooldown_s", "digest"),
    ArtifactInfo: ("digest", "kind", "size_bytes", "run_id", "created_by", "created_at"),
    Webhook: ("webhook_id", "url", "events", "state", "position", "failures", "last_error"),
    Signal: ("version", "kind", "bad", "detail", "at", "by"),
    WaiverInfo: ("waiver_id", "target", "by", "reason", "expires_at", "revoked_at"),
    TokenInfo: ("token_id", "principal", "role", "kind", "expires_at", "revoked_at", "last_used_at"),
}
_COLOURS = {Verdict.PASS: "green", Verdict.FAIL: "red", Verdict.WAIVED: "yellow"}


def promotion(found: Promotion) -> Group:
    """Where it stands, the verdict of every gate with its reason, and who said what."""
    replaces = "nothing" if not found.expected_generation else f"generation {found.expected_generation}"
    if found.baseline_version is not None:
        replaces = f"version {found.baseline_version} ({replaces})"
    state = found.state.value.replace("_", " ") + (f": {found.reason}" if found.reason else "")
    if waits := waits_for(found):
        state += f", waits for {waits}"
    lines = [
        ("promotion", found.promotion_id),
        ("moves", f"{found.model}@{found.alias} to version {found.version}"),
        ("replaces", replaces),
        ("state", state),
        ("requested", f"{found.created_at:%Y-%m-%d %H:%M:%S} by {found.requester}"),
        ("subject", found.subject_digest),
    ]
    if found.verification is not None:
        lines.append(("bundle", _bundle(found.verification)))
    if found.live_after is not None and found.state is PromotionState.APPROVED:
        lines.append(("live after", f"{found.live_after:%Y-%m-%d %H:%M:%S}"))
    if found.break_glass:
        lines.append(("break-glass", f"reviewed by {found.reviewed_by}" if found.reviewed_by else "waits for a review"))
    for given in found.approvals:
        lines.append((given.decision, f"{given.at:%Y-%m-%d %H:%M:%S} by {given.approver} {given.reason}".rstrip()))
    for waived in found.waivers:
        lines.append(("waiver", f"{waived.gate}, {waived.at:%Y-%m-%d %H:%M:%S} by {waived.by}: {waived.reason}"))
    return Group(pairs(lines), "", gates(found.gates)) if found.gates else Group(pairs(lines))


def _bundle(seen: VerificationEvidence) -> str:
    words = [
        "intact" if seen.intact else "not intact",
        "signed" if seen.signed else "not signed",
        seen.format or "no format",
    ]
    words += ["runs code" + (", waived" if seen.waived else "")] if seen.runs_code else []
    return ", ".join([*words, *seen.problems])


def policy(found: AliasPolicy) -> Group:
    """The terms of an alias, and its gates with their parameters."""
    days = f"{found.expires_s / 86_400:g} days"
    lines = [
        ("alias", f"{found.model}@{found.alias}" + (" (the built-in policy)" if found.model == "*" else "")),
        ("protected", "yes" if found.protected else "no"),
        ("approvals", f"{found.min_approvals}" + (f" of {', '.join(found.approvers)}" if found.approvers else "")),
        ("evidence from", ", ".join(found.evidence_from) or "any developer"),
        ("cool-down", f"{found.cooldown_s:g} s"),
        ("expires after", days),
        ("digest", found.digest),
    ]
    table = _table("gate", "parameters")
    for spec in found.gates:
        table.add_row(escape(spec.gate), escape(", ".join(f"{k}={v}" for k, v in spec.params.items())))
    return Group(pairs(lines), "", table) if found.gates else Group(pairs(lines))


def gate_catalog(found: Sequence[GateInfo]) -> Table:
    """The gates there are, each with its parameters; what must be given has no value."""
    table = _table("gate", "stage", "parameters")
    for gate in found:
        params = [*gate.required, *(f"{name}={value}" for name, value in gate.params.items())]
        table.add_row(gate.gate, gate.stage, escape(", ".join(params)))
    return table


def artifact(found: ArtifactFiles) -> Group:
    """What it is, and its files."""
    info = found.info
    lines = [
        ("digest", info.digest),
        ("kind", f"{info.kind}, {size(info.size_bytes)}"),
        (
            "put",
            f"{info.created_at:%Y-%m-%d %H:%M:%S} by {info.created_by}"
            + (f", run {info.run_id}" if info.run_id else ""),
        ),
    ]
    table = _table("path", "size", "digest")
    for file in found.files:
        table.add_row(escape(file.path), size(file.size), file.digest[:19] + "…")
    return Group(pairs(lines), "", table) if found.files else Group(pairs(lines))


def verified(report: VerifyReport) -> Group | str:
    if report.intact:
        return f"[green]intact[/green]: {report.objects} objects, {size(report.size_bytes)}"
    table = _table("digest", "path", "problem")
    for problem in report.problems:
        table.add_row(problem.digest[:19] + "…", escape(problem.path or "-"), escape(problem.reason))
    return Group(f"[red]{len(report.problems)} of {report.objects} objects are damaged or missing[/red]", table)


def collected(report: GcReport) -> Group:
    """What garbage collection did, or would do."""
    would = "would be " if report.dry_run else ""
    lines = [
        (f"{would}condemned", f"{len(report.condemned)}"),
        ("waiting out their grace", f"{report.waiting}"),
        (f"{would}deleted", f"{len(report.deleted)}, {size(report.size_bytes)}"),
        ("kept", f"{report.kept}"),
        *((f"needed for: {why}", size(needed)) for why, needed in report.by_root.items()),
    ]
    if report.missing:
        lines.append(("needed and missing", ", ".join(report.missing)))
    if not report.complete:
        lines.append(("time was up", "run it again for the rest"))
    return Group(pairs(lines))


def size(size_bytes: int) -> str:
    return f"{size_bytes} B" if size_bytes < 10_000 else f"{size_bytes / 1e6:.2f} MB"


def gates(results: Sequence[GateResult]) -> Table:
    table = _table("gate", "verdict", "reason")
    for result in results:
        colour = _COLOURS[result.verdict]
        reason = _DIGEST.sub(r"\1…", result.reason)
        table.add_row(escape(result.gate), f"[{colour}]{result.verdict.value}[/{colour}]", escape(reason))
    return table


def audit_report(report: AuditReport) -> str:
    if report.problem is not None:
        return f"[red]{escape(str(report.problem))}[/red]"
    anchored = f"anchored up to entry {report.anchored_seq}" if report.anchors else "no anchor was compared"
    unsigned = "" if report.signatures or not report.anchors else ", signatures not checked"
    return f"[green]intact[/green]: {report.entries} entries, {anchored}{unsigned}, last hash {report.last_hash}"


def score(found: ScoreReport) -> Text:
    """From which table to which, by what, and how quickly."""
    out = "no rows" if found.output is None else f"{found.output.table} version {found.output.version}"
    by = f"{found.model} version {found.version}" + (f" ({found.alias})" if found.alias else "")
    rows = f"{found.scored} of {found.rows} scored, {found.failed} failed"
    rows += f", {found.resumed_rows} of them by an earlier run" if found.resumed_rows else ""
    rate = f"{found.rows_per_s:.0f} rows/s, {found.rows_per_s_per_core:.0f} for each core while workers worked"
    return pairs(
        [
            ("job", found.job_id),
            ("input", f"{found.table.table} version {found.table.version}"),
            ("output", out),
            ("model", by),
            ("rows", f"{rows}, in {found.parts} parts"),
            ("time", f"{found.seconds:.1f} s, {found.start_s:.1f} of them until the first model was loaded; {rate}"),
        ]
    )


def pairs(lines: Sequence[tuple[str, str]]) -> Text:
    """One line for each value, never broken: a secret, a digest or a path can be copied."""
    width = max((len(name) for name, _ in lines), default=0)
    return Text.from_markup("\n".join(f"[bold]{name:<{width}}[/bold]  {escape(value)}" for name, value in lines))


def _table(*names: str) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in names:
        table.add_column(name, overflow="fold")
    return table


_DIGEST = re.compile(r"(sha256:[0-9a-f]{12})[0-9a-f]{52}")
LISTS: Mapping[type, Callable[[Any], Any]] = {GateInfo: gate_catalog, Release: release_view.history}
VIEWS: Mapping[type, Callable[[Any], Any]] = {
    Promotion: promotion,
    AliasPolicy: policy,
    ArtifactFiles: artifact,
    VerifyReport: verified,
    GcReport: collected,
    AuditReport: audit_report,
    ModelDiff: model_diff.view,
    LineageGraph: lineage_tree.tree,
    Impact: lineage_tree.impact,
    ReleaseStatus: release_view.status,
    Release: release_view.release,
    ShadowVerdict: verdict_view.shadow,
    ExperimentVerdict: verdict_view.experiment,
    ScoreReport: score,
}
