"""`rayplat demo`: every step in order, timed, with a table of what happened at the end.

Nothing is kept between steps that the platform does not hold itself, so Ctrl-C at any moment leaves a platform on
which the next run works: new table versions, new model versions, the alias where it was.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from rayplat.errors import Conflict, Forbidden
from rayplat.settings import Settings
from rayplat.types import DriftReport, ModelVersion, Promotion, PromotionState, Verdict

if TYPE_CHECKING:
    from rayplat.client import Platform

STEPS = 12


@dataclass
class Record:
    """What the demo reports, filled step by step; `result` is the JSON document."""

    steps: list[dict[str, Any]] = field(default_factory=list)
    found: dict[str, Any] = field(default_factory=dict)

    def result(self) -> dict[str, Any]:
        seconds = round(sum(step["seconds"] for step in self.steps), 1)
        document: dict[str, Any] = TypeAdapter(dict[str, Any]).dump_python(
            {"steps": self.steps, **self.found, "seconds": seconds}, mode="json"
        )
        return document


class Stage:
    """The bar on stderr, and the clock of each step."""

    def __init__(self, progress: Progress, record: Record) -> None:
        self._progress, self._record = progress, record
        self._bar = progress.add_task("", total=STEPS)
        self._inner: Any = None

    @contextmanager
    def step(self, name: str, what: str) -> Iterator[None]:
        """Time a step; its name is a key of the report."""
        self._progress.update(self._bar, description=what)
        begun = time.monotonic()
        yield
        seconds = time.monotonic() - begun
        self._record.steps.append({"step": name, "seconds": round(seconds, 2)})
        self._progress.console.print(f"[green]✓[/green] {what} [dim]{seconds:.1f} s[/dim]")
        self._progress.advance(self._bar)

    def detail(self, text: str) -> None:
        """What the present step is at."""
        self._progress.update(self._bar, description=text)

    def count(self, total: int) -> Callable[[int], None]:
        """A second bar for something that is counted."""
        task = self._progress.add_task("requests", total=total)
        return lambda done: self._progress.update(task, completed=done, total=max(total, done))


def demo(settings: Settings, requests: int, as_json: bool) -> dict[str, Any]:
    """Run it; prints a table, or the JSON document, and writes ``<home>/demo.json``."""
    record = Record()
    file = settings.home / "demo.json"
    file.unlink(missing_ok=True)  # a report is of the last run, or there is none
    console = Console(stderr=True)
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with redirect_stdout(sys.stderr), Progress(*columns, console=console, transient=True) as progress:
        _run(settings, requests, record, Stage(progress, record))
    result = record.result()
    temporary = file.with_suffix(".tmp")
    temporary.write_text(json.dumps(result, indent=2) + "\n")
    os.replace(temporary, file)
    if as_json:
        print(json.dumps(result, indent=2))  # noqa: T201 - the command's output
    else:
        Console().print(*_tables(result, file), sep="\n")
    return result


def _run(settings: Settings, requests: int, record: Record, stage: Stage) -> None:
    found = record.found
    with stage.step("up", "platform"):
        from rayplat.platform import lifecycle

        lifecycle.up(settings, lambda part: stage.detail(f"platform: {part}"))
        from rayplat.client import Platform
        from rayplat.demo import steps

        platform = Platform(home=settings.home)
        _silence_libraries()
        found["addresses"] = lifecycle.addresses(settings.home)
    with stage.step("ingest", "tables: flights, weather, planes, airports"):
        found["tables"] = {name: t.row_count for name, t in steps.ingest(platform).items()}
    with stage.step("features", "features: build and register"):
        built = steps.build_features(platform, lambda view: stage.detail(f"features: {view}"))
        found["features"] = {name: t.row_count for name, t in built.items()}
    with stage.step("materialize", "features: into the online store"):
        found["materialized"] = steps.materialize(platform)
    with stage.step("training_sets", "training sets, point-in-time correct"):
        for recipe in steps.RECIPES.values():
            training_set = steps.build_training_set(platform, recipe)
            found.setdefault("training_sets", {})[recipe.name] = training_set.digest
    with steps.people(platform) as (author, approver):
        with stage.step("train_first", "train: schedule and weather"):
            first = steps.register(platform, steps.train(platform, steps.RECIPES["first"]), author)
        with stage.step("promote_first", "gate and approval of the first model"):
            steps.set_policy(platform)
            promotion = steps.request(platform, first.version, author)
            if promotion.state is PromotionState.AWAITING_APPROVAL:
                found["refusals"] = [_own_approval(author, promotion)]
                promotion = approver.promotions.approve(promotion.promotion_id, promotion.subject_digest)
            found["promotions"] = [_promotion(promotion)]
        with stage.step("serve", "endpoint"):
            found["endpoint"] = steps.serve(platform).url
        with stage.step("train_second", "train: all features"):
            second = steps.register(platform, steps.train(platform, steps.RECIPES["second"]), author)
            found["auc"] = {"champion": first.metrics["auc"], "challenger": second.metrics["auc"]}
            found["models"] = [_model(first), _model(second)]
        with stage.step("replay", "replay November while the alias moves"):
            asked = steps.request(platform, second.version, author)
            found["promotions"].append(_promotion(asked))

            def swap() -> int | None:
                if asked.state is not PromotionState.AWAITING_APPROVAL:
                    return None
                live = approver.promotions.approve(asked.promotion_id, asked.subject_digest)
                found["promotions"][-1] = _promotion(live)
                return live.version

            replayed = steps.replay(platform, requests, swap, stage.count(requests))
            found["replay"] = replayed
        with stage.step("refuse", "gate: a worse challenger is refused"):
            worse = steps.request(platform, steps.not_champion(platform, first.version, second.version), author)
            found.setdefault("refusals", []).append(_worse_challenger(worse))
        with stage.step("monitor", "inference log, drift and live quality"):
            in_log, rows = steps.logged(platform, replayed.prefix)
            found["inference_log"] = {"requests": in_log, "rows": rows}
            reports = steps.report(platform, [int(v) for v in replayed.by_version], replayed)
            found["drift"] = [_drift(r) for r in reports]
    if replayed.failed or in_log != replayed.answered:
        raise Conflict(
            f"{replayed.failed} of {replayed.requests} requests failed, {in_log} of {replayed.answered} answers are in "
            f"the inference log: {'; '.join(replayed.failures)}"
        )


def _silence_libraries() -> None:
    """Ray Data reports every dataset line by line, and Serve every application; the bar says what is going on."""
    import ray.data
    import ray.serve

    ray.data.DataContext.get_current().enable_progress_bars = False
    for name in ("ray.data", "ray.serve", "ray.train", "ray.tune"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _own_approval(author: Platform, promotion: Promotion) -> dict[str, Any]:
    """The requester, who is an approver, approves their own promotion: the registry must refuse."""
    try:
        author.promotions.approve(promotion.promotion_id, promotion.subject_digest)
    except Forbidden as e:
        return {"what": "the requester's own approval", "version": promotion.version, "reasons": [str(e)]}
    raise Conflict(f"promotion {promotion.promotion_id} was approved by its own requester: four eyes do not hold")


def _worse_challenger(promotion: Promotion) -> dict[str, Any]:
    if promotion.state is not PromotionState.REJECTED:
        raise Conflict(
            f"promotion {promotion.promotion_id} of a worse version is {promotion.state}: the gates are open"
        )
    reasons = [f"{gate.gate}: {gate.reason}" for gate in promotion.gates if gate.verdict is Verdict.FAIL]
    return {"what": "a worse challenger", "version": promotion.version, "reasons": reasons}


def _promotion(promotion: Promotion) -> dict[str, Any]:
    return {
        "version": promotion.version,
        "alias": promotion.alias,
        "state": promotion.state,
        "requester": promotion.requester,
        "approvers": [a.approver for a in promotion.approvals],
        "gain": _gain(promotion),
        "gates": {g.gate: f"{g.verdict}: {g.reason}" for g in promotion.gates},
    }


def _gain(promotion: Promotion) -> dict[str, Any] | None:
    """The candidate's AUC against the champion's on the same rows; None where there was no champion."""
    found = promotion.evidence.comparisons if promotion.evidence is not None else ()
    auc = next((c for c in found if (c.metric, c.segment) == ("auc", "")), None)
    if auc is None or auc.difference is None:
        return None
    return {"auc": auc.difference, "standard_error": auc.standard_error, "rows": auc.rows}


def _model(version: ModelVersion) -> dict[str, Any]:
    return {
        "version": version.version,
        "digest": version.digest,
        "format": version.format,
        "statement": version.statement,
        "run_id": version.run_id,
        "metrics": version.metrics,
    }


def _drift(report: DriftReport) -> dict[str, Any]:
    drifted = sorted((c for c in report.columns if c.drifted), key=lambda c: -c.value / c.threshold)
    return {
        "version": report.version,
        "rows": report.rows,
        "verdict": report.verdict,
        "drifted": {c.column: {"statistic": c.statistic, "value": c.value, "threshold": c.threshold} for c in drifted},
        "prediction": report.prediction,
        "quality": report.quality,
    }


def _tables(result: dict[str, Any], file: Path) -> list[Any]:
    """What happened, in one screen."""
    replay, log = result["replay"], result["inference_log"]
    what = Table(title="What happened", box=None, show_header=False, title_justify="left", title_style="bold")
    what.add_column(style="bold")
    what.add_column(overflow="fold")
    what.add_row("tables", ", ".join(f"{name} {rows:,}" for name, rows in result["tables"].items()))
    what.add_row("features", ", ".join(f"{name} {rows:,}" for name, rows in result["features"].items()))
    for model, promotion in zip(result["models"], result["promotions"], strict=True):
        auc = model["metrics"]["auc"]
        by = f", approved by {', '.join(promotion['approvers'])}" if promotion["approvers"] else ""
        gain = promotion["gain"]
        by += f", AUC {gain['auc']:+.3f} ± {gain['standard_error']:.3f} to the champion" if gain else ""
        failed = [reason for reason in promotion["gates"].values() if reason.startswith("fail")]
        what.add_row(
            f"model version {model['version']}",
            f"holdout AUC {auc:.3f}, {promotion['state']}{by}{'; '.join(['', *failed])}",
        )
    for refusal in result["refusals"]:
        what.add_row("refused", f"{refusal['what']}, version {refusal['version']}: {'; '.join(refusal['reasons'])}")
    versions = ", ".join(f"{count} by version {version}" for version, count in replay["by_version"].items())
    what.add_row("replay", f"{replay['requests']} requests, {replay['failed']} failed: {versions}")
    what.add_row("latency", f"p50 {replay['p50_ms']:.1f} ms, p99 {replay['p99_ms']:.1f} ms")
    what.add_row("inference log", f"{log['requests']} requests, {log['rows']} rows")
    for drift in result["drift"]:
        quality = drift["quality"] or {}
        auc = (
            "too few labels"
            if quality.get("auc") is None
            else f"AUC {quality['auc']:.3f} on {quality['labelled']} labels"
        )
        top = ", ".join(f"{name} ({d['statistic']} {d['value']:.2f})" for name, d in list(drift["drifted"].items())[:4])
        what.add_row(
            f"monitor, version {drift['version']}",
            f"{drift['verdict']}; live {auc}" + (f"; drifted most: {top}" if top else ""),
        )
    steps = ", ".join(f"{step['step'].replace('_', ' ')} {step['seconds']:.0f}" for step in result["steps"])
    what.add_row("seconds", f"{result['seconds']:.0f}: {steps}")
    where = Table(title="Where to look", box=None, show_header=False, title_justify="left", title_style="bold")
    where.add_column(style="bold")
    where.add_column(overflow="fold")
    for name, address in {**result["addresses"], "this report": str(file)}.items():
        where.add_row(name.replace("_", " "), address)
    return [what, "", where, "\nThe platform stays up; `rayplat down` stops it."]
