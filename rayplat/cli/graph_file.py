"""`rayplat model compose FILE.yaml`: a declared graph of models is read here and composed by the platform."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from rayplat.cli import connection, render
from rayplat.cli.connection import Home, Json, Url
from rayplat.errors import InvalidInput, NotFound

_MAX_BYTES = 1 << 20


def compose(
    file: Annotated[Path, typer.Argument(help="A YAML file: model, nodes, outputs.", metavar="FILE.yaml")],
    home: Home = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Register a model that consists of other models' versions: an ensemble, a chain, a branch."""
    with connection.errors(home):
        graph = declared(file)
        models = connection.platform(home, url).models
        with connection.wait("models compose …"):
            version = models.compose(graph=graph)
        render.show(version, as_json)


def declared(file: Path) -> dict[str, Any]:
    """The graph in a YAML file. Raises `NotFound`, and `InvalidInput` with the line for what is no YAML mapping."""
    import yaml

    if not file.is_file():
        raise NotFound("file", str(file))
    if file.stat().st_size > _MAX_BYTES:
        raise InvalidInput(str(file), f"a graph has at most {_MAX_BYTES} bytes")
    try:
        found = yaml.safe_load(file.read_text())
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError) as e:
        raise InvalidInput(str(file), f"is no YAML: {' '.join(str(e).split())[:300]}") from e
    if not isinstance(found, dict):
        raise InvalidInput(str(file), "is no graph: a mapping of model, nodes and outputs is expected")
    return {str(key): value for key, value in found.items()}
