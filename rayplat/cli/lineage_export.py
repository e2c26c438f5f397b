"""The command that writes lineage as OpenLineage events, one a line."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Annotated

import typer

from rayplat.cli import connection
from rayplat.cli.connection import Home, Json, Url


def export(
    since: Annotated[
        datetime | None, typer.Option(help="Nothing before this moment, UTC (default: from the start).")
    ] = None,
    home: Home = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Print what happened as OpenLineage events, one JSON document a line (--json: all in one list)."""
    with connection.errors(home):
        lines = connection.platform(home, url).lineage.export(since)
        if as_json:
            typer.echo(json.dumps([json.loads(line) for line in lines], indent=2))
            return
        for line in lines:
            typer.echo(line)
