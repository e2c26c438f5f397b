"""Commands that read or write files on this machine: artifacts to and from the store, the audit log and its export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rayplat.cli import connection, render
from rayplat.cli.connection import Home, Json, Url


def put(
    path: Annotated[Path, typer.Argument(help="A file, or a folder with all that is in it.")],
    kind: Annotated[str, typer.Option(help="What it is: model, report, plot, profile, …")] = "file",
    run_id: Annotated[str | None, typer.Option(help="The run that made it.")] = None,
    home: Home = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Store a file or folder under the digest of its content; what is there already is not sent again."""
    with connection.errors(home):
        client = connection.platform(home, url)
        with connection.wait("artifact put …"):
            made = client.artifacts.put(path, kind, run_id)
        render.show(made, as_json)


def get(
    digest: str,
    into: Annotated[Path, typer.Argument(help="Where it shall lie: a new file, or a new folder for a tree.")],
    home: Home = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Fetch an artifact; every byte is checked against its digest."""
    with connection.errors(home):
        client = connection.platform(home, url)
        with connection.wait("artifact get …"):
            found = client.artifacts.get(digest, into)
        render.show({"digest": digest, "path": str(found)}, as_json)


def verify(
    digest: Annotated[str | None, typer.Argument(help="One artifact; without it, everything that is stored.")] = None,
    home: Home = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Read an artifact, or everything that is stored; exit code 1 names what is damaged or missing."""
    with connection.errors(home):
        client = connection.platform(home, url)
        with connection.wait("artifact verify …"):
            report = client.artifacts.verify(digest)
        render.show(report, as_json)
        if not report.intact:
            raise typer.Exit(1)


def verify_audit(
    file: Annotated[Path | None, typer.Argument(help="An export; without one the platform checks its own log.")] = None,
    public_key: Annotated[Path | None, typer.Option(help="Checks the anchors' signatures (PEM).")] = None,
    anchors: Annotated[Path | None, typer.Option(help="A folder with copies of the anchors.")] = None,
    home: Home = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Check the audit log, or an export of it without any platform; exit code 1 names the first bad entry."""
    with connection.errors(home):
        if file is None:
            report = connection.platform(home, url).audit.verify()
        else:
            from rayplat.services import audit

            report = audit.verify_file(file, public_key, anchors)
        render.show(report, as_json)
        if not report.intact:
            raise typer.Exit(1)


def export_audit(
    file: Annotated[Path, typer.Argument(help="A new file for the whole log, one entry a line.")],
    home: Home = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Write the audit log to a file that `rayplat audit verify` checks anywhere."""
    with connection.errors(home):
        client = connection.platform(home, url)
        with connection.wait("audit export …"):
            written = client.audit.export(file)
        render.show(written, as_json)
