"""What every command has, and that every command that a text names exists."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from rayplat.cli import connection
from rayplat.cli.main import app
from rayplat.types import GateSpec

ROOT = Path(__file__).parents[2]
DIGEST = "sha256:" + "a" * 64
TEXTS = [*(ROOT / "rayplat").rglob("*.py"), *(ROOT / "docs").glob("*.md"), ROOT / "README.md"]
QUOTED = re.compile(r"`rayplat ([^`\n]+)`|'rayplat ([^'\n]+)'")


def leaves(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    if hasattr(command, "commands"):
        for name, inner in command.commands.items():
            yield from leaves(inner, (*path, name))
    else:
        yield " ".join(path), command


COMMAND = get_command(app)  # made once: it takes a tenth of a second
LEAVES = dict(leaves(COMMAND))


def options(command: Any) -> set[str]:
    return {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}


@pytest.mark.parametrize("name", LEAVES)
def test_every_command_has_json_and_help(name: str) -> None:
    assert "--json" in options(LEAVES[name])
    assert LEAVES[name].help


def problem(written: str) -> str | None:
    """Why ``written`` (what follows `rayplat`) cannot be typed; None where it can."""
    words = written.replace("\\|", "|").split()
    command: Any = COMMAND
    while words and hasattr(command, "commands"):
        chosen = words.pop(0).split("|")
        if not re.fullmatch(r"[a-z][a-z-]*", chosen[0]):
            return None
        unknown = [name for name in chosen if name not in command.commands]
        if unknown:
            return f"no command {', '.join(unknown)}"
        command = command.commands[chosen[0]]
    missing = {w for w in re.findall(r"--[a-z-]+", " ".join(words)) if w != "--help"} - options(command)
    return f"no option {', '.join(sorted(missing))}" if missing else None


def test_every_command_that_is_named_somewhere_exists() -> None:
    found = [
        f"{file.relative_to(ROOT)}: `rayplat {written}`: {reason}"
        for file in TEXTS
        for match in QUOTED.finditer(file.read_text())
        for written in [match[1] or match[2]]
        if (reason := problem(written))
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("wrong", ["token list", "promote-it", "serve create m --alias champion", "nope list"])
def test_what_does_not_exist_is_noticed(wrong: str) -> None:
    assert problem(wrong)


@pytest.mark.parametrize(
    ("command", "option", "written", "value"),
    [
        (("policy", "set"), "gates", '[{"gate": "intact", "params": {}}]', (GateSpec("intact", {}),)),
        (("policy", "set"), "gates", "[]", ()),
        (("model", "register"), "metrics", '{"auc": 0.7}', {"auc": 0.7}),
    ],
)
def test_values_with_fields_are_written_as_json(
    command: tuple[str, str], option: str, written: str, value: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is not given is left to the verb."""
    asked: dict[str, Any] = {}

    def answer(**given: Any) -> None:
        asked.update(given)

    noun = SimpleNamespace(set=answer, register=answer)
    monkeypatch.setattr(connection, "platform", lambda home, url: SimpleNamespace(policies=noun, models=noun))
    words = {"policy": ["m", "champion"], "model": ["m", DIGEST, "run", DIGEST]}[command[0]]
    done = CliRunner().invoke(app, [*command, *words, f"--{option}", written])
    assert done.exit_code == 0, done.output
    assert asked[option] == value
    assert not {"pins", "min_approvals"} & asked.keys()


def test_a_file_that_is_named_without_its_sign_is_told_how(tmp_path: Path) -> None:
    (tmp_path / "evidence.json").write_text("{}")
    done = CliRunner().invoke(app, ["promote", "m", "1", "champion", "--evidence", str(tmp_path / "evidence.json")])
    assert done.exit_code == 1
    assert f"@{tmp_path / 'evidence.json'}" in done.output.replace("\n", "")
    assert CliRunner().invoke(app, ["promote", "m", "1", "champion", "--evidence", "x" * 10_000]).exit_code == 1


def test_the_page_of_commands_names_every_one() -> None:
    named = set()
    for written in re.findall(r"`rayplat ([^`]+)`", (ROOT / "docs" / "cli.md").read_text()):
        words = written.replace("\\|", "|").split()
        heads = itertools.product(*(word.split("|") for word in words[:2]))
        named |= {" ".join(head) for head in heads} | set(words[0].split("|"))
    assert {name for name in LEAVES if name not in named} == set()
