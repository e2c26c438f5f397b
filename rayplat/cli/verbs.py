"""Commands for the verbs of all nouns, made from their signatures: path parameters are arguments, the rest options."""

from __future__ import annotations

import inspect
import json
import os
import types
import typing
from collections.abc import Callable
from enum import EnumType
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import TypeAdapter, ValidationError

from rayplat.cli import (
    connection,
    feature_file,
    files,
    graph_file,
    lineage_export,
    releases,
    render,
    serving_file,
    verdicts,
)
from rayplat.errors import InvalidInput
from rayplat.services.catalog import NOUNS
from rayplat.services.verbs import Noun, Verb, verbs

# noun -> group of commands
GROUPS = {
    "tables": "table",
    "features": "features",
    "runs": "run",
    "artifacts": "artifact",
    "models": "model",
    "aliases": "alias",
    "policies": "policy",
    "promotions": "promotion",
    "waivers": "waiver",
    "endpoints": "serve",
    "scoring": "serve",
    "releases": "serve",
    "verdicts": "serve",
    "monitors": "monitor",
    "audit": "audit",
    "lineage": "lineage",
    "owners": "owner",
    "webhooks": "webhook",
    "tokens": "token",
}
# Verbs whose command is not `<group> <verb>`: those that people say without a noun, and those that have a longer one.
COMMANDS = {
    ("promotions", "request"): "promote",
    ("promotions", "approve"): "approve",
    ("promotions", "reject"): "reject",
    ("promotions", "rollback"): "rollback",
    ("models", "adopt"): "model import",
    ("scoring", "run"): "serve score",
    ("tokens", "list"): "token ls",
    ("webhooks", "list"): "webhook ls",
    ("webhooks", "delete"): "webhook rm",
    ("releases", "history"): "serve releases",
}
# Verbs that only our own client calls.
INNER = {
    ("artifacts", "missing"),
    ("artifacts", "add_file"),
    ("artifacts", "add_tree"),
    ("audit", "anchors"),
    ("audit", "lines"),
    ("lineage", "events"),
    ("endpoints", "plan"),
    ("verdicts", "shadow"),
    ("verdicts", "experiment"),
    *(("releases", name) for name in ("get", "clear", "overrides", "pause", "resume", "rollback")),
}
# Commands that read or write files here: they take something else from a command line than a verb does.
WRITTEN: dict[str, Callable[..., None]] = {
    "features apply": feature_file.apply,
    "artifact put": files.put,
    "artifact get": files.get,
    "artifact verify": files.verify,
    "audit verify": files.verify_audit,
    "audit export": files.export_audit,
    "lineage export": lineage_export.export,
    "serve release": releases.release,
    "serve split": releases.split,
    "serve shadow": releases.shadow,
    "serve canary": releases.canary,
    "serve apply": serving_file.apply,
    "serve export": serving_file.export,
    "serve compare": verdicts.compare,
    "model compose": graph_file.compose,
}
_SIMPLE = (str, int, float, bool)
_KEYWORD = inspect.Parameter.KEYWORD_ONLY  # a parameter that is named in Python is an option here


def register(app: typer.Typer) -> None:
    """Add a command for every verb."""
    groups: dict[str, typer.Typer] = {"": app}
    for noun in NOUNS:
        if noun.NAME not in GROUPS:
            continue
        _group(groups, GROUPS[noun.NAME], inspect.getdoc(noun))
        for verb in verbs(noun):
            path = COMMANDS.get((noun.NAME, verb.name), f"{GROUPS[noun.NAME]} {verb.name.strip('_').replace('_', '-')}")
            if path not in WRITTEN and (noun.NAME, verb.name) not in INNER:
                _add(groups, path, verb.doc, _command(noun, verb))
    for path, command in WRITTEN.items():
        _add(groups, path, inspect.getdoc(command) or "", command)


def _add(groups: dict[str, typer.Typer], path: str, doc: str, command: Callable[..., None]) -> None:
    group, _, name = path.rpartition(" ")
    text = doc.partition("\n")[0].replace("``", "`")
    _group(groups, group, text).command(name, help=text)(command)


def _group(groups: dict[str, typer.Typer], path: str, text: str | None) -> typer.Typer:
    """The group of commands at ``path`` (``alias policy``), made with the help ``text`` where it is new."""
    if path not in groups:
        above, _, name = path.rpartition(" ")
        groups[path] = typer.Typer(help=text, no_args_is_help=True)
        _group(groups, above, None).add_typer(groups[path], name=name)
    return groups[path]


def _command(noun: type[Noun], verb: Verb) -> Callable[..., None]:
    parameters = {p.name: p for p in verb.signature.parameters.values() if p.name != "self"}

    def command(**given: Any) -> None:
        home, url, as_json = given.pop("home"), given.pop("url"), given.pop("as_json")
        with connection.errors(home):
            said = {name: value for name, value in given.items() if value is not None}  # else the verb's own default
            arguments = {name: _parse(name, parameters[name].annotation, value) for name, value in said.items()}
            client = getattr(connection.platform(home, url), noun.NAME)
            with connection.wait(f"{noun.NAME} {verb.name} …"):
                result = getattr(client, verb.name)(**arguments)
            answers = verb.signature.return_annotation is not None
            render.show(result, as_json, "[dim]none[/dim]" if answers else "[green]done[/green]")

    shown = [
        inspect.Parameter(p.name, p.KEYWORD_ONLY, annotation=_option(verb, p), default=_default(p))
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


def _default(parameter: inspect.Parameter) -> Any:
    """None for what is written as JSON and need not be given: the verb has its own default."""
    written = _cli_type(parameter.annotation) is dict and parameter.default is not parameter.empty
    return None if written else parameter.default


def _cli_type(annotation: Any) -> Any:
    """str, int, …; list for tuples of strings; dict for what is written as JSON, such as a tuple of values with
    fields; str for moments and enums."""
    origin = typing.get_origin(annotation)
    if origin in (types.UnionType, typing.Union):
        return _cli_type(next(a for a in typing.get_args(annotation) if a is not type(None)))
    if origin in (tuple, list):
        return dict if _cli_type(typing.get_args(annotation)[0]) is dict else list
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
            file = f"; @{value} for the content of that file" if os.path.isfile(value) else ""
            raise InvalidInput(name, f"is not valid JSON: {e}{file}") from e
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
