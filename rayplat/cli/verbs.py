"""Commands for the verbs of all nouns, made from their signatures: path parameters are arguments, the rest options."""

from __future__ import annotations

import inspect
import json
import types
import typing
from collections.abc import Callable
from enum import EnumType
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import TypeAdapter, ValidationError

from rayplat.cli import connection, feature_file, render
from rayplat.errors import InvalidInput
from rayplat.services.catalog import NOUNS
from rayplat.services.verbs import Noun, Verb, verbs

# noun -> group of commands
GROUPS = {
    "tables": "table",
    "features": "features",
    "runs": "run",
    "models": "model",
    "endpoints": "serve",
    "monitors": "monitor",
    "tokens": "token",
    "promotions": "promotion",
}
# Verbs that people say without a noun.
TOP_LEVEL = {
    ("promotions", "request"): "promote",
    ("promotions", "approve"): "approve",
    ("promotions", "reject"): "reject",
    ("promotions", "rollback"): "rollback",
    ("promotions", "audit"): "audit",
    ("models", "alias"): "alias",
}
RENAMED = {("tokens", "list"): "ls"}
# Verbs that take something else from a command line than over HTTP.
WRITTEN: dict[tuple[str, str], Callable[..., None]] = {("features", "apply"): feature_file.apply}
_SIMPLE = (str, int, float, bool)
_KEYWORD = inspect.Parameter.KEYWORD_ONLY  # a parameter that is named in Python is an option here


def register(app: typer.Typer) -> None:
    """Add a command for every verb."""
    for noun in NOUNS:
        if noun.NAME not in GROUPS:
            continue
        group = typer.Typer(help=inspect.getdoc(noun), no_args_is_help=True)
        app.add_typer(group, name=GROUPS[noun.NAME])
        for verb in verbs(noun):
            top = TOP_LEVEL.get((noun.NAME, verb.name))
            target, name = (app, top) if top else (group, RENAMED.get((noun.NAME, verb.name), verb.name))
            command = WRITTEN.get((noun.NAME, verb.name)) or _command(noun, verb)
            target.command(name.replace("_", "-"), help=verb.doc.partition("\n")[0].replace("``", "`"))(command)


def _command(noun: type[Noun], verb: Verb) -> Callable[..., None]:
    parameters = {p.name: p for p in verb.signature.parameters.values() if p.name != "self"}

    def command(**given: Any) -> None:
        home, url, as_json = given.pop("home"), given.pop("url"), given.pop("as_json")
        with connection.errors(home):
            arguments = {name: _parse(name, parameters[name].annotation, value) for name, value in given.items()}
            client = getattr(connection.platform(home, url), noun.NAME)
            with connection.wait(f"{noun.NAME} {verb.name} …"):
                result = getattr(client, verb.name)(**arguments)
            render.show(result, as_json)

    shown = [
        inspect.Parameter(p.name, p.KEYWORD_ONLY, annotation=_option(verb, p), default=p.default)
        for p in parameters.values()
    ]
    extra = {"home": connection.Home, "url": connection.Url, "as_json": connection.Json}
    defaults = {"home": None, "url": None, "as_json": False}
    shown += [
        inspect.Parameter(n, inspect.Parameter.KEYWORD_ONLY, annotation=a, default=defaults[n])
        for n, a in extra.items()
    ]
    shown.sort(key=lambda p: p.default is not inspect.Parameter.empty)
    command.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in shown}
    return command


def _option(verb: Verb, parameter: inspect.Parameter) -> Any:
    kind = _cli_type(parameter.annotation)
    required = parameter.default is parameter.empty
    if kind is list:
        return Annotated[list[str], typer.Argument()] if required else Annotated[list[str] | None, typer.Option()]
    named = parameter.name == "reason" or isinstance(parameter.annotation, EnumType) or parameter.kind is _KEYWORD
    if parameter.name in verb.route.path_params or (required and kind in (str, int) and not named):
        return Annotated[kind, typer.Argument()]
    if kind is dict:
        help_text = "JSON, or @file with JSON"
        return (
            Annotated[str | None, typer.Option(help=help_text)]
            if not required
            else Annotated[str, typer.Option(help=help_text)]
        )
    return Annotated[kind, typer.Option()] if required else Annotated[kind | None, typer.Option()]


def _cli_type(annotation: Any) -> Any:
    """str, int, …; list for tuples of strings; dict for what is written as JSON; str for moments and enums."""
    origin = typing.get_origin(annotation)
    if origin in (types.UnionType, typing.Union):
        return _cli_type(next(a for a in typing.get_args(annotation) if a is not type(None)))
    if origin in (tuple, list):
        return list
    if origin is dict:
        return dict
    if annotation in _SIMPLE:
        return annotation
    if inspect.isclass(annotation) and hasattr(annotation, "__dataclass_fields__"):
        return dict
    return str


def _parse(name: str, annotation: Any, value: Any) -> Any:
    if value is None:
        return None
    if _cli_type(annotation) is dict:
        text = _content(name, Path(value[1:])) if value.startswith("@") else value
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as e:
            raise InvalidInput(name, f"is not valid JSON: {e}") from e
    try:
        return TypeAdapter(annotation).validate_python(value)
    except ValidationError as e:
        raise InvalidInput(name, e.errors()[0]["msg"]) from e


def _content(name: str, file: Path) -> str:
    try:
        return file.read_text()
    except OSError as e:
        raise InvalidInput(name, f"{file} cannot be read ({e.strerror})") from e
    except UnicodeDecodeError as e:
        raise InvalidInput(name, f"{file} is not a text file in UTF-8") from e
