"""`rayplat features apply FILE.py`: a Python file is run here, and what it declares is sent to the platform.

Module-level entities, feature views, on-request views and feature services count, alone or in a list, tuple or dict.
"""

from __future__ import annotations

import importlib.util
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rayplat.cli import connection, render
from rayplat.cli.connection import Home, Json, Url
from rayplat.errors import InvalidInput, NotFound

if TYPE_CHECKING:
    from rayplat.services.declarations import Declared


def apply(
    file: Annotated[Path, typer.Argument(help="A Python file that declares features.", metavar="FILE.py")],
    home: Home = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Register what a Python file declares; a view that changed becomes a new version beside the old ones."""
    with connection.errors(home):
        declared = collect(file).to_json()
        features = connection.platform(home, url).features
        with connection.wait("features apply …"):
            applied = features.apply(**{name: tuple(trees) for name, trees in declared.items()})
        render.show(applied, as_json)


def collect(file: Path) -> Declared:
    """What ``file`` declares. Raises `NotFound`, and `InvalidInput` with the line for a file that fails."""
    from rayplat.services.declarations import Declared

    if not file.is_file():
        raise NotFound("file", str(file))
    found = Declared.of(_flat(list(_run(file).values())))
    if not found.entities:
        raise InvalidInput(str(file), "declares no Entity, FeatureView or FeatureService at its top level")
    return found


def _run(file: Path) -> dict[str, Any]:
    spec = importlib.util.spec_from_file_location(f"rayplat_declarations_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise InvalidInput(str(file), "is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(file.resolve().parent))  # a file imports its neighbours, as when it is run
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as e:
        lines = [f.lineno for f in traceback.extract_tb(e.__traceback__) if Path(f.filename) == file]
        where = f"line {lines[-1]}: " if lines else ""
        raise InvalidInput(str(file), f"{where}{type(e).__name__}: {e}") from e
    finally:
        sys.path.remove(str(file.resolve().parent))
        del sys.modules[spec.name]
    return vars(module)


def _flat(values: list[Any]) -> list[Any]:
    found = []
    for value in values:
        inner = list(value.values()) if isinstance(value, dict) else value
        found += list(inner) if isinstance(inner, list | tuple) else [inner]
    return found
