"""Jobs on the cluster, through Ray's job API with the home's token."""

from __future__ import annotations

import asyncio
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from rayplat import settings as settings_module
from rayplat.cli import render
from rayplat.errors import NotFound, Unavailable
from rayplat.platform import ray_node, state

_API = "the job API"


def client(home: Path | None) -> Any:
    """Ray's JobSubmissionClient of the platform in ``home``. Raises `Unavailable`."""
    root = settings_module.load(home).home
    current = state.require(root)
    if current.dashboard_url is None:
        raise Unavailable(_API, "this platform is attached to a cluster; use Ray's own job command with its address")
    if current.ray_started:
        os.environ.update(ray_node.auth_env(root))
    from ray.job_submission import JobSubmissionClient

    with _answers():
        return JobSubmissionClient(current.dashboard_url)


def submit(home: Path | None, program: Path, arguments: Sequence[str], *, wait: bool, as_json: bool = False) -> int:
    """Submit ``program``; with ``wait``, print its log as it comes (on stderr ``as_json``, whose one document is the
    job's id and status). Returns the exit code to end with."""
    if not program.is_file():
        raise NotFound("program", str(program), "give the path of a Python file")
    jobs = client(home)
    root = settings_module.load(home).home
    entrypoint = shlex.join([sys.executable, program.name, *arguments])
    with _answers():
        job_id = jobs.submit_job(
            entrypoint=entrypoint,
            runtime_env={"working_dir": str(program.parent.absolute()), "env_vars": {"RAYPLAT_HOME": str(root)}},
        )
    render.ERR.print(f"job [bold]{job_id}[/bold]: {entrypoint}")
    with _answers(job_id):
        if wait:
            asyncio.run(_follow(jobs, job_id, sys.stderr if as_json else sys.stdout))
        outcome = str(jobs.get_job_status(job_id)) if wait or as_json else ""
    if wait:
        render.ERR.print(f"job {job_id}: {outcome}")
    if as_json:
        render.show({"job_id": job_id, "status": outcome}, True)
    elif not wait:
        print(job_id)  # noqa: T201 - the id is this command's output
    return 0 if not wait or outcome == "SUCCEEDED" else 1


def logs(home: Path | None, job_id: str) -> str:
    """What a job has printed so far. Raises `NotFound`."""
    jobs = client(home)
    with _answers(job_id):
        return str(jobs.get_job_logs(job_id))


def stop(home: Path | None, job_id: str) -> bool:
    """Stop a job; False where it had ended. Raises `NotFound`."""
    jobs = client(home)
    with _answers(job_id):
        return bool(jobs.stop_job(job_id))


@contextmanager
def _answers(job_id: str | None = None) -> Iterator[None]:
    """What Ray's client raises (a RuntimeError with the HTTP status in its text, a lost connection) as our errors."""
    try:
        yield
    except BrokenPipeError:  # the reader of our output is gone, not the cluster
        raise
    except (OSError, RuntimeError) as e:
        if job_id is not None and "status code 404" in str(e):
            raise NotFound("job", job_id, "`rayplat job submit` prints the id of the job that it starts") from e
        raise Unavailable(_API, next(iter(str(e).splitlines()), type(e).__name__)) from e


async def _follow(jobs: Any, job_id: str, out: TextIO) -> None:
    async for lines in jobs.tail_job_logs(job_id):
        out.write(lines)
        out.flush()
