"""`rayplat serve apply FILE.yaml`: the plan is shown, and carried out once it is agreed to. `rayplat serve export`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from rayplat.cli import connection, render
from rayplat.cli.connection import Home, Json, Url
from rayplat.errors import InvalidInput, NotFound
from rayplat.types import PlanAction, ServingApplied, ServingPlan

_STYLES = {
    PlanAction.CREATE: "green",
    PlanAction.REMOVE: "red",
    PlanAction.RESTART: "yellow",
    PlanAction.MOVE: "yellow",
}


def apply(
    file: Annotated[Path, typer.Argument(help="A serving spec.", metavar="FILE.yaml")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan and change nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before changing anything.")] = False,
    prune: Annotated[bool, typer.Option("--prune", help="Stop serving what the file does not name.")] = False,
    home: Home = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Serve aliases like a file says; the plan is shown first."""
    with connection.errors(home):
        spec = _content(file)
        endpoints = connection.platform(home, url).endpoints
        plan = endpoints.plan(spec=spec, prune=prune)
        if dry_run or not plan.steps:
            show(plan, as_json)
            return
        if not as_json:
            show(plan, as_json)
        if not yes and not _agreed(as_json):
            raise typer.Exit(1)
        with connection.wait("serve apply …"):
            applied = endpoints.apply(spec=spec, prune=prune, expected=plan.digest)
        show_applied(applied, as_json)
        if applied.failed:
            raise typer.Exit(1)


def export(home: Home = None, url: Url = None, as_json: Json = False) -> None:
    """What is served now as a serving spec: applying it changes nothing."""
    with connection.errors(home):
        spec = connection.platform(home, url).endpoints.export()
        if as_json:
            render.show({"spec": spec}, as_json)
        else:
            sys.stdout.write(spec)


def show(plan: ServingPlan, as_json: bool) -> None:
    """The plan as a table, or whole as JSON."""
    if as_json:
        render.show(plan, as_json)
        return
    if not plan.steps:
        render.OUT.print("[green]nothing to do: all is served as the file says[/green]")
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("action", "endpoint", "why", "cost"):
        table.add_column(name, overflow="fold")
    for step in plan.steps:
        style = _STYLES.get(step.action, "cyan")
        why = escape("\n".join(step.reasons))
        table.add_row(f"[{style}]{step.action}[/{style}]", f"{step.model}/{step.alias}", why, step.cost)
    render.OUT.print(table)


def show_applied(applied: ServingApplied, as_json: bool) -> None:
    """What became of each step."""
    if as_json:
        render.show(applied, as_json)
        return
    for outcome in applied.outcomes:
        place = f"{outcome.action} {outcome.model}/{outcome.alias}"
        if outcome.outcome == "failed":
            render.fail(f"{place}: {outcome.detail}")
        else:
            render.OUT.print(f"[green]done[/green]  {place}")
    if applied.failed:
        done = len(applied.outcomes) - len(applied.failed)
        render.fail(f"{done} of {len(applied.outcomes)} steps were taken; the same command does what is left")


def _agreed(as_json: bool) -> bool:
    if as_json or not sys.stdin.isatty():
        raise InvalidInput("--yes", "nobody can be asked here: say --yes to change what is served, or --dry-run")
    return typer.confirm("Change what is served?")


def _content(file: Path) -> str:
    try:
        return file.read_text()
    except FileNotFoundError:
        raise NotFound("file", str(file)) from None
    except OSError as e:
        raise InvalidInput(str(file), f"it cannot be read ({e.strerror})") from e
    except UnicodeDecodeError as e:
        raise InvalidInput(str(file), "it is not a text file in UTF-8") from e
