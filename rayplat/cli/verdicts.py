"""`rayplat serve compare`: what live requests say of a shadow or of an A/B test."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer
from pydantic import TypeAdapter, ValidationError

from rayplat.cli import connection, render
from rayplat.cli.connection import Home, Json, Url
from rayplat.errors import InvalidInput
from rayplat.registry import documents
from rayplat.types import Evidence, ExperimentVerdict, ShadowVerdict


def compare(
    model: Annotated[str, typer.Argument()],
    shadow: Annotated[str | None, typer.Option(help="The shadow: an alias or a version's number.")] = None,
    experiment: Annotated[str | None, typer.Option(help="The promotion whose A/B test is looked at.")] = None,
    labels: Annotated[str | None, typer.Option(help="Table with the outcomes of an A/B test.")] = None,
    since: Annotated[str | None, typer.Option(help="Shadow: requests received from then on; default 7 days.")] = None,
    until: Annotated[str | None, typer.Option(help="Requests received before then; default now.")] = None,
    segment: Annotated[list[str] | None, typer.Option(help="Shadow: also by the values of this input.")] = None,
    threshold: Annotated[float | None, typer.Option(help="Scores from here on are the positive class: 0.5.")] = None,
    tolerance: Annotated[float | None, typer.Option(help="Shadow: numbers so far apart still agree.")] = None,
    evidence: Annotated[Path | None, typer.Option(help="Put it into this evidence file; made if absent.")] = None,
    attach: Annotated[str | None, typer.Option(help="Put it into this promotion's evidence.")] = None,
    home: Home = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """What live requests say of a shadow (--shadow) or of an A/B test (--experiment)."""
    with connection.errors(home):
        if (shadow is None) == (experiment is None):
            raise InvalidInput("--shadow", "give --shadow TARGET or --experiment PROMOTION")
        if experiment is not None and labels is None:
            raise InvalidInput("--labels", "which table has the outcomes?")
        if experiment is not None and attach not in (None, experiment):
            raise InvalidInput("--attach", f"the test is promotion {experiment}'s own: name that one")
        client = connection.platform(home, url)
        found: ShadowVerdict | ExperimentVerdict
        with connection.wait("serve compare …"):
            if shadow is not None:
                found = client.verdicts.shadow(
                    model=model,
                    shadow=shadow,
                    since=_moment("--since", since),
                    until=_moment("--until", until),
                    segments=tuple(segment or ()),
                    threshold=threshold,
                    tolerance=tolerance,
                    attach=attach,
                )
            else:
                found = client.verdicts.experiment(
                    promotion_id=str(experiment),
                    labels=str(labels),
                    threshold=0.5 if threshold is None else threshold,
                    until=_moment("--until", until),
                    attach=attach is not None,
                )
        if found.model != model:
            raise InvalidInput("MODEL", f"promotion {experiment} is about {found.model}")
        if evidence is not None:
            before = (
                client.promotions.get(found.promotion_id).evidence if isinstance(found, ExperimentVerdict) else None
            )
            write(evidence, found, before)
        render.show(found, as_json)


def write(file: Path, found: ShadowVerdict | ExperimentVerdict, before: Evidence | None) -> None:
    """Put a verdict's evidence into an evidence document: into the one in ``file`` where there is one, else into
    ``before``, else into a new one about the requests themselves."""
    document = _read(file) if file.exists() else before
    if document is None:
        if isinstance(found, ExperimentVerdict):
            raise InvalidInput("--evidence", f"{file} is not there, and the promotion has no evidence to go with it")
        agreement = {"shadow_agreement": found.agreement.value}
        document = Evidence(found.log, found.evidence.pairs, agreement, found.primary_version)
    part = {"shadow" if isinstance(found, ShadowVerdict) else "experiment": found.evidence}
    try:
        file.write_text(json.dumps(documents.plain(replace(document, **part)), indent=2) + "\n")  # type: ignore[arg-type]
    except OSError as e:
        raise InvalidInput("--evidence", f"{file} cannot be written ({e.strerror})") from e


def _read(file: Path) -> Evidence:
    try:
        return documents.parse(Evidence, file.read_text(), str(file))
    except OSError as e:
        raise InvalidInput("--evidence", f"{file} cannot be read ({e.strerror})") from e
    except UnicodeDecodeError as e:
        raise InvalidInput("--evidence", f"{file} is not a text file in UTF-8") from e


def _moment(name: str, text: str | None) -> datetime | None:
    try:
        return None if text is None else TypeAdapter(datetime).validate_python(text)
    except ValidationError as e:
        raise InvalidInput(name, f"{text!r} is no moment, for example 2026-11-01T00:00:00Z") from e
