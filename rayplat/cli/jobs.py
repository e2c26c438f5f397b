"""Jobs on the cluster, through Ray's job API with the home's token."""

from __future__ import annotations

import asyncio
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rayplat import settings as settings_module
from rayplat.cli import render
from rayplat.errors import NotFound, Unavailable
from rayplat.platform import ray_node, state


def client(home: Path | None) -> Any:
    """Ray's JobSubmissionClient of the platform in ``home``."""
    root = settings_module.load(home).home
    current = state.require(root)
    os.environ.update(ray_node.auth_env(root))
    from ray.job_submission import JobSubmissionClient

    try:
        return JobSubmissionClient(current.dashboard_url or current.ray_address)
    except (ConnectionError, RuntimeError) as e:
        raise Unavailable("the job API", str(e).splitlines()[0]) from e


def submit(home: Path | None, program: Path, arguments: Sequence[str], wait: bool) -> int:
    """Submit ``program``; with ``wait``, print its log as it comes. Returns the exit code to end with."""
    if not program.is_file():
        raise NotFound("program", str(program), "give the path of a Python file")
    jobs = client(home)
    root = settings_module.load(home).home
    entrypoint = shlex.join([sys.executable, program.name, *arguments])
    job_id = jobs.submit_job(
        entrypoint=entrypoint,
        runtime_env={"working_dir": str(program.parent.absolute()), "env_vars": {"RAYPLAT_HOME": str(root)}},
    )
    render.ERR.print(f"job [bold]{job_id}[/bold]: {entrypoint}")
    if not wait:
        print(job_id)  # noqa: T201 - the id is this command's output
        return 0
    asyncio.run(_follow(jobs, job_id))
    outcome = jobs.get_job_status(job_id)
    render.ERR.print(f"job {job_id}: {outcome}")
    return 0 if str(outcome) == "SUCCEEDED" else 1


async def _follow(jobs: Any, job_id: str) -> None:
    async for lines in jobs.tail_job_logs(job_id):
        sys.stdout.write(lines)
        sys.stdout.flush()
