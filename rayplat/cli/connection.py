"""Which platform a command speaks to: ``--url`` or ``RAYPLAT_URL`` with a token, else the one in the home."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
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
def errors() -> Iterator[None]:
    """Errors of our tree end a command with one line and exit code 1; so does Ctrl-C."""
    try:
        yield
    except RayplatError as e:
        render.fail(str(e))
        raise typer.Exit(1) from e
    except KeyboardInterrupt as e:
        render.fail("interrupted; run the same command again to go on")
        raise typer.Exit(1) from e


def wait(what: str) -> Any:
    """A spinner on stderr while something longer runs."""
    return render.ERR.status(what)
