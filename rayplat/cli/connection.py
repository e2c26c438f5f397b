"""Which platform a command speaks to: ``--url`` or ``RAYPLAT_URL`` with a token, else the one in the home."""

from __future__ import annotations

import os
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rayplat.cli import render
from rayplat.errors import RayplatError

if TYPE_CHECKING:
    from rayplat.client import Platform

Home = Annotated[Path | None, typer.Option("--home", help="Where the platform's data lie (default: ~/.rayplat).")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Url = Annotated[str | None, typer.Option("--url", help="A remote platform (or RAYPLAT_URL; token in RAYPLAT_TOKEN).")]


def platform(home: Path | None, url: str | None) -> Platform:
    """A client over HTTP: it needs no Ray in this process, so a command answers in under a second."""
    from rayplat import client, settings
    from rayplat.platform import state

    remote = settings.remote_platform(url)
    if remote is not None:
        return client.Platform(remote[0], token=remote[1])
    root = settings.load(home).home
    return client.Platform(str(state.require(root).serve_url), token=client.owner_token(root))


@contextmanager
def errors(home: Path | None = None) -> Iterator[None]:
    """Every error ends a command with one line and exit code 1, and so does Ctrl-C.

    One that is not of our tree is a defect: its traceback goes to ``<home>/logs/cli.log``.
    """
    try:
        yield
    except RayplatError as e:
        render.fail(str(e))
        raise typer.Exit(1) from e
    except KeyboardInterrupt as e:
        render.fail("interrupted; run the same command again to go on")
        raise typer.Exit(1) from e
    except (typer.Exit, typer.Abort, BrokenPipeError):
        raise
    except Exception as e:
        file = _keep_traceback(e, home)
        render.fail(f"internal error: {type(e).__name__}: {e}; the traceback is in {file}")
        raise typer.Exit(1) from e


def _keep_traceback(error: Exception, home: Path | None) -> Path:
    """Append it to the home's log; to a temporary file where there is no home or it cannot be written."""
    from rayplat import settings

    file = (home or settings.default_home()).expanduser() / "logs" / "cli.log"
    try:
        file.parent.mkdir(mode=0o700, exist_ok=True)
        out = file.open("a")
    except OSError:
        fd, name = tempfile.mkstemp(prefix="rayplat-cli-", suffix=".log")
        out, file = os.fdopen(fd, "w"), Path(name)
    with out:
        out.write(f"{datetime.now(UTC).isoformat()} {sys.argv[1:3]}\n{''.join(traceback.format_exception(error))}\n")
    return file


def wait(what: str) -> Any:
    """A spinner on stderr while something longer runs."""
    return render.ERR.status(what)
